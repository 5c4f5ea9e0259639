"""One vector for each cloud, for the probes of whole shapes: pooled features of every network, and hand-made distance histograms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from sightline.methods.ops.clouds import normalised
from sightline.platform.data.dataset import Dataset
from sightline.platform.evaluation.eval_mode import eval_mode
from sightline.platform.evaluation.result_table import Measurement
from sightline.platform.evaluation.results import MOST_FREQUENT

from .cloud_context import Cloud, CloudEvalContext, Fit, cloud_units, first_points, list_clouds
from .context import ProbeSkippedError
from .protocol import ShapeProtocol, StoredShapeProtocol

HISTOGRAMS = "distance histograms"
HISTOGRAM_POINTS, BINS = 512, 32
MIN_TRAIN, MIN_TEST = 10, 2


@dataclass(frozen=True)
class Side:
    """Training or test clouds in the order of their rows."""

    clouds: list[Cloud]
    features: dict[str, Float[torch.Tensor, "n d"]]
    """Row name -> float64."""

    @property
    def labels(self) -> Int[np.ndarray, " n"]:
        return np.array([cloud.label for cloud in self.clouds])


@dataclass(frozen=True)
class Shapes:
    train: Side
    test: Side
    counts: dict[str, int]


def shape_features(context: CloudEvalContext, train: Dataset, test: Dataset, protocol: ShapeProtocol) -> Shapes:
    """Features of both sides, computed once for all probes with the same rows and calibration. Raises `ProbeSkippedError`."""
    stored = protocol.points if isinstance(protocol, StoredShapeProtocol) else None
    key = (train.fingerprint, test.fingerprint, protocol.max_rows, protocol.calibrated_on, stored)
    if key not in context.cache:
        context.cache[key] = _shapes(context, train, test, protocol)
    found: Shapes = context.cache[key]
    return found


def pair_clouds(train: Dataset, test: Dataset, max_rows: tuple[int, int], copies: bool = False) -> tuple[list[Cloud], list[Cloud], int]:
    """(training clouds, test clouds, training clouds left out because they are test clouds too). Raises `ProbeSkippedError`.

    `copies`: take what is stored twice as often, and leave nothing out.
    """
    if train.manifest.classes != test.manifest.classes:
        different = sorted(set(train.manifest.classes) ^ set(test.manifest.classes))[:5]
        raise ProbeSkippedError(f"the training and the test data have other classes ({', '.join(different) or 'the order differs'})")
    asked = list_clouds(test, max_rows[1], copies)
    seen = set() if copies else {cloud.digest for cloud in asked}
    everything = list_clouds(train, max_rows[0], copies)
    known = [cloud for cloud in everything if cloud.digest not in seen]
    if len(known) < MIN_TRAIN or len(asked) < MIN_TEST:
        raise ProbeSkippedError(
            f"{len(known)} labelled training clouds and {len(asked)} test clouds; at least {MIN_TRAIN} and {MIN_TEST} are needed"
        )
    if len({cloud.label for cloud in known}) < 2:
        raise ProbeSkippedError(f"the labelled clouds of {train.uri} are all of one class; there is nothing to tell apart")
    return known, asked, len(everything) - len(known)


def _shapes(context: CloudEvalContext, train: Dataset, test: Dataset, protocol: ShapeProtocol) -> Shapes:
    fit = first_points(protocol.points) if isinstance(protocol, StoredShapeProtocol) else None
    known, asked, left_out = pair_clouds(train, test, protocol.max_rows, copies=fit is not None)
    counts = {"broken_clouds": 0}
    with eval_mode(list(context.modules.values()), context.device):
        context.calibrate(train, known, protocol.calibrated_on, fit)
        sides = [
            _side(context, dataset, clouds, counts, before, len(known) + len(asked), fit)
            for dataset, clouds, before in ((train, known, 0), (test, asked, len(known)))
        ]
    labels = {cloud.label for cloud in sides[0].clouds}
    numbers = {"train_clouds": len(sides[0].clouds), "test_clouds": len(sides[1].clouds), "classes": len(labels)}
    numbers[f"test_clouds_{MOST_FREQUENT}"] = int((sides[1].labels == np.bincount(sides[0].labels).argmax()).sum())
    unseen = {"test_classes_without_training_clouds": len({c.label for c in sides[1].clouds} - labels), "left_out_as_test_clouds": left_out}
    return Shapes(sides[0], sides[1], {**numbers, **counts, **unseen})


def _side(
    context: CloudEvalContext, dataset: Dataset, clouds: list[Cloud], counts: dict[str, int], before: int, total: int, fit: Fit | None
) -> Side:
    used: list[Cloud] = []
    parts: dict[str, list[torch.Tensor]] = {}
    for batch in context.batches(dataset, clouds, counts, extra=[HISTOGRAM_POINTS], fit=fit):
        for name, features in context.pooled(batch):
            parts.setdefault(name, []).append(features)
        histograms = np.stack([distance_histograms(points[:HISTOGRAM_POINTS]) for points in batch.points[HISTOGRAM_POINTS]])
        parts.setdefault(HISTOGRAMS, []).append(torch.from_numpy(histograms))
        used += batch.clouds
        context.progress("features of clouds", (before + len(used)) / total)
    return Side(used, {name: torch.cat(some) for name, some in parts.items()})


def distance_histograms(points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, " d"]:
    """Shape distributions (Osada et al. 2002): what no rotation changes, and no network has touched. 2 x `BINS` values, float64."""
    cloud = normalised(points)
    squared = (cloud**2).sum(axis=1)
    between = np.sqrt((squared[:, None] + squared - 2 * cloud @ cloud.T).clip(0))[np.triu_indices(len(cloud), 1)]
    shares = [np.histogram(values, BINS, (0, top))[0] / len(values) for values, top in ((between, 2.0), (np.sqrt(squared), 1.0))]
    return np.sqrt(np.concatenate(shares))


def found_shapes(
    context: CloudEvalContext,
    shapes: Shapes,
    hits: Mapping[str, np.ndarray],
    penalties: Mapping[str, float] | None = None,
    beside: Mapping[str, Mapping[str, np.ndarray]] | None = None,
) -> Measurement:
    """`hits`: row name -> whether each test cloud got its class; `beside`: the same under other settings, by metric."""
    others = list(beside or {})
    sums = {
        name: np.stack([right, *((beside or {})[metric][name] for metric in others), np.ones(len(right))], axis=1).astype(np.float64)
        for name, right in hits.items()
    }

    def metrics_of(sums: Float[np.ndarray, "*shape k"]) -> dict[str, Float[np.ndarray, "*shape"]]:
        return {metric: sums[..., i] / sums[..., -1] for i, metric in enumerate(["accuracy", *others])}

    table = context.rows(lambda name: {HISTOGRAMS: "handmade"})
    return Measurement(table, sums, cloud_units(shapes.test.clouds), metrics_of, shapes.counts, "", penalties or {})
