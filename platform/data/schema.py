"""The columns of each kind, and a stored row turned into the sample that a method's `views` receives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from sightline.methods.errors import BrokenSampleError, CallError

from .clouds import decode_parts, decode_points
from .images import decode_depth, decode_image, decode_segmentation

_BYTES = pa.binary()
_FLOATS = pa.list_(pa.float64())

SCHEMAS: dict[str, pa.Schema] = {
    "pairs": pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("scene", pa.string()),
            pa.field("image1", _BYTES, nullable=False),
            pa.field("image2", _BYTES, nullable=False),
            pa.field("K1", _FLOATS),
            pa.field("K2", _FLOATS),
            pa.field("T_2from1", _FLOATS),
            pa.field("depth1", _BYTES),
            pa.field("depth2", _BYTES),
            pa.field("overlap", pa.float32()),
            pa.field("time", pa.float64()),
        ]
    ),
    "images": pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("scene", pa.string()),
            pa.field("image", _BYTES, nullable=False),
            pa.field("label", pa.int64()),
            pa.field("segmentation", _BYTES),
            pa.field("depth", _BYTES),
            pa.field("time", pa.float64()),
        ]
    ),
    "points": pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("scene", pa.string()),
            pa.field("points", _BYTES, nullable=False),
            pa.field("normals", _BYTES),
            pa.field("label", pa.int64()),
            pa.field("part", _BYTES),
        ]
    ),
}
IMAGE_COLUMNS = {"pairs": ("image1", "image2"), "images": ("image",), "points": ()}
DEPTH_COLUMNS = {"pairs": ("depth1", "depth2"), "images": ("depth",), "points": ()}
CLOUD_COLUMNS = ("points", "normals")
_MATRICES = {"K1": (3, 3), "K2": (3, 3), "T_2from1": (4, 4)}


def input_columns(kind: str, views: Any) -> tuple[str, ...]:
    """What `views` gets to see: the images, and what it asks for. The other columns (depth, poses) are for probes alone."""
    return ("id", *IMAGE_COLUMNS[kind], *getattr(views, "columns", ()))


def schema_of(kind: str) -> pa.Schema:
    if kind not in SCHEMAS:
        raise CallError(f"data of kind {kind!r} cannot be stored yet", f"kinds: {', '.join(SCHEMAS)}")
    return SCHEMAS[kind]


def decode_row(row: Mapping[str, Any], kind: str, *, depth: bool = False, needed: Sequence[str] = ()) -> dict[str, Any]:
    """A stored row as a sample. Raises `BrokenSampleError` naming the row where a column cannot be decoded or a needed one is empty.

    Images become uint8 H x W x 3; `segmentation` uint8 or uint16 H x W of class indices, of the size of its image; `label` an int;
    `points` and `normals` float32 N x 3; `part` int16 N, an index in the manifest's parts;
    `K1`, `K2` float64 3 x 3 (pixel centres at whole numbers); `T_2from1` float64 4 x 4 in metres; with `depth=True`, or where it is
    needed, depth becomes float32 H x W in metres (0 = unknown), else it is left out, because decoding it is wasted on most methods.
    A column that the row lacks is left out of the sample, unless it is one of `needed`, which `input_columns` names.
    """
    images, depths = IMAGE_COLUMNS[kind], DEPTH_COLUMNS[kind]
    sample: dict[str, Any] = {}
    for name, value in row.items():
        if value is None or (name in depths and not depth and name not in needed):
            continue
        try:
            if name in images:
                sample[name] = decode_image(value)
            elif name in depths:
                sample[name] = decode_depth(value)
            elif name == "segmentation":
                sample[name] = decode_segmentation(value)
            elif name in CLOUD_COLUMNS:
                sample[name] = decode_points(value)
            elif name == "part":
                sample[name] = decode_parts(value)
            elif name in _MATRICES:
                sample[name] = np.asarray(value, np.float64).reshape(_MATRICES[name])
            else:
                sample[name] = value
        except (BrokenSampleError, ValueError) as error:
            raise BrokenSampleError(f"{row.get('id', '?')}: {name}: {error}") from None
    missing = [name for name in (*images, *needed) if name not in sample and (name in row or name in needed)]
    if missing:
        raise BrokenSampleError(f"{row.get('id', '?')}: {missing[0]} is empty")
    if "segmentation" in sample and "image" in sample and sample["segmentation"].shape != sample["image"].shape[:2]:
        (height, width), (h, w) = sample["segmentation"].shape, sample["image"].shape[:2]
        raise BrokenSampleError(f"{row.get('id', '?')}: segmentation of {width} x {height} pixels, image of {w} x {h}")
    return sample
