"""The segmentation probe: which classes a linear map reads from the frozen features of single patches, measured on pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped

from sightline.methods.contract import MetricInfo
from sightline.platform.data.dataset import Dataset
from sightline.platform.evaluation.image_crops import fit_nearest, patch_cells
from sightline.platform.evaluation.result_table import Measurement, MetricsOf

from .context import Grid, ImageEvalContext, ProbeSkippedError
from .patch_regression import TargetStats, measure_patches, patch_table
from .protocol import EVERY_IMAGE, PatchProtocol
from .spec import ProbeSpec, share
from .train_test_split import split_frames

CHUNK = 2**24
"""Values of upsampled predictions held at one time."""


class SegmentationProtocol(PatchProtocol):
    """Semantic segmentation from frozen patch features: one linear map, shared by all patches, from a patch's feature to its classes."""

    name: Literal["segmentation"] = "segmentation"
    images: str = EVERY_IMAGE
    head: str = "ridge regression of the share of each class among the labelled pixels of a patch, closed form (no head seed)"
    prediction: str = "shares upsampled to pixels (bilinear, corners not aligned), then the largest"
    short_side: int = 224
    """Pixels of the evaluated crop's short side, whatever the encoder's size; labels are sampled to the nearest pixel."""
    metrics: tuple[str, ...] = ("miou", "pixel_accuracy")
    pooled: str = (
        "IoU from the pixels of all test images together; mean over the classes with a labelled test pixel; ignored pixels left out"
    )
    position: str = "mean training shares at each place of the grid"


def measure(context: ImageEvalContext, train: Dataset, test: Dataset, protocol: SegmentationProtocol) -> Measurement:
    """Metrics over pixels of the evaluated crop: encoders of one image shape are comparable. Raises `ProbeSkippedError`."""
    classes = known_classes(train, test)
    ignored = {"training": train.manifest.ignore_index, "test": test.manifest.ignore_index}
    split = split_frames(train, test, "segmentation", protocol, strict=False)
    count = len(classes)

    def target(mask: Shaped[np.ndarray, "h w"], grid: Grid) -> tuple[np.ndarray, np.ndarray]:
        cells = patch_cells(class_indices(mask, grid.size, ignored["training"], count), grid.patch).reshape(grid.cells, -1)
        shares, labelled = class_shares(cells, count)
        return shares, labelled >= protocol.min_valid

    def truth(mask: Shaped[np.ndarray, "h w"], grid: Grid) -> Int[np.ndarray, "H W"]:
        return class_indices(mask, evaluated_size(grid.size, protocol.short_side), ignored["test"], count)

    def score(predicted: Float[torch.Tensor, "b n k"], true: Int[np.ndarray, "b h w"], seen: TargetStats) -> Float[np.ndarray, "b m"]:
        return class_sums(upsampled_classes(predicted, seen.grid.shape, true.shape[1:]), true, count)

    found = measure_patches(context, train, test, split, protocol, target, truth, score)
    shown, metrics_of, details = iou_metrics(found.sums, classes)
    counts = {**found.counts, "classes": shown, "left_out_near_test": split.left_out}
    table = patch_table(context, scope=lambda grid: evaluated_size(grid.size, protocol.short_side))
    return Measurement(table, found.sums, split.units_of(found.frames), metrics_of, counts, split.caution, found.penalties, details)


probe = ProbeSpec(
    rank=30,
    title="Linear semantic segmentation from frozen patch features",
    protocol=SegmentationProtocol(),
    columns={"images": ("segmentation",)},
    metrics={
        "miou": share("mIoU", "intersection over union of pixels, mean over the classes of the test data"),
        "pixel_accuracy": share("pixel accuracy", "share of the labelled pixels whose class is found"),
    },
    sentence="A linear map of single patches reaches a mean IoU of {value}",
    measure=measure,
)


def known_classes(train: Dataset, test: Dataset) -> tuple[str, ...]:
    """The classes of both. Raises `ProbeSkippedError` where they differ, or the training masks hold fewer than two."""
    classes = train.manifest.classes
    if classes != test.manifest.classes:
        different = sorted(set(classes) ^ set(test.manifest.classes))[:5]
        raise ProbeSkippedError(f"the training and the test data have other classes ({', '.join(different) or 'the order differs'})")
    labelled = sum(pixels > 0 and value != train.manifest.ignore_index for value, pixels in train.manifest.pixels.items())
    if labelled < 2:
        raise ProbeSkippedError(f"the masks of {train.uri} hold {labelled} classes; there is nothing to tell apart")
    return classes


def class_indices(mask: Shaped[np.ndarray, "h w"], size: tuple[int, int], ignored: int | None, count: int) -> Int[np.ndarray, "H W"]:
    """Class indices in the fitted crop; `count` for what has no class."""
    fitted = fit_nearest(mask, size).astype(np.int64)
    return np.where((fitted >= count) | (fitted == ignored), count, fitted)


def iou_metrics(sums: Mapping[str, np.ndarray], classes: Sequence[str]) -> tuple[int, MetricsOf, dict[str, MetricInfo]]:
    """(classes with a labelled test pixel, what makes mIoU, pixel accuracy and the IoU of each of them from `class_sums`, their meaning).

    Raises `ProbeSkippedError` where no test pixel has a label.
    """
    count = len(classes)
    occurring = next(iter(sums.values())).reshape(-1, 3, count)[:, 1].sum(axis=0) > 0
    if not occurring.any():
        raise ProbeSkippedError("no test pixel has a label: the masks hold only the ignored index")
    shown = np.flatnonzero(occurring).tolist()

    def metrics_of(sums: Float[np.ndarray, "*shape m"]) -> dict[str, np.ndarray]:
        right, true, predicted = np.moveaxis(sums.reshape(*sums.shape[:-1], 3, count)[..., shown], -2, 0)
        iou = right / (true + predicted - right)
        whole = {"miou": np.nanmean(iou, axis=-1), "pixel_accuracy": right.sum(axis=-1) / true.sum(axis=-1)}
        return whole | {f"iou_{classes[index]}": iou[..., place] for place, index in enumerate(shown)}

    details = {f"iou_{classes[index]}": share(classes[index], f"IoU of {classes[index]}", group="IoU") for index in shown}
    return len(shown), metrics_of, details


def class_shares(cells: Int[np.ndarray, "n p"], count: int) -> tuple[Float[np.ndarray, "n k"], Float[np.ndarray, " n"]]:
    """(share of each class among the labelled pixels of a patch, share of its pixels that are labelled); index `count` is no label."""
    index = np.arange(len(cells))[:, None] * (count + 1) + cells
    pixels = np.bincount(index.reshape(-1), minlength=len(cells) * (count + 1)).reshape(len(cells), count + 1)[:, :count]
    labelled = pixels.sum(axis=1)
    return pixels / labelled.clip(1)[:, None], labelled / cells.shape[1]


def evaluated_size(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """The (height, width) at which an encoder of images of `size` is evaluated."""
    scale = short_side / min(size)
    return round(size[0] * scale), round(size[1] * scale)


def upsampled_classes(predicted: Float[torch.Tensor, "b n k"], shape: tuple[int, int], size: tuple[int, ...]) -> Int[np.ndarray, "b h w"]:
    """The class of the largest share at each pixel, after bilinear upsampling of the patches' shares."""
    maps = predicted.float().transpose(1, 2).reshape(len(predicted), -1, *shape)
    step = max(1, CHUNK // (maps.shape[1] * size[0] * size[1]))
    parts = [
        torch.nn.functional.interpolate(maps[start : start + step], tuple(size), mode="bilinear", align_corners=False).argmax(dim=1)
        for start in range(0, len(maps), step)
    ]
    return torch.cat(parts).numpy()


def class_sums(predicted: Int[np.ndarray, "b h w"], true: Int[np.ndarray, "b h w"], count: int) -> Float[np.ndarray, "b m"]:
    """For each image 3 x `count` numbers of labelled pixels: of a class and found, of a class, predicted as a class."""
    rows = []
    for found, known in zip(predicted, true, strict=True):
        labelled = known < count
        f, t = found[labelled], known[labelled]
        rows.append(np.concatenate([np.bincount(values, minlength=count) for values in (t[f == t], t, f)]))
    return np.stack(rows).astype(np.float64)
