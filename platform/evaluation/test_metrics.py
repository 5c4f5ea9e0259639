"""Test metrics of a fine-tuned model on labelled data: accuracy of a classifier, mean IoU of a segmenter, with intervals."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped

from sightline.methods.contract import (
    Batch,
    HasEvaluationViews,
    HasInputName,
    HasVoting,
    HasWholeViews,
    MetricInfo,
    PredictsLabels,
    Stage,
    Views,
)
from sightline.methods.errors import SightlineError
from sightline.methods.ops.tiling import Passes
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.encoder_input import class_names
from sightline.platform.data.loader.blocks import Columns
from sightline.platform.data.loader.fixed import SampleReader

from .eval_mode import eval_mode
from .findings import label_of, show
from .intervals import Interval, Resampling, coverage, interval, resample_counts, unit_sums
from .part_metrics import measure_part_metrics
from .place_baseline import PlaceBaseline
from .results import (
    BY_CLASS,
    IOU,
    PRECISION,
    RECALL,
    TEST,
    TITLES,
    TRAINED,
    Confusion,
    Contrast,
    MethodResult,
    Resamples,
    Row,
    RowKind,
    of_class,
)
from .units import Units, make_units

RESAMPLING = Resampling()
IGNORED = 255
VOTE = "vote"
METRICS = {
    "accuracy": MetricInfo(means="share of test samples whose class is found", label="accuracy", unit="%"),
    "accuracy_top5": MetricInfo(means="share of test samples whose class is among the best five", label="top-5 accuracy", unit="%"),
    VOTE: MetricInfo(means="accuracy of the mean logits over the draws of a round", label="vote", unit="%"),
    "miou": MetricInfo(means="intersection over union, mean over the classes that occur", label="mIoU", unit="%", family="mIoU"),
    "mean_accuracy": MetricInfo(means="share of a class's pixels that are found, mean over the classes that occur", unit="%"),
    "pixel_accuracy": MetricInfo(means="share of labelled pixels whose class is found", label="pixel accuracy", unit="%"),
}
BASELINES = {
    "place": "of the class that is most frequent at the pixel's place in the training images",
    "most_frequent": "of the most frequent class of the training pixels, everywhere",
}
"""Of segmentation, without a look at the image: end of a metric's name -> what it means."""
BASELINE_LABELS = {"place": "class by place", "most_frequent": "most frequent class"}
METRICS |= {f"miou_{name}": MetricInfo(means, f"mIoU, {BASELINE_LABELS[name]}", "%", family="mIoU") for name, means in BASELINES.items()}


def measure_test_metrics(
    pretext: Any,
    views: Views,
    dataset: Dataset,
    *,
    batch: int,
    stage: Stage | None = None,
    device: torch.device | str = "cpu",
    train: Sequence[Dataset] = (),
    passes: Passes | None = None,
) -> MethodResult:
    """Test metrics of `pretext.predictor` on every row of `dataset`, seen as validation sees it; label maps on whole images.

    Classification: `accuracy` and `accuracy_top5` (from six classes on); where the views have `voting`, `vote`: of the mean logits over the
    draws of the first round, and with N rounds `best_of_N`, chosen on these data. Segmentation: `miou`, the mean over the classes that
    occur, `mean_accuracy` and `pixel_accuracy`, of the stored images at their own size, which the network sees in tiles, in `passes`. With
    the data that it was trained on (`train`) the `BASELINES` are beside it. Metrics of each class are details, as is the confusion matrix.
    Parts of clouds: `part_metrics`. The views of `voting` give the predictor's inputs themselves: the stage does not run on them. Raises
    `SightlineError` where no row can be used.
    """
    began = time.perf_counter()
    predictor = pretext.predictor
    if predictor.task == "part_segmentation":
        return measure_part_metrics(pretext, views, dataset, batch=batch, device=device)
    segmenting = predictor.task == "segmentation"
    whole_views = views.whole if segmenting and isinstance(views, HasWholeViews) and isinstance(predictor, PredictsLabels) else None
    passes = passes or Passes()
    if whole_views is not None:
        reader = SampleReader(dataset, whole_views, 0, stage)
        seen = _whole_images(pretext, reader, device, passes, PlaceBaseline.fit(train, whole_views, predictor.classes, IGNORED))
    else:
        reader = SampleReader(dataset, views.evaluation if isinstance(views, HasEvaluationViews) else views, 0, stage)
        seen = _by_sample(pretext, reader, batch, device)
    values = seen.sums
    one = {"points": "cloud"}.get(dataset.kind, "image")
    # Photographs of a class are independent of each other; frames of a video are not.
    units = make_units(seen.scenes, seen.times, RESAMPLING) if segmenting else Units([str(i) for i in range(len(values))], one)
    voting = views.voting if isinstance(views, HasVoting) else None
    if voting:
        values = np.concatenate([values, _votes_by_sample(pretext, SampleReader(dataset, voting, 0), batch, device)], axis=1)
    names, sums = unit_sums(values, units.names)
    weights = resample_counts(len(names), RESAMPLING.draws, RESAMPLING.seed)
    metrics_of = _segmentation if segmenting else _classification
    whole, draws = metrics_of(sums.sum(axis=0)[None]), metrics_of(weights @ sums)
    found = {name: interval(float(whole[name][0]), draws[name], RESAMPLING.level, len(names)) for name in whole}
    metrics = {name: METRICS.get(name) or MetricInfo(means="the best of several votes", unit="%") for name in found}
    contrasts = []
    for name, sums_of in seen.baselines.items():
        key, of_units = f"miou_{name}", unit_sums(sums_of, units.names)[1]
        value, drawn = (_segmentation(sums_)["miou"] for sums_ in (of_units.sum(axis=0)[None], weights @ of_units))
        found[key] = interval(float(value[0]), drawn, RESAMPLING.level, len(names))
        metrics[key] = METRICS[key]
        apart = interval(float(whole["miou"][0] - value[0]), draws["miou"] - drawn, RESAMPLING.level, len(names))
        contrasts.append(Contrast("miou", key, apart))
    told = [name for place, name in enumerate(found) if place == 0 or name == VOTE]
    finding = f"{', '.join(_with_interval(name, found[name], metrics[name]) for name in told)} on {len(values):,} test {one}s."
    labels = dataset.manifest.classes
    labels = labels if len(labels) == predictor.classes else class_names(predictor)
    for group, per_class in _by_class(seen.confusion, segmenting).items():
        key = next(key for key, name in BY_CLASS.items() if name == group)
        for label, value in zip(labels, per_class.tolist(), strict=True):
            found[f"{key}_{label}"] = Interval(value, float("nan"), float("nan"), len(names))
            metrics[f"{key}_{label}"] = of_class(group, label)
    conditions = {
        "test data": dataset.fingerprint,
        "units": units.digest,
        "classes": ", ".join(labels),
        "pixels": (str(getattr(predictor, "image_size", "")) if whole_views is None else f"whole images, {passes}") if segmenting else "",
    }
    return MethodResult(
        name=TEST,
        title=TITLES[TEST],
        metrics=metrics,
        rows=(Row(TRAINED, RowKind.ENCODER, found),),
        unit_kind=units.kind,
        unit_count=len(names),
        covers=coverage(RESAMPLING.level, RESAMPLING.draws, len(names), units.kind),
        counts={"samples": len(values), "broken_samples": reader.broken},
        finding=finding,
        seconds=time.perf_counter() - began,
        contrasts=tuple(contrasts),
        chance=_chance(seen.confusion, segmenting),
        confusion=Confusion(labels, tuple(tuple(map(int, row)) for row in seen.confusion)),
        data={"train": None, "test": dataset.uri},
        resamples={TRAINED: Resamples(draws[next(iter(metrics))], RESAMPLING.level, conditions)},
    )


def _with_interval(name: str, value: Interval, info: MetricInfo) -> str:
    return f"{label_of(name, info)} {show(value.value, info)} ({show(value.low, info)} to {show(value.high, info)})"


def _by_class(matrix: Float[np.ndarray, "c c"], segmenting: bool) -> dict[str, Float[np.ndarray, " c"]]:
    """Group of `BY_CLASS` -> the metric of each class; NaN for a class that does not occur."""
    if segmenting:
        return {IOU: class_iou(matrix), RECALL: class_accuracy(matrix)}
    with np.errstate(invalid="ignore"):
        return {RECALL: class_accuracy(matrix), PRECISION: np.diagonal(matrix) / matrix.sum(axis=0)}


def _chance(matrix: Float[np.ndarray, "c c"], segmenting: bool) -> float:
    """Accuracy, or mean IoU over the classes that occur, of always guessing the class that is most frequent in these data."""
    true = matrix.sum(axis=1)
    most = float(true.max() / true.sum())
    return most / int((true > 0).sum()) if segmenting else most


@dataclass(frozen=True)
class _Seen:
    sums: Float[np.ndarray, "n k"]
    """Hits, or `pixel_counts`, of each usable sample."""
    scenes: list[str]
    times: Float[np.ndarray, " n"]
    confusion: Float[np.ndarray, "c c"]
    """Of all samples: true class by predicted class."""
    baselines: Mapping[str, Float[np.ndarray, "n k"]] = field(default_factory=dict)
    """As `sums`, by the names of `BASELINES`."""


def _by_sample(pretext: Any, reader: SampleReader, batch: int, device: torch.device | str) -> _Seen:
    predictor = pretext.predictor
    segmenting = predictor.task == "segmentation"
    rows: list[np.ndarray] = []
    scenes: list[str] = []
    times: list[float] = []
    matrix = torch.zeros(predictor.classes, predictor.classes, dtype=torch.float64)
    with eval_mode([pretext], device):
        for part in reader.batches(range(reader.dataset.rows), batch):
            prepared = pretext.to_device(_tensors(part.columns, device))
            logits = predictor.logits(prepared[_input(predictor)]).float()
            if segmenting:
                of_images = confusion(logits.argmax(dim=1), prepared["mask"], predictor.classes).cpu()
                rows.append(pixel_counts(of_images.numpy()))
                matrix += of_images.sum(dim=0)
            else:
                labels = prepared["label"]
                rows.append(hits(logits, labels).cpu().numpy())
                matrix.index_put_((labels.cpu(), logits.argmax(dim=1).cpu()), torch.ones((), dtype=matrix.dtype), accumulate=True)
            scenes += part.scenes
            times += part.times
    if not rows:
        raise SightlineError(f"no usable labelled row in {reader.dataset.uri}", "look at it with `sightline inspect`")
    return _Seen(np.concatenate(rows).astype(np.float64), scenes, np.array(times), matrix.numpy())


def _whole_images(pretext: Any, reader: SampleReader, device: torch.device | str, passes: Passes, places: PlaceBaseline | None) -> _Seen:
    """Images at their own sizes, one at a time."""
    predictor = pretext.predictor
    rows: list[np.ndarray] = []
    scenes: list[str] = []
    times: list[float] = []
    matrix = np.zeros((predictor.classes, predictor.classes))
    others: dict[str, list[np.ndarray]] = {} if places is None else {name: [] for name in BASELINES}
    with eval_mode([pretext], device), torch.no_grad():
        for part in reader.batches(range(reader.dataset.rows), 1):
            prepared = pretext.to_device(_tensors(part.columns, device))
            mask = prepared["mask"]
            guesses = {"": predictor.labels(prepared["image"], passes)}
            if places is not None:
                cells = torch.from_numpy(places.predict(*mask.shape[1:]))[None].to(mask.device)
                guesses |= {"place": cells, "most_frequent": torch.full_like(mask, places.most_frequent)}
            for name, labels in guesses.items():
                of_image = confusion(labels, mask, predictor.classes).cpu().numpy()
                (others[name] if name else rows).append(pixel_counts(of_image))
                if not name:
                    matrix += of_image[0]
            scenes += part.scenes
            times += part.times
    if not rows:
        raise SightlineError(f"no usable labelled row in {reader.dataset.uri}", "look at it with `sightline inspect`")
    sums = np.concatenate(rows).astype(np.float64)
    baselines = {name: np.concatenate(found).astype(np.float64) for name, found in others.items()}
    return _Seen(sums, scenes, np.array(times), matrix, baselines)


def _votes_by_sample(pretext: Any, reader: SampleReader, batch: int, device: torch.device | str) -> Float[np.ndarray, "n rounds"]:
    """Of each sample and round: whether the class of the largest mean logits is right."""
    rows = []
    with eval_mode([pretext], device):
        for part in reader.batches(range(reader.dataset.rows), batch):
            prepared = pretext.to_device(_tensors(part.columns, device))
            rounds = []
            for one in prepared[_input(pretext.predictor)].unbind(dim=1):
                logits = torch.stack([pretext.predictor.logits(inputs).float() for inputs in one.unbind(dim=1)]).mean(dim=0)
                rounds.append(logits.argmax(dim=1) == prepared["label"])
            rows.append(torch.stack(rounds, dim=1).double().cpu().numpy())
    return np.concatenate(rows)


def _input(predictor: Any) -> str:
    return predictor.input if isinstance(predictor, HasInputName) else "image"


def _tensors(columns: Columns, device: torch.device | str) -> Batch:
    return {name: torch.from_numpy(column).to(device) for name, column in columns.items()}


def hits(logits: Float[torch.Tensor, "b c"], labels: Int[torch.Tensor, " b"]) -> Float[torch.Tensor, "b 3"]:
    """For each sample: 1, whether the best class is right, whether it is among the best five."""
    best = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
    many = logits.shape[1] > 5
    return torch.stack([torch.ones(len(labels), device=best.device), best[:, 0].float(), best.any(dim=1).float() * many], dim=1)


def confusion(predicted: Int[torch.Tensor, "b h w"], mask: Int[torch.Tensor, "b h w"], classes: int) -> Int[torch.Tensor, "b c c"]:
    """Pixels by true class (rows) and predicted class (columns) of each image; ignored pixels are left out."""
    out = torch.zeros(len(mask), classes * classes, dtype=torch.int64, device=mask.device)
    counted = mask != IGNORED
    index = mask * classes + predicted
    out.scatter_add_(1, torch.where(counted, index, 0).flatten(1), counted.long().flatten(1))
    return out.view(len(mask), classes, classes)


def pixel_counts(matrix: Shaped[np.ndarray, "*n c c"]) -> Shaped[np.ndarray, "*n k"]:
    """Of confusion matrices what the metrics need, three numbers a class in place of one for each pair: 150 classes of 2,000 images would
    take 360 MB. First the pixels of all classes that are right, then the true ones, then those predicted."""
    right = np.diagonal(matrix, axis1=-2, axis2=-1)
    return np.concatenate([right, matrix.sum(axis=-1), matrix.sum(axis=-2)], axis=-1)


def class_iou(matrix: Shaped[np.ndarray, "*n c c"]) -> Float[np.ndarray, "*n c"]:
    """Intersection over union of each class; NaN for a class without a true pixel."""
    return _iou(pixel_counts(matrix))


def _iou(counts: Shaped[np.ndarray, "*n k"]) -> Float[np.ndarray, "*n c"]:
    right, true, predicted = np.split(counts, 3, axis=-1)
    return np.where(true > 0, right / np.maximum(true + predicted - right, 1), np.nan)


def class_accuracy(matrix: Shaped[np.ndarray, "*n c c"]) -> Float[np.ndarray, "*n c"]:
    """Share of the pixels, or samples, of each class that are found; NaN for a class without any."""
    return _found(pixel_counts(matrix))


def _found(counts: Shaped[np.ndarray, "*n k"]) -> Float[np.ndarray, "*n c"]:
    right, true, _ = np.split(counts, 3, axis=-1)
    return np.where(true > 0, right / np.maximum(true, 1), np.nan)


def _classification(sums: Float[np.ndarray, "n k"]) -> dict[str, np.ndarray]:
    """Of sums of `hits`, and of the rounds of votes after them."""
    shares = sums[:, 1:] / sums[:, :1]
    metrics = {"accuracy": shares[:, 0]}
    if sums[:, 2].any():
        metrics["accuracy_top5"] = shares[:, 1]
    rounds = shares[:, 2:]
    if rounds.shape[1]:
        metrics[VOTE] = rounds[:, 0]
    if rounds.shape[1] > 1:
        metrics[f"best_of_{rounds.shape[1]}"] = rounds.max(axis=1)
    return metrics


def _segmentation(sums: Float[np.ndarray, "n k"]) -> dict[str, np.ndarray]:
    """Of sums of `pixel_counts`."""
    right, true, _ = np.split(sums, 3, axis=-1)
    return {
        "miou": np.nanmean(_iou(sums), axis=-1),
        "mean_accuracy": np.nanmean(_found(sums), axis=-1),
        "pixel_accuracy": right.sum(axis=-1) / true.sum(axis=-1),
    }
