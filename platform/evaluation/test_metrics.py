"""What a fine-tuned model scores on labelled test data: accuracy of a classifier, mean IoU of a segmenter, with intervals."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from sightline.methods.contract import Batch, Views
from sightline.methods.errors import BrokenSampleError, SightlineError
from sightline.methods.random import sample_rng
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.schema import decode_row, input_columns
from sightline.platform.evaluation.intervals import coverage, interval, resample_counts, unit_sums
from sightline.platform.evaluation.probes.features import eval_mode, read_rows
from sightline.platform.evaluation.probes.protocol import Resampling
from sightline.platform.evaluation.probes.splits import make_units

RESAMPLING = Resampling()
IGNORED = 255
VOTE = "vote"


def measure_test_metrics(pretext: Any, views: Views, dataset: Dataset, *, batch: int, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Scores of `pretext.predictor` on every row of `dataset`, seen as validation sees it, in the shape of `measure_control_metrics`.

    Classification: `accuracy` and `accuracy_top5` (from six classes on); where the views have `voting`, `vote`: of the mean logits over the
    draws of the first round, and with N rounds `best_of_N`, chosen on these data. Segmentation: `miou`, the mean over the classes that
    occur, `pixel_accuracy`, and `iou` of each class. Pixels are those of the network's input, no sliding window. Raises `SightlineError`
    where no row can be used.
    """
    began = time.perf_counter()
    predictor, voting = pretext.predictor, getattr(views, "voting", None)
    rows: list[np.ndarray] = []
    scenes: list[str] = []
    times: list[float] = []
    counts = {"samples": 0, "broken_samples": 0}
    with eval_mode([pretext], device):
        for group, where in _groups(dataset, getattr(views, "evaluation", views), batch, device, counts):
            prepared = pretext.to_device(group)
            logits = predictor.logits(prepared[_input(predictor)]).float()
            if predictor.task == "segmentation":
                rows.append(confusion(logits, prepared["mask"], predictor.classes).cpu().numpy().reshape(len(logits), -1))
            else:
                rows.append(hits(logits, prepared["label"]).cpu().numpy())
            scenes += [scene for scene, _ in where]
            times += [moment for _, moment in where]
        votes = _voted(pretext, voting, dataset, batch, device) if voting and rows else None
    if not rows:
        raise SightlineError(f"no usable labelled row in {dataset.uri}", "look at it with `sightline inspect`")
    values = np.concatenate(rows).astype(np.float64)
    if votes is not None:
        values = np.concatenate([values, votes], axis=1)
    # Photographs of a class are independent of each other; frames of a video are not.
    segmenting = predictor.task == "segmentation"
    units = make_units(scenes, np.array(times), RESAMPLING) if segmenting else None
    names, sums = unit_sums(values, units.names if units else [str(i) for i in range(len(values))])
    weights = resample_counts(len(names), RESAMPLING.draws, RESAMPLING.seed)
    one = {"points": "cloud"}.get(dataset.kind, "image")
    kind = units.kind if units else one
    score = _segmentation if segmenting else _classification
    whole, draws = score(sums.sum(axis=0)[None]), score(weights @ sums)
    figures = {name: interval(float(whole[name][0]), draws[name], RESAMPLING.level, len(names)) for name in whole}
    told = [name for place, name in enumerate(figures) if place == 0 or name == VOTE]
    spans = [f"{name} {figures[name].value:.3f} ({figures[name].low:.3f} to {figures[name].high:.3f})" for name in told]
    result: dict[str, Any] = {
        "figures": {name: value.as_dict() for name, value in figures.items()},
        "differences": [],
        "units": {"kind": kind, "count": len(names)},
        "covers": coverage(RESAMPLING.level, RESAMPLING.draws, len(names), kind),
        "counts": counts,
        "finding": f"{', '.join(spans)} on {counts['samples']:,} test {one}s.",
        "seconds": time.perf_counter() - began,
    }
    if segmenting:
        per_class = class_iou(sums.sum(axis=0).reshape(predictor.classes, predictor.classes))
        labels = dataset.manifest.classes or tuple(str(i) for i in range(predictor.classes))
        result["iou"] = {label: None if np.isnan(value) else float(value) for label, value in zip(labels, per_class, strict=False)}
    return result


def _input(predictor: Any) -> str:
    return str(getattr(predictor, "input", "image"))


def _voted(pretext: Any, voting: Views, dataset: Dataset, batch: int, device: torch.device | str) -> Float[np.ndarray, "n rounds"]:
    """Of each sample and round: whether the class of the largest mean logits is right."""
    rows = []
    for group, _ in _groups(dataset, voting, batch, device, {"samples": 0, "broken_samples": 0}):
        prepared = pretext.to_device(group)
        rounds = []
        for one in prepared[_input(pretext.predictor)].unbind(dim=1):
            logits = torch.stack([pretext.predictor.logits(inputs).float() for inputs in one.unbind(dim=1)]).mean(dim=0)
            rounds.append(logits.argmax(dim=1) == prepared["label"])
        rows.append(torch.stack(rounds, dim=1).double().cpu().numpy())
    return np.concatenate(rows)


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
    figures = {"accuracy": shares[:, 0]}
    if sums[:, 2].any():
        figures["accuracy_top5"] = shares[:, 1]
    rounds = shares[:, 2:]
    if rounds.shape[1]:
        figures[VOTE] = rounds[:, 0]
    if rounds.shape[1] > 1:
        figures[f"best_of_{rounds.shape[1]}"] = rounds.max(axis=1)
    return figures


def _segmentation(sums: Float[np.ndarray, "n k"]) -> dict[str, np.ndarray]:
    classes = round(sums.shape[1] ** 0.5)
    matrix = sums.reshape(-1, classes, classes)
    return {
        "miou": np.nanmean(class_iou(matrix), axis=-1),
        "pixel_accuracy": np.trace(matrix, axis1=-2, axis2=-1) / matrix.sum(axis=(-2, -1)),
    }


def _groups(
    dataset: Dataset, views: Views, size: int, device: torch.device | str, counts: dict[str, int]
) -> Iterator[tuple[Batch, list[tuple[str, float]]]]:
    needed = input_columns(dataset.kind, views)
    columns = [*needed, "scene", "time"]
    made: list[dict[str, np.ndarray]] = []
    where: list[tuple[str, float]] = []

    def group() -> tuple[Batch, list[tuple[str, float]]]:
        return {name: torch.from_numpy(np.stack([one[name] for one in made])).to(device) for name in made[0]}, list(where)

    for row, stored in read_rows(dataset, range(dataset.rows), columns):
        scene, moment = stored.pop("scene", None), stored.pop("time", None)
        try:
            made.append(views(decode_row(stored, dataset.kind, needed=needed), sample_rng(0, row)))
        except BrokenSampleError:
            counts["broken_samples"] += 1
            continue
        where.append((scene or "", float("nan") if moment is None else float(moment)))
        counts["samples"] += 1
        if len(made) == size:
            yield group()
            made.clear()
            where.clear()
    if made:
        yield group()
