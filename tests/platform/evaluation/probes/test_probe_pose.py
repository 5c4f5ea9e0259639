"""The pose probe finds how the camera moved where features tell points apart, and finds nothing where they do not."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from toy_probes import probe, rows_by_name

from sightline.methods.ops.pose_metrics import auc_scores
from sightline.methods.random import keyed_rng
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.geometry import intrinsics
from sightline.platform.data.images import encode_depth
from sightline.platform.data.writer import ShardWriter
from sightline.platform.evaluation.probes.context import Grid
from sightline.platform.evaluation.probes.pose import (
    PoseProtocol,
    Solver,
    match_pixels,
    mutual_matches,
    parallax,
    pose_errors,
)
from sightline.platform.evaluation.probes.view_pairs import patch_centres

SIDE, PATCH = 96, 6
K = intrinsics(SIDE, SIDE, 70.0)
GRID = Grid((SIDE, SIDE), PATCH)
Make = Callable[..., Dataset]


def turned(degrees: float, axis: int) -> np.ndarray:
    angle, rest = np.radians(degrees), [one for one in range(3) if one != axis]
    rotation = np.eye(3)
    rotation[np.ix_(rest, rest)] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return rotation


class WorldCode(torch.nn.Module):
    """Features of what a patch shows, where the colours of an image are coordinates in the world: near for near points alone."""

    dim, patch_size, image_size = 48, PATCH, (SIDE, SIDE)

    def __init__(self, shuffled: bool = False) -> None:
        super().__init__()
        self.shuffled = shuffled
        self.register_buffer("waves", torch.randn(3, 24, generator=torch.Generator().manual_seed(0)) * 25)

    def tokens(self, images: torch.Tensor) -> torch.Tensor:
        phase = torch.nn.functional.avg_pool2d(images, PATCH).flatten(2).transpose(1, 2) @ self.waves
        tokens = torch.cat([phase.cos(), phase.sin()], dim=2)
        if self.shuffled:
            tokens = tokens[:, torch.randperm(tokens.shape[1], generator=torch.Generator().manual_seed(int(images.sum())))]
        return tokens


def view(pose: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(image, depth) of a room of 4 x 4 x 4 m with a pillar, whose colours are places, from a camera at `pose` (world to camera)."""
    y, x = np.mgrid[:SIDE, :SIDE]
    rays = np.stack([x, y, np.ones_like(x)], axis=-1).reshape(-1, 3) @ np.linalg.inv(K).T @ pose[:3, :3]
    eye = -pose[:3, :3].T @ pose[:3, 3]
    walls = np.min(np.where(rays > 0, 2.0 - eye, -2.0 - eye) / rays, axis=1)
    a, b = (rays[:, ::2] ** 2).sum(axis=1), rays[:, ::2] @ (eye[::2] - [0.3, 1.0])
    inside = b**2 - a * (((eye[::2] - [0.3, 1.0]) ** 2).sum() - 0.3**2)
    z = np.where(inside > 0, np.minimum((-b - np.sqrt(inside.clip(0))) / a, walls), walls)
    points = eye + rays * z[:, None]
    return ((points + 2) / 4 * 255).round().clip(0, 255).astype(np.uint8).reshape(SIDE, SIDE, 3), z.reshape(SIDE, SIDE).astype(np.float32)


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def make(rows: int, *, still: int = 0) -> Dataset:
        rng = keyed_rng("poses", rows)
        with ShardWriter(tmp_path / "room", "pairs") as writer:
            for index in range(rows):
                first = np.eye(4)
                first[:3, 3] = [*rng.uniform(-0.2, 0.2, 2), 1.7]
                second = first.copy()
                second[:3, :3] = turned(rng.uniform(-12, 12), 1) @ turned(rng.uniform(-5, 5), 0)
                if index >= still:
                    second[:3, 3] += rng.uniform(0.4, 0.7, 3) * rng.choice([-1, 1], 3)
                else:
                    second[:3, 3] = second[:3, :3] @ first[:3, 3]
                (one, depth), (two, _) = view(first), view(second)
                relative = second @ np.linalg.inv(first)
                relative[:3, 3] *= index >= still
                row = {
                    "id": f"{index:03d}",
                    "scene": f"s{index % 6}",
                    "image1": png(one),
                    "image2": png(two),
                    "T_2from1": relative.ravel().tolist(),
                }
                writer.write({**row, "K1": K.ravel().tolist(), "K2": K.ravel().tolist(), "depth1": encode_depth(depth)})
        return Dataset.open(tmp_path / "room")

    return make


def test_features_of_places_give_the_pose_and_shuffled_ones_do_not(make: Make) -> None:
    pytest.importorskip("poselib")
    result = probe("pose", {"true": WorldCode(), "shuffled": WorldCode(shuffled=True)}, None, make(5, still=1))
    rows = {name: {key: metric["value"] for key, metric in row["metrics"].items()} for name, row in rows_by_name(result).items()}
    assert rows["true"]["auc_30"] > 0.4 and rows["true"]["rotation_auc_30"] > 0.8
    assert rows["shuffled"]["auc_30"] < 0.1
    assert rows["position"]["auc_30"] < 0.1 < rows["position"]["rotation_auc_30"]
    assert result["counts"]["pairs"] == 4 and result["counts"]["pairs_without_baseline"] == 1
    assert "auc_30_30_60" not in result["metrics"] and "auc_30_parallax_5_15" in result["metrics"]


def posed(seed: int, wide: int = 0) -> tuple[dict[str, Any], np.ndarray]:
    """A pair of views of the room, `wide` pixels wider than high, and where the patches' centres of view 1 are in view 2 (n x 2)."""
    rng = keyed_rng("exact", seed)
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = turned(rng.uniform(-15, 15), 1) @ turned(8, 0), rng.uniform(-0.4, 0.4, 3)
    K1, K2 = K.copy(), K * np.array([[0.9], [0.9], [1.0]])
    K1[0, 2] += wide / 2
    K2[0, 2] += wide / 2
    image = np.zeros((SIDE, SIDE + wide, 3), np.uint8)
    sample = {"image1": image, "image2": image, "K1": K1, "K2": K2, "T_2from1": pose}
    one = np.stack(patch_centres(image.shape, GRID))
    points = np.linalg.inv(K1) @ np.concatenate([one, np.ones((1, GRID.cells))]) * rng.uniform(1, 4, GRID.cells)
    two = K2 @ (pose[:3, :3] @ points + pose[:3, 3:])
    return sample, (two[:2] / two[2]).T


def test_exact_matches_give_the_pose_and_chance_matches_do_not() -> None:
    pytest.importorskip("poselib")
    solve, right, wrong = Solver(PoseProtocol()), [], []
    for seed in range(3):
        sample, two = posed(seed, wide=40)
        places = (two + 0.5 - np.array([20, 0])) / PATCH
        one, back = match_pixels(sample, GRID, np.arange(GRID.cells), places)
        assert np.abs(back - two).max() < 1e-9
        right.append(pose_errors(sample["T_2from1"], solve(sample, one, two, GRID)))
        wrong.append(pose_errors(sample["T_2from1"], solve(sample, one, keyed_rng("shuffle", seed).permutation(two), GRID)))
        assert solve(sample, one[:4], two[:4], GRID) is None
    assert max(max(error.rotation, error.translation) for error in right) < 0.05
    assert np.mean(auc_scores(np.array([max(error.rotation, error.translation) for error in wrong]), 10.0)) < 0.1


def test_areas_are_those_of_the_published_evaluations_up_to_their_straight_lines() -> None:
    errors, limit = np.sort(keyed_rng("errors").uniform(0, 60, 200)), 30.0
    below = errors < limit
    recall = np.concatenate([[0], np.arange(1, below.sum() + 1), [below.sum()]]) / len(errors)
    trapezoids = np.trapezoid(recall, np.concatenate([[0], errors[below], [limit]])) / limit
    assert trapezoids == pytest.approx(auc_scores(errors, limit).mean() + errors[below].max() / (2 * len(errors) * limit))
    assert auc_scores(np.array([0.0, 15.0, 180.0]), 30.0).tolist() == [1, 0.5, 0]


def test_matches_are_mutual_and_moved_to_the_top_of_the_cosines() -> None:
    y, x = np.divmod(np.arange(GRID.cells), GRID.shape[1])
    anchors = torch.tensor(np.stack(np.meshgrid(*[np.arange(-2.0, 19, 2)] * 2), axis=-1).reshape(-1, 2))

    def code(move: float) -> torch.Tensor:
        places = torch.tensor(np.stack([x + move, y], axis=1))
        return torch.exp(-((places[:, None] - anchors) ** 2).sum(dim=2) / 8)

    cells, places = mutual_matches(code(0.0), code(-1.3), GRID)
    middle = (x[cells] > 2) & (x[cells] < 12) & (y[cells] > 2) & (y[cells] < 13)
    assert middle.sum() > 60
    assert np.abs(places[middle] - np.stack([x[cells] + 1.8, y[cells] + 0.5], axis=1)[middle]).max() < 0.1
    two = code(0.0)
    two[5] = two[6]  # now both have patch 6 as their nearest, and only the first of them is chosen back
    cells, _ = mutual_matches(code(0.0), two, GRID)
    assert len(set(cells) & {5, 6}) == 1


def test_parallax_and_errors_are_angles() -> None:
    sample, _ = posed(0)
    sample["K1"][[0, 1], [0, 1]] *= 100  # so that all points are nearly ahead
    sample |= {"T_2from1": np.eye(4), "depth1": np.zeros((SIDE, SIDE), np.float32)}
    assert np.isnan(parallax(sample))
    sample["T_2from1"][0, 3], sample["depth1"][:] = 0.5, 40
    assert parallax(sample) == pytest.approx(np.degrees(np.arctan(0.5 / 40)), rel=0.01)
    true = np.eye(4)
    true[:3, :3], true[:3, 3] = turned(20, 2), [0, 0, 2]
    error = pose_errors(true, (np.eye(3), np.array([0, -1.0, -1.0])))
    assert (error.rotation, error.translation) == pytest.approx((20, 45))


def test_without_poselib_the_probe_names_what_to_install(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "poselib", None)
    assert "pip install 'sightline-pretext[pose]'" in probe("pose", WorldCode(), None, make(2))["skipped"]
