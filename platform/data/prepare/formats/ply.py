"""PLY: text and binary of both byte orders, meshes of any polygons or triangle strips, and clouds whose properties have names."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal, TypeAlias

import numpy as np

from sightline.methods.errors import BrokenSampleError
from sightline.platform.data.clouds import centred

from .columns import named_cloud
from .polygons import Polygons, strips, triangulated
from .shapes import MAX_FACES, MAX_SCENE, PIECE, Cloud, Mesh, checked, filled_lines, reading

_TYPES = {
    **{"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4", "float": "f4", "double": "f8"},
    **{"int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4", "float32": "f4", "float64": "f8"},
    **{"int64": "i8", "uint64": "u8"},
}
_ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
MAX_PROPERTIES = 1000


@dataclass
class _Property:
    name: str
    type: np.dtype
    count: np.dtype | None = None
    """Of a list: the type of its length."""


@dataclass
class _Element:
    name: str
    count: int
    properties: list[_Property] = field(default_factory=list)


Values: TypeAlias = dict[str, np.ndarray | Polygons]
"""The properties of an element by name: an array, or lists one after the other."""


def read_ply(data: bytes, name: str) -> Mesh | Cloud:
    """A mesh where there are faces or strips, else a cloud."""
    with reading("PLY", name):
        order, elements, body = _header(data)
        if short := _short(order, elements, body):
            raise BrokenSampleError(f"cut short: {name} has less than its header says ({short})")
        if any(one.count > MAX_FACES and any(own.count for own in one.properties) for one in elements):
            raise BrokenSampleError(f"a mesh of more than {MAX_FACES:,} faces: {name}")
        values = _text(elements, body) if not order else _binary(elements, body)
        points = {key: value for key, value in values.get("vertex", {}).items() if isinstance(value, np.ndarray)}
        if not points or not len(next(iter(points.values()))):
            raise BrokenSampleError(f"an empty mesh: {name}")
        vertices = np.column_stack([_coordinate(points, axis) for axis in "xyz"]).astype(np.float64)
        if not order and centred(vertices)[1] is None:  # as the header says, unless the text has digits that count and float32 lacks
            types = [one.type for element in elements if element.name == "vertex" for one in element.properties if one.name in "xyz"]
            vertices = np.column_stack([column.astype(type) for column, type in zip(vertices.T, types, strict=True)]).astype(np.float64)
        faces = _faces(values, vertices)
        return checked(vertices, faces, name) if len(faces) else named_cloud(points, name)


def _coordinate(points: dict[str, np.ndarray], axis: str) -> np.ndarray:
    for key, value in points.items():
        if key.lower() == axis:
            return value
    raise BrokenSampleError(f"points without x, y and z: they have {', '.join(points)}")


def _faces(values: dict[str, Values], vertices: np.ndarray) -> np.ndarray:
    made = [np.empty((0, 3), np.int64)]
    for element, cut in (("face", triangulated), ("tristrips", _cut_strips)):
        lists = {key: value for key, value in values.get(element, {}).items() if isinstance(value, Polygons)}
        known = next((lists[key] for key in ("vertex_indices", "vertex_index") if key in lists), None)
        if (one := known or (next(iter(lists.values())) if len(lists) == 1 else None)) is not None:
            made.append(cut(vertices, one))
        elif values.get(element) and len(next(iter(values[element].values()))):
            raise ValueError(f"its element {element!r} has no list vertex_indices")
    return np.concatenate(made)


def _cut_strips(vertices: np.ndarray, given: Polygons) -> np.ndarray:
    """A -1 in the list begins another strip."""
    parts, lengths = [], []
    for one in np.split(given.corners, np.cumsum(given.sizes)[:-1]):
        for part in np.split(one, np.flatnonzero(one == -1)):
            parts.append(part[part != -1])
            lengths.append(len(parts[-1]))
    return strips(np.concatenate([*parts, np.empty(0, np.int64)]), np.array(lengths, np.int64))


def _header(data: bytes) -> tuple[str, list[_Element], bytes]:
    """(byte order, empty for text; the elements; what comes after). Raises `ValueError`."""
    first = re.match(rb"ply[ \t]*(\r\n|\n|\r)", data)
    if not first:
        raise ValueError("its first line is not 'ply'")
    last = re.search(rb"(?:\r\n|\n|\r)end_header[ \t]*(?:" + first[1] + rb"|$)", data)
    if not last:
        raise ValueError("its header does not end")
    order, elements, total = None, list[_Element](), 0
    for line in re.split(r"\r\n|\n|\r", data[first.end() : last.start()].decode("latin-1")):
        match line.split():
            case ["format", form, *_] if form in _ORDERS:
                order = _ORDERS[form]
            case ["element", name, count] if re.fullmatch(r"\d{1,12}", count):
                elements.append(_Element(name, int(count)))
            case ["property", "list", length, type, name] if elements and type in _TYPES and _TYPES.get(length, "f")[0] in "iu":
                elements[-1].properties.append(_Property(name, np.dtype(_TYPES[type]), np.dtype(_TYPES[length])))
            case ["property", type, name] if elements and type in _TYPES:
                elements[-1].properties.append(_Property(name, np.dtype(_TYPES[type])))
            case [] | ["comment" | "obj_info", *_]:
                continue
            case words:
                raise ValueError(f"its header has the line {' '.join(words)[:60]!r}")
        total += 1
    if order is None:
        raise ValueError("its header names no format")
    if total > MAX_PROPERTIES:
        raise ValueError(f"its header has more than {MAX_PROPERTIES:,} lines")
    for element in elements:
        for one in element.properties:
            one.type = np.dtype(f"{order}{one.type.str[1:]}")
            one.count = np.dtype(f"{order}{one.count.str[1:]}") if one.count else None
    return order, elements, data[last.end() :]


def _short(order: str, elements: list[_Element], body: bytes) -> str:
    """What is missing, where the least that the header promises is not there."""
    if order:
        least = sum(one.count * sum((p.count or p.type).itemsize for p in one.properties) for one in elements)
        return f"{len(body):,} bytes, at least {least:,}" if len(body) < least else ""
    promised = sum(one.count for one in elements if one.properties)
    there = sum(1 for _ in filled_lines(body))
    return f"{there:,} lines, not {promised:,}" if there < promised else ""


def _text(elements: list[_Element], body: bytes) -> dict[str, Values]:
    lines = filled_lines(body)
    return {element.name: _table(element, islice(lines, element.count)) for element in elements if element.properties}


def _table(element: _Element, lines: Iterator[str]) -> Values:
    if not any(one.count for one in element.properties):
        table = np.loadtxt(lines, np.float64, comments=None, ndmin=2) if element.count else np.empty((0, len(element.properties)))
        if table.shape[1] < len(element.properties):
            raise ValueError(f"{table.shape[1]} values a line for {len(element.properties)} properties of {element.name!r}")
        return {one.name: table[:, i] for i, one in enumerate(element.properties)}
    found = {one.name: array("d") for one in element.properties}
    sizes = {one.name: array("q") for one in element.properties if one.count}
    for line in lines:
        words, at = line.split(), 0
        for one in element.properties:
            size = 1
            if one.count:
                size, at = _length(float(words[at])), at + 1
                sizes[one.name].append(size)
            if len(words) < at + size:
                raise ValueError(f"a line of {element.name!r} is too short: {line.strip()[:60]!r}")
            found[one.name].extend(map(float, words[at : at + size]))
            at += size
    lists = {key: Polygons(_numbers(np.frombuffer(found.pop(key))), np.frombuffer(own, np.int64)) for key, own in sizes.items()}
    return {**{key: np.frombuffer(values) for key, values in found.items()}, **lists}


def _length(value: float) -> int:
    if value < 0 or value != int(value):
        raise ValueError(f"a list of length {value:g}")
    return int(value)


def _numbers(values: np.ndarray) -> np.ndarray:
    """Vertex numbers. Of lists of other things, such as texture coordinates, the fractions are lost; nobody reads them."""
    if values.dtype.kind != "f":
        return values.astype(np.int64)
    whole = np.empty(len(values), np.int64)
    for at in range(0, len(values), PIECE):
        whole[at : at + PIECE] = np.nan_to_num(values[at : at + PIECE].astype(np.float64), nan=-2).clip(-(2**62), 2**62)
    return whole


def _binary(elements: list[_Element], body: bytes) -> dict[str, Values]:
    found, start = dict[str, Values](), 0
    for element in elements:
        if element.properties:
            found[element.name], start = _records(element, body, start)
    return found


def _records(element: _Element, body: bytes, start: int) -> tuple[Values, int]:
    """The values of an element that begins at `start`, and where it ends."""
    if not element.count:
        empty = Polygons(np.empty(0, np.int64), np.empty(0, np.int64))
        return {one.name: empty if one.count else np.empty(0) for one in element.properties}, start
    sizes = _sizes_of_first(element, body, start)
    record = _record_type(element, sizes)
    end = start + element.count * record.itemsize
    if end <= len(body):
        table = np.frombuffer(body, record, element.count, start)
        lists = [i for i, one in enumerate(element.properties) if one.count]
        if all((table[f"n{i}"] == sizes[i]).all() for i in lists):
            _check_values(element.count * max([sizes[i] for i in lists], default=0))
            values: Values = {}
            for i, one in enumerate(element.properties):
                values[one.name] = table[f"v{i}"]
                if i in lists:
                    values[one.name] = Polygons(_numbers(table[f"v{i}"].reshape(-1)), np.full(element.count, sizes[i]))
            return values, end
    return _uneven(element, body, start)


def _sizes_of_first(element: _Element, body: bytes, at: int) -> dict[int, int]:
    sizes = {}
    for i, one in enumerate(element.properties):
        if one.count:
            sizes[i] = _length(float(np.frombuffer(body, one.count, 1, at)[0]))
            at += one.count.itemsize
        at += one.type.itemsize * sizes.get(i, 1)
        if at > len(body):
            raise ValueError("it ends early")
    return sizes


def _record_type(element: _Element, sizes: dict[int, int]) -> np.dtype:
    fields: list[tuple[object, ...]] = []
    for i, one in enumerate(element.properties):
        if one.count:
            fields.append((f"n{i}", one.count))
        fields.append((f"v{i}", one.type, (sizes[i],)) if one.count else (f"v{i}", one.type))
    return np.dtype(fields)


def _uneven(element: _Element, body: bytes, start: int) -> tuple[Values, int]:
    """Lists of varying lengths: one walk over the lengths, then the values of each property are taken at once."""
    gaps, readers, firsts = _gaps(element), [], array("q")
    begins, lengths = dict[int, "array[int]"](), dict[int, "array[int]"]()
    for i, one in enumerate(element.properties):
        if one.count:
            begins[i], lengths[i] = array("q"), array("q")
            order: Literal["big", "little"] = "big" if one.count.byteorder == ">" else "little"
            readers.append((gaps[i], one.count.itemsize, order, one.count.kind == "i", one.type.itemsize, begins[i], lengths[i]))
    at, tail, limit = start, gaps[-1], len(body)
    for _ in range(element.count):
        firsts.append(at)
        for gap, width, order, signed, item, begin, length in readers:
            at += gap + width
            if at > limit:
                raise ValueError("it ends early")
            begin.append(at)
            length.append(int.from_bytes(body[at - width : at], order, signed=signed))
            if length[-1] < 0:
                raise ValueError(f"a list of length {length[-1]}")
            at += length[-1] * item
        at += tail
    if at > limit:
        raise ValueError("it ends early")
    _check_values(max(sum(length) for length in lengths.values()))
    data, values = np.frombuffer(body, np.uint8), Values()
    base, offset = np.array(firsts, np.int64), 0
    for i, one in enumerate(element.properties):
        item = one.type.itemsize
        if one.count:
            first, sizes = np.array(begins[i], np.int64), np.array(lengths[i], np.int64)
            values[one.name] = Polygons(_lists(data, first, sizes, one.type), sizes)
            base, offset = first + sizes * item, 0
        else:
            values[one.name] = _taken(data, base + offset, one.type)
            offset += item
    return values, at


def _check_values(count: int) -> None:
    if count > MAX_SCENE:
        raise BrokenSampleError(f"faces of more than {MAX_SCENE:,} corners: they have {count:,}")


def _lists(data: np.ndarray, first: np.ndarray, sizes: np.ndarray, type: np.dtype) -> np.ndarray:
    """The numbers of lists of `sizes` values that begin at `first`, one list after the other."""
    made = [np.empty(0, np.int64)]
    for at in range(0, len(sizes), PIECE):
        some, begin = sizes[at : at + PIECE], first[at : at + PIECE]
        before = np.cumsum(some) - some
        places = np.repeat(begin - before * type.itemsize, some) + np.arange(some.sum()) * type.itemsize
        made.append(_numbers(_taken(data, places, type)))
    return np.concatenate(made)


def _taken(data: np.ndarray, places: np.ndarray, type: np.dtype) -> np.ndarray:
    """The values of `type` whose bytes begin at `places`."""
    taken = np.empty(len(places), type)
    for at in range(0, len(places), PIECE):
        some = np.ascontiguousarray(data[places[at : at + PIECE, None] + np.arange(type.itemsize)])
        taken[at : at + PIECE] = some.view(type).reshape(-1)
    return taken


def _gaps(element: _Element) -> dict[int, int]:
    """The bytes of plain values before each list, and, as -1, after the last."""
    gaps, gap = {}, 0
    for i, one in enumerate(element.properties):
        if one.count:
            gaps[i], gap = gap, 0
        else:
            gap += one.type.itemsize
    return {**gaps, -1: gap}
