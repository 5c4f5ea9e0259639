"""Arrays as a shard holds them: Ray Data opens them as NumPy arrays, and every other reader of Parquet as numbers with a shape.

In a row of ours an array is its little-endian bytes (`clouds`, `displacement`). In a shard it is a struct of `data`, its numbers, and
`shape`, under the name that Ray gives to tensors of variable shape. That name is for other readers: ours hides it from Arrow (`shards`).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

RAY_NAME = "ray.data.arrow_variable_shaped_tensor"
"""Arrow's name of the type that Ray Data has for them since 2.4; its parameter is the number of dimensions, as JSON."""


class ArrayFormError(ValueError):
    """A column does not hold the arrays that it is said to hold."""


@dataclass(frozen=True)
class ArrayForm:
    """The form of an array: little-endian `numbers` along `shape`, of which -1, in the first places, is any length.

    Where two lengths or more are free, they stand before the numbers of a row, as int32 each.
    """

    numbers: pa.DataType
    shape: tuple[int, ...]

    def field(self, name: str, nullable: bool) -> pa.Field:
        """A column of such arrays in a shard."""
        named = {"ARROW:extension:name": RAY_NAME, "ARROW:extension:metadata": str(len(self.shape))}
        stored = pa.struct([("data", pa.large_list(self.numbers)), ("shape", pa.list_(pa.int64()))])
        return pa.field(name, stored, nullable=nullable, metadata=named)

    def stored(self, column: Sequence[bytes | None]) -> pa.StructArray:
        """The arrays of a column of bytes. None is an array without numbers: Ray Data has no batch of tensors with a null among them."""
        bodies = [memoryview(value or b"")[self._head :] for value in column]
        counts = [len(body) * 8 // self.numbers.bit_width for body in bodies]
        numbers = pa.Array.from_buffers(self.numbers, sum(counts), [None, pa.py_buffer(b"".join(bodies))])
        data = pa.LargeListArray.from_arrays(pa.array(np.cumsum([0, *counts]), pa.int64()), numbers)
        sides = [self._sides(value or b"", count) for value, count in zip(column, counts, strict=True)]
        shapes = pa.array([[*own, *self.shape[self._free :]] for own in sides], pa.list_(pa.int64()))
        return pa.StructArray.from_arrays([data, shapes], ["data", "shape"])

    def as_bytes(self, column: pa.ChunkedArray) -> pa.Array:
        """A column of arrays as bytes, without a copy of the numbers where one length is free; null where there are none.

        Raises `ArrayFormError` where it holds anything else.
        """
        arrays = column.combine_chunks()
        names = [field.name for field in arrays.type] if pa.types.is_struct(arrays.type) else []
        if names != ["data", "shape"]:
            raise ArrayFormError(f"is no column of arrays: {arrays.type}")
        data, shapes, valid = arrays.field("data"), arrays.field("shape"), arrays.is_valid()
        if data.type.value_type != self.numbers or data.values.null_count or shapes.values.null_count:
            raise ArrayFormError(f"holds no arrays of {self.numbers}: {data.type}")
        offsets, there = np.asarray(data.offsets, np.int64), np.asarray(valid)
        dimensions, counts = np.diff(np.asarray(shapes.offsets))[there], np.diff(offsets)[there]
        sides = np.asarray(shapes.flatten())
        fits = (dimensions == len(self.shape)).all() and sides.size == dimensions.sum()
        if fits:
            sides = sides.reshape(-1, len(self.shape))
            free, product = sides[:, : self._free], sides.astype(float).prod(axis=1)
            fits = (sides[:, self._free :] == self.shape[self._free :]).all() and (free >= 0).all() and (product == counts).all()
        if not fits or (counts % self._width).any():
            raise ArrayFormError("has an array whose numbers do not fit its shape")
        if self._head:
            values, whole, numbers = iter(sides[:, : self._free].astype("<i4")), np.diff(offsets), np.asarray(data.values)
            heads = [next(values) if ok else None for ok in there]
            rows = [
                None if head is None or not count else head.tobytes() + numbers[start : start + count].tobytes()
                for head, start, count in zip(heads, offsets, whole, strict=False)
            ]
            return pa.array(rows, pa.large_binary())
        size = self.numbers.bit_width // 8
        buffers = [pa.array(np.diff(offsets) > 0).buffers()[1], pa.py_buffer(offsets * size), data.values.buffers()[1]]
        return pa.Array.from_buffers(pa.large_binary(), len(arrays), buffers)

    def _sides(self, value: bytes, count: int) -> tuple[int, ...]:
        """The free lengths of a row's array of `count` numbers."""
        if not self._head or not value:
            return (count // self._width,) if self._free == 1 else (0,) * self._free
        return struct.unpack_from(f"<{self._free}i", value)

    @property
    def _free(self) -> int:
        """How many lengths are free."""
        return self.shape.count(-1)

    @property
    def _head(self) -> int:
        """Bytes before the numbers of a row."""
        return 4 * self._free if self._free > 1 else 0

    @property
    def _width(self) -> int:
        """Numbers of one step along the free lengths."""
        return int(np.prod(self.shape[self._free :], dtype=int))
