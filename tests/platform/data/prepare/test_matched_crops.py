"""Matched crops of mined pairs: the same part of the scene, with cameras that belong to the pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import plane_scene
import pytest

from sightline.methods.errors import CallError
from sightline.methods.random import keyed_rng
from sightline.platform.data.images import Resize
from sightline.platform.data.prepare.captures.cameras import Camera
from sightline.platform.data.prepare.crop import Crop
from sightline.platform.data.prepare.pair_sources.matched_crops import Cropper, Seen
from sightline.platform.data.prepare.pair_sources.mine import Mine
from sightline.platform.data.prepare.pair_sources.posed import Posed
from sightline.platform.data.schema import decode_row

WHOLE = ("image1", "image2", "K1", "K2", "T_2from1", "depth1", "depth2")


def test_crops_by_depth_warp_into_each_other_and_share_what_they_say(tmp_path: Path) -> None:
    plane_scene.write_frames(tmp_path, 3, size=(120, 160))
    mine = Mine(crops=2, size=48, min_score=0.0001, near=1.0, crop_side=0.45)
    found = mine.find(str(tmp_path), "wall")
    assert len(found.items) == 6 and all(pair.id.rpartition("-")[2] in "12" for pair in found.items)
    for pair in found.items[::2]:
        assert pair.crop1 is not None and pair.crop2 is not None and pair.crop1.side == 54
        sample = decode_row(pair.row(mine.resize), "pairs", needed=WHOLE)
        assert sample["image1"].shape == sample["image2"].shape == (*sample["depth1"].shape, 3) == (48, 48, 3)
        assert plane_scene.warped_error(sample) < 6
        assert plane_scene.warped_error({**sample, "K2": sample["K2"] + [[0, 0, 4], [0, 0, 0], [0, 0, 0]]}) > 12, "the check sees 4 px"
        assert (pair.overlap or 0) >= 0.5
    assert any("6 matched crops of 3 of 3 pairs, " in note for note in found.notes)
    assert mine.find(str(tmp_path), "wall").items == found.items


def test_a_crop_is_found_at_another_scale_turned_and_moved() -> None:
    """Image 2 shows everything 1.5 times as large, rolled by 20 degrees."""
    rng = keyed_rng("points", 0)
    one = rng.uniform(0, 200, (3000, 2))
    turn = 1.5 * np.array([[np.cos(0.35), -np.sin(0.35)], [np.sin(0.35), np.cos(0.35)]])
    two = (one - 100) @ turn.T + (290, 310)
    views = [Posed(None, Camera(plane, None, np.eye(4))) for plane in (_sized(200, 200), _sized(600, 600))]  # type: ignore[arg-type]
    found, _ = Cropper(32, 0.4, 0.5).pairs(Seen(one, np.ones(3000, bool), two), *views, 9, rng)
    assert len(found) == 4
    for first, second, share in found:
        assert (first.side, second.side) == (80, 120) and share > 0.6
        middle = np.array([first.left, first.top]) + 39.5
        assert np.allclose((middle - 100) @ turn.T + (290, 310), np.array([second.left, second.top]) + 59.5, atol=2)
    half = Seen(one, rng.random(3000) < 0.2, two)
    assert Cropper(32, 0.4, 0.5).pairs(half, *views, 9, rng) == ([], "crops share less than 0.5"), "what image 2 does not show counts"
    assert "smaller than a crop of 256 px" in Cropper(256, 0.4, 0.5).pairs(half, *views, 9, rng)[1]


def _sized(height: int, width: int) -> object:
    from sightline.platform.data.geometry import Placement

    return Placement.whole((height, width))


def test_crops_without_depth_or_points_are_refused(tmp_path: Path) -> None:
    plane_scene.write_frames(tmp_path, 3)
    entries = [{key: value for key, value in one.items() if key != "depth"} for one in plane_scene.entries_of(tmp_path)]
    plane_scene.write_cameras(tmp_path, entries)
    with pytest.raises(CallError, match="has poses only"):
        Mine(crops=2, depth_range=(1.5, 3.0), min_score=0.0001).find(str(tmp_path), "wall")


def test_the_size_of_crops_is_the_authors_and_a_crop_outside_its_image_is_broken() -> None:
    assert Mine(crops=1).resize.size == 256 and Mine().resize == Resize() and Mine(crops=1, size=96).resize.size == 96
    assert Crop(2, 3, 4).holds(np.array([[2.5, 2], [6.4, 5.4], [6.6, 2], [2.4, 2]])).tolist() == [True, True, False, False]
