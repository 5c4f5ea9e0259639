"""Test metrics of a fine-tuned model on labelled data: accuracy of a classifier, mean IoU of a segmenter, with intervals."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from sightline.methods.contract import Batch, HasEvaluationViews, HasInputName, HasVoting, MetricInfo, Stage, Views
from sightline.methods.errors import SightlineError
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.loader.blocks import Columns
from sightline.platform.data.loader.fixed import SampleReader

from .eval_mode import eval_mode
from .intervals import Interval, Resampling, coverage, interval, resample_counts, unit_sums
from .results import IOU, TEST, TITLES, MethodResult, Row, RowKind
from .units import Units, make_units

RESAMPLING = Resampling()
IGNORED = 255
VOTE = "vote"
METRICS = {
    "accuracy": MetricInfo(means="share of test samples whose class is found", label="accuracy", unit="%"),
    "accuracy_top5": MetricInfo(means="share of test samples whose class is among the best five", label="top-5 accuracy", unit="%"),
    VOTE: MetricInfo(means="accuracy of the mean logits over the draws of a round", label="vote", unit="%"),
    "miou": MetricInfo(means="intersection over union, mean over the classes that occur", label="mIoU", unit="%"),
    "pixel_accuracy": MetricInfo(means="share of labelled pixels whose class is found", label="pixel accuracy", unit="%"),
}


def measure_test_metrics(
    pretext: Any,
    views: Views,
    dataset: Dataset,
    *,
    batch: int,
    stage: Stage | None = None,
    device: torch.device | str = "cpu",
) -> MethodResult:
    """Test metrics of `pretext.predictor` on every row of `dataset`, seen as validation sees it.

    Classification: `accuracy` and `accuracy_top5` (from six classes on); where the views have `voting`, `vote`: of the mean logits over the
    draws of the first round, and with N rounds `best_of_N`, chosen on these data. Segmentation: `miou`, the mean over the classes that
    occur, `pixel_accuracy`, and the IoU of each class as a detail. Pixels are those of the network's input, no sliding window.
    The views of `voting` give the predictor's inputs themselves: the stage does not run on them. Raises `SightlineError` where no row can
    be used.
    """
    began = time.perf_counter()
    segmenting = pretext.predictor.task == "segmentation"
    reader = SampleReader(dataset, views.evaluation if isinstance(views, HasEvaluationViews) else views, 0, stage)
    values, scenes, times = _sums_by_sample(pretext, reader, batch, device)
    one = {"points": "cloud"}.get(dataset.kind, "image")
    # Photographs of a class are independent of each other; frames of a video are not.
    units = make_units(scenes, times, RESAMPLING) if segmenting else Units([str(i) for i in range(len(values))], one)
    voting = views.voting if isinstance(views, HasVoting) else None
    if voting:
        values = np.concatenate([values, _votes_by_sample(pretext, SampleReader(dataset, voting, 0), batch, device)], axis=1)
    names, sums = unit_sums(values, units.names)
    weights = resample_counts(len(names), RESAMPLING.draws, RESAMPLING.seed)
    metrics_of = _segmentation if segmenting else _classification
    whole, draws = metrics_of(sums.sum(axis=0)[None]), metrics_of(weights @ sums)
    found = {name: interval(float(whole[name][0]), draws[name], RESAMPLING.level, len(names)) for name in whole}
    told = [name for place, name in enumerate(found) if place == 0 or name == VOTE]
    spans = [f"{name} {found[name].value:.3f} ({found[name].low:.3f} to {found[name].high:.3f})" for name in told]
    metrics = {name: METRICS.get(name) or MetricInfo(means="the best of several votes", unit="%") for name in found}
    if segmenting:
        per_class = class_iou(sums.sum(axis=0).reshape(pretext.predictor.classes, pretext.predictor.classes))
        labels = dataset.manifest.classes or tuple(str(i) for i in range(pretext.predictor.classes))
        for label, value in zip(labels, per_class.tolist(), strict=False):
            found[f"iou_{label}"] = Interval(value, float("nan"), float("nan"), len(names))
            metrics[f"iou_{label}"] = MetricInfo(means=f"IoU of {label}", label=label, unit="%", group=IOU)
    return MethodResult(
        name=TEST,
        title=TITLES[TEST],
        metrics=metrics,
        rows=(Row("trained network", RowKind.ENCODER, found),),
        unit_kind=units.kind,
        unit_count=len(names),
        covers=coverage(RESAMPLING.level, RESAMPLING.draws, len(names), units.kind),
        counts={"samples": len(values), "broken_samples": reader.broken},
        finding=f"{', '.join(spans)} on {len(values):,} test {one}s.",
        seconds=time.perf_counter() - began,
    )


def _sums_by_sample(
    pretext: Any, reader: SampleReader, batch: int, device: torch.device | str
) -> tuple[Float[np.ndarray, "n k"], list[str], Float[np.ndarray, " n"]]:
    """(hits or the flat confusion matrix of each usable sample, their scenes, their times)."""
    predictor = pretext.predictor
    rows: list[np.ndarray] = []
    scenes: list[str] = []
    times: list[float] = []
    with eval_mode([pretext], device):
        for part in reader.batches(range(reader.dataset.rows), batch):
            prepared = pretext.to_device(_tensors(part.columns, device))
            logits = predictor.logits(prepared[_input(predictor)]).float()
            if predictor.task == "segmentation":
                rows.append(confusion(logits, prepared["mask"], predictor.classes).cpu().numpy().reshape(len(logits), -1))
            else:
                rows.append(hits(logits, prepared["label"]).cpu().numpy())
            scenes += part.scenes
            times += part.times
    if not rows:
        raise SightlineError(f"no usable labelled row in {reader.dataset.uri}", "look at it with `sightline inspect`")
    return np.concatenate(rows).astype(np.float64), scenes, np.array(times)


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


def confusion(logits: Float[torch.Tensor, "b c h w"], mask: Int[torch.Tensor, "b h w"], classes: int) -> Int[torch.Tensor, "b c c"]:
    """Pixels by true class (rows) and predicted class (columns) of each image; ignored pixels are left out."""
    predicted = logits.argmax(dim=1)
    out = torch.zeros(len(mask), classes * classes, dtype=torch.int64, device=mask.device)
    counted = mask != IGNORED
    index = mask * classes + predicted
    out.scatter_add_(1, torch.where(counted, index, 0).flatten(1), counted.long().flatten(1))
    return out.view(len(mask), classes, classes)


def class_iou(matrix: Float[np.ndarray, "*n c c"]) -> Float[np.ndarray, "*n c"]:
    """Intersection over union of each class; NaN for a class without a true pixel."""
    right = np.diagonal(matrix, axis1=-2, axis2=-1)
    true, predicted = matrix.sum(axis=-1), matrix.sum(axis=-2)
    return np.where(true > 0, right / np.maximum(true + predicted - right, 1), np.nan)


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
    classes = round(sums.shape[1] ** 0.5)
    matrix = sums.reshape(-1, classes, classes)
    return {
        "miou": np.nanmean(class_iou(matrix), axis=-1),
        "pixel_accuracy": np.trace(matrix, axis1=-2, axis2=-1) / matrix.sum(axis=(-2, -1)),
    }
