"""Test metrics of part segmentation: IoU by shape and by category, beside the most frequent part of each category everywhere."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int

from sightline.methods.contract import HasEvaluationViews, MetricInfo, Views
from sightline.methods.errors import SightlineError
from sightline.platform.data.clouds import NO_PART
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.loader.fixed import SampleReader

from .eval_mode import eval_mode
from .findings import label_of, show_span
from .intervals import Interval, Resampling, coverage, interval, resample_counts
from .probes.part_segmentation import shape_iou
from .results import BY_CLASS, CATEGORY, TEST, TITLES, TRAINED, MethodResult, Resamples, Row, RowKind, of_class
from .units import Units

RESAMPLING = Resampling()
METRICS = {
    "instance_miou": MetricInfo(means="IoU of the parts of a shape, mean over the shapes", label="instance mIoU", unit="%"),
    "class_miou": MetricInfo(
        means="the same, mean over the shapes of each category, then over the categories", label="class mIoU", unit="%"
    ),
    "point_accuracy": MetricInfo(means="share of labelled points whose part is found", label="point accuracy", unit="%"),
    "majority_instance_miou": MetricInfo(
        means="instance mIoU of the most frequent part of each category (of these data) everywhere",
        label="instance mIoU, majority",
        unit="%",
    ),
    "majority_class_miou": MetricInfo(means="class mIoU of the same", label="class mIoU, majority", unit="%"),
}


class _Shapes(NamedTuple):
    category: Int[np.ndarray, " n"]
    true: Int[np.ndarray, "n p"]
    found: Int[np.ndarray, "n p"]


def measure_part_metrics(pretext: Any, views: Views, dataset: Dataset, *, batch: int, device: torch.device | str = "cpu") -> MethodResult:
    """Of every row of `dataset`.

    A shape's IoU is the mean over the parts of its category, 1 for a part that is neither there nor found; points without a part do not
    count. Raises `SightlineError` where no row can be used.
    """
    began = time.perf_counter()
    predictor = pretext.predictor
    reader = SampleReader(dataset, views.evaluation if isinstance(views, HasEvaluationViews) else views, 0)
    shapes = _shapes(pretext, reader, batch, device)
    sums, categories = _sums(shapes, predictor.parts_of)
    count = len(sums)
    units = Units([str(i) for i in range(count)], "cloud")
    weights = resample_counts(count, RESAMPLING.draws, RESAMPLING.seed)
    with np.errstate(invalid="ignore"):  # a resample without a shape of some category
        whole, draws = _metrics(sums.sum(axis=0)[None], len(categories)), _metrics(weights @ sums, len(categories))
    found = {name: interval(float(whole[name][0]), draws[name], RESAMPLING.level, count) for name in METRICS}
    infos: dict[str, MetricInfo] = dict(METRICS)
    key = next(key for key, group in BY_CLASS.items() if group == CATEGORY)
    for place, category in enumerate(categories):
        label = predictor.category_names[category] if predictor.category_names else str(category)
        found[f"{key}_{label}"] = Interval(float(whole["by_category"][0, place]), float("nan"), float("nan"), count)
        infos[f"{key}_{label}"] = of_class(CATEGORY, label)
    told = ", ".join(f"{label_of(name, infos[name])} {show_span(found[name], infos[name])}" for name in ("instance_miou", "class_miou"))
    majority = show_span(found["majority_instance_miou"], infos["instance_miou"])
    conditions = {"test data": dataset.fingerprint, "units": units.digest, "classes": ", ".join(predictor.class_names), "pixels": ""}
    return MethodResult(
        name=TEST,
        title=TITLES[TEST],
        metrics=infos,
        rows=(Row(TRAINED, RowKind.ENCODER, found),),
        unit_kind=units.kind,
        unit_count=count,
        covers=coverage(RESAMPLING.level, RESAMPLING.draws, count, units.kind),
        counts={"samples": count, "broken_samples": reader.broken, "categories": len(categories), "parts": predictor.classes},
        finding=f"{told} on {count:,} test clouds; instance mIoU of the category's most frequent part everywhere: {majority}.",
        seconds=time.perf_counter() - began,
        chance=found["majority_instance_miou"].value,
        data={"train": None, "test": dataset.uri},
        resamples={TRAINED: Resamples(draws["instance_miou"], RESAMPLING.level, conditions)},
    )


def _shapes(pretext: Any, reader: SampleReader, batch: int, device: torch.device | str) -> _Shapes:
    parts: list[_Shapes] = []
    with eval_mode([pretext], device):
        for part in reader.batches(range(reader.dataset.rows), batch):
            tensors = {name: torch.from_numpy(column).to(device) for name, column in part.columns.items()}
            prepared = pretext.to_device(tensors)
            category = prepared["label"]
            logits = pretext.predictor.logits(prepared["points"], category).float()
            found = pretext.predictor.found(logits, category)
            parts.append(_Shapes(*(one.cpu().numpy() for one in (category, prepared["part"].short(), found.short()))))
    if not parts:
        raise SightlineError(f"no usable cloud with parts in {reader.dataset.uri}", "look at it with `sightline inspect`")
    return _Shapes(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _sums(shapes: _Shapes, parts_of: tuple[tuple[int, ...], ...]) -> tuple[Float[np.ndarray, "n k"], list[int]]:
    """By shape: at the place of its category its IoU, that of the majority, and 1; then right points and labelled ones."""
    categories = sorted(set(shapes.category.tolist()))
    own = {category: np.asarray(parts_of[category]) for category in categories}
    counts = {category: [(shapes.true[shapes.category == category] == part).sum() for part in own[category]] for category in categories}
    most = {category: own[category][np.argmax(counts[category])] for category in categories}
    sums = np.zeros((len(shapes.category), 3 * len(categories) + 2))
    for row, category, true, found in zip(sums, shapes.category.tolist(), shapes.true, shapes.found, strict=True):
        by_category = row[:-2].reshape(3, -1)
        guess = np.full(len(true), most[category])
        by_category[:, categories.index(category)] = shape_iou(found, true, own[category]), shape_iou(guess, true, own[category]), 1
        known = true != NO_PART
        row[-2:] = (found == true)[known].sum(), known.sum()
    return sums, categories


def _metrics(sums: Float[np.ndarray, "r k"], categories: int) -> dict[str, np.ndarray]:
    iou, guessed, shapes = np.moveaxis(sums[:, :-2].reshape(-1, 3, categories), 1, 0)
    return {
        "instance_miou": iou.sum(axis=1) / shapes.sum(axis=1),
        "class_miou": np.nanmean(iou / shapes, axis=1),
        "point_accuracy": sums[:, -2] / sums[:, -1],
        "majority_instance_miou": guessed.sum(axis=1) / shapes.sum(axis=1),
        "majority_class_miou": np.nanmean(guessed / shapes, axis=1),
        "by_category": iou / shapes,
    }
