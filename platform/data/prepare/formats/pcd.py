"""PCD of the Point Cloud Library: text, binary, and binary with LZF compression."""

from __future__ import annotations

import re
from itertools import islice

import numpy as np

from sightline.methods.errors import BrokenSampleError

from .columns import named_cloud
from .shapes import MAX_SCENE, Cloud, filled_lines, reading

MAX_UNPACKED = 512 * 2**20
"""Bytes that the points unpack to."""


def read_pcd(data: bytes, name: str) -> Cloud:
    """Points without a reading (NaN), as depth cameras leave them, are left out."""
    with reading("PCD", name):
        header, form, body = _header(data)
        names, sizes, types = header["FIELDS"], [int(word) for word in header["SIZE"]], header["TYPE"]
        counts = [int(word) for word in header.get("COUNT", ["1"] * len(names))]
        count = int(header["POINTS"][0]) if "POINTS" in header else int(header["WIDTH"][0]) * int(header["HEIGHT"][0])
        if not 0 <= count <= MAX_SCENE:
            raise BrokenSampleError(f"a list of more than {MAX_SCENE:,} points: {name} has {count:,}")
        kinds = [np.dtype(f"<{kind.lower()}{size}") for kind, size in zip(types, sizes, strict=True)]
        fields = list(zip(names, kinds, counts, strict=True))
        columns = {"ascii": _text, "binary": _binary, "binary_compressed": _compressed}[form](fields, count, body)
        columns.pop("_", None)
        if not columns or not len(next(iter(columns.values()))):
            raise BrokenSampleError(f"no points: {name}")
        cloud = named_cloud(columns, name)
        seen = np.isfinite(cloud.points).all(axis=1)
        if seen.all():
            return cloud
        if not seen.any():
            raise BrokenSampleError(f"no points: {name} has none with a reading")
        normals, part = (None if column is None else column[seen] for column in (cloud.normals, cloud.part))
        return Cloud(cloud.points[seen], normals, part, (*cloud.left_out, "points without a reading (NaN)"))


Field = tuple[str, np.dtype, int]


def _header(data: bytes) -> tuple[dict[str, list[str]], str, bytes]:
    last = re.search(rb"^DATA[ \t]+(\w+)[ \t]*(?:\r\n|\n|\r|$)", data[:65536], re.MULTILINE)
    if not last:
        raise ValueError("its header has no line DATA")
    lines = [line.split() for line in data[: last.start()].decode("latin-1").splitlines() if not line.lstrip().startswith("#")]
    header = {words[0].upper(): words[1:] for words in lines if words}
    header.setdefault("FIELDS", header.get("COLUMNS", []))  # its name in older versions
    form = last[1].decode().lower()
    if form not in ("ascii", "binary", "binary_compressed"):
        raise ValueError(f"its points are stored as {form!r}")
    if missing := [key for key in ("FIELDS", "SIZE", "TYPE") if not header.get(key)]:
        raise ValueError(f"its header has no line {missing[0]}")
    if not len(header["FIELDS"]) == len(header["SIZE"]) == len(header["TYPE"]):
        raise ValueError("its header has not one size and one type for each field")
    return header, form, data[last.end() :]


def _text(fields: list[Field], count: int, body: bytes) -> dict[str, np.ndarray]:
    if (there := sum(1 for _ in filled_lines(body))) < count:
        raise BrokenSampleError(f"cut short: {there:,} lines for {count:,} points")
    table = np.loadtxt(islice(filled_lines(body), count), np.float64, ndmin=2) if count else np.empty((0, len(fields)))
    if table.shape[1] < sum(width for _, _, width in fields):
        raise ValueError(f"{table.shape[1]} values a line for {len(fields)} fields")
    columns, at = {}, 0
    for name, _, width in fields:
        columns[name], at = table[:, at], at + width
    return columns


def _binary(fields: list[Field], count: int, body: bytes) -> dict[str, np.ndarray]:
    record = np.dtype([(f"f{i}", kind, (width,)) for i, (_, kind, width) in enumerate(fields)])
    if len(body) < count * record.itemsize:
        raise BrokenSampleError(f"cut short: {len(body):,} bytes, {count:,} points need {count * record.itemsize:,}")
    table = np.frombuffer(body, record, count)
    return {name: table[f"f{i}"][:, 0] for i, (name, _, width) in enumerate(fields) if width}


def _compressed(fields: list[Field], count: int, body: bytes) -> dict[str, np.ndarray]:
    """Field after field, the values of all points together."""
    packed, unpacked = (int(value) for value in np.frombuffer(body, "<u4", 2))
    needed = count * sum(kind.itemsize * width for _, kind, width in fields)
    if unpacked != needed or packed > len(body) - 8:
        raise BrokenSampleError(f"cut short: {len(body) - 8:,} of {packed:,} bytes, which unpack to {unpacked:,}; {needed:,} are needed")
    data, columns, at = lzf(body[8 : 8 + packed], unpacked), {}, 0
    for name, kind, width in fields:
        values = np.frombuffer(data, kind, count * width, at).reshape(count, width)
        at += values.nbytes
        if width:
            columns[name] = values[:, 0]
    return columns


def lzf(data: bytes, size: int) -> bytearray:
    """What LZF packed, of `size` bytes (Lehmann's liblzf). Raises `BrokenSampleError` above `MAX_UNPACKED`, `ValueError` where it is not
    whole."""
    if size > MAX_UNPACKED:
        raise BrokenSampleError(f"points of more than {MAX_UNPACKED:,} bytes: they unpack to {size:,}")
    made, at, end = bytearray(), 0, len(data)
    while at < end:
        control = data[at]
        at += 1
        if control < 32:  # so many and one more as they are
            made += data[at : at + control + 1]
            at += control + 1
            continue
        length, back = control >> 5, (control & 31) << 8
        if length == 7:
            length, at = length + data[at], at + 1
        back, at, length = back + data[at] + 1, at + 1, length + 2
        start = len(made) - back
        if start < 0:
            raise ValueError("its packed points refer to what is not there")
        if back >= length:
            made += made[start : start + length]
        else:  # what is copied repeats what is being written
            made += (made[start:] * (length // back + 1))[:length]
        if len(made) > size:
            break
    if len(made) != size:
        raise ValueError(f"its packed points give {len(made):,} bytes, not {size:,}")
    return made
