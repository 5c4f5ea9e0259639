"""The part segmentation probe: a linear map from the frozen features of a point to the part of the object that it belongs to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int

from sightline.platform.data.clouds import NO_PART
from sightline.platform.data.dataset import Dataset
from sightline.platform.evaluation.eval_mode import eval_mode
from sightline.platform.evaluation.result_table import Measurement

from .cloud_context import Cloud, CloudBatch, CloudEvalContext, cloud_units
from .cloud_features import pair_clouds
from .context import POSITION, ProbeSkippedError
from .protocol import CloudProtocol
from .ridge import LinearHead, Moments, choose_ridge
from .shape_svm import deal_folds
from .spec import ProbeSpec, share

MAJORITY = "most frequent part"


class PartProtocol(CloudProtocol):
    """Part segmentation by a linear map of each point's frozen features."""

    name: Literal["part_segmentation"] = "part_segmentation"
    max_rows: tuple[int, int] = (2000, 1000)
    layer: str = "every scale of the encoder with nothing left out, after its norm"
    pooling: str = "tokens spread over the points as the encoder's `at_points` says: by inverse squared distance of the three nearest"
    features: str = "standardised with mean and deviation of the training points of the category"
    head: str = (
        "ridge regression of the part's indicator, one linear map for each category (its label is given), closed form; the largest of the "
        "category's parts wins"
    )
    penalties: tuple[float, ...] = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
    folds: int = 4
    position: str = "the coordinates of the point and their squares and products in place of features"
    majority: str = "the most frequent part of the category everywhere"
    metrics: tuple[str, ...] = ("instance_miou", "class_miou")
    pooled: str = "IoU of each part of the category in each shape, 1 where it is in neither; mean over parts, then shapes (then categories)"


def measure(context: CloudEvalContext, train: Dataset, test: Dataset, protocol: PartProtocol) -> Measurement:
    """Mean IoU by shape and by category. Raises `ProbeSkippedError`."""
    known, asked, left_out = pair_clouds(train, test, protocol.max_rows)
    counts = {"train_clouds": 0, "test_clouds": 0, "broken_clouds": 0, "left_out_as_test_clouds": left_out}
    fold_of = dict(zip((c.digest for c in known), deal_folds(np.array([c.label for c in known]), protocol.folds), strict=True))
    moments: dict[str, dict[int, dict[int, Moments]]] = {}
    tallies: dict[int, Int[np.ndarray, " p"]] = {}
    count = len(train.manifest.parts)
    with eval_mode(list(context.modules.values()), context.device):
        context.calibrate(train, known, protocol.calibrated_on)
        for batch in context.batches(train, known, counts, extra=[_reference(context)]):
            for name, size, features in _features(context, batch):
                for cloud, x, parts in zip(batch.clouds, features, batch.parts.get(size, ()), strict=True):
                    labelled = torch.from_numpy(parts != NO_PART)
                    y = torch.nn.functional.one_hot(torch.from_numpy(parts)[labelled], count).double()
                    mine = moments.setdefault(name, {}).setdefault(cloud.label, {})
                    fold, found = int(fold_of[cloud.digest]), Moments.of(x[labelled], y)
                    mine[fold] = mine[fold] + found if fold in mine else found
                    if name == POSITION:
                        tallies[cloud.label] = tallies.get(cloud.label, np.zeros(count, int)) + y.sum(dim=0).numpy().astype(int)
            counts["train_clouds"] += len(batch.clouds)
            context.progress("part_segmentation probe: fitting", counts["train_clouds"] / len(known))
        heads = {name: _heads(of_category, protocol) for name, of_category in moments.items()}
        usable = [cloud for cloud in asked if all(cloud.label in some for some in heads.values())]
        if not heads or len(usable) < 2:
            raise ProbeSkippedError(f"no category of {train.uri} has labelled parts in two training clouds or more")
        categories = sorted({cloud.label for cloud in usable})
        sums: dict[str, list[np.ndarray]] = {}
        clouds: list[Cloud] = []

        def of_category(category: int, iou: float) -> Float[np.ndarray, " k"]:
            """A shape's IoU, and the number 1, at the place of its category."""
            row = np.zeros((2, len(categories)))
            row[:, categories.index(category)] = iou, 1
            return row.reshape(-1)

        for batch in context.batches(test, usable, counts, extra=[_reference(context)]):
            for name, size, features in _features(context, batch):
                for cloud, x, parts in zip(batch.clouds, features, batch.parts.get(size, ()), strict=True):
                    own = np.flatnonzero(tallies[cloud.label])
                    scores = heads[name][cloud.label](x).numpy()
                    predicted = {name: own[scores[:, own].argmax(axis=1)]}
                    if name == POSITION:
                        predicted[MAJORITY] = np.full(len(parts), tallies[cloud.label].argmax())
                    for row, found in predicted.items():
                        sums.setdefault(row, []).append(of_category(cloud.label, shape_iou(found, parts, own)))
            clouds += batch.clouds
            context.progress("part_segmentation probe: testing", len(clouds) / len(usable))
    counts |= {"test_clouds": len(clouds), "categories": len(categories), "parts": count}

    def metrics_of(sums: Float[np.ndarray, "*shape k"]) -> dict[str, np.ndarray]:
        iou, shapes = np.moveaxis(sums.reshape(*sums.shape[:-1], 2, len(categories)), -2, 0)
        means = iou / shapes
        whole = {"instance_miou": iou.sum(axis=-1) / shapes.sum(axis=-1), "class_miou": np.nanmean(means, axis=-1)}
        return whole | {f"miou_{train.manifest.classes[c]}": means[..., i] for i, c in enumerate(categories)}

    details = {
        f"miou_{name}": share(name, f"mean over the shapes of {name}", group="mIoU by category")
        for name in (train.manifest.classes[c] for c in categories)
    }
    table = context.rows(lambda name: {POSITION: "position", MAJORITY: "majority"})
    rows = {name: np.stack(some) for name, some in sums.items()}
    return Measurement(table, rows, cloud_units(clouds), metrics_of, counts, details=details)


probe = ProbeSpec(
    rank=90,
    title="Linear part segmentation from frozen features of points",
    protocol=PartProtocol(),
    columns={"points": ("label", "part")},
    metrics={
        "instance_miou": share("instance mIoU", "IoU of the parts of a shape, mean over the shapes"),
        "class_miou": share("class mIoU", "the same, mean over the shapes of each category, then over the categories"),
    },
    sentence="A linear map of single points reaches an instance mIoU of {value}",
    measure=measure,
    modality="points",
)


def _reference(context: CloudEvalContext) -> int:
    """Points of the rows that no network makes: those of the largest network."""
    return max(context.sizes.values())


def _features(context: CloudEvalContext, batch: CloudBatch) -> Iterator[tuple[str, int, Float[torch.Tensor, "b n d"]]]:
    """(row name, points of a cloud, features of each point)."""
    for name, features in context.at_points(batch):
        yield name, context.sizes[name], features
    points = torch.from_numpy(batch.points[_reference(context)]).double()
    products = torch.stack([points[..., i] * points[..., j] for i in range(3) for j in range(i, 3)], dim=-1)
    yield POSITION, _reference(context), torch.cat([points, products], dim=-1)


def _heads(of_category: Mapping[int, Mapping[int, Moments]], protocol: PartProtocol) -> dict[int, LinearHead]:
    """A head for every category with two folds or more."""
    return {category: choose_ridge(folds, protocol.penalties)[1] for category, folds in of_category.items() if len(folds) > 1}


def shape_iou(predicted: Int[np.ndarray, " n"], true: Int[np.ndarray, " n"], parts: Int[np.ndarray, " p"]) -> float:
    """Mean over the category's parts of the IoU on the labelled points of one shape; 1 for a part that is in neither."""
    labelled = true != NO_PART
    predicted, true = predicted[labelled], true[labelled]
    ious = []
    for part in parts:
        either = ((predicted == part) | (true == part)).sum()
        ious.append(((predicted == part) & (true == part)).sum() / either if either else 1.0)
    return float(np.mean(ious))
