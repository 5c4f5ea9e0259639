"""Photo, depth, mask, intrinsics and pose stay together: one view warped into the other shows the same, whatever is done to the pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sightline.methods.errors import BrokenSampleError
from sightline.platform.data.clouds import decode_points
from sightline.platform.data.geometry import pixel_turn, upright
from sightline.platform.data.images import Resize, decode_segmentation
from sightline.platform.data.prepare.cloud_sources.depth import CloudDepth
from sightline.platform.data.prepare.found import ClassList
from sightline.platform.data.prepare.image_sources.frames import ImageFrames
from sightline.platform.data.prepare.images import ImageFile
from sightline.platform.data.prepare.pair_sources.frames import Frames
from sightline.platform.data.prepare.pair_sources.rgbd import Rgbd
from sightline.platform.data.prepare.views import Companion, stored_view
from sightline.platform.data.remarks import collected
from sightline.platform.data.schema import decode_row
from tests.support.plane_scene import (
    SLOPE,
    as_depth,
    camera,
    depth_error,
    entries_of,
    png,
    view,
    wall_error,
    warped_error,
    write_cameras,
    write_frames,
    write_png,
)

TURNS = [(1, 1), (1, 2), (6, 1), (8, 2)]
"""(EXIF orientation of the photos, how much smaller depth is)"""
RESIZES = [Resize(), Resize(square=True), Resize(36), Resize(33, square=True)]


def _pairs(folder: Path, resize: Resize = Resize(), **options: Any) -> list[dict[str, Any]]:  # noqa: B008
    found = Rgbd(overlap=(0.2, 1.0), pairs_per_frame=2, **options).find(str(folder), "wall")
    assert not found.skips and not found.notes
    return [decode_row(item.row(resize), "pairs", depth=True) for item in found.items]


@pytest.mark.parametrize(("orientation", "shrink"), TURNS)
def test_rgbd_views_fit_after_every_turn_cut_and_resize(tmp_path: Path, orientation: int, shrink: int) -> None:
    write_frames(tmp_path, 3, orientation=orientation, shrink=shrink)
    for resize in RESIZES:
        for sample in _pairs(tmp_path, resize):
            assert warped_error(sample) < 9 and depth_error(sample["image1"], sample["depth1"]) < 0.05
            number = int(sample["id"].removeprefix("wall/")[0])
            pose = camera(number)[1]
            pose[:3, :3] = pose[:3, :3] @ pixel_turn(orientation, 1, 1).T
            assert wall_error(sample["depth1"], sample["K1"], pose) < 0.04


def test_overlap_does_not_depend_on_the_size_of_depth_or_on_a_turn(tmp_path: Path) -> None:
    overlaps = {}
    for name, options in {"plain": {}, "small": {"shrink": 2}, "turned": {"orientation": 6}}.items():
        write_frames(tmp_path / name, 4, **options)
        overlaps[name] = {sample["id"]: sample["overlap"] for sample in _pairs(tmp_path / name)}
    for name in ("small", "turned"):
        assert overlaps[name] == pytest.approx(overlaps["plain"], abs=0.04)


@pytest.mark.parametrize("orientation", [6, 8])
def test_cameras_of_upright_pixels_are_known_by_their_size_or_their_middle(tmp_path: Path, orientation: int) -> None:
    write_frames(tmp_path, 3)
    entries = entries_of(tmp_path)
    for i, entry in enumerate(entries):
        pixels, depth = view(*camera(i))
        filed = np.rot90(pixels, 1 if orientation == 6 else -1)
        write_png(tmp_path / entry["file"], np.ascontiguousarray(filed), orientation)
        write_png(tmp_path / entry["depth"], as_depth(depth))  # upright
    assert all(warped_error(sample) < 9 for sample in _pairs(tmp_path))
    write_cameras(tmp_path, [entry | {"width": 64, "height": 48} for entry in entries])
    assert all(warped_error(sample) < 9 for sample in _pairs(tmp_path, Resize(36)))


def test_depth_without_a_reading_is_told(tmp_path: Path) -> None:
    """As of renderers that look along -z: every value is negative."""
    write_frames(tmp_path, 1)
    np.save(tmp_path / "depth.npy", -view(*camera(0))[1])
    write_cameras(tmp_path, [{**entries_of(tmp_path)[0], "depth": "depth.npy"}])
    (image,) = ImageFrames().find(str(tmp_path), "x").items
    with collected() as remarks:
        assert not decode_row(image.row(Resize()), "images", depth=True)["depth"].any()
    assert list(remarks) == ["depth map(s) without a single reading: every value is 0, negative, not finite or too far"]


@pytest.mark.parametrize("orientation", [2, 3, 5])
def test_a_turn_that_cannot_be_told_is_named(tmp_path: Path, orientation: int) -> None:
    write_frames(tmp_path, 2, orientation=orientation)
    found = Frames().find(str(tmp_path / "color"), "wall")
    assert not found.skips, "without cameras nothing is in doubt"
    (tmp_path / "cameras.json").rename(tmp_path / "color/cameras.json")
    write_cameras(tmp_path / "color", [entry | {"file": Path(entry["file"]).name} for entry in entries_of(tmp_path / "color")])
    found = Frames().find(str(tmp_path / "color"), "wall")
    assert [what for what, _ in found.skips] == [f"{i}.png (orientation {orientation})" for i in range(2)]
    assert all("EXIF tag" in why for _, why in found.skips)
    assert found.items[0].T_2from1 is None and found.items[0].K1 is None


@pytest.mark.parametrize(("orientation", "resize"), [(1, RESIZES[0]), (1, RESIZES[3]), (6, RESIZES[2]), (6, RESIZES[3])])
def test_frames_with_cameras_fit(tmp_path: Path, orientation: int, resize: Resize) -> None:
    write_frames(tmp_path, 2, orientation=orientation)
    depth = {sample["id"]: (sample["depth1"], sample["depth2"]) for sample in _pairs(tmp_path, resize)}
    (tmp_path / "color").rename(tmp_path / "images")
    write_cameras(tmp_path, [entry | {"file": entry["file"].replace("color", "images")} for entry in entries_of(tmp_path)])
    found = Frames().find(str(tmp_path), "wall")
    (sample,) = (decode_row(item.row(resize), "pairs") for item in found.items)
    assert "depth1" not in sample
    ((one, two),) = depth.values()
    best = min(warped_error(sample, candidate) for candidate in (one, two))
    assert best < 9


@pytest.mark.parametrize(("orientation", "shrink"), TURNS)
def test_single_frames_have_the_depth_of_their_pixels(tmp_path: Path, orientation: int, shrink: int) -> None:
    write_frames(tmp_path, 2, orientation=orientation, shrink=shrink)
    for resize in RESIZES:
        for item in ImageFrames().find(str(tmp_path), "wall").items:
            sample = decode_row(item.row(resize), "images", depth=True)
            assert depth_error(sample["image"], sample["depth"]) < 0.03 * shrink


@pytest.mark.parametrize(("orientation", "shrink"), TURNS)
def test_clouds_from_depth_lie_on_the_wall(tmp_path: Path, orientation: int, shrink: int) -> None:
    write_frames(tmp_path, 3, orientation=orientation, shrink=shrink)
    found = CloudDepth(points=500).find(str(tmp_path), "wall")
    assert not found.skips
    for item in found.items:
        stored = decode_points(item.row(Resize())["points"]).astype(float)
        points = stored * (1, -1, -1)  # x right, y down, z forward, upright
        turn = pixel_turn(orientation, 1, 1)
        pose = camera(item.frame)[1]
        x, _, z = pose[:3, :3] @ turn.T @ points.T + pose[:3, 3:]
        assert np.abs(z - 2 - SLOPE * x).max() < 0.01


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_that_lies_as_the_file_does_is_turned_with_it(tmp_path: Path, orientation: int) -> None:
    pixels, _ = view(*camera(0))
    mask = (pixels[..., 1] > 128).astype(np.uint8)
    write_png(tmp_path / "x.png", pixels, orientation)
    photo, classes = (tmp_path / "x.png").read_bytes(), ClassList(("low", "high"))
    seen = upright(mask, orientation)
    if orientation in (2, 3, 4):
        with pytest.raises(BrokenSampleError, match=r"no telling whether .* is turned .*: orientation \d, mask.png"):
            stored_view(photo, Resize(), mask=Companion(png(mask), "mask.png"), classes=classes)
    else:
        stored = stored_view(photo, Resize(), mask=Companion(png(mask)), classes=classes)
        assert stored.mask is not None and (decode_segmentation(stored.mask) == seen).all()
    if orientation in (1, 5, 6, 7, 8):
        again = stored_view(photo, Resize(), mask=Companion(png(np.ascontiguousarray(seen))), classes=classes)
        assert again.mask == png(np.ascontiguousarray(seen)), "an upright mask keeps its bytes"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_and_their_places_turn_alike(orientation: int) -> None:
    pixels = np.arange(12).reshape(3, 4)
    turned = upright(pixels, orientation)
    for row in range(3):
        for column in range(4):
            x, y, _ = pixel_turn(orientation, 3, 4) @ (column, row, 1)
            assert turned[int(y), int(x)] == pixels[row, column]


def test_intrinsics_follow_the_stated_size_and_depth_of_another_shape_is_refused(tmp_path: Path) -> None:
    write_frames(tmp_path, 3)
    entries = entries_of(tmp_path)
    double = np.array([[2, 0, 0.5], [0, 2, 0.5], [0, 0, 1]])
    large = [entry | {"K": (double @ np.array(entry["K"])).tolist()} for entry in entries]
    write_cameras(tmp_path, [entry | {"width": 128, "height": 96} for entry in large])
    assert all(warped_error(sample) < 9 for sample in _pairs(tmp_path))
    write_cameras(tmp_path, [entry | {"width": 128, "height": 128} for entry in large])
    found = Rgbd().find(str(tmp_path), "wall")
    assert found.skips[0] == (
        "color/0.png (128 x 128, the photo has 64 x 48)",
        "width and height in cameras.json have another shape than the photo",
    )
    write_cameras(tmp_path, large)
    found = Rgbd().find(str(tmp_path), "wall")
    assert len(found.skips) == 3 and "the image has 64 x 48" in found.skips[0][0]
    assert found.skips[0][1] == "intrinsics look as if made for another size of the image (say width and height in cameras.json)"
    write_cameras(tmp_path, entries)
    write_png(tmp_path / "depth/1.png", as_depth(np.full((48, 48), 2.0)))
    found = Rgbd(overlap=(0, 1)).find(str(tmp_path), "wall")
    assert found.skips == [
        ("depth/1.png (48 x 48 and 64 x 48)", "depth of a frame: depth and image differ in shape (register the depth to the image)")
    ]


def test_a_single_photo_that_is_turned_keeps_its_bytes(tmp_path: Path) -> None:
    write_frames(tmp_path, 1, orientation=6)
    row = ImageFile("x", str(tmp_path / "color/0.png"), depth=str(tmp_path / "depth/0.png")).row(Resize())
    assert row["image"] == (tmp_path / "color/0.png").read_bytes() and row["depth"] != (tmp_path / "depth/0.png").read_bytes()
