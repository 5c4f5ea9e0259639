"""The kinds of data sets. A kind is one object: the columns of a row, how each is decoded, and what an encoder takes of it.

Another package adds a kind with an entry point in the group `sightline.data_kinds` that names its `DataKind`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa

from sightline.methods.errors import CallError, SightlineError
from sightline.platform.core.plugins import plugins

from .arrays import ArrayForm
from .clouds import decode_parts, decode_points
from .displacement import DISPARITY_FORM, FLOW_FORM, OCCLUDED_FORM, decode_disparity, decode_flow, decode_occluded
from .encoder_input import EncoderInput, cloud_input, image_input
from .images import decode_depth, decode_image, decode_segmentation

GROUP = "sightline.data_kinds"
Row: TypeAlias = Mapping[str, Any]
"""A stored row: its columns by name."""
Content: TypeAlias = Literal["image", "depth", "mask", "cloud", "parts", "disparity", "flow", "occlusion", "value"]
"""What a column holds; `value` is anything that is neither measured nor drawn."""


@dataclass(frozen=True)
class Column:
    """A column of a stored row. `decode` turns what is stored into what a method sees; without it the value stays as it is."""

    name: str
    type: pa.DataType
    content: Content = "value"
    decode: Callable[[bytes], np.ndarray] | None = None
    shape: tuple[int, ...] = ()
    """The shape of a matrix that is stored as a list of numbers, row after row."""
    required: bool = False
    """Whether every row has it. A sample is made of the required columns besides `id`."""
    array: ArrayForm | None = None
    """Where its bytes are those of an array: how a shard holds it."""
    later: bool = False
    """Whether there were data sets before the column was: a shard of rows that lack it has none, so that its bytes are what they were."""

    @property
    def compressed(self) -> bool:
        """Whether its bytes are dense already, so that Parquet stores them as they are."""
        return self.content in ("image", "depth", "mask", "cloud")


@dataclass(frozen=True)
class DataKind:
    """A kind of data sets; `columns` in the order of the file. Every kind begins with `ID` and `SCENE`."""

    name: str
    """A plural, in manifests, settings and messages: pairs, images."""
    one: str
    """One sample, in messages: pair, image."""
    columns: tuple[Column, ...]
    modality: str = ""
    """What an encoder sees of it: images or points. Empty where no encoder is known."""
    encoder_input: Callable[[object], EncoderInput | None] = lambda encoder: None
    """The input of an encoder of this modality; None for an encoder of another one."""

    @cached_property
    def schema(self) -> pa.Schema:
        """Of rows."""
        return pa.schema([pa.field(column.name, column.type, nullable=not column.required) for column in self.columns])

    @cached_property
    def arrays(self) -> dict[str, ArrayForm]:
        """The columns that are arrays in a shard."""
        return {column.name: column.array for column in self.columns if column.array is not None}

    def held(self, used: Collection[str]) -> tuple[Column, ...]:
        """The columns of a shard whose rows have those named `used`."""
        return tuple(column for column in self.columns if not column.later or column.name in used)

    def schema_version(self, used: Collection[str]) -> Literal[1, 2]:
        """Of a shard or a data set with these columns: 2 where it holds arrays, which version 1 held as bytes."""
        return 2 if any(column.array is not None for column in self.held(used)) else 1

    @cached_property
    def samples(self) -> tuple[str, ...]:
        """The columns that a sample is made of, such as the two images of a pair."""
        return tuple(column.name for column in self.columns if column.required and column is not ID)

    def holding(self, content: Content) -> tuple[str, ...]:
        """The names of the columns with this content."""
        return tuple(column.name for column in self.columns if column.content == content)

    def column(self, name: str) -> Column | None:
        return next((column for column in self.columns if column.name == name), None)


ID = Column("id", pa.string(), required=True)
SCENE = Column("scene", pa.string())
_BYTES, _FLOATS = pa.binary(), pa.list_(pa.float64())
_CLOUD = ArrayForm(pa.float32(), (-1, 3))

PAIRS = DataKind(
    "pairs",
    "pair",
    (
        ID,
        SCENE,
        Column("image1", _BYTES, "image", decode_image, required=True),
        Column("image2", _BYTES, "image", decode_image, required=True),
        Column("K1", _FLOATS, shape=(3, 3)),
        Column("K2", _FLOATS, shape=(3, 3)),
        Column("T_2from1", _FLOATS, shape=(4, 4)),
        Column("depth1", _BYTES, "depth", decode_depth),
        Column("depth2", _BYTES, "depth", decode_depth),
        Column("overlap", pa.float32()),
        Column("time", pa.float64()),
        Column("disparity", _BYTES, "disparity", decode_disparity, array=DISPARITY_FORM, later=True),
        Column("flow", _BYTES, "flow", decode_flow, array=FLOW_FORM, later=True),
        Column("occluded", _BYTES, "occlusion", decode_occluded, array=OCCLUDED_FORM, later=True),
    ),
    "images",
    image_input,
)
IMAGES = DataKind(
    "images",
    "image",
    (
        ID,
        SCENE,
        Column("image", _BYTES, "image", decode_image, required=True),
        Column("label", pa.int64()),
        Column("segmentation", _BYTES, "mask", decode_segmentation),
        Column("depth", _BYTES, "depth", decode_depth),
        Column("time", pa.float64()),
    ),
    "images",
    image_input,
)
POINTS = DataKind(
    "points",
    "cloud",
    (
        ID,
        SCENE,
        Column("points", _BYTES, "cloud", decode_points, required=True, array=_CLOUD),
        Column("normals", _BYTES, "cloud", decode_points, array=_CLOUD),
        Column("label", pa.int64()),
        Column("part", _BYTES, "parts", decode_parts, array=ArrayForm(pa.int16(), (-1,))),
    ),
    "points",
    cloud_input,
)
SHIPPED = {kind.name: kind for kind in (PAIRS, IMAGES, POINTS)}


def kind_names() -> list[str]:
    return [*SHIPPED, *plugins(GROUP)]


def find_kind(name: str) -> DataKind:
    """Raises `CallError` for a kind that nobody provides, `SightlineError` where a package names something else as a kind."""
    if name in SHIPPED:
        return SHIPPED[name]
    if name not in plugins(GROUP):
        raise CallError(
            f"unknown kind of data {name!r}; known are {', '.join(kind_names())}", "install the package that provides this kind"
        )
    kind = plugins(GROUP)[name].load()
    if not isinstance(kind, DataKind) or kind.name != name:
        raise SightlineError(f"{plugins(GROUP)[name].value} is not the data kind {name!r}", f"correct the entry point in the group {GROUP}")
    return kind


def input_of(encoder: object) -> EncoderInput:
    """What an encoder takes. Raises `SightlineError` for an encoder that fits no kind of data."""
    for name in kind_names():
        if (given := find_kind(name).encoder_input(encoder)) is not None:
            return given
    raise SightlineError(f"{type(encoder).__name__} is an encoder of no known kind of data", f"known are {', '.join(kind_names())}")
