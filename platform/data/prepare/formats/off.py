"""OFF: corners and polygons in text."""

from __future__ import annotations

import re

import numpy as np

from sightline.methods.errors import BrokenSampleError

from .polygons import Polygons, triangulated
from .shapes import Mesh, checked, reading, text_of

_HEADER = re.compile(r"(ST)?(C)?(N)?(4)?(N)?OFF", re.IGNORECASE)
"""Texture, colour and normal of a vertex come after its x y z; a 4 means homogeneous coordinates, the last N a dimension."""


def read_off(data: bytes, name: str) -> Mesh:
    """Also `off`, COFF, NOFF and STOFF, and ModelNet's first line `OFF490 518 0`."""
    with reading("OFF", name):
        rows = [words for line in text_of(data).split("\n") if (words := line.partition("#")[0].split())]
        if not rows:
            raise BrokenSampleError(f"an empty mesh: {name}")
        keyword = _HEADER.match(rows[0][0])
        if keyword is None:
            raise ValueError(f"its first line is {' '.join(rows[0])[:40]!r}, and not the word OFF")
        if keyword[4] or keyword[5] or (keyword[3] and re.match(r"(ST)?C?nOFF", rows[0][0])):
            raise BrokenSampleError(f"OFF of other than three dimensions: {name}")
        if rows[0][1:2] == ["BINARY"]:
            raise BrokenSampleError(f"binary OFF is not read: {name}; convert it to text, or to PLY")
        rest = [rows[0][0][keyword.end() :], *rows[0][1:]]
        counts = [word for word in rest if word]
        rows = rows[1:] if not counts else [counts, *rows[1:]]
        if not rows or len(rows[0]) < 2 or not all(word.isdigit() for word in rows[0][:2]):
            raise ValueError("it does not say how many vertices and faces it has")
        vertices, faces = int(rows[0][0]), int(rows[0][1])
        if len(rows) - 1 < vertices + faces:
            raise ValueError(f"cut short: {len(rows) - 1:,} lines for {vertices:,} vertices and {faces:,} faces")
        corners = np.array([row[:3] for row in rows[1 : 1 + vertices]], np.float64).reshape(-1, 3)
        sizes = [int(row[0]) for row in rows[1 + vertices : 1 + vertices + faces]]
        flat = [word for row, size in zip(rows[1 + vertices :], sizes, strict=False) for word in _corners(row, size)]
        return checked(corners, triangulated(corners, Polygons(np.array(flat, np.int64), np.array(sizes, np.int64))), name)


def _corners(row: list[str], size: int) -> list[str]:
    if not 0 <= size < len(row):
        raise ValueError(f"a face of {size} corners has {len(row) - 1}")
    return row[1 : size + 1]
