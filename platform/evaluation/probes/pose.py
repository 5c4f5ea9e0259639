"""The pose probe: is the relative pose of two views found from matches of their frozen features? Nothing is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int

from sightline.methods.ops.pose_metrics import angles_between, auc_scores
from sightline.platform.data.dataset import Dataset
from sightline.platform.evaluation.eval_mode import eval_mode
from sightline.platform.evaluation.image_crops import centre_box
from sightline.platform.evaluation.result_table import Measurement

from .context import PIXELS, POSITION, Grid, ImageEvalContext, ProbeSkippedError
from .image_frames import Frame
from .protocol import PIXELS_OF_A_PATCH, ImageProtocol
from .spec import ProbeSpec, share
from .train_test_split import units_of
from .view_pairs import patch_centres, read_pairs, rotation_angle, sampled_depth

COLUMNS = ("K1", "K2", "T_2from1")
MISSING = "pip install 'sightline-pretext[pose]'"
FAILED = 180.0
"""Degrees of error of a pose that was not found."""
POINTS_OF_PARALLAX = Grid((128, 128), 8)
FEWEST = 5
"""Matches that an essential matrix needs."""


class PoseProtocol(ImageProtocol):
    """Zero-shot relative pose: what do the matches of two views' features say of how the camera moved?"""

    name: Literal["pose"] = "pose"
    images: str = "both images of a pair; largest centre crop of the encoder's shape, then resized to its size (bicubic, antialiased)"
    max_rows: tuple[int, int] = (0, 400)
    pooling: str = "none: one match a patch"
    features: str = "minus the mean over the patches of their image, divided by their length"
    head: str = "none: patches that are each other's nearest by cosine"
    refinement: str = (
        "the match in image 2 is moved by at most half a patch in x and in y to the top of the parabola through its cosine and those of "
        "its two neighbours; at the border it stays"
    )
    solver: str = (
        "PoseLib estimate_relative_pose: five points, LO-RANSAC, refinement over the inliers, the pose with the points ahead of both "
        "cameras; fewer than 5 matches are a failure of 180 degrees"
    )
    threshold: float = 0.5
    """Of an inlier, distance from its epipolar line in patches of the encoder's own grid."""
    iterations: tuple[int, int] = (100, 1000)
    """Of RANSAC, least and most."""
    error: str = (
        "the larger of two angles: of the rotation between the true and the found rotation, and between the true and the found direction "
        "of translation, whose sign does not count"
    )
    auc: str = (
        "area under the curve of the share of pairs with a smaller error, from 0 to a limit, over the limit: the mean of "
        "max(0, 1 - error / limit)"
    )
    angles: tuple[float, ...] = (15.0, 30.0, 60.0)
    """Borders of the bins of rotation, degrees between the two cameras."""
    parallax: tuple[float, ...] = (5.0, 15.0)
    """Borders of the bins of parallax, degrees: the median angle at which points of image 1 with known depth see the two cameras."""
    metrics: tuple[str, ...] = (
        "auc_30", "auc_10", "auc_5", "rotation_auc_30", "translation_auc_30",
        "auc_30_0_15", "auc_30_15_30", "auc_30_30_60", "auc_30_60_180",
        "auc_30_parallax_0_5", "auc_30_parallax_5_15", "auc_30_parallax_15_180",
    )  # fmt: skip
    position: str = "the same place in both images: no rotation, and a translation along the x axis of the image"
    pixels: str = PIXELS_OF_A_PATCH


@dataclass(frozen=True)
class Errors:
    """Degrees."""

    rotation: float
    translation: float


def measure(context: ImageEvalContext, train: Dataset | None, test: Dataset, protocol: PoseProtocol) -> Measurement:
    """Areas under the curves of the pose errors. Encoders of different grids get no difference. `train` is not used.

    Raises `ProbeSkippedError`, also where PoseLib is not installed.
    """
    solve = Solver(protocol)
    counts = dict.fromkeys(("pairs", "pairs_without_pose", "pairs_without_baseline", "broken_pairs", "images_smaller_than_a_patch"), 0)
    frames: list[Frame] = []
    angles: list[float] = []
    parallaxes: list[float] = []
    errors: dict[str, list[Errors]] = {}
    reading = read_pairs(context, test, protocol.max_rows[1], COLUMNS, counts, lacking="pairs_without_pose", optional=("depth1",))
    with eval_mode(list(context.modules.values()), context.device):
        for some in reading:
            batch = [pair for pair in some if np.linalg.norm(pair.sample["T_2from1"][:3, 3]) > 0]
            counts["pairs_without_baseline"] += len(some) - len(batch)
            if not batch:
                continue
            one, two = ({size: np.stack([pair.crops[side][size] for pair in batch]) for size in batch[0].crops[side]} for side in (0, 1))
            for (name, grid, first), (_, _, second) in zip(context.tokens(one), context.tokens(two), strict=True):
                for pair, a, b in zip(batch, first, second, strict=True):
                    cells, places = mutual_matches(a, b, grid)
                    pose = solve(pair.sample, *match_pixels(pair.sample, grid, cells, places), grid)
                    errors.setdefault(name, []).append(pose_errors(pair.sample["T_2from1"], pose))
            sideways = [pose_errors(pair.sample["T_2from1"], SIDEWAYS) for pair in batch]
            for grid in dict.fromkeys(context.grids.values()):
                errors.setdefault(context.baseline(POSITION, grid), []).extend(sideways)
            frames += [pair.frame for pair in batch]
            angles += [pair.angle for pair in batch]
            parallaxes += [parallax(pair.sample) for pair in batch]
            context.progress("pose probe", min(1.0, len(frames) / min(test.rows, protocol.max_rows[1])))
    counts["pairs"] = len(frames)
    if len(frames) < 2:
        raise ProbeSkippedError(f"{len(frames)} of the pairs of {test.uri} have intrinsics and a pose that moves; at least 2 are needed")
    turned = np.digitize(angles, protocol.angles)
    seen = np.where(np.isnan(parallaxes), -1, np.digitize(parallaxes, protocol.parallax))
    for (low, high), index in _bins(protocol.angles):
        counts[f"pairs_{low}_to_{high}_degrees"] = int((turned == index).sum())
    for (low, high), index in _bins(protocol.parallax):
        counts[f"pairs_parallax_{low}_to_{high}_degrees"] = int((seen == index).sum())
    everything = np.ones(len(frames), bool)
    which = [everything] * 5
    which += [turned == index for _, index in _bins(protocol.angles)] + [seen == index for _, index in _bins(protocol.parallax)]

    def sums(of: list[Errors]) -> Float[np.ndarray, "n k"]:
        rotation, translation = (np.array([getattr(one, part) for one in of]) for part in ("rotation", "translation"))
        worst = np.maximum(rotation, translation)
        scores = [auc_scores(worst, limit) for limit in (30.0, 10.0, 5.0)] + [auc_scores(rotation, 30.0), auc_scores(translation, 30.0)]
        scores += [auc_scores(worst, 30.0)] * (len(which) - len(scores))
        return np.stack([column for score, mask in zip(scores, which, strict=True) for column in (score * mask, mask)], axis=1)

    def metrics_of(values: Float[np.ndarray, "*shape k"]) -> dict[str, np.ndarray]:
        return {name: values[..., 2 * place] / values[..., 2 * place + 1] for place, name in enumerate(protocol.metrics)}

    table = context.table({"pixels": PIXELS, "position": POSITION}, lambda grid: grid)
    return Measurement(table, {name: sums(of) for name, of in errors.items()}, units_of(frames, protocol.resampling), metrics_of, counts)


WORST = "the larger of the angles of rotation and direction of translation"
AUC = f"area under the curve of the share of pairs by {WORST}, up to 30 degrees"
probe = ProbeSpec(
    rank=55,
    title="Zero-shot relative pose of two views",
    protocol=PoseProtocol(),
    columns={"pairs": COLUMNS},
    metrics={
        "auc_30": share("AUC@30°", f"area under the curve of the share of pairs by {WORST}, up to 30 degrees"),
        "auc_10": share("AUC@10°", "up to 10 degrees"),
        "auc_5": share("AUC@5°", "up to 5 degrees"),
        "rotation_auc_30": share("rotation@30°", "of the angle of rotation alone, up to 30 degrees"),
        "translation_auc_30": share("translation@30°", "of the direction of translation alone, up to 30 degrees"),
        "auc_30_0_15": share("0 to 15°", f"{AUC}, in pairs of cameras turned by less than 15 degrees", "AUC@30° by rotation"),
        "auc_30_15_30": share("15 to 30°", f"{AUC}, 15 to 30 degrees", "AUC@30° by rotation"),
        "auc_30_30_60": share("30 to 60°", f"{AUC}, 30 to 60 degrees", "AUC@30° by rotation"),
        "auc_30_60_180": share("over 60°", f"{AUC}, 60 degrees and more", "AUC@30° by rotation"),
        "auc_30_parallax_0_5": share("0 to 5°", f"{AUC}, in pairs with a median parallax of less than 5 degrees", "AUC@30° by parallax"),
        "auc_30_parallax_5_15": share("5 to 15°", f"{AUC}, 5 to 15 degrees", "AUC@30° by parallax"),
        "auc_30_parallax_15_180": share("over 15°", f"{AUC}, 15 degrees and more", "AUC@30° by parallax"),
    },
    sentence="Relative poses from matches of features have an AUC@30° of {value}",
    measure=measure,
    fits_head=False,
)


def _bins(borders: Sequence[float]) -> list[tuple[tuple[int, int], int]]:
    bounds = [0, *(round(border) for border in borders), 180]
    return [(pair, index) for index, pair in enumerate(pairwise(bounds))]


def parallax(sample: Mapping[str, Any]) -> float:
    """Median angle, in degrees, at which points of image 1 see the two cameras; NaN where no depth is known."""
    if "depth1" not in sample:
        return float("nan")
    shape = sample["image1"].shape
    x, y = patch_centres(shape, POINTS_OF_PARALLAX)
    z = sampled_depth(sample["depth1"], x, y, shape)
    points = (np.linalg.inv(sample["K1"]) @ np.stack([x, y, np.ones_like(x)]) * z)[:, z > 0]
    if not points.shape[1]:
        return float("nan")
    pose = sample["T_2from1"]
    other = points + (pose[:3, :3].T @ pose[:3, 3])[:, None]
    return float(np.median(angles_between(points.T, other.T)))


SIDEWAYS = np.eye(3), np.array([1.0, 0.0, 0.0])


def pose_errors(true: Float[np.ndarray, "4 4"], found: tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, " 3"]] | None) -> Errors:
    """Of a rotation and a direction of translation against T_2from1. The sign of the direction does not count, as in the field."""
    if found is None:
        return Errors(FAILED, FAILED)
    rotation, direction = found
    away = float(angles_between(direction, true[:3, 3]))
    return Errors(rotation_angle(rotation.T @ true[:3, :3]), min(away, 180 - away))


def mutual_matches(
    first: Float[torch.Tensor, "n d"], second: Float[torch.Tensor, "n d"], grid: Grid
) -> tuple[Int[np.ndarray, " m"], Float[np.ndarray, "m 2"]]:
    """Patches of view 1 whose nearest patch of view 2 has them as its nearest; for each its place in view 2, (x, y) in patches.

    The centre of the first patch is at (0.5, 0.5). Places are refined to a part of a patch, as `PoseProtocol.refinement` says.
    """
    one, two = (torch.nn.functional.normalize(x - x.mean(dim=0), dim=1) for x in (first, second))
    cosines = (one @ two.T).numpy()
    nearest, back = cosines.argmax(axis=1), cosines.argmax(axis=0)
    cells = np.flatnonzero(back[nearest] == np.arange(len(nearest)))
    rows, columns = grid.shape
    maps = cosines[cells].reshape(-1, rows, columns)
    row, column = np.divmod(nearest[cells], columns)
    each = np.arange(len(cells))
    x = column + 0.5 + _top(maps[each, row], column)
    y = row + 0.5 + _top(maps[each, :, column], row)
    return cells, np.stack([x, y], axis=1)


def _top(lines: Float[np.ndarray, "m n"], at: Int[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
    """Where the parabola through a maximum and its two neighbours is largest, relative to it: within half a step; 0 at the border."""
    each, inside = np.arange(len(at)), (at > 0) & (at < lines.shape[1] - 1)
    before, peak, after = (lines[each, (at + step).clip(0, lines.shape[1] - 1)] for step in (-1, 0, 1))
    bend = before - 2 * peak + after
    with np.errstate(divide="ignore", invalid="ignore"):
        offset = np.where(inside & (bend < 0), (before - after) / (2 * bend), 0.0)
    return np.asarray(offset.clip(-0.5, 0.5))


def match_pixels(
    sample: Mapping[str, Any], grid: Grid, cells: Int[np.ndarray, " m"], places: Float[np.ndarray, "m 2"]
) -> tuple[Float[np.ndarray, "m 2"], Float[np.ndarray, "m 2"]]:
    """Matches in pixels of the two stored images (pixel centres at whole numbers)."""
    one = np.stack(patch_centres(sample["image1"].shape, grid), axis=1)[cells]
    left, top, right, bottom = centre_box(sample["image2"].shape[0], sample["image2"].shape[1], grid.size)
    scale = np.array([(right - left) / grid.size[1], (bottom - top) / grid.size[0]]) * grid.patch
    return one, np.array([left, top]) + places * scale - 0.5


class Solver:
    """PoseLib's RANSAC for pairs with known intrinsics. Raises `ProbeSkippedError` where PoseLib is not installed."""

    def __init__(self, protocol: PoseProtocol) -> None:
        try:
            import poselib
        except ImportError:
            raise ProbeSkippedError(f"PoseLib is not installed: {MISSING}") from None
        self.estimate, self.protocol = poselib.estimate_relative_pose, protocol

    def __call__(
        self, sample: Mapping[str, Any], one: Float[np.ndarray, "m 2"], two: Float[np.ndarray, "m 2"], grid: Grid
    ) -> tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, " 3"]] | None:
        """(rotation, direction of translation) of T_2from1 from matches in pixels of the stored images; None where none is found."""
        if len(one) < FEWEST:
            return None
        rays, cameras = [], []
        for index, pixels in ((1, one), (2, two)):
            shape, K = sample[f"image{index}"].shape, sample[f"K{index}"]
            box = centre_box(shape[0], shape[1], grid.size)
            focal = K[0, 0] / (box[2] - box[0]) * grid.size[1] / grid.patch  # in patches, so that the threshold is in patches
            normalised = np.linalg.inv(K) @ np.stack([*pixels.T, np.ones(len(pixels))])
            rays.append(np.ascontiguousarray((normalised[:2] / normalised[2]).T * focal))
            cameras.append({"model": "SIMPLE_PINHOLE", "width": 0, "height": 0, "params": [focal, 0.0, 0.0]})
        least, most = self.protocol.iterations
        options = {"max_epipolar_error": self.protocol.threshold, "min_iterations": least, "max_iterations": most, "seed": 0}
        pose, _ = self.estimate(*rays, *cameras, options, {})
        direction = np.asarray(pose.t)
        found = bool(np.isfinite(pose.R).all() and np.isfinite(direction).all() and np.linalg.norm(direction) > 0)
        return (np.asarray(pose.R), direction) if found else None
