"""Frames of a data set with their targets, cut to what an encoder sees; and networks held still while they are measured."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from PIL import Image

from sightline.methods.errors import BrokenSampleError
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.images import decode_depth, decode_image, decode_segmentation
from sightline.platform.data.schema import DEPTH_COLUMNS, IMAGE_COLUMNS


@dataclass(frozen=True)
class Frame:
    """Where a single image of a data set lies, and what it belongs to. Holds no pixels."""

    row: int
    column: str
    target: str
    """The column of its target."""
    id: str
    scene: str
    time: float
    """Seconds, that of the pair; NaN where unknown."""
    digest: bytes
    """Of the encoded image: equal for the same image stored in two pairs."""
    label: int | None = None


TARGETS: dict[str, dict[str, tuple[str, ...]]] = {
    "depth": {"pairs": DEPTH_COLUMNS["pairs"], "images": DEPTH_COLUMNS["images"]},
    "segmentation": {"images": ("segmentation",)},
    "label": {"images": ("label",)},
}
"""Target -> the column that belongs to each image of a row."""


def spread(count: int, limit: int) -> list[int]:
    """At most `limit` of the numbers below `count`, evenly spaced, in order."""
    if count <= limit:
        return list(range(count))
    return [int(index) for index in np.linspace(0, count - 1, limit).round()]


def read_rows(dataset: Dataset, rows: Sequence[int], columns: Sequence[str] | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row number, stored row) for the rows named, which must be in increasing order; each row group is read once."""
    groups = dataset.row_groups
    starts = np.cumsum([0, *(count for _, _, count in groups)])
    located = [(int(np.searchsorted(starts, row, side="right")) - 1, row) for row in rows]
    for index, members in groupby(located, key=lambda item: item[0]):
        numbers = [row for _, row in members]
        shard, row_group, _ = groups[index]
        table = dataset.read(shard, row_group, rows=[row - int(starts[index]) for row in numbers], columns=columns)
        yield from zip(numbers, table.to_pylist(), strict=True)


def list_frames(dataset: Dataset, target: str, max_rows: int) -> list[Frame]:
    """The single images with a target in at most `max_rows` rows; an image stored in several pairs is listed once."""
    frames: dict[bytes, Frame] = {}
    columns = list(zip(IMAGE_COLUMNS[dataset.kind], TARGETS[target][dataset.kind], strict=True))
    wanted = ["id", "scene", "time", *(name for pair in columns for name in pair)]
    for row, stored in read_rows(dataset, spread(dataset.rows, max_rows), wanted):
        time = stored.get("time")
        for column, target_column in columns:
            if stored.get(column) and stored.get(target_column) is not None:
                digest = hashlib.blake2b(stored[column], digest_size=16).digest()
                frame = Frame(
                    row,
                    column,
                    target_column,
                    str(stored["id"]),
                    stored.get("scene") or "",
                    float("nan") if time is None else float(time),
                    digest,
                    int(stored[target_column]) if target == "label" else None,
                )
                frames.setdefault(digest, frame)
    return list(frames.values())


def read_frames(dataset: Dataset, frames: Sequence[Frame]) -> Iterator[tuple[Frame, np.ndarray, Any] | tuple[Frame, None, None]]:
    """(frame, uint8 H x W x 3, target) for each frame, which must be in stored order; two Nones for a broken one, or
    for a mask of another size than its image.

    A target is depth (float32 H x W, metres), a mask of class indices (H x W) or a class index.
    """
    by_row = {row: list(members) for row, members in groupby(frames, key=lambda frame: frame.row)}
    columns = sorted({name for frame in frames for name in (frame.column, frame.target)})
    for row, stored in read_rows(dataset, list(by_row), columns):
        for frame in by_row[row]:
            try:
                image, target = decode_image(stored[frame.column]), _decode_target(frame, stored[frame.target])
                fits = frame.target != "segmentation" or target.shape == image.shape[:2]
                yield (frame, image, target) if fits else (frame, None, None)
            except BrokenSampleError:
                yield frame, None, None


def _decode_target(frame: Frame, value: Any) -> Any:
    if frame.label is not None:
        return frame.label
    return decode_segmentation(value) if frame.target == "segmentation" else decode_depth(value)


def centre_box(height: int, width: int, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) of the largest centred box with the aspect of `size` (height, width), in pixels of the image."""
    scale = min(height / size[0], width / size[1])
    box_height, box_width = size[0] * scale, size[1] * scale
    left, top = (width - box_width) / 2, (height - box_height) / 2
    return left, top, left + box_width, top + box_height


def fit_image(image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "H W 3"]:
    """The largest centre crop of the shape of `size`, resized to it (bicubic, antialiased)."""
    box = centre_box(image.shape[0], image.shape[1], size)
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BICUBIC, box=box))


def nearest_pixels(height: int, width: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """(rows, columns) of the pixels nearest to those of the crop of `size` that `fit_image` makes: what is never interpolated."""
    left, top, right, bottom = centre_box(height, width, size)
    y = (top + (np.arange(size[0]) + 0.5) * (bottom - top) / size[0]).astype(int).clip(0, height - 1)
    x = (left + (np.arange(size[1]) + 0.5) * (right - left) / size[1]).astype(int).clip(0, width - 1)
    return y, x


def fit_nearest(values: Shaped[np.ndarray, "h w"], size: tuple[int, int]) -> Shaped[np.ndarray, "H W"]:
    """Depth or class indices in the crop that `fit_image` makes, each pixel as it was measured."""
    y, x = nearest_pixels(values.shape[0], values.shape[1], size)
    fitted: np.ndarray = values[np.ix_(y, x)]
    return fitted


def patch_cells(values: Shaped[np.ndarray, "h w"], patch: int) -> Shaped[np.ndarray, "rows columns p"]:
    """The pixels of each patch of a fitted map; what the patches leave over at the right and below is cut off."""
    rows, columns = values.shape[0] // patch, values.shape[1] // patch
    used = values[: rows * patch, : columns * patch]
    return used.reshape(rows, patch, columns, patch).transpose(0, 2, 1, 3).reshape(rows, columns, patch * patch)


def patch_depth(depth: Float[np.ndarray, "h w"], size: tuple[int, int], patch: int, min_valid: float) -> Float[np.ndarray, "rows columns"]:
    """Median of the known depths (> 0) in each patch of the crop that `fit_image` makes; NaN where fewer than `min_valid` are known.

    Depth is sampled to the nearest pixel and never interpolated, which would invent surfaces between near and far.
    """
    cells = patch_cells(fit_nearest(depth, size), patch)
    known = cells > 0
    enough = known.mean(axis=2) >= min_valid
    ordered = np.sort(np.where(known, cells, np.inf), axis=2)
    middle = (known.sum(axis=2) - 1).clip(0) // 2  # the lower median is a depth that was measured
    median = np.take_along_axis(ordered, middle[..., None], axis=2)[..., 0]
    return np.where(enough, median, np.nan).astype(np.float32)


def pixel_cells(images: Float[torch.Tensor, "b 3 h w"], cells: int = 8) -> Float[torch.Tensor, "b d"]:
    """Mean colours of `cells` x `cells` cells of each image (or patch) as features: what no network has touched."""
    return torch.nn.functional.adaptive_avg_pool2d(images, cells).flatten(1)


@contextmanager
def eval_mode(modules: Sequence[torch.nn.Module], device: torch.device | str) -> Iterator[None]:
    """The modules on `device` in evaluation mode without gradients; their training mode is put back afterwards."""
    were_training = [module.training for module in modules]
    try:
        for module in modules:
            module.to(device).eval()
        with torch.no_grad():
            yield
    finally:
        for module, training in zip(modules, were_training, strict=True):
            module.train(training)
