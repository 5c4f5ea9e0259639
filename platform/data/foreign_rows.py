"""Rows of somebody's Arrow tables as rows of ours: which types can be an image, a cloud or a number, and how each is read.

An image is the bytes of an image file, alone or as Hugging Face stores it ({bytes, path}), or an array: height x width x channels or
channels x height x width, of whole numbers in 0 .. 255 or floats in [0, 1]. A cloud is an array of points x 3, or three lists x, y and z.
Pickles are never read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sightline.methods.contract import Views
from sightline.methods.errors import BrokenSampleError, CallError
from sightline.methods.settings import nearest

from .clouds import MAX_POINTS, centred
from .images import IMAGE_SUFFIXES, MAX_PIXELS, decode_image
from .kinds import ID, Column, DataKind

PICKLED = "ray.data.arrow_pickled_object"
"""Arrow's name of the type in which Ray Data holds pickled Python objects."""
TENSORS = ("ray.data.arrow_tensor", "ray.data.arrow_tensor_v2", "ray.data.arrow_variable_shaped_tensor", "arrow.fixed_shape_tensor")
PICKLES = ("pkl", "pickle", "pyd", "pt", "pth", "cloudpickle", "dill", "joblib")
"""Endings of members of WebDataset that hold pickles."""
EMBED = "Hugging Face puts them in with .with_format('arrow').map(datasets.table.embed_table_storage, batched=True)"
ROUNDING = 1e-4
"""How far floats of an image may leave [0, 1]: resizing rounds."""
READ = ("image", "cloud")
"""Contents besides plain values that are read from somebody's tables."""


def columns_of(
    kind: DataKind, needed: tuple[str, ...], asked: Mapping[str, str], there: list[str], where: str
) -> dict[str, tuple[str, ...]]:
    """Our column -> theirs: as asked, else that of the same name; several names for x, y and z, or for what a row may have instead.

    `needed`: the columns of ours that the views read. Raises `CallError` naming the columns that are there.
    """
    ours = [column.name for column in kind.columns if column.content in READ or column is ID or column.name == "label"]
    for name in asked:
        if name not in ours:
            raise CallError(
                f"{where}: {kind.name} have no column {name!r}: {nearest(name, ours)}", f"write for example ?{kind.samples[0]}=NAME"
            )
    found: dict[str, tuple[str, ...]] = {}
    for name in dict.fromkeys((ID.name, *needed)):
        theirs = tuple(part.strip() for part in asked[name].split(",")) if name in asked else (name,)
        if name not in asked and name not in there and name == "image":
            theirs = tuple(one for one in there if f".{one.rpartition('.')[2].lower()}" in IMAGE_SUFFIXES) or theirs  # of WebDataset
        lacking = [one for one in theirs if one not in there]
        if not lacking:
            found[name] = theirs
        elif name in asked or name != ID.name:
            shown = ", ".join(there[:30]) + (f" and {len(there) - 30} more" if len(there) > 30 else "")
            what = f"it has no column {lacking[0]!r}" if name in asked else f"none of its columns is called {name}"
            raise CallError(f"{where}: {what}; columns: {shown}", f"say which one is the {name}: ?{name}=NAME")
    for name, theirs in found.items():
        if pickled := [one for one in theirs if one.rpartition(".")[2].lower() in PICKLES]:
            raise CallError(
                f"{where}: {pickled[0]!r} for {name} is a pickle, and pickles are never read", "store it as an image or an array"
            )
    return found


def check_type(column: Column, theirs: tuple[str, ...], schema: pa.Schema, where: str) -> None:
    """Raises `CallError` where a column of theirs is of a type that cannot be ours, and names that type."""
    for name in theirs:
        kind = schema.field(name).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if _is_pickled(kind):
            raise CallError(
                f"{where}: column {name!r} holds pickled Python objects ({PICKLED}), which are never read",
                "give bytes, numbers or arrays: return a uint8 array of one shape, or the bytes of the image file",
            )
        dimensions, numbers = _array_type(kind)
        if column.content == "image":
            good = _is_bytes(kind) or _bytes_field(kind) is not None or (dimensions in (2, 3, None) and _is_number(numbers))
            wanted = "the bytes of an image file, {bytes, path}, or an array of numbers"
        elif column.content == "cloud":
            good = _is_number(numbers) and dimensions in ((1,) if len(theirs) == 3 else (2, None))
            wanted = "an array of points x 3, or three lists: points=x,y,z"
        else:
            good = pa.types.is_integer(kind) or _is_bytes(kind) or _is_text(kind) if column.name == "label" else True
            wanted = "whole numbers or names"
        if not good and not pa.types.is_null(kind):
            raise CallError(f"{where}: column {name!r} is {_words(kind)}; {column.name} is {wanted}", "convert it, or name another column")


def rows_of(table: pa.Table, columns: Mapping[str, tuple[str, ...]]) -> Iterator[dict[str, Any]]:
    """The rows of a table as ours, with bytes, NumPy arrays and plain values. `id` is theirs, else their path, else of the content."""
    values = {name: [_values(table[one]) for one in theirs if one in table.column_names] for name, theirs in columns.items()}
    path = next((name for name in ("path", "__key__") if name in table.column_names), None)
    paths = _values(table[path]) if path else None
    for row in range(table.num_rows):
        found: dict[str, Any] = {}
        for name, parts in values.items():
            held = [part[row] for part in parts]
            if len(held) == 3 and name in ("points", "normals"):
                found[name] = None if any(one is None for one in held) else _stacked(held)
            else:  # what a row may have instead: the first that it has
                found[name] = next((one for one in held if one is not None), None)
        known = found.get(ID.name)
        if known is None:
            known = paths[row] if paths and paths[row] is not None else _digest(found)
        yield {**found, ID.name: str(known)}


def decode(row: Mapping[str, Any], kind: DataKind) -> dict[str, Any]:
    """A row of `rows_of` as its columns are seen. Raises `BrokenSampleError` naming the row."""
    sample: dict[str, Any] = {}
    for name, value in row.items():
        column = kind.column(name)
        try:
            if value is None:
                raise BrokenSampleError("is empty")
            if column is not None and column.content == "image":
                if isinstance(value, str):
                    raise BrokenSampleError(f"only the path of a file is there, {value[-60:]!r}, without its bytes ({EMBED})")
                value = decode_image(value) if isinstance(value, bytes) else _pixels(value)
            elif column is not None and column.content == "cloud":
                value = _cloud(value)
            elif name == "label":
                value = _label(value)
        except BrokenSampleError as error:
            raise BrokenSampleError(f"{row[ID.name]}: {name}: {error}") from None
        sample[name] = value
    return sample


def made(row: Mapping[str, Any], kind: DataKind, views: Views, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """What `views` make of a row of `rows_of`. Raises `BrokenSampleError` naming the row."""
    sample = decode(row, kind)
    try:
        return views(sample, rng)
    except BrokenSampleError as error:
        raise BrokenSampleError(f"{row[ID.name]}: {error}") from None


def _pixels(array: Any) -> np.ndarray:
    """uint8 H x W x 3."""
    if not isinstance(array, np.ndarray) or array.dtype == object:
        raise BrokenSampleError(f"no image: {type(array).__name__}")
    if array.ndim == 3 and array.shape[2] not in (1, 3, 4) and array.shape[0] in (1, 3, 4):
        array = array.transpose(1, 2, 0)
    array = array[..., None] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or not array.size:
        raise BrokenSampleError(f"an array of shape {array.shape} is no image: it is height x width x channels, or channels first")
    if array.shape[0] * array.shape[1] > MAX_PIXELS:
        raise BrokenSampleError(f"image exceeds the limit of {MAX_PIXELS:,} pixels: {array.shape[1]} x {array.shape[0]}")
    if array.dtype.kind == "f":
        low, high = float(array.min()), float(array.max())
        if not -ROUNDING <= low <= high <= 1 + ROUNDING:
            advice = "convert it to uint8" if 0 <= low <= high <= 255 else "undo its normalisation"
            raise BrokenSampleError(f"floats of an image lie in [0, 1], and these from {low:.4g} to {high:.4g}: {advice}")
        array = (array.astype(np.float32) * 255).round().clip(0, 255).astype(np.uint8)
    elif array.dtype.kind not in "iu" or array.min() < 0 or array.max() > 255:
        wide = f"an image of {array.dtype} from {array.min()} to {array.max()}"
        raise BrokenSampleError(f"{wide}: whole numbers are 0 .. 255 (bring them there by its white), or give floats in [0, 1]")
    array = array.astype(np.uint8, copy=False)
    if array.shape[2] == 4:  # over white, as image files
        alpha = array[..., 3:].astype(np.uint16)
        array = ((array[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(array, (*array.shape[:2], 3)))


def _cloud(array: Any) -> np.ndarray:
    """float32 n x 3."""
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu" or array.ndim != 2 or array.shape[1] != 3:
        shape = getattr(array, "shape", type(array).__name__)
        more = isinstance(array, np.ndarray) and array.ndim == 2 and array.shape[1] > 3
        advice = "; it looks transposed" if more and len(array) == 3 else "; of more columns give x y z alone" if more else ""
        raise BrokenSampleError(f"a cloud is an array of points x 3 (x y z), not {shape}{advice}")
    if not 1 <= len(array) <= MAX_POINTS:
        raise BrokenSampleError(f"{len(array):,} points; 1 to {MAX_POINTS:,} are taken")
    with np.errstate(over="ignore"):
        points = centred(array)[0].astype(np.float32)
    if bad := int((~np.isfinite(points)).any(axis=1).sum()):
        raise BrokenSampleError(f"coordinates that are not finite: {bad:,} of {len(points):,} points")
    return points


def as_text(value: object) -> str:
    """A number or a name; WebDataset has it as text in a file of its own."""
    return value.decode(errors="replace").strip() if isinstance(value, bytes) else str(value)


def _label(value: Any) -> int:
    """WebDataset has it as text in a file of its own."""
    try:
        return int(value)
    except (TypeError, ValueError):
        raise BrokenSampleError(f"{str(value)[:40]!r} is no whole number") from None


def _stacked(parts: list[Any]) -> Any:
    lengths = {len(part) for part in parts}
    return np.stack(parts, axis=1) if len(lengths) == 1 else np.empty(0)


def _digest(row: Mapping[str, Any]) -> str:
    """A name for a row without one."""
    digest = hashlib.blake2b(digest_size=6)
    for value in row.values():
        digest.update(value if isinstance(value, bytes) else value.tobytes() if isinstance(value, np.ndarray) else str(value).encode())
    return f"row-{digest.hexdigest()}"


def _values(column: pa.ChunkedArray) -> list[Any]:
    """Bytes, NumPy arrays, numbers and text of a column, one a row."""
    return [value for chunk in column.chunks for value in _of_chunk(chunk)]


def _of_chunk(chunk: pa.Array) -> list[Any]:
    kind = chunk.type
    if pa.types.is_dictionary(kind):
        return _of_chunk(chunk.dictionary_decode())
    if isinstance(kind, pa.FixedShapeTensorType):
        return _where_valid(chunk, chunk.to_numpy_ndarray())
    if isinstance(kind, pa.BaseExtensionType):
        return _where_valid(chunk, chunk.to_numpy(zero_copy_only=False)) if kind.extension_name in TENSORS else chunk.to_pylist()
    if (name := _bytes_field(kind)) is not None:
        files = pc.struct_field(chunk, [name]).to_pylist()
        paths = pc.struct_field(chunk, ["path"]).to_pylist() if "path" in [field.name for field in kind] else files
        return [path if file is None else file for file, path in zip(files, paths, strict=True)]
    if pa.types.is_struct(kind) and _array_type(kind) != (0, None):
        flat, sides = _of_chunk(pc.struct_field(chunk, ["data"])), _of_chunk(pc.struct_field(chunk, ["shape"]))
        return [None if one is None else one.reshape(side) for one, side in zip(flat, sides, strict=True)]
    return _of_lists(chunk) if _is_list(kind) else list(chunk.to_pylist())


def _where_valid(chunk: pa.Array, arrays: Any) -> list[Any]:
    return [array if valid else None for array, valid in zip(arrays, chunk.is_valid().to_pylist(), strict=True)]


def _of_lists(chunk: pa.Array) -> list[Any]:
    """Nested lists of numbers as arrays; what is ragged or holds no numbers stays as Python has it."""
    valid, levels, values = chunk.is_valid().to_pylist(), [], chunk
    while _is_list(values.type):
        if pa.types.is_fixed_size_list(values.type):
            size = values.type.list_size
            offsets = np.arange(values.offset, values.offset + len(values) + 1, dtype=np.int64) * size
        else:
            offsets = np.asarray(values.offsets, np.int64)
        levels.append(offsets)
        values = values.values
    if not _is_number(values.type) or values.null_count:
        return list(chunk.to_pylist())
    numbers, found = np.asarray(values), []
    for row, there in enumerate(valid):
        start, stop, shape = row, row + 1, []
        for offsets in levels:
            sizes = np.diff(offsets[start : stop + 1])
            if len(sizes) and (sizes != sizes[0]).any():
                shape = [-1]
                break
            shape.append(int(sizes[0]) if len(sizes) else 0)
            start, stop = int(offsets[start]), int(offsets[stop])
        whole = there and -1 not in shape
        found.append(numbers[start:stop].reshape(shape) if whole else chunk[row].as_py() if there else None)
    return found


def _array_type(kind: pa.DataType) -> tuple[int | None, pa.DataType | None]:
    """(dimensions, type of the numbers) of arrays; None dimensions: any number. (0, None) for what holds no arrays."""
    if isinstance(kind, pa.FixedShapeTensorType):
        return len(kind.shape), kind.value_type
    if isinstance(kind, pa.BaseExtensionType):
        if kind.extension_name not in TENSORS:
            return 0, None
        return len(kind.shape), kind.value_type
    if pa.types.is_struct(kind):
        held = {field.name: field.type for field in kind}
        return (None, held["data"].value_type) if set(held) == {"data", "shape"} and _is_list(held["data"]) else (0, None)
    depth = 0
    while _is_list(kind):
        depth, kind = depth + 1, kind.value_type
    return (depth, kind) if depth and _is_number(kind) else (0, None)


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _bytes_field(kind: pa.DataType) -> str | None:
    """The field of a struct such as {bytes, path} that holds a file."""
    if not pa.types.is_struct(kind):
        return None
    return next((field.name for field in kind if field.name == "bytes" and (_is_bytes(field.type) or pa.types.is_null(field.type))), None)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_number(kind: pa.DataType | None) -> bool:
    return kind is not None and bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _is_pickled(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.BaseExtensionType):
        return kind.extension_name == PICKLED or _is_pickled(kind.storage_type)
    if _is_list(kind):
        return _is_pickled(kind.value_type)
    return any(_is_pickled(kind.field(index).type) for index in range(kind.num_fields))


def _words(kind: pa.DataType) -> str:
    if _is_text(kind):
        return "text (if it holds paths, return their bytes: ray:MODULE:FUNCTION)"
    return json.dumps(str(kind))[1:-1]
