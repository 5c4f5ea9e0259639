"""The first look: planted faults are named, sound data are not, and what is alike is found without comparing everything."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter
from plane_scene import camera, view

from sightline.methods.errors import CallError
from sightline.platform.data.clouds import encode_points
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.epipolar import Matches
from sightline.platform.data.geometry import relative_pose
from sightline.platform.data.images import Resize, decode_depth, encode_depth, encode_image, encode_png
from sightline.platform.data.inspection import scan as scan_module
from sightline.platform.data.inspection.alike import DISTANCE, alike, bits
from sightline.platform.data.inspection.cameras import chained
from sightline.platform.data.inspection.inspect import Inspection, inspect
from sightline.platform.data.inspection.looks import look_at
from sightline.platform.data.pose_check import PoseVerdict, Readings, readings_of_pair
from sightline.platform.data.prepare.pair_sources.rgbd import Rgbd
from sightline.platform.data.writer import ShardWriter

SIDE = 64
KITCHEN = Path(__file__).resolve().parents[5] / "shared" / "data" / "kitchen-rgbd"


@cache
def photo(seed: int) -> np.ndarray:
    """Something with large and small structure, another for each seed."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (6, 6, 3)).astype(np.uint8)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return np.clip(np.asarray(coarse).astype(int) + rng.integers(-30, 30, (SIDE, SIDE, 1)), 0, 255).astype(np.uint8)


def jpeg(pixels: np.ndarray, quality: int = 90) -> bytes:
    return encode_image(pixels, quality)


def blurred(pixels: np.ndarray, radius: float = 3) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(radius)))


def written(folder: Path, kind: str, rows: list[dict[str, Any]], **named: Any) -> Dataset:
    with ShardWriter(folder, kind, **named) as writer:
        for index, row in enumerate(rows):
            writer.write({"id": f"{folder.name}{index:02}", **row})
    return Dataset.open(folder)


def told(seen: Inspection, severity: str) -> list[str]:
    return [item.text for item in seen.findings if item.severity == severity]


def test_sound_images_have_nothing_wrong(tmp_path: Path) -> None:
    train = written(tmp_path / "train", "images", [{"image": jpeg(photo(seed))} for seed in range(6)])
    val = written(tmp_path / "val", "images", [{"image": jpeg(photo(seed))} for seed in range(6, 9)])
    seen = inspect([train, val])
    assert seen.verdict == "Nothing wrong was found in 9 rows." and not told(seen, "error") + told(seen, "warning")


def test_images_that_train_and_val_share_are_an_error(tmp_path: Path) -> None:
    again = jpeg(np.asarray(Image.fromarray(photo(2)).resize((48, 48))), 40)
    train = written(tmp_path / "train", "images", [{"image": jpeg(photo(seed))} for seed in range(6)])
    val = written(tmp_path / "val", "images", [{"image": jpeg(photo(1))}, {"image": again}, {"image": jpeg(photo(9))}])
    seen = inspect([train, val])
    assert len(told(seen, "error")) == 1 and seen.findings[0].leak
    assert "share 1 image byte for byte and 1 image that looks the same: 2 of 3 rows of " in told(seen, "error")[0]
    assert [one[1][1] for one in seen.duplicates.across[0].examples] == [0, 1], "rows of val, what is the same first"
    allowed = inspect([train, val], leaks_are_errors=False)
    assert not told(allowed, "error") and "share 1 image byte" in told(allowed, "warning")[0]
    other = written(tmp_path / "b" / "train", "images", [{"image": jpeg(photo(1))}])
    assert not told(inspect([train, other]), "error"), "both are trained on"


def test_broken_blurred_plain_and_repeated_rows_are_named(tmp_path: Path) -> None:
    whole = encode_png(photo(0))
    rows = [
        *({"image": jpeg(photo(seed)), "label": 0} for seed in range(1, 5)),
        *({"image": whole[: len(whole) // 2], "label": 0}, {"image": jpeg(blurred(photo(6))), "label": 0}),
        *({"image": jpeg(np.full((SIDE, SIDE, 3), 90, np.uint8)), "label": 0}, {"image": jpeg(photo(1)), "label": 1}),
    ]
    seen = inspect([written(tmp_path / "train", "images", rows, classes=("a", "b", "c"))])
    warnings = "\n".join(told(seen, "warning"))
    assert "1 of 8 rows (12.5%) cannot be used: 1 x image: damaged PNG image" in warnings
    assert "1 of 6 images (16.7%) is blurred" in warnings and "is one colour" in warnings
    assert (
        "repeat another byte for byte" in warnings
        and "1 time the same content has two labels" in warnings
        and "1 class without a row: c" in warnings
    )
    assert seen.sets[0].scan.broken[0].id == "train04"


def test_a_row_group_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    train = written(tmp_path / "train", "images", [{"image": jpeg(photo(seed))} for seed in range(70)])
    shard = next((tmp_path / "train").glob("*.parquet"))
    data = bytearray(shard.read_bytes())
    data[200:240] = bytes(40)
    shard.write_bytes(data)
    seen = inspect([train])
    assert "is damaged in row group 0" in told(seen, "error")[0] and seen.sets[0].scan.broken_rows == 64


def _posed(count: int, wrong: bool = False) -> list[dict[str, Any]]:
    rows = []
    for number in range(count):
        (K1, one), (K2, two) = camera(number), camera(number + 1)
        (image1, depth1), (image2, depth2) = view(K1, one), view(K2, two)
        T = relative_pose(one, two)
        row = {"scene": "wall", "image1": encode_png(image1), "image2": encode_png(image2), "depth1": encode_depth(depth1)}
        T = np.linalg.inv(T) if wrong else T
        rows.append(row | {"depth2": encode_depth(depth2), "overlap": 0.8, **{"K1": K1.ravel().tolist(), "K2": K2.ravel().tolist()}})
        rows[-1]["T_2from1"] = T.ravel().tolist()
    return rows


def test_poses_that_fit_and_inverted_ones_are_told_apart(tmp_path: Path) -> None:
    seen = inspect([written(tmp_path / "good", "pairs", _posed(3))])
    good = seen.sets[0]
    assert not good.check.fault and "warp error of 3 pair(s)" in good.check.warp and len(good.check.epipolar) == 3
    (found,) = good.maps
    truth = np.array([camera(number)[1][:3, 3] for number in range(4)])
    assert (len(found.places), found.frames, found.rows) == (4, 4, 3)
    far = [np.linalg.norm(found.places[:, None] - found.places, axis=-1).max(), np.linalg.norm(truth[:, None] - truth, axis=-1)[:, :].max()]
    assert far[0] == pytest.approx(far[1], rel=0.1), "the map has the scale of the poses"
    bad = inspect([written(tmp_path / "bad", "pairs", _posed(2, wrong=True))])
    assert "depth and poses do not bring the images together" in told(bad, "warning")[0]


def test_poses_are_chained_through_shared_frames() -> None:
    poses = [camera(number)[1] for number in range(4)]
    pairs = [(a, b, relative_pose(poses[a], poses[b])) for a, b in ((0, 1), (2, 1), (2, 3))]
    found = chained([*pairs, (8, 9, np.eye(4))])
    assert set(found) == {0, 1, 2, 3}, "the largest part; nothing relates the others to it"
    np.testing.assert_allclose(np.linalg.inv(found[0]) @ found[3], np.linalg.inv(poses[0]) @ poses[3], atol=1e-12)


def test_the_same_cloud_in_another_order_is_found(tmp_path: Path) -> None:
    clouds = np.random.default_rng(0).normal(size=(4, 100, 3)).astype(np.float32)
    train = written(tmp_path / "train", "points", [{"points": encode_points(cloud)} for cloud in clouds[:3]])
    few = np.repeat(clouds[3][:20], 5, axis=0)
    val = written(tmp_path / "val", "points", [{"points": encode_points(clouds[1][::-1])}, {"points": encode_points(few)}])
    seen = inspect([train, val])
    assert "share 1 cloud byte for byte: 1 of 2 rows" in told(seen, "error")[0]
    assert any("1 of 2 clouds (50.0%) have most of their points in the same places" in text for text in told(seen, "warning"))


def test_what_is_alike_is_what_a_comparison_of_all_finds() -> None:
    rng = np.random.default_rng(3)
    base = rng.integers(0, 2**63, (2, 120), dtype=np.int64).astype(np.uint64)
    flips = rng.integers(0, 64, (2, 120, 9))
    near = base.copy()
    for step in range(9):  # 0 to 9 bits differ
        near ^= np.where(step < np.arange(120) % 10, np.uint64(1) << flips[:, :, step].astype(np.uint64), np.uint64(0))
    phash, dhash = np.concatenate([base[0], near[0]]), np.concatenate([base[1], near[1]])
    a, b = np.triu_indices(240, 1)
    close = (np.bitwise_count(phash[a] ^ phash[b]) <= DISTANCE) & (np.bitwise_count(dhash[a] ^ dhash[b]) <= DISTANCE)
    assert 90 < close.sum() < 120
    np.testing.assert_array_equal(alike(phash, dhash), np.stack([a[close], b[close]], axis=1))
    np.testing.assert_array_equal(bits(phash), np.bitwise_count(phash))
    assert alike(phash[:0], dhash[:0]).shape == (0, 2)
    bands = [round(64 * band / 9) for band in range(9)]  # one difference in each band but the last
    both = np.array([phash[0], phash[0] ^ sum(np.uint64(1) << np.uint64(low) for low in bands[:8])])
    assert alike(both, both).tolist() == [[0, 1]]


def test_the_numbers_of_an_image() -> None:
    half = np.zeros((SIDE, SIDE, 3), np.uint8)
    half[:, SIDE // 2 :] = 255
    look = look_at(half)
    assert (look.dark, look.bright, look.mean) == (0.5, 0.5, 127.5)
    sharp, soft = look_at(photo(1)), look_at(blurred(photo(1)))
    assert sharp.sharpness > 20 * soft.sharpness
    buffer = io.BytesIO()
    Image.fromarray(photo(1)).save(buffer, "JPEG", quality=20)
    again = look_at(np.asarray(Image.open(buffer)))
    assert int(bits(np.array([sharp.phash ^ again.phash], np.uint64))[0]) <= DISTANCE


def test_some_rows_stand_for_all_and_that_is_said(tmp_path: Path) -> None:
    train = written(tmp_path / "train", "images", [{"image": jpeg(photo(seed % 7))} for seed in range(130)])
    seen = inspect([train], at_most=10)
    assert seen.sets[0].scan.rows in (2, 64, 66) and "random row groups: the others are unknown" in " ".join(told(seen, "note"))
    assert inspect([train], at_most=10).sets[0].scan.images["row"].tolist() == seen.sets[0].scan.images["row"].tolist()
    with pytest.raises(CallError, match="named twice"):
        inspect([train, train])


def _seen_twice(number: int, change: Callable[[np.ndarray], np.ndarray], times: float) -> Readings:
    """Where 40 points really are in two images, with a relative pose and intrinsics that were changed."""
    points = np.random.default_rng(number).uniform((-1, -1, 3), (1, 1, 6), (40, 3))
    (K1, one), (K2, two) = camera(number), camera(number + 3)
    T = relative_pose(one, two)
    places = []
    for K, seen in ((K1, points), (K2, points @ T[:3, :3].T + T[:3, 3])):
        x, y, z = K @ seen.T
        places.append(np.stack([x / z, y / z], axis=1))
    scale = np.diag([times, times, 1.0])
    return readings_of_pair(Matches(places[0], places[1], scale @ K1, scale @ K2, change(T), 80.0))


_OPENGL = np.diag([1.0, -1, -1, 1])


@pytest.mark.parametrize(
    ("change", "times", "said"),
    [
        (lambda T: T, 1.0, ""),
        (np.linalg.inv, 1.0, "with the poses inverted"),
        (lambda T: _OPENGL @ T @ _OPENGL, 1.0, "in OpenGL's axes"),
        (lambda T: T, 2.0, "with K of an image half as large"),
    ],
)
def test_what_cameras_are_instead_is_told_by_matches(change: Callable[[np.ndarray], np.ndarray], times: float, said: str) -> None:
    likely = PoseVerdict([_seen_twice(number, change, times) for number in (0, 1, 2)]).likely
    assert said in likely and bool(likely) == bool(said)


@pytest.mark.slow
@pytest.mark.skipif(not KITCHEN.is_dir(), reason="../shared is not here")
@pytest.mark.parametrize(
    ("change", "times", "said"),
    [
        (lambda T: T, 1.0, ""),
        (np.linalg.inv, 1.0, "with the poses inverted"),
        (lambda T: T, 0.25, "depth and poses have different units: by the poses, matched points lie"),
    ],
)
def test_cameras_of_stored_pairs_are_held_against_matches(
    tmp_path: Path, change: Callable[[np.ndarray], np.ndarray], times: float, said: str
) -> None:
    found = Rgbd(overlap=(0.5, 0.8), pairs_per_frame=1).find(str(KITCHEN), "kitchen")
    rows = [{"id": item.id, **item.row(Resize())} for item in islice(found.items, 20, 200, 20)]
    for row in rows:
        row["T_2from1"] = change(np.reshape(row["T_2from1"], (4, 4))).ravel().tolist()
        row.update({name: encode_depth(decode_depth(row[name]) * times) for name in ("depth1", "depth2")})
    seen = inspect([written(tmp_path / "kitchen", "pairs", rows)])
    check = seen.sets[0].check
    assert said in check.fault and bool(check.fault) == bool(said)
    assert "times as far as the depth says" in check.depth and check.distances is not None and len(check.distances) > 200


@pytest.mark.slow
def test_processes_find_what_one_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"image": jpeg(photo(seed % 9))} for seed in range(300)]
    train = written(tmp_path / "train", "images", [*rows, {"image": encode_png(photo(9))[:900]}])
    alone = scan_module.scan(train)
    monkeypatch.setattr(scan_module, "BLOCK", 1)
    monkeypatch.setattr(scan_module, "MANY", 2)
    monkeypatch.setattr(scan_module.os, "cpu_count", lambda: 2)
    together = scan_module.scan(train)
    np.testing.assert_array_equal(alone.images, together.images)
    assert alone.broken == together.broken and alone.broken_rows == together.broken_rows == 1 and together.rows == 301
