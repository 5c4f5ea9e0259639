"""The single images of a data set with their targets: which there are, and their pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from sightline.methods.errors import BrokenSampleError
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.images import decode_depth, decode_image, decode_segmentation
from sightline.platform.data.kinds import IMAGES, PAIRS, find_kind
from sightline.platform.data.loader.fixed import read_rows, spread


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
    "depth": {kind.name: kind.holding("depth") for kind in (PAIRS, IMAGES)},
    "segmentation": {"images": ("segmentation",)},
    "label": {"images": ("label",)},
}
"""Target -> the column that belongs to each image of a row."""


def list_frames(dataset: Dataset, target: str, max_rows: int) -> list[Frame]:
    """The single images with a target in at most `max_rows` rows; an image stored in several pairs is listed once."""
    frames: dict[bytes, Frame] = {}
    columns = list(zip(find_kind(dataset.kind).samples, TARGETS[target][dataset.kind], strict=True))
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
