"""OFF: corners and polygons in text."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator
from itertools import islice

import numpy as np

from sightline.methods.errors import BrokenSampleError

from .polygons import Polygons, triangulated
from .shapes import MAX_FACES, Mesh, checked, lines_of, reading, text_of

_HEADER = re.compile(r"(ST)?(C)?(N)?(4)?(N)?OFF", re.IGNORECASE)
"""Texture, colour and normal of a vertex come after its x y z; a 4 means homogeneous coordinates, the last N a dimension."""


def read_off(data: bytes, name: str) -> Mesh:
    """Also `off`, COFF, NOFF and STOFF, and ModelNet's first line `OFF490 518 0`."""
    with reading("OFF", name):
        text = text_of(data).encode()
        rows = [line.split() for line in islice(_lines(text), 2)]
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
        before = 1 if counts else 2
        counts = counts or (rows[1] if len(rows) > 1 else [])
        if len(counts) < 2 or not all(word.isdigit() for word in counts[:2]):
            raise ValueError("it does not say how many vertices and faces it has")
        vertices, faces = int(counts[0]), int(counts[1])
        if faces > MAX_FACES:
            raise BrokenSampleError(f"a mesh of more than {MAX_FACES:,} faces: {name}")
        if (there := sum(1 for _ in _lines(text)) - before) < vertices + faces:
            raise ValueError(f"cut short: {there:,} lines for {vertices:,} vertices and {faces:,} faces")
        lines = islice(_lines(text), before, None)
        corners = np.empty((0, 3))
        if vertices:
            corners = np.loadtxt(islice(lines, vertices), np.float64, comments=None, usecols=(0, 1, 2), ndmin=2)
        sizes, flat = array("q"), array("q")
        for line in islice(lines, faces):
            words = line.split()
            sizes.append(size := int(words[0]))
            if not 0 <= size < len(words):
                raise ValueError(f"a face of {size} corners has {len(words) - 1}")
            flat.extend(map(int, words[1 : size + 1]))
        return checked(corners, triangulated(corners, Polygons(np.array(flat, np.int64), np.array(sizes, np.int64))), name)


def _lines(text: bytes) -> Iterator[str]:
    """Without comments and empty ones."""
    return (bare for line in lines_of(text, "utf-8") if (bare := line.partition("#")[0].strip()))
