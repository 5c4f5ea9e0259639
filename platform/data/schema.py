"""A stored row turned into the sample that a method's `views` receives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sightline.methods.contract import NeedsColumns, Views
from sightline.methods.errors import BrokenSampleError

from .displacement import MAPS
from .kinds import Column, Row, find_kind


def input_columns(kind: str, views: Views) -> tuple[str, ...]:
    """The columns that `views` sees: what a sample is made of, and what it asks for. The others (depth, poses) are for probes alone."""
    return tuple(dict.fromkeys(("id", *find_kind(kind).samples, *(views.columns if isinstance(views, NeedsColumns) else ()))))


def decode_row(row: Row, kind: str, *, depth: bool = False, needed: Sequence[str] = ()) -> dict[str, Any]:
    """A stored row as a sample. Raises `BrokenSampleError` naming the row where a column cannot be decoded or a needed one is empty.

    Images become uint8 H x W x 3; `segmentation` uint8 or uint16 H x W of class indices, of the size of its image; `label` an int;
    `points` and `normals` float32 N x 3; `part` int16 N, an index in the manifest's parts; `K1`, `K2` float64 3 x 3 (pixel centres at whole
    numbers); `T_2from1` float64 4 x 4 in metres; `disparity` float32 H x W, at least 0, and `flow` float32 H x W x 2 (dx, dy), both in
    pixels from image 1 to image 2 and NaN where unknown, and `occluded` bool H x W, all of the size of `image1`; with `depth=True`, or
    where it is needed, depth becomes float32 H x W in metres (0 = unknown), else it is left out, because decoding it is wasted on most
    methods.
    A column that the row lacks is left out of the sample, unless it is one of `needed`, which `input_columns` names.
    """
    columns = {column.name: column for column in find_kind(kind).columns}
    sample: dict[str, Any] = {}
    for name, value in row.items():
        column = columns.get(name)
        if value is None or (column and column.content == "depth" and not depth and name not in needed):
            continue
        try:
            sample[name] = _decoded(value, column)
        except (BrokenSampleError, ValueError) as error:
            raise BrokenSampleError(f"{row.get('id', '?')}: {name}: {error}") from None
    missing = [name for name in (*find_kind(kind).samples, *needed) if name not in sample and (name in row or name in needed)]
    if missing:
        raise BrokenSampleError(f"{row.get('id', '?')}: {missing[0]} is empty")
    if "segmentation" in sample and "image" in sample and sample["segmentation"].shape != sample["image"].shape[:2]:
        (height, width), (h, w) = sample["segmentation"].shape, sample["image"].shape[:2]
        raise BrokenSampleError(f"{row.get('id', '?')}: segmentation of {width} x {height} pixels, image of {w} x {h}")
    for name in MAPS:
        if name in sample and "image1" in sample and sample[name].shape[:2] != sample["image1"].shape[:2]:
            (height, width), (h, w) = sample[name].shape[:2], sample["image1"].shape[:2]
            raise BrokenSampleError(f"{row.get('id', '?')}: {name} of {width} x {height} pixels, image1 of {w} x {h}")
    return sample


def _decoded(value: Any, column: Column | None) -> Any:
    if column is None:
        return value
    if column.shape:
        return np.asarray(value, np.float64).reshape(column.shape)
    return column.decode(value) if column.decode else value
