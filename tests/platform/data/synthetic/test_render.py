"""Rendered rooms: depth, pose and pictures belong together, and the same seed gives the same rooms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sightline.methods.random import keyed_rng
from sightline.platform.data.geometry import covisibility, intrinsics, relative_pose, reproject, scale_intrinsics
from sightline.platform.data.schema import decode_row
from sightline.platform.data.synthetic.render import Renderer, render_pairs, render_scene, sample_poses
from sightline.platform.data.synthetic.scenes import build_scene
from sightline.platform.data.synthetic.view_settings import USUAL, ViewSettings


@pytest.fixture(scope="module")
def samples() -> list[dict[str, Any]]:
    return [decode_row(row, "pairs", depth=True) for row in render_pairs(seed=3, scenes=2, pairs_per_scene=4, size=96)]


def test_the_rows_are_there_and_see_the_same(samples: list[dict[str, Any]]) -> None:
    assert [sample["id"] for sample in samples] == [f"room{scene:05d}/{i:04d}" for scene in range(2) for i in range(4)]
    for sample in samples:
        assert sample["image1"].shape == (96, 96, 3)
        assert USUAL.overlap[0] <= sample["overlap"] <= USUAL.overlap[1]
        assert (sample["depth1"] > 0).mean() > 0.7
        assert np.isclose(np.linalg.det(sample["T_2from1"][:3, :3]), 1)


def test_warping_by_depth_and_pose_lowers_the_colour_difference(samples: list[dict[str, Any]]) -> None:
    for sample in samples:
        flat, x, y, z = reproject(sample["depth1"], sample["K1"], sample["K2"], sample["T_2from1"])
        inside = (z > 0) & (x > 0) & (x < 95) & (y > 0) & (y < 95)
        columns, rows = np.round(x[inside]).astype(int), np.round(y[inside]).astype(int)
        seen = np.abs(sample["depth2"][rows, columns] - z[inside]) < 0.05
        there = sample["image2"][rows, columns][seen].astype(float)
        here = sample["image1"].reshape(-1, 3)[flat[inside]][seen].astype(float)
        unwarped = np.abs(sample["image1"].astype(float) - sample["image2"]).mean()
        assert np.abs(here - there).mean() < 0.6 * unwarped


def test_depth_is_exact() -> None:
    """A camera in the middle of an empty part of the room that looks at a wall sees the wall at its distance, along z."""
    scene = build_scene(keyed_rng("test"))
    renderer, K = Renderer(scene), intrinsics(8, 8, 20)
    pose = np.eye(4)
    pose[:3, :3] = np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]])  # looks along world x, upright
    pose[:3, 3] = [scene.room[0] - 0.5, scene.room[1] / 2, scene.room[2] - 0.2]
    depth = renderer.depth(pose, intrinsics(3, 3, 1), 3, 3)
    np.testing.assert_allclose(depth, 0.5, atol=0.035)  # a picture may hang there
    assert renderer.view(pose, K, 8, 8).depth.shape == (8, 8)


def test_covisibility_is_symmetric_and_bounded(samples: list[dict[str, Any]]) -> None:
    for sample in samples[:4]:
        one, two = (sample["depth1"], sample["K1"]), (sample["depth2"], sample["K2"])
        forth = covisibility(*one, *two, sample["T_2from1"])
        assert forth == pytest.approx(covisibility(*two, *one, np.linalg.inv(sample["T_2from1"])), abs=1e-9)
        assert forth == pytest.approx(sample["overlap"], abs=0.03)
        assert covisibility(*one, *one, np.eye(4)) == 1.0
        away = np.diag([-1.0, 1, -1, 1])
        assert covisibility(*one, *one, away) == 0.0
        assert covisibility(np.zeros((96, 96)), one[1], *two, sample["T_2from1"]) == 0.0


def test_the_same_key_gives_the_same_rows_and_another_gives_others() -> None:
    first, again, other = (render_scene(seed, 1, 1, size=32) for seed in (0, 0, 1))
    assert first[0]["image1"] == again[0]["image1"] and first[0]["depth2"] == again[0]["depth2"]
    assert first[0]["image1"] != other[0]["image1"]


def test_rooms_are_rich_in_texture(samples: list[dict[str, Any]]) -> None:
    """Cross-view completion needs something to complete: most small windows hold contrast."""
    for sample in samples:
        windows = sample["image1"].mean(-1).reshape(12, 8, 12, 8).std((1, 3))
        assert (windows > 2).mean() > 0.5


def test_cameras_stand_free_inside_the_room() -> None:
    scene = build_scene(keyed_rng("another"))
    poses = sample_poses(Renderer(scene), keyed_rng("poses"), 60)
    assert len(poses) > 1
    for pose in poses:
        assert scene.is_free(pose[:3, 3]) and 0 < pose[2, 3] < scene.room[2]
        np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-9)
        assert pose[2, 1] < 0, "the image's y axis points down"


def test_intrinsics_follow_a_resize() -> None:
    """The corners of the image stay its corners: half a pixel outside the first and last centres."""
    K = intrinsics(100, 200, 60)
    half = scale_intrinsics(K, 0.5, 0.5)
    np.testing.assert_allclose(half, intrinsics(50, 100, 60))
    np.testing.assert_allclose(relative_pose(np.eye(4), np.eye(4)), np.eye(4))


def test_cameras_that_look_past_each_other_see_points_elsewhere_and_overlap_less() -> None:
    """The share of image 1's middle points that stay within a fifth of the image falls to a third or less."""

    def stays(chosen: ViewSettings) -> float:
        moved = []
        for index in range(4):
            for row in render_scene(5, index, 4, 48, chosen=chosen):
                sample = decode_row(row, "pairs", depth=True)
                assert chosen.overlap[0] <= sample["overlap"] <= chosen.overlap[1]
                _, x, _, z = reproject(sample["depth1"], sample["K1"], sample["K2"], sample["T_2from1"])
                columns = np.tile(np.arange(48), 48)
                inside = (z > 0) & (x > 0) & (x < 47)
                moved.append(np.abs(x - columns)[inside] / 48)
        return float((np.concatenate(moved) < 0.2).mean())

    usual, apart = stays(USUAL), stays(ViewSettings((0.4, 0.9), (12.0, 30.0)))
    assert usual > 0.7 and apart < 0.5 * usual
