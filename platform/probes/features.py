"""Frames of a data set with their depth, and frozen features of them: each image is decoded once, whatever the number of encoders."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image

from sightline.methods.errors import BrokenSampleError

from ..data.dataset import Dataset
from ..data.images import decode_depth, decode_image
from ..data.rows import DEPTH_COLUMNS, IMAGE_COLUMNS


@dataclass(frozen=True)
class Frame:
    """Where a single image of a data set lies, and what it belongs to. Holds no pixels."""

    row: int
    column: str
    depth_column: str
    scene: str
    time: float
    """Seconds, that of the pair; NaN where unknown."""
    digest: bytes
    """Of the encoded image: equal for the same image stored in two pairs."""


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


def has_depth(dataset: Dataset) -> bool:
    return any(column in dataset.manifest.columns for column in DEPTH_COLUMNS[dataset.kind])


def list_frames(dataset: Dataset, max_rows: int) -> list[Frame]:
    """The single images with depth in at most `max_rows` rows; an image stored in several pairs is listed once."""
    frames: dict[bytes, Frame] = {}
    columns = list(zip(IMAGE_COLUMNS[dataset.kind], DEPTH_COLUMNS[dataset.kind], strict=True))
    wanted = ["scene", "time", *(name for pair in columns for name in pair)]
    for row, stored in read_rows(dataset, spread(dataset.rows, max_rows), wanted):
        time = stored.get("time")
        for column, depth_column in columns:
            if stored.get(column) and stored.get(depth_column):
                digest = hashlib.blake2b(stored[column], digest_size=16).digest()
                frame = Frame(row, column, depth_column, stored.get("scene") or "", float("nan") if time is None else float(time), digest)
                frames.setdefault(digest, frame)
    return list(frames.values())


def read_frames(dataset: Dataset, frames: Sequence[Frame]) -> Iterator[tuple[Frame, np.ndarray, np.ndarray] | tuple[Frame, None, None]]:
    """(frame, uint8 H x W x 3, float32 H x W metres) for each frame, which must be in stored order; two Nones for a broken one."""
    by_row = {row: list(members) for row, members in groupby(frames, key=lambda frame: frame.row)}
    columns = sorted({name for frame in frames for name in (frame.column, frame.depth_column)})
    for row, stored in read_rows(dataset, list(by_row), columns):
        for frame in by_row[row]:
            try:
                yield frame, decode_image(stored[frame.column]), decode_depth(stored[frame.depth_column])
            except BrokenSampleError:
                yield frame, None, None


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


def patch_depth(depth: Float[np.ndarray, "h w"], size: tuple[int, int], patch: int, min_valid: float) -> Float[np.ndarray, "rows columns"]:
    """Median of the known depths (> 0) in each patch of the crop that `fit_image` makes; NaN where fewer than `min_valid` are known.

    Depth is sampled to the nearest pixel and never interpolated, which would invent surfaces between near and far.
    """
    left, top, right, bottom = centre_box(depth.shape[0], depth.shape[1], size)
    y = (top + (np.arange(size[0]) + 0.5) * (bottom - top) / size[0]).astype(int).clip(0, depth.shape[0] - 1)
    x = (left + (np.arange(size[1]) + 0.5) * (right - left) / size[1]).astype(int).clip(0, depth.shape[1] - 1)
    rows, columns = size[0] // patch, size[1] // patch
    cells = depth[np.ix_(y, x)].reshape(rows, patch, columns, patch).transpose(0, 2, 1, 3).reshape(rows, columns, patch * patch)
    known = cells > 0
    enough = known.mean(axis=2) >= min_valid
    ordered = np.sort(np.where(known, cells, np.inf), axis=2)
    middle = (known.sum(axis=2) - 1).clip(0) // 2  # the lower median is a depth that was measured
    median = np.take_along_axis(ordered, middle[..., None], axis=2)[..., 0]
    return np.where(enough, median, np.nan).astype(np.float32)


@contextmanager
def frozen(modules: Sequence[torch.nn.Module], device: torch.device | str) -> Iterator[None]:
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


def batch_tokens(encoder: Any, images: UInt8[np.ndarray, "b h w 3"], device: torch.device | str) -> Float[torch.Tensor, "b n d"]:
    """Patch tokens of a batch of decoded images, float64 on the CPU, where the closed-form head is solved."""
    pixels = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float().div_(255)
    return encoder.tokens(pixels).float().cpu().double()  # type: ignore[no-any-return]
