"""The correspondence probe finds matches where features hold what a point looks like, and knows which points both views see."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_probes import PATCH, SIDE, PatchColour, blind_controls, probe, rows_by_name

from sightline.methods.random import keyed_rng
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.geometry import intrinsics
from sightline.platform.data.images import encode_depth, encode_image
from sightline.platform.data.writer import ShardWriter
from sightline.platform.evaluation.probes.context import Grid
from sightline.platform.evaluation.probes.correspondence import CorrespondenceProtocol, hits, nearest_cells, true_cells
from sightline.platform.evaluation.probes.image_frames import Frame
from sightline.platform.evaluation.probes.view_pairs import Pair, rotation_angle

FOV = 60.0
K = intrinsics(SIDE, SIDE, FOV)
GRID = Grid((SIDE, SIDE), PATCH)
Make = Callable[..., Dataset]


def shifted(pixels: float, z: float = 2.0) -> np.ndarray:
    """The pose that moves a wall at depth `z` by `pixels` to the right in the image."""
    pose = np.eye(4)
    pose[0, 3] = pixels * z / K[0, 0]
    return pose


def turned(degrees: float) -> np.ndarray:
    """About the optical axis."""
    pose, angle = np.eye(4), np.radians(degrees)
    pose[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return pose


def pair(pose: np.ndarray, depth1: np.ndarray, depth2: np.ndarray, side: int = SIDE) -> Pair:
    image = np.zeros((side, side, 3), np.uint8)
    scaled = intrinsics(side, side, FOV)
    sample = {"image1": image, "image2": image, "depth1": depth1, "depth2": depth2, "K1": scaled, "K2": scaled, "T_2from1": pose}
    return Pair(Frame(0, "image1", "", "", "", 0.0, b""), 0.0, sample, ({}, {}))


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Walls of random colours seen twice: unmoved, moved by two patches, or turned upside down."""

    def make(name: str, rows: int, poses: tuple[np.ndarray, ...] = (np.eye(4),), *, posed: bool = True) -> Dataset:
        rng = keyed_rng("walls", name)
        wall = np.full((SIDE, SIDE), 2.0)
        with ShardWriter(tmp_path / name, "pairs") as writer:
            for index in range(rows):
                pose = poses[index % len(poses)]
                cells = rng.integers(0, 255, (4, 4, 3))
                one = np.kron(cells, np.ones((PATCH, PATCH, 1))).astype(np.uint8)
                upside_down = pose[0, 0] < -0.5
                two = one[::-1, ::-1] if upside_down else np.roll(one, round(pose[0, 3] * K[0, 0] / 2), axis=1)
                row = {
                    "id": f"{index:03d}",
                    "scene": f"{name}{index % 6}",
                    "image1": encode_image(one, 95),
                    "image2": encode_image(two, 95),
                }
                if posed:
                    row |= {"K1": K.ravel().tolist(), "K2": K.ravel().tolist(), "T_2from1": pose.ravel().tolist()}
                    row |= {"depth1": encode_depth(wall), "depth2": encode_depth(wall)}
                writer.write(row)
        return Dataset.open(tmp_path / name)

    return make


def test_two_equal_views_are_matched_by_everything(make: Make) -> None:
    result = probe("correspondence", PatchColour(), None, make("equal", 12))
    rows = {name: row["metrics"]["recall"]["value"] for name, row in rows_by_name(result).items()}
    assert rows == {"trained": 1, "raw pixels": 1, "position": 1}
    assert list(result["metrics"]) == ["recall", "recall_0_15"] and result["counts"]["visible_patches"] == 12 * 16
    assert result["data"]["train"] is None
    json.dumps(result, allow_nan=False)


def test_features_follow_a_point_where_position_cannot(make: Make) -> None:
    poses = (shifted(2 * PATCH), turned(180.0))
    result = probe("correspondence", PatchColour(), None, make("moved", 24, poses), blind_controls())
    rows = {name: row["metrics"] for name, row in rows_by_name(result).items()}
    assert rows["trained"]["recall"]["value"] > 0.97
    assert rows["position"]["recall_0_15"]["value"] == 0  # two patches aside is one too many
    assert rows["mean of 3 random"]["recall"]["value"] == rows["position"]["recall"]["value"]  # blind features match the same cell
    assert result["counts"]["pairs_60_to_180_degrees"] == 12 and "recall_15_30" not in result["metrics"]
    assert result["units"] == {"kind": "scene", "count": 6}


def test_pairs_without_pose_skip_the_probe(make: Make) -> None:
    result = probe("correspondence", PatchColour(), None, make("plain", 6, posed=False))
    assert "no depth1, depth2, K1, K2, T_2from1 column" in result["skipped"]


def test_a_point_is_followed_into_the_other_view() -> None:
    wall = np.full((SIDE, SIDE), 2.0, np.float32)
    cells = true_cells(pair(shifted(PATCH), wall, wall), GRID, CorrespondenceProtocol()).reshape(4, 4)
    assert cells[0].tolist() == [1, 2, 3, -1] and cells[3].tolist() == [13, 14, 15, -1]


def test_what_lies_behind_something_or_has_no_depth_counts_for_nothing() -> None:
    wall = np.full((SIDE, SIDE), 2.0, np.float32)
    near, unknown = wall.copy(), wall.copy()
    near[:, :PATCH], unknown[:PATCH] = 1.0, 0.0
    cells = true_cells(pair(np.eye(4), unknown, near), GRID, CorrespondenceProtocol()).reshape(4, 4)
    assert (cells[0] == -1).all() and (cells[:, 0] == -1).all() and cells[1, 1] == 5
    assert (true_cells(pair(np.eye(4), 1.04 * wall, wall), GRID, CorrespondenceProtocol()) >= 0).all()  # 5 % is agreement
    assert (true_cells(pair(np.eye(4), 1.06 * wall, wall), GRID, CorrespondenceProtocol()) == -1).all()


def test_crop_and_stored_size_make_no_difference_to_the_truth() -> None:
    """A wide image, its depth stored at half its size, cut to the middle square."""
    image = np.zeros((2 * SIDE, 3 * SIDE, 3), np.uint8)
    wall, wide = np.full((SIDE, SIDE * 3 // 2), 2.0, np.float32), intrinsics(2 * SIDE, 3 * SIDE, FOV)
    pose = np.eye(4)
    pose[0, 3] = 2 * PATCH * 2.0 / wide[0, 0]  # two patches of 16 px in a crop that is shrunk to half: 32 px
    sample = {"image1": image, "image2": image, "depth1": wall, "depth2": wall, "K1": wide, "K2": wide, "T_2from1": pose}
    cells = true_cells(Pair(Frame(0, "image1", "", "", "", 0.0, b""), 0.0, sample, ({}, {})), GRID, CorrespondenceProtocol()).reshape(4, 4)
    assert cells[1].tolist() == [5, 6, 7, -1]


def test_a_match_one_cell_off_is_right_and_two_are_wrong() -> None:
    true = np.array([5, 5, 5, 5, -1] + [-1] * 11)
    nearest = np.array([5, 10, 0, 7, 5] + [0] * 11)  # itself, a diagonal, the other diagonal, two columns off, not visible
    assert hits(nearest[None], [true], GRID, 1).tolist() == [[3, 4]]


def test_the_nearest_feature_is_that_of_the_largest_cosine() -> None:
    one = torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]]) + 7.0  # what all patches of a view share says nothing
    two = torch.tensor([[[-0.1, 0.0], [3.0, 3.0], [0.1, 0.0], [-3.0, -3.0]]]) - 5.0
    assert nearest_cells(one, two).tolist() == [[2, 0]]


def test_angles_are_those_of_the_rotation() -> None:
    assert rotation_angle(turned(40.0)) == pytest.approx(40.0) and rotation_angle(shifted(30)) == pytest.approx(0, abs=1e-5)
