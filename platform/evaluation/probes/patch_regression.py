"""What the probes of depth and segmentation share: one linear map for all patches of a grid."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float

from sightline.platform.data.dataset import Dataset
from sightline.platform.evaluation.eval_mode import eval_mode
from sightline.platform.evaluation.result_table import ResultTable
from sightline.platform.evaluation.units import make_folds, make_units

from .context import PIXELS, POSITION, Batch, Grid, ImageEvalContext, ProbeSkippedError
from .image_frames import Frame
from .protocol import PatchProtocol
from .ridge import LinearHead, Moments, choose_ridge
from .train_test_split import Split

Target = Callable[[Any, Grid], tuple[Float[np.ndarray, "n k"], Bool[np.ndarray, " n"]]]
"""A frame's target -> the values that the head learns for each patch of a grid, and which patches count."""
Truth = Callable[[Any, Grid], np.ndarray]
"""A frame's target -> what the predictions of a grid are measured against."""
Score = Callable[[Float[torch.Tensor, "b n k"], np.ndarray, "TargetStats"], Float[np.ndarray, "b m"]]
"""Predictions of a batch and its truth -> sums by frame, from which the metrics are computed."""


@dataclass
class TargetStats:
    """Statistics of the training targets of one grid: what can be predicted without any image."""

    grid: Grid
    sums: Float[np.ndarray, "n k"]
    counts: Float[np.ndarray, " n"]
    low: float = np.inf
    high: float = -np.inf

    def add(self, values: Float[np.ndarray, "b n k"], known: Bool[np.ndarray, "b n"]) -> None:
        self.sums += np.where(known[..., None], values, 0).sum(axis=0)
        self.counts += known.sum(axis=0)
        self.low = min(self.low, float(values[known].min(initial=self.low)))
        self.high = max(self.high, float(values[known].max(initial=self.high)))

    @property
    def position(self) -> Float[np.ndarray, "n k"]:
        """The mean target at each place of the grid; the overall mean where none was known."""
        overall = self.sums.sum(axis=0) / self.counts.sum()
        return np.asarray(np.where(self.counts[:, None] > 0, self.sums / self.counts.clip(1)[:, None], overall))


@dataclass(frozen=True)
class Measured:
    sums: dict[str, np.ndarray]
    """Row name -> sums by test frame."""
    frames: list[Frame]
    """The test frames that could be used."""
    penalties: dict[str, float]
    counts: dict[str, int]


def patch_table(context: ImageEvalContext, scope: Callable[[Grid], object]) -> ResultTable:
    return context.table({"pixels": PIXELS, "position": POSITION}, scope)


def measure_patches(
    context: ImageEvalContext,
    train: Dataset,
    test: Dataset,
    split: Split,
    protocol: PatchProtocol,
    target: Target,
    truth: Truth,
    score: Score,
) -> Measured:
    """Fit a head for every network and for raw pixels, and score each on the test frames, beside what position alone predicts."""
    counts = {"train_images": 0, "train_patches": 0, "test_images": 0, "broken_images": 0, "images_smaller_than_a_patch": 0}
    with eval_mode(list(context.modules.values()), context.device):
        heads, penalties, seen = _fit(context, train, split, protocol, target, counts)
        sums: dict[str, list[np.ndarray]] = {}
        frames: list[Frame] = []
        for batch in context.batches(test, split.test, counts):
            true = {grid: np.stack([truth(one, grid) for one in batch.targets]) for grid in seen}
            for name, grid, tokens in context.tokens(batch.images):
                sums.setdefault(name, []).append(score(heads[name](tokens), true[grid], seen[grid]))
            for grid, about in seen.items():
                position = torch.from_numpy(about.position).expand(len(batch.frames), -1, -1)
                sums.setdefault(context.baseline(POSITION, grid), []).append(score(position, true[grid], about))
            frames += batch.frames
            context.progress(f"{protocol.name} probe: testing", len(frames) / len(split.test))
    counts["test_images"] = len(frames)
    if len(frames) < 2:
        raise ProbeSkippedError(f"{len(frames)} test images can be decoded")
    return Measured({name: np.concatenate(parts) for name, parts in sums.items()}, frames, penalties, counts)


def _fit(
    context: ImageEvalContext, train: Dataset, split: Split, protocol: PatchProtocol, target: Target, counts: dict[str, int]
) -> tuple[dict[str, LinearHead], dict[str, float], dict[Grid, TargetStats]]:
    fold_of = _folds(split, protocol)
    moments: dict[str, dict[int, Moments]] = {}
    seen: dict[Grid, TargetStats] = {}
    done = 0
    for batch in context.batches(train, split.train, counts):
        folds = np.array([fold_of[frame.digest] for frame in batch.frames])
        values, known = _targets(batch, target, set(context.grids.values()))
        for grid in values:
            shape = values[grid].shape[1:]
            seen.setdefault(grid, TargetStats(grid, np.zeros(shape), np.zeros(shape[0]))).add(values[grid], known[grid])
        for name, grid, tokens in context.tokens(batch.images):
            mine = moments.setdefault(name, {})
            for fold in np.unique(folds).tolist():
                chosen = known[grid] & (folds == fold)[:, None]
                if chosen.any():
                    found = Moments.of(tokens[torch.from_numpy(chosen)], torch.from_numpy(values[grid][chosen]))
                    mine[fold] = mine[fold] + found if fold in mine else found
        done += len(batch.frames)
        counts["train_patches"] += int(known[next(iter(known))].sum())
        context.progress(f"{protocol.name} probe: fitting", done / len(split.train))
    counts["train_images"] = done
    heads, penalties = {}, {}
    for name, folds_of in moments.items():
        if sum(fold >= 0 for fold in folds_of) < 2:
            raise ProbeSkippedError("the training images with a known target cannot be divided in folds to choose the penalty")
        penalties[name], heads[name] = choose_ridge(folds_of, protocol.penalties)
    if not heads:
        raise ProbeSkippedError("no training image can be decoded")
    return heads, penalties, seen


def _folds(split: Split, protocol: PatchProtocol) -> dict[bytes, int]:
    """Digest of a training frame -> its fold in the choice of the penalty; -1 for those that join only the final fit."""
    scenes, times = [frame.scene for frame in split.train], np.array([frame.time for frame in split.train])
    units = make_units(scenes, times, protocol.resampling, [frame.id for frame in split.train])
    folds = make_folds(units, scenes, times, protocol.folds, protocol.gap)
    return {frame.digest: int(fold) for frame, fold in zip(split.train, folds, strict=True)}


def _targets(batch: Batch, target: Target, grids: set[Grid]) -> tuple[Mapping[Grid, np.ndarray], Mapping[Grid, np.ndarray]]:
    found = {grid: [target(one, grid) for one in batch.targets] for grid in grids}
    values = {grid: np.stack([v for v, _ in some]).astype(np.float64) for grid, some in found.items()}
    return values, {grid: np.stack([k for _, k in some]) for grid, some in found.items()}
