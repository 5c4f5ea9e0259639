"""Cameras and depth of other people: a bad one is a counted, named skip; times and natural names decide the order; doubts are said."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sightline.methods.errors import BrokenSampleError, CallError
from sightline.platform.data.clouds import decode_points
from sightline.platform.data.geometry import camera_matrix, camera_pose, check_intrinsics
from sightline.platform.data.images import Resize, decode_depth
from sightline.platform.data.lenses import Lens
from sightline.platform.data.prepare.captures.cameras import camera_of
from sightline.platform.data.prepare.cloud_sources.depth import CloudDepth
from sightline.platform.data.prepare.image_sources.folder import ImageFolder
from sightline.platform.data.prepare.image_sources.frames import ImageFrames
from sightline.platform.data.prepare.known import Bends, Frame
from sightline.platform.data.prepare.pair_sources.frames import Frames
from sightline.platform.data.prepare.pair_sources.rgbd import Rgbd
from sightline.platform.data.prepare.pairs import Pair
from sightline.platform.data.prepare.source import Request
from sightline.platform.data.prepare.split import split_time
from tests.support.plane_scene import as_depth, camera, entries_of, png, view, write_cameras, write_frames, write_png

CASES = Path(__file__).resolve().parents[5] / "shared" / "cases"
SOUND = np.eye(4)


def _pose(**changed: Any) -> Any:
    pose: Any = SOUND.tolist()
    for place, value in changed.items():
        pose[int(place[1])][int(place[2])] = value
    return pose


@pytest.mark.parametrize(
    ("pose", "says"),
    [
        (_pose(p03=-math.inf), "pose not finite"),
        (_pose(p00=math.nan), "pose not finite"),
        (_pose(p00=None), "pose not (finite|made of numbers)"),
        (_pose(p00="x"), "pose not made of numbers"),
        ([[1, 0], [0, 1]], "pose of another shape than 4 x 4: 2 x 2"),
        ([[1, 0, 0, 0], [0, 1]], "pose not made of numbers"),
        ({"t": 1}, "pose not made of numbers"),
        (np.zeros((4, 4)).tolist(), "pose with a last row"),
        (_pose(p00=0, p11=0, p22=0), "pose without a rotation: its axes are off by 1"),
        (_pose(p00=2, p11=2, p22=2), "pose without a rotation: its axes are off by 3"),
        (_pose(p00=1.02), "pose without a rotation"),
        (_pose(p22=-1), "pose that mirrors"),
        (_pose(p30=0.1), "pose with a last row other than 0 0 0 1"),
        (_pose(p03=1e300), "pose too far"),
        (_pose(p00=1e300), "pose without a rotation"),
    ],
)
def test_a_pose_that_is_no_rigid_motion_is_refused_by_name(pose: Any, says: str) -> None:
    with pytest.raises(BrokenSampleError, match=says):
        camera_pose(pose)


def test_poses_with_few_digits_or_without_the_last_row_are_taken() -> None:
    assert (camera_pose(np.eye(4)[:3].tolist()) == np.eye(4)).all()
    assert camera_pose(camera(3)[1].round(3).tolist()) is not None


@pytest.mark.parametrize(
    ("K", "says"),
    [
        ([[math.inf, 0, 32], [0, 60, 24], [0, 0, 1]], "intrinsics not finite"),
        ([[0, 0, 32], [0, 60, 24], [0, 0, 1]], "without a positive focal length"),
        ([[60, 0, 32], [0, -60, 24], [0, 0, 1]], "without a positive focal length"),
        ([[60, 0, 0], [0, 60, 0], [32, 24, 1]], "not of the form"),
        ([60, 60, 32, 24], "another shape than 3 x 3"),
        ([[0.9, 0, 0.5], [0, 1.2, 0.5], [0, 0, 1]], "not in pixels"),
        ([[60, 0, 500], [0, 60, 24], [0, 0, 1]], "of another image: principal point 500, 24"),
        ([[120, 0, 63.5], [0, 120, 47.5], [0, 0, 1]], "another size of the image .*: about 128 x 96"),
    ],
)
def test_intrinsics_that_cannot_be_are_refused_by_name(K: Any, says: str) -> None:
    with pytest.raises(BrokenSampleError, match=says):
        check_intrinsics(camera_matrix(K), 48, 64, told=False)


def test_a_bad_pose_is_a_named_skip_and_nothing_else_is_lost(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_frames(tmp_path)
    entries = entries_of(tmp_path)
    entries[2]["cam_to_world"][0][3] = -math.inf
    entries[4]["K"] = [[0, 0, 0]] * 3
    write_cameras(tmp_path, [*entries, entries[0]])
    found = Rgbd(overlap=(0, 1), pairs_per_frame=20).find(str(tmp_path), "wall")
    assert found.skips == [
        ("color/0.png", "a frame is listed twice"),
        ("color/2.png", "pose not finite"),
        ("color/4.png (0, 0)", "intrinsics without a positive focal length"),
    ]
    assert {number for item in found.items for number in (Path(item.image1).stem, Path(item.image2).stem)} == {"0", "1", "3", "5"}
    (tmp_path / "color").rename(tmp_path / "images")
    write_cameras(tmp_path, [entry | {"file": entry["file"].replace("color", "images")} for entry in entries])
    found_frames = Frames().find(str(tmp_path), "wall")
    assert found_frames.skips == [
        ("images/2.png", "left out of its pairs: pose not finite"),
        ("images/4.png (0, 0)", "left out of its pairs: intrinsics without a positive focal length"),
    ]
    assert len(found_frames.items) == 5
    known = {item.id: (item.T_2from1 is not None, item.K1 is not None and item.K2 is not None) for item in found_frames.items}
    assert {tuple(sorted(re.findall(r"\d", name))): value for name, value in known.items()} == {
        ("0", "1"): (True, True),
        ("1", "2"): (False, True),
        ("2", "3"): (False, True),
        ("3", "4"): (True, False),
        ("4", "5"): (True, False),
    }
    for found_other in (ImageFrames().find(str(tmp_path), "wall"), CloudDepth().find(str(tmp_path), "wall")):
        assert len(found_other.items) == (6 if isinstance(found_other.items[0].row(Resize()).get("image"), bytes) else 5)
    assert "Warning" not in "".join(capfd.readouterr())


def _in_its_folder(name: str) -> str:
    if not (CASES / name).is_dir():
        pytest.skip(f"../shared/cases/{name} is not here")
    return str(CASES / name)


def test_the_case_of_an_infinite_pose() -> None:
    found = Rgbd(overlap=(0.3, 0.95)).find(_in_its_folder("rgbd-pose-inf"), "x")
    assert [why for _, why in found.skips] == ["pose not finite"] and len({item.frame1 for item in found.items}) > 5


def test_the_case_of_65535() -> None:
    place = _in_its_folder("rgbd-65535-is-no-reading")
    for item in CloudDepth().find(place, "x").items:
        assert decode_points(item.row(Resize())["points"])[:, 2].min() > -10
    for image in ImageFrames().find(place, "x").items:
        for resize in (Resize(), Resize(36)):
            assert decode_depth(image.row(resize)["depth"]).max() < 10
            assert 65535 not in np.frombuffer(np.asarray(decode_depth(image.row(resize)["depth"]) * 1000).astype(np.uint16), np.uint16)


def test_the_case_of_small_depth(tmp_path: Path) -> None:
    place = _in_its_folder("rgbd-depth-smaller-than-colour")
    clouds = np.concatenate([decode_points(item.row(Resize())["points"]) for item in CloudDepth().find(place, "x").items])
    wall = clouds[np.abs(clouds[:, 2] + 2) < 0.001]
    assert len(wall) > 0.8 * len(clouds) and wall[:, 0].min() == pytest.approx(-1.06, abs=0.02)
    for path in Path(place).rglob("*.*"):
        (tmp_path / path.relative_to(place)).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path.relative_to(place)).write_bytes(path.read_bytes())
    for path in tmp_path.glob("depth/*.png"):  # as large as the photos
        write_png(path, np.asarray(Image.open(path)).repeat(2, 0).repeat(2, 1))
    small, large = ({pair.id: pair.overlap for pair in _all_pairs(folder)} for folder in (place, str(tmp_path)))
    assert len(small) > 8 and small == pytest.approx(large, abs=0.02)


def _all_pairs(folder: str) -> list[Pair]:
    pairs = Rgbd(overlap=(0.3, 0.99), pairs_per_frame=9).find(folder, "x").items
    return [replace(pair, id="-".join(sorted(pair.id.removeprefix("x/").split("-")))) for pair in pairs]


@pytest.mark.parametrize("top", [{"depth_scale": 5000}, {}])
def test_depth_in_other_units_is_read_as_told(tmp_path: Path, top: dict[str, Any]) -> None:
    write_frames(tmp_path, 3, **top)
    truth = {}
    for i in range(3):
        truth[i] = view(*camera(i))[1]
        write_png(tmp_path / f"depth/{i}.png", as_depth(truth[i], 5000))
    options = {} if top else {"depth_scale": 5000.0}
    for image in ImageFrames(**options).find(str(tmp_path), "x").items:
        np.testing.assert_allclose(decode_depth(image.row(Resize())["depth"]), truth[image.frame], atol=0.001)
    for cloud in CloudDepth(**options).find(str(tmp_path), "x").items:
        assert decode_points(cloud.row(Resize())["points"])[:, 2].min() == pytest.approx(-truth[cloud.frame].max(), abs=0.001)
    for pair in Rgbd(overlap=(0, 1), **options).find(str(tmp_path), "x").items:
        np.testing.assert_allclose(decode_depth(pair.row(Resize())["depth1"]), truth[int(Path(pair.image1).stem)], atol=0.001)
    if not top:  # the lists of TUM RGB-D beside it say the same
        for name in ("rgb.txt", "depth.txt"):
            (tmp_path / name).touch()
        found = ImageFrames().find(str(tmp_path), "x")
        assert found.items[0].depth_scale == 5000 and "TUM" in found.notes[0]
        assert ImageFrames(depth_scale=1000).find(str(tmp_path), "x").notes == []


def test_a_depth_scale_that_makes_no_sense_is_a_wrong_call(tmp_path: Path) -> None:
    write_frames(tmp_path, 2, depth_scale=-1)
    with pytest.raises(CallError, match="depth_scale is -1"):
        ImageFrames().find(str(tmp_path), "x")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (np.linalg.inv, "inverted \\(world to camera\\)"),
        (lambda pose: pose @ np.diag([1.0, -1, -1, 1]), "in OpenGL's axes"),
        (lambda pose: np.block([[pose[:3, :3].T, pose[:3, 3:]], [pose[3:]]]), ".*with rotations transposed"),
    ],
)
def test_poses_of_another_convention_are_said(tmp_path: Path, change: Callable[[np.ndarray], np.ndarray], says: str) -> None:
    def sideways(i: int) -> np.ndarray:  # a camera that turns as it slides
        _, pose = camera(6 * i)
        return pose

    entries = []
    for i in range(5):
        K, pose = camera(0)[0], sideways(i)
        write_png(tmp_path / f"color/{i}.png", view(K, pose)[0])
        write_png(tmp_path / f"depth/{i}.png", as_depth(view(K, pose)[1]))
        known = {"file": f"color/{i}.png", "depth": f"depth/{i}.png", "K": K.tolist()}
        entries.append(known | {"cam_to_world": change(pose).tolist()})
    write_cameras(tmp_path, entries)
    try:
        (said,) = Rgbd(overlap=(0, 1)).find(str(tmp_path), "x").notes
    except CallError as error:
        said = error.hint
    assert re.search(f"with the poses {says}", said)


def test_a_cloud_needs_no_photo(tmp_path: Path) -> None:
    write_frames(tmp_path, 1)
    whole = CloudDepth().find(str(tmp_path), "x").items[0].row(Resize())["points"]
    (tmp_path / "color/0.png").unlink()
    assert CloudDepth().find(str(tmp_path), "x").items[0].row(Resize())["points"] == whole


def test_an_unreadable_depth_names_its_file(tmp_path: Path) -> None:
    write_frames(tmp_path, 1)
    (tmp_path / "depth/0.png").write_bytes(png(np.zeros((48, 64), np.uint8)))
    with pytest.raises(BrokenSampleError, match=r"depth of 8 bits .*: 0.png"):
        ImageFrames().find(str(tmp_path), "x").items[0].row(Resize())


# Order ---------------------------------------------------------------------------------------------------------------------------------


def _walk(folder: Path, count: int, name: Callable[[int], str], timed: bool) -> None:
    """Frames of a sliding camera, listed in a random order; `name` of the frame at each place in time."""
    entries = []
    for i in range(count):
        size = (32, 32)
        K, pose = camera(0, size)[0], SOUND.copy()
        pose[0, 3] = 0.02 * i
        write_png(folder / f"images/{name(i)}.png", view(K, pose, size)[0])
        write_png(folder / f"depth/{name(i)}.png", as_depth(view(K, pose, size)[1]))
        known = {"file": f"images/{name(i)}.png", "depth": f"depth/{name(i)}.png", "K": K.tolist(), "cam_to_world": pose.tolist()}
        entries.append(known | ({"time_s": 100 + i / 30} if timed else {}))
    write_cameras(folder, [entries[i] for i in np.random.default_rng(0).permutation(count)])


@pytest.mark.parametrize("timed", [True, False])
def test_the_gap_between_splits_holds_for_frames_in_any_order(tmp_path: Path, timed: bool) -> None:
    """By time where it is known, against the names; else img1, img2, img10."""

    numbers = np.random.default_rng(1).permutation(32) if timed else range(32)

    def name(i: int) -> str:
        return f"img{numbers[i]}"

    _walk(tmp_path, 32, name, timed)
    place = {f"{name(i)}.png": i for i in range(32)}
    for source in (Rgbd(overlap=(0.5, 1)), Frames(gap=(1, 2)), ImageFrames()):
        items = source.find(str(tmp_path), "walk").items
        split, _, _ = split_time(items, {"train": 0.7, "val": 0.3}, 4)
        files = {
            part: [path for one in of_part for path in ((one.image1, one.image2) if hasattr(one, "image1") else (one.image,))]
            for part, of_part in split.items()
        }
        train, val = ([place[Path(path).name] for path in files[part]] for part in ("train", "val"))
        assert min(abs(a - b) for a in train for b in val) > 4, type(source).__name__


def test_frames_of_one_stem_have_ids_of_their_own(tmp_path: Path) -> None:
    """Two cameras that number their frames alike; photos that differ in their suffix."""
    write_frames(tmp_path, 4)
    for i, one in enumerate(("a/0", "a/1", "b/0", "b/1")):
        (tmp_path / one).parent.mkdir(exist_ok=True)
        (tmp_path / f"color/{i}.png").rename(tmp_path / f"{one}.png")
    entries = json.loads((tmp_path / "cameras.json").read_text())["frames"]
    write_cameras(tmp_path, [{**entry, "file": f"{'ab'[i // 2]}/{i % 2}.png"} for i, entry in enumerate(entries)])
    ids = [pair.id for pair in Rgbd(overlap=(0, 1)).find(str(tmp_path), "x").items]
    assert len(set(ids)) == len(ids) == 6
    for name in ("1.png", "1.PNG"):
        write_png(tmp_path / "same" / name, np.zeros((40, 40, 3), np.uint8))
    (pair,) = Frames().find(str(tmp_path / "same"), "x").items
    assert sorted(pair.id.removeprefix("x/").split("-")) == ["1.PNG", "1.png"]


def test_times_that_some_frames_lack_are_not_mixed_with_places(tmp_path: Path) -> None:
    write_frames(tmp_path, 4)
    entries = json.loads((tmp_path / "cameras.json").read_text())["frames"]
    write_cameras(tmp_path, [{**entry, "time_s": 100 + i if i else None} for i, entry in enumerate(entries)])
    for source in (Rgbd(overlap=(0, 1)), Frames()):
        assert all(pair.time == pair.frame1 for pair in source.find(str(tmp_path), "x").items)


def test_names_that_are_times_are_in_their_order(tmp_path: Path) -> None:
    """Seconds as programs print them, 0.1 before 0.15 before 0.2; versions such as 1.2 before 1.10 stay."""
    for names in (("0", "0.05", "0.1", "0.15", "0.2"), ("1.1", "1.2", "1.9", "1.10", "1.11")):
        folder = tmp_path / names[1]
        for i, name in enumerate(names):
            write_png(folder / f"{name}.png", np.full((40, 40, 3), i, np.uint8))
        assert [Path(one.image).stem for one in ImageFrames().find(str(folder), "x").items] == list(names)


def test_numbers_that_a_pattern_finds_are_the_order(tmp_path: Path) -> None:
    for i in range(40):  # the side of the street comes first in the name, and is no time
        write_png(tmp_path / f"drive_{'left' if i % 2 else 'right'}_{i}.png", np.zeros((40, 40, 3), np.uint8))
    request = Request("out", (str(tmp_path),))
    (found,) = ImageFolder(scenes=re.compile(r"^(drive)_\w+_(\d+)")).find_all(request)
    split, _, _ = split_time(found.items, {"train": 0.7, "val": 0.3}, 4)
    times = {part: [item.time or 0 for item in items] for part, items in split.items()}
    assert min(abs(a - b) for a in times["train"] for b in times["val"]) > 4


@pytest.mark.parametrize("orientation", [6, 8])
def test_a_photo_that_exif_turns_is_straightened_as_the_upright_one(tmp_path: Path, orientation: int) -> None:
    """Camera, pose and lens of the file's pixels become those of the upright ones, tangential terms too."""
    K, pose, params = np.array([[60.0, 0, 41], [0, 62, 29], [0, 0, 1]]), np.eye(4), (0.05, -0.02, 0.03, -0.02)
    pixels = np.random.default_rng(0).integers(0, 255, (8, 10, 3), dtype=np.uint8)
    filed = Image.fromarray(pixels).resize((80, 60), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = orientation
    filed.save(tmp_path / "turned.png", exif=exif)
    turn = {6: Image.Transpose.ROTATE_270, 8: Image.Transpose.ROTATE_90}[orientation]
    lens = Lens("OPENCV", params)
    straight, target = lens.straightened(filed, K)
    frame = Frame(file="turned.png", K=K, cam_to_world=pose, width=80, height=60, bends=Bends(model="OPENCV", params=params))
    camera = camera_of(frame, tmp_path, straighten=True)
    assert camera.lens is not None and camera.K is not None and not camera.faults
    upright, stored = camera.lens.straightened(filed.transpose(turn), camera.K)
    expected = np.asarray(straight.transpose(turn), dtype=float)
    assert np.abs(np.asarray(upright, dtype=float) - expected)[2:-2, 2:-2].mean() < 0.5
    assert np.allclose(stored, camera.at.intrinsics(target, filed=True), atol=1e-4)
