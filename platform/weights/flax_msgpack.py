"""Reads Flax's single-file checkpoints: msgpack with extension types for arrays. No code of the file is run, none could be.

By hand, because flax.serialization would install JAX to read a file.
"""

from __future__ import annotations

import math
from typing import Any

import msgpack
import torch

from sightline.platform.core.budget import OverBudgetError

NDARRAY, COMPLEX, SCALAR = 1, 2, 3
"""Extension types of Flax's serialisation."""
CHUNKED = "__msgpack_chunked_array__"
DTYPES = {
    "bool": torch.bool,
    "int8": torch.int8,
    "int16": torch.int16,
    "int32": torch.int32,
    "int64": torch.int64,
    "uint8": torch.uint8,
    "uint16": torch.uint16,
    "uint32": torch.uint32,
    "uint64": torch.uint64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
    "float64": torch.float64,
    "complex64": torch.complex64,
    "complex128": torch.complex128,
}
MAX_DIMENSIONS = 32
MAX_VALUES = 2_000_000
"""Of all lists and maps; an empty map takes a byte in the file and 64 in memory. A network has a few thousand."""


def decode(data: bytes) -> dict[str, Any]:
    """Nested dicts of tensors and plain values. Raises `ValueError` for anything but one whole, consistent map.

    Lengths are bounded by the data at hand: msgpack refuses a container or extension that claims more than is there, and an array must
    have exactly the bytes that its shape and type say. An array that Flax cut in chunks (above 1 GiB) is put together.
    """
    left = [MAX_VALUES]

    def counted(made: Any) -> Any:
        left[0] -= 1 + len(made)
        if left[0] < 0:
            raise OverBudgetError(f"it holds more than {MAX_VALUES:,} values in lists and maps")
        return made

    try:
        content = msgpack.unpackb(
            data,
            ext_hook=_extension,
            raw=False,
            strict_map_key=True,
            list_hook=counted,
            object_hook=counted,
        )
    except (msgpack.UnpackException, msgpack.ExtraData, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{type(error).__name__}: {error}".rstrip(": ")) from None
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}, not a map of parameters")
    joined: dict[str, Any] = _joined(content, "")
    return joined


def _extension(code: int, data: bytes) -> Any:
    if code in (NDARRAY, SCALAR):
        array = _array(data)
        return array.reshape(()).item() if code == SCALAR else array
    if code == COMPLEX:
        pair = msgpack.unpackb(data)
        if not (isinstance(pair, list | tuple) and len(pair) == 2 and all(isinstance(p, int | float) for p in pair)):
            raise ValueError("a complex number is not a pair of numbers")
        return complex(*pair)
    raise ValueError(f"extension type {code} is none of Flax's")


def _array(data: bytes) -> torch.Tensor:
    parts = msgpack.unpackb(data, raw=False)
    if not (isinstance(parts, list | tuple) and len(parts) == 3):
        raise ValueError("an array is not shape, type and bytes")
    shape, name, content = parts
    if not (isinstance(shape, list | tuple) and len(shape) <= MAX_DIMENSIONS and all(type(n) is int and n >= 0 for n in shape)):
        raise ValueError(f"an array has no shape: {shape!r:.60}")
    dtype = DTYPES.get(name) if isinstance(name, str) else None
    if dtype is None:
        raise ValueError(f"an array has the unknown type {name!r:.60}")
    size = math.prod(shape) * dtype.itemsize
    if not isinstance(content, bytes) or len(content) != size:
        found = len(content) if isinstance(content, bytes) else type(content).__name__
        raise ValueError(f"an array of shape {list(shape)} and type {name} has {found} bytes, not {size}")
    if not size:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(bytearray(content), dtype=dtype).reshape(shape)


def _joined(value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        return value
    if CHUNKED in value:
        return _chunks(value, where)
    return {name: _joined(part, f"{where}/{name}") for name, part in value.items()}


def _chunks(value: dict[str, Any], where: str) -> torch.Tensor:
    shape, chunks = (_sequence(value.get(name), f"{where}: {name}") for name in ("shape", "chunks"))
    if not all(type(n) is int and n >= 0 for n in shape) or not all(isinstance(c, torch.Tensor) for c in chunks) or not chunks:
        raise ValueError(f"{where}: a chunked array has no shape or no chunks")
    flat = torch.cat([chunk.reshape(-1) for chunk in chunks])
    if flat.numel() != math.prod(shape):
        raise ValueError(f"{where}: the chunks have {flat.numel()} values, the shape {shape} {math.prod(shape)}")
    return flat.reshape(shape)


def _sequence(value: Any, what: str) -> list[Any]:
    """A list, or a map from "0", "1", ... as Flax writes one."""
    if isinstance(value, dict) and set(value) == {str(i) for i in range(len(value))}:
        return [value[str(i)] for i in range(len(value))]
    if isinstance(value, list):
        return value
    raise ValueError(f"{what} is no list")
