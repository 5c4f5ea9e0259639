"""The depth probe: how much of a scene's depth a linear map reads from the frozen features of single patches."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float

from sightline.methods.contract import MetricInfo
from sightline.platform.data.dataset import Dataset
from sightline.platform.evaluation.image_crops import patch_depth
from sightline.platform.evaluation.result_table import Measurement

from .context import Grid, ImageEvalContext, ProbeSkippedError
from .patch_regression import TargetStats, measure_patches, patch_table
from .protocol import EVERY_IMAGE, PatchProtocol
from .spec import ProbeSpec, share
from .train_test_split import split_frames


class DepthProtocol(PatchProtocol):
    """Monocular depth from frozen patch features: one linear map, shared by all patches, from a patch's feature to its log depth."""

    name: Literal["depth"] = "depth"
    version: int = 2
    images: str = f"both images of each pair, or single images; {EVERY_IMAGE}"
    head: str = "ridge regression of log depth, closed form (no head seed); predictions clipped to the range of the training targets"
    target: str = "median of the valid depths inside the patch, metres"
    delta: float = 1.25
    """delta1 is the share of patches with max(predicted / true, true / predicted) below this."""
    metrics: tuple[str, ...] = ("delta1", "absrel", "rmse")
    pooled: str = "all valid test patches weigh the same"
    position: str = "mean training log depth at each place of the grid"


def measure(context: ImageEvalContext, train: Dataset, test: Dataset, protocol: DepthProtocol) -> Measurement:
    """Metrics over patches of the encoder's own grid: encoders of different grids get no difference. Raises `ProbeSkippedError`."""
    split = split_frames(train, test, "depth", protocol, strict=True)

    def target(depth: Float[np.ndarray, "h w"], grid: Grid) -> tuple[np.ndarray, np.ndarray]:
        cells = patch_depth(depth, grid.size, grid.patch, protocol.min_valid).reshape(-1, 1)
        known = np.isfinite(cells)
        return np.log(np.where(known, cells, 1.0)), known[:, 0]

    def truth(depth: Float[np.ndarray, "h w"], grid: Grid) -> Float[np.ndarray, " n"]:
        return patch_depth(depth, grid.size, grid.patch, protocol.min_valid).reshape(-1)

    def score(predicted: Float[torch.Tensor, "b n 1"], true: Float[np.ndarray, "b n"], seen: TargetStats) -> Float[np.ndarray, "b 4"]:
        return error_sums(predicted[..., 0].clamp(seen.low, seen.high).exp().numpy(), true, protocol.delta)

    found = measure_patches(context, train, test, split, protocol, target, truth, score)
    patches = int(found.sums[next(iter(found.sums))][:, 0].sum())
    if not patches:
        raise ProbeSkippedError("no test patch has enough known depth")
    table = patch_table(context, scope=lambda grid: grid)
    counts = {**found.counts, "test_patches": patches, "left_out_near_test": split.left_out}
    return Measurement(table, found.sums, split.units_of(found.frames), metrics_of, counts, split.caution, found.penalties)


probe = ProbeSpec(
    rank=40,
    title="Monocular depth from frozen patch features",
    protocol=DepthProtocol(),
    columns={"pairs": ("depth1", "depth2"), "images": ("depth",)},
    metrics={
        "delta1": share("delta1", "share of patches within a factor 1.25 of the true depth"),
        "absrel": MetricInfo(label="AbsRel", means="mean of |predicted - true| / true", better="lower"),
        "rmse": MetricInfo(label="RMSE", means="root mean squared error", unit="m", better="lower"),
    },
    sentence="A linear map on the frozen features puts {value} of the patches within a factor 1.25 of the true depth",
    measure=measure,
)


def error_sums(predicted: Float[np.ndarray, "b n"], true: Float[np.ndarray, "b n"], delta: float) -> Float[np.ndarray, "b 4"]:
    """For each image: counted patches, patches within `delta`, sum of relative errors, sum of squared errors."""
    known = np.isfinite(true)
    t = np.where(known, true, 1.0).astype(np.float64)
    p = np.where(known, predicted, 1.0).astype(np.float64)
    hit = np.maximum(p / t, t / p) < delta
    columns = [known, known & hit, np.abs(p - t) / t, (p - t) ** 2]
    return np.stack([column.sum(axis=1).astype(np.float64) for column in columns], axis=1)


def metrics_of(sums: Float[np.ndarray, "*shape 4"]) -> dict[str, Float[np.ndarray, "*shape"]]:
    count, hits, relative, squared = np.moveaxis(sums, -1, 0)
    return {"delta1": hits / count, "absrel": relative / count, "rmse": np.sqrt(squared / count)}
