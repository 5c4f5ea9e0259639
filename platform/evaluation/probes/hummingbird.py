"""In-context segmentation: patches take the labels of their nearest patches in a memory, with no head that is trained.

Hummingbird (Balazevic et al., 2023, arXiv 2306.01667), as open-hummingbird-eval has it. CAPI's k-NN is another one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped, UInt8
from PIL import Image, ImageEnhance

from sightline.methods.ops.crops import draw_box
from sightline.methods.random import keyed_rng
from sightline.platform.data.dataset import Dataset
from sightline.platform.evaluation.eval_mode import eval_mode
from sightline.platform.evaluation.image_crops import patch_cells
from sightline.platform.evaluation.result_table import Measurement

from .context import PIXELS, Batch, Grid, ImageEvalContext, ProbeSkippedError
from .image_frames import Frame
from .protocol import PIXELS_OF_A_PATCH, HeadProtocol
from .published_features import caution
from .segmentation import class_indices, class_shares, class_sums, evaluated_size, iou_metrics, known_classes, upsampled_classes
from .spec import ProbeSpec, share
from .train_test_split import split_frames

KEYS, QUERIES = 2**15, 2**10
"""Patches of the memory and of test images compared at one time: 128 MiB of cosines."""
MAJORITY = "always the most frequent class"


class HummingbirdProtocol(HeadProtocol):
    """Semantic segmentation by cross-attention from the patches of a test image to labelled patches of training images."""

    name: Literal["hummingbird"] = "hummingbird"
    version: int = 2
    images: str = "whole, resized to the encoder's size, whatever their aspect (bilinear, antialiased; labels to the nearest pixel)"
    max_rows: tuple[int, int] = (20_000, 5000)
    pooling: str = "none: one prediction a patch"
    features: str = "patch tokens divided by their length"
    memory: int = 10_240_000
    """Patches at most; each training image gives the same share of them."""
    sampling: str = (
        "where an image has more patches than its share: those of the lowest score, a uniform draw in [0, 1] times the sum, over the "
        "classes in the patch, of the number of the image's patches that show the class; so rare classes come first"
    )
    labels: str = "the share of each class among the labelled pixels of a patch; patches without a label are left out"
    k: int = 30
    temperature: float = 0.02
    head: str = "softmax of cosine / temperature over the k nearest patches of the memory (exact search) weights their labels"
    passes: int = 2
    """Over the training images; each has draws of its own."""
    augmentation: str = (
        "of training images: brightness, contrast, saturation (0.9 to 1.1) and hue (-0.5 to 0.5), each in half of the draws; then a crop "
        "of area 0.5 to 2 and ratio 3/4 to 4/3 of image and labels, where one of ten draws fits inside, else the centre"
    )
    area: tuple[float, float] = (0.5, 2.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    colour: float = 0.1
    hue: float = 0.5
    prediction: str = "shares upsampled to pixels (bilinear, corners not aligned), then the largest"
    short_side: int = 512
    metrics: tuple[str, ...] = ("miou", "pixel_accuracy")
    pixels: str = PIXELS_OF_A_PATCH
    majority: str = "the class with the most pixels in the training images, everywhere"
    published: str = (
        "mIoU of open-hummingbird-eval, as Franca and NeCo report it, and roughly of Hummingbird (arXiv 2306.01667), where data, memory "
        "and size of images are the same (504 to 518 pixels there; here the encoder's own size)"
    )


@dataclass
class Memory:
    """Of one network: what was sampled of the training images."""

    features: list[Float[torch.Tensor, "n d"]] = field(default_factory=list)
    labels: list[Float[torch.Tensor, "n c"]] = field(default_factory=list)

    def whole(self) -> tuple[Float[torch.Tensor, "n d"], Float[torch.Tensor, "n c"]]:
        return torch.cat(self.features), torch.cat(self.labels)


def measure(context: ImageEvalContext, train: Dataset, test: Dataset, protocol: HummingbirdProtocol) -> Measurement:
    """Metrics over pixels of the evaluated crop: encoders of one image shape are comparable. Raises `ProbeSkippedError`."""
    classes = known_classes(train, test)
    count = len(classes)
    split = split_frames(train, test, "segmentation", protocol, strict=False)
    counts = {"train_images": 0, "memory_patches": 0, "test_images": 0, "broken_images": 0, "images_smaller_than_a_patch": 0}
    share_of_each = max(1, protocol.memory // (len(split.train) * protocol.passes))
    side = max(grid.size for grid in context.grids.values())
    memories: dict[str, Memory] = {}
    pixels = np.zeros(count)
    frames: list[Frame] = []
    sums: dict[str, list[np.ndarray]] = {}
    done = 0
    with eval_mode(list(context.modules.values()), context.device):
        for turn, batch in _views(context, train, split.train, counts, protocol, side):
            chosen = {
                grid: _sampled(batch, grid, train.manifest.ignore_index, count, share_of_each, turn) for grid in set(context.grids.values())
            }
            for mask in batch.targets:
                pixels += np.bincount(mask[(mask < count) & (mask != train.manifest.ignore_index)].reshape(-1), minlength=count)
            for name, grid, tokens in context.tokens(batch.images):
                places, labels = chosen[grid]
                memory = memories.setdefault(name, Memory())
                memory.features.append(torch.nn.functional.normalize(tokens.flatten(0, 1)[places].float(), dim=1))
                memory.labels.append(labels)
            done += len(batch.frames)
            context.progress("hummingbird probe: memory", done / (len(split.train) * protocol.passes))
        if not memories or not pixels.any():
            raise ProbeSkippedError("no training image can be decoded, or none has a label")
        wholes = {name: memory.whole() for name, memory in memories.items()}
        memories.clear()
        counts["train_images"] = done // protocol.passes
        counts["broken_images"] //= protocol.passes
        counts["images_smaller_than_a_patch"] //= protocol.passes
        counts["memory_patches"] = len(next(iter(wholes.values()))[0])
        for batch in context.batches(test, split.test, counts, change=lambda frame, image, mask: squashed(image, mask, side)):
            true = {
                grid: np.stack(
                    [
                        class_indices(m, evaluated_size(grid.size, protocol.short_side), test.manifest.ignore_index, count)
                        for m in batch.targets
                    ]
                )
                for grid in set(context.grids.values())
            }
            for name, grid, tokens in context.tokens(batch.images):
                queries = torch.nn.functional.normalize(tokens.flatten(0, 1).float(), dim=1)
                found = attend(queries, *wholes[name], protocol.k, protocol.temperature).reshape(*tokens.shape[:2], count)
                sums.setdefault(name, []).append(class_sums(upsampled_classes(found, grid.shape, true[grid].shape[1:]), true[grid], count))
            for grid, known in true.items():
                constant = np.full_like(known, int(pixels.argmax()))
                sums.setdefault(context.baseline(MAJORITY, grid), []).append(class_sums(constant, known, count))
            frames += batch.frames
            context.progress("hummingbird probe: testing", len(frames) / len(split.test))
    counts["test_images"] = len(frames)
    if len(frames) < 2:
        raise ProbeSkippedError(f"{len(frames)} test images can be decoded")
    whole = {name: np.concatenate(parts) for name, parts in sums.items()}
    shown, metrics_of, details = iou_metrics(whole, classes)
    table = context.table({"pixels": PIXELS, "majority": MAJORITY}, lambda grid: evaluated_size(grid.size, protocol.short_side))
    counts = {**counts, "classes": shown, "left_out_near_test": split.left_out}
    return Measurement(table, whole, split.units_of(frames), metrics_of, counts, caution(split, protocol.published), {}, details)


probe = ProbeSpec(
    rank=32,
    title="In-context segmentation by the nearest patches of a memory (Hummingbird)",
    protocol=HummingbirdProtocol(),
    columns={"images": ("segmentation",)},
    metrics={
        "miou": share("mIoU", "mean over the classes of intersection over union, on pixels"),
        "pixel_accuracy": share("pixel accuracy", "share of labelled pixels whose class is found"),
    },
    sentence="The nearest patches of labelled images reach a mean IoU of {value}",
    measure=measure,
)


def _views(
    context: ImageEvalContext,
    train: Dataset,
    frames: Sequence[Frame],
    counts: dict[str, int],
    protocol: HummingbirdProtocol,
    size: tuple[int, int],
) -> Iterator[tuple[int, Batch]]:
    """(number of the pass, some of its images) of all passes."""
    for turn in range(protocol.passes):
        for batch in context.batches(train, frames, counts, change=partial(augmented, protocol, turn, size)):
            yield turn, batch


def augmented(
    protocol: HummingbirdProtocol,
    turn: int,
    size: tuple[int, int],
    frame: Frame,
    image: UInt8[np.ndarray, "h w 3"],
    mask: Shaped[np.ndarray, "h w"],
) -> tuple[UInt8[np.ndarray, "H W 3"], Shaped[np.ndarray, "H W"]]:
    """A training image and its labels in the draw of pass `turn`, of `size`."""
    rng = keyed_rng("hummingbird view", turn, frame.digest.hex())
    picture = Image.fromarray(image)
    for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        factor = rng.uniform(1 - protocol.colour, 1 + protocol.colour)
        if rng.random() < 0.5:
            picture = change(picture).enhance(factor)
    turned = round(255 * rng.uniform(-protocol.hue, protocol.hue))
    if rng.random() < 0.5:
        hue, *others = picture.convert("HSV").split()
        hue = Image.fromarray((np.asarray(hue).astype(int) + turned).astype(np.uint8))
        picture = Image.merge("HSV", (hue, *others)).convert("RGB")
    left, top, right, bottom = draw_box(image.shape[0], image.shape[1], rng, protocol.area, protocol.ratio)
    return squashed(np.asarray(picture)[top:bottom, left:right], mask[top:bottom, left:right], size)


def squashed(
    image: UInt8[np.ndarray, "h w 3"], mask: Shaped[np.ndarray, "h w"], size: tuple[int, int]
) -> tuple[UInt8[np.ndarray, "H W 3"], Shaped[np.ndarray, "H W"]]:
    """An image and its labels resized to `size` (height, width), whatever their aspect."""
    y, x = (((np.arange(new) + 0.5) * old / new).astype(int) for new, old in zip(size, mask.shape, strict=True))
    return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR)), mask[np.ix_(y, x)]


def _sampled(
    batch: Batch, grid: Grid, ignored: int | None, count: int, share_of_each: int, turn: int
) -> tuple[Int[torch.Tensor, " m"], Float[torch.Tensor, "m c"]]:
    """(places among all patches of the batch, their labels): of each image `share_of_each` patches at most, by `sampling`."""
    places, labels = [], []
    for number, (frame, mask) in enumerate(zip(batch.frames, batch.targets, strict=True)):
        cells = patch_cells(class_indices(mask, grid.size, ignored, count), grid.patch).reshape(grid.cells, -1)
        chosen, shares = sample_patches(cells, count, share_of_each, keyed_rng("hummingbird", turn, frame.digest.hex()))
        places.append(chosen + number * grid.cells)
        labels.append(shares)
    return torch.from_numpy(np.concatenate(places)), torch.from_numpy(np.concatenate(labels)).float()


def sample_patches(
    cells: Int[np.ndarray, "n p"], count: int, most: int, rng: np.random.Generator
) -> tuple[Int[np.ndarray, " m"], Float[np.ndarray, "m c"]]:
    """(which patches, their soft labels); index `count` is no label. Patches without a label are never taken."""
    shares, labelled = class_shares(cells, count)
    shown = shares > 0
    score = shown @ shown.sum(axis=0) * rng.random(len(cells))
    known = np.flatnonzero(labelled > 0)
    chosen = np.sort(known[np.argsort(score[known], kind="stable")[:most]])
    return chosen, shares[chosen]


def attend(
    queries: Float[torch.Tensor, "m d"], keys: Float[torch.Tensor, "n d"], labels: Float[torch.Tensor, "n c"], k: int, temperature: float
) -> Float[torch.Tensor, "m c"]:
    """Labels of the k keys of the largest product with each query, weighted by the softmax of product / temperature. Exact; keys and
    queries are compared in blocks."""
    found = []
    for some in torch.split(queries, QUERIES):
        best, where = torch.empty(len(some), 0), torch.empty(len(some), 0, dtype=torch.int64)
        for start in range(0, len(keys), KEYS):
            products = some @ keys[start : start + KEYS].T
            value, place = products.topk(min(k, products.shape[1]), dim=1)
            best, where = torch.cat([best, value], dim=1), torch.cat([where, place + start], dim=1)
            best, order = best.topk(min(k, best.shape[1]), dim=1)
            where = where.gather(1, order)
        found.append(((best / temperature).softmax(dim=1)[..., None] * labels[where]).sum(dim=1))
    return torch.cat(found)
