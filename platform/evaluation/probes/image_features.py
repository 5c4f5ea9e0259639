"""One vector for each image, for the classification probes: the mean of the patch tokens, and mean colours of raw pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from sightline.platform.data.dataset import Dataset
from sightline.platform.evaluation.eval_mode import eval_mode
from sightline.platform.evaluation.image_crops import pixel_cells
from sightline.platform.evaluation.result_table import Measurement, ResultTable
from sightline.platform.evaluation.results import MOST_FREQUENT
from sightline.platform.evaluation.units import Units

from .context import PIXELS, ImageEvalContext, ProbeSkippedError
from .image_frames import Frame
from .protocol import PooledProtocol
from .train_test_split import Split, split_frames

PIXEL_SIZE = (64, 64)
"""Crops are brought to this size first (antialiased), then to cells: a multiple of the cells of every protocol."""


@dataclass(frozen=True)
class Side:
    """Training or test images in the order of their frames."""

    frames: list[Frame]
    features: dict[str, Float[torch.Tensor, "n d"]]
    """Row name -> float64, or float32 where a published protocol takes them as the encoder gives them."""

    @property
    def labels(self) -> Int[np.ndarray, " n"]:
        return np.array([frame.label for frame in self.frames])


@dataclass(frozen=True)
class Pooled:
    train: Side
    test: Side
    split: Split
    counts: dict[str, int]

    @property
    def units(self) -> Units:
        return self.split.units_of(self.test.frames)


def pooled_features(context: ImageEvalContext, train: Dataset, test: Dataset, protocol: PooledProtocol) -> Pooled:
    """Features of every network and of raw pixels, computed once for all probes that ask for the same. Raises `ProbeSkippedError`."""
    key = (train.fingerprint, test.fingerprint, protocol.max_rows, protocol.gap, protocol.pixel_cells)
    if key not in context.cache:
        context.cache[key] = _pooled(context, train, test, protocol)
    found: Pooled = context.cache[key]
    return found


def pooled_table(context: ImageEvalContext) -> ResultTable:
    """One raw-pixels row for all: encoders of any image size and patch size are comparable."""
    return context.table({"pixels": PIXELS}, lambda grid: "", of_grid=False)


def found_hits(
    context: ImageEvalContext, pooled: Pooled, hits: dict[str, np.ndarray], penalties: dict[str, float] | None = None
) -> Measurement:
    """`hits`: row name -> whether each test image got its class."""
    sums = {name: np.stack([right, np.ones(len(right))], axis=1).astype(np.float64) for name, right in hits.items()}
    return Measurement(pooled_table(context), sums, pooled.units, _accuracy, pooled.counts, pooled.split.caution, penalties or {})


def _accuracy(sums: Float[np.ndarray, "*shape 2"]) -> dict[str, Float[np.ndarray, "*shape"]]:
    return {"accuracy": sums[..., 0] / sums[..., 1]}


def _pooled(context: ImageEvalContext, train: Dataset, test: Dataset, protocol: PooledProtocol) -> Pooled:
    if train.manifest.classes != test.manifest.classes:
        different = sorted(set(train.manifest.classes) ^ set(test.manifest.classes))[:5]
        raise ProbeSkippedError(f"the training and the test data have other classes ({', '.join(different) or 'the order differs'})")
    split = split_frames(train, test, "label", protocol, strict=False)
    known, asked = {frame.label for frame in split.train}, {frame.label for frame in split.test}
    if len(known) < 2:
        raise ProbeSkippedError(f"the labelled images of {train.uri} are all of one class; there is nothing to tell apart")
    counts = {"broken_images": 0, "images_smaller_than_a_patch": 0}
    total = len(split.train) + len(split.test)
    with eval_mode(list(context.modules.values()), context.device):
        sides = [
            _side(context, dataset, frames, counts, protocol.pixel_cells, before, total)
            for dataset, frames, before in ((train, split.train, 0), (test, split.test, len(split.train)))
        ]
    if len(sides[0].frames) < 10 or len(sides[1].frames) < 2 or len(set(sides[0].labels.tolist())) < 2:
        raise ProbeSkippedError(f"only {len(sides[0].frames)} training and {len(sides[1].frames)} test images can be used")
    numbers = {"train_images": len(sides[0].frames), "test_images": len(sides[1].frames), "classes": len(known | asked)}
    numbers[f"test_images_{MOST_FREQUENT}"] = int((sides[1].labels == np.bincount(sides[0].labels).argmax()).sum())
    unseen = {"test_classes_without_training_images": len(asked - known), "left_out_near_test": split.left_out}
    return Pooled(sides[0], sides[1], split, {**numbers, **counts, **unseen})


def _side(
    context: ImageEvalContext, dataset: Dataset, frames: list[Frame], counts: dict[str, int], cells: int, before: int, total: int
) -> Side:
    used: list[Frame] = []
    parts: dict[str, list[torch.Tensor]] = {}
    for batch in context.batches(dataset, frames, counts, extra=[PIXEL_SIZE]):
        for name, features in context.pooled(batch.images):
            parts.setdefault(name, []).append(features)
        squares = torch.from_numpy(batch.images[PIXEL_SIZE]).permute(0, 3, 1, 2).double().div_(255)
        parts.setdefault(PIXELS, []).append(pixel_cells(squares, cells))
        used += batch.frames
        context.progress("features of images", (before + len(used)) / total)
    return Side(used, {name: torch.cat(some) for name, some in parts.items()})
