"""One vector for each image as DINO's evaluations take it: the class token (what the encoder's authors take), of the published crop."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from jaxtyping import Float

from sightline.methods.ops.crops import resized_centre
from sightline.platform.data.dataset import Dataset
from sightline.platform.evaluation.eval_mode import eval_mode
from sightline.platform.evaluation.image_crops import pixel_cells
from sightline.platform.evaluation.result_table import Measurement
from sightline.platform.evaluation.results import MOST_FREQUENT

from .context import PIXELS, ImageEvalContext, ProbeSkippedError
from .image_features import Pooled, Side, pooled_table
from .image_frames import Frame
from .protocol import PIXELS_OF_AN_IMAGE, HeadProtocol
from .train_test_split import Split, split_frames

PIXEL_SIZE = (64, 64)


class PublishedProtocol(HeadProtocol):
    """Classification of images by a frozen feature, as DINO and DINOv2 evaluate it."""

    images: str = "each image once; resized so that the short side is the encoder's size / 0.875 (bicubic, antialiased), centre crop"
    crop_ratio: float = 0.875
    max_rows: tuple[int, int] = (1_300_000, 50_000)
    pooling: str = "the class token after the final norm, or what the encoder's authors take; the mean of the patch tokens for the others"
    pixels: str = PIXELS_OF_AN_IMAGE
    metrics: tuple[str, ...] = ("accuracy",)
    published: str
    """The figures that a value may be held against, and where."""


def published_features(context: ImageEvalContext, train: Dataset, test: Dataset, protocol: PublishedProtocol) -> Pooled:
    """Of every network and of raw pixels, computed once for the probes that ask for the same. Raises `ProbeSkippedError`.

    Memory: 4 bytes x width for each image and network.
    """
    key = ("published", train.fingerprint, test.fingerprint, protocol.max_rows, protocol.gap, protocol.crop_ratio)
    if key not in context.cache:
        context.cache[key] = _features(context, train, test, protocol)
    found: Pooled = context.cache[key]
    return found


def hits_measured(context: ImageEvalContext, found: Pooled, sums: dict[str, np.ndarray], protocol: PublishedProtocol) -> Measurement:
    """`sums`: row name -> of each test image its hit or miss by each of `protocol.metrics`, then 1."""

    def metrics_of(total: Float[np.ndarray, "*shape m"]) -> dict[str, np.ndarray]:
        return {name: total[..., place] / total[..., -1] for place, name in enumerate(protocol.metrics)}

    return Measurement(pooled_table(context), sums, found.units, metrics_of, found.counts, caution(found.split, protocol.published))


def _features(context: ImageEvalContext, train: Dataset, test: Dataset, protocol: PublishedProtocol) -> Pooled:
    if train.manifest.classes != test.manifest.classes:
        raise ProbeSkippedError("the training and the test data have other classes, or another order of them")
    split = split_frames(train, test, "label", protocol, strict=False)
    if len({frame.label for frame in split.train}) < 2:
        raise ProbeSkippedError(f"the labelled images of {train.uri} are all of one class; there is nothing to tell apart")
    counts = {"broken_images": 0, "images_smaller_than_a_patch": 0}
    total = len(split.train) + len(split.test)
    with eval_mode(list(context.modules.values()), context.device):
        sides = [
            _side(context, dataset, frames, counts, protocol, before, total)
            for dataset, frames, before in ((train, split.train, 0), (test, split.test, len(split.train)))
        ]
    if len(sides[0].frames) < 10 or len(sides[1].frames) < 2 or len(set(sides[0].labels.tolist())) < 2:
        raise ProbeSkippedError(f"only {len(sides[0].frames)} training and {len(sides[1].frames)} test images can be used")
    known, asked = ({int(label) for label in side.labels} for side in sides)
    numbers = {"train_images": len(sides[0].frames), "test_images": len(sides[1].frames), "classes": len(known | asked)}
    numbers[f"test_images_{MOST_FREQUENT}"] = int((sides[1].labels == np.bincount(sides[0].labels).argmax()).sum())
    unseen = {"test_classes_without_training_images": len(asked - known), "left_out_near_test": split.left_out}
    return Pooled(sides[0], sides[1], split, {**numbers, **counts, **unseen})


def _side(
    context: ImageEvalContext,
    dataset: Dataset,
    frames: list[Frame],
    counts: dict[str, int],
    protocol: PublishedProtocol,
    before: int,
    total: int,
) -> Side:
    used: list[Frame] = []
    parts: dict[str, list[torch.Tensor]] = {}
    for batch in context.batches(dataset, frames, counts, extra=[PIXEL_SIZE], fit=partial(resized_centre, ratio=protocol.crop_ratio)):
        for name, features in context.image_features(batch.images):
            parts.setdefault(name, []).append(features)
        squares = torch.from_numpy(batch.images[PIXEL_SIZE]).permute(0, 3, 1, 2).float().div_(255)
        parts.setdefault(PIXELS, []).append(pixel_cells(squares, protocol.pixel_cells))
        used += batch.frames
        context.progress("features of images", (before + len(used)) / total)
    return Side(used, {name: torch.cat(some) for name, some in parts.items()})


def caution(split: Split, published: str) -> str:
    """What stands beside a result: what could not be kept apart, and the figures that it may be held against."""
    return f"{split.caution} It may be held against {published}.".lstrip()
