"""OBJ: corners and polygons in text. Materials, textures and curves are not read."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator
from itertools import groupby, islice
from operator import itemgetter

import numpy as np

from sightline.methods.errors import BrokenSampleError

from .polygons import Polygons, triangulated
from .shapes import Mesh, checked, lines_of, reading, text_of

MANY = 64
"""Lines from which it is quicker to read them at once."""
RUN = 200_000
"""Lines that are read at once."""
SIMPLE = ("v ", "v\t", "f ", "f\t")
_Faces = tuple["array[int]", "array[int]"]
"""The vertex numbers of all faces, and how many of them each face has."""


def read_obj(data: bytes, name: str) -> Mesh:
    """Faces lie together by material, the last material first, so that a data set made again is the same."""
    with reading("OBJ", name):
        vertices = array("d")
        groups: dict[str, _Faces] = {}
        current = groups.setdefault("", (array("q"), array("q")))
        for start, lines in _runs(text_of(data)):
            if len(lines) >= MANY and (table := _table(start, lines)) is not None:
                if start[0] == "v":
                    vertices.frombytes(table.tobytes())
                else:
                    current[0].frombytes(np.where(table > 0, table - 1, len(vertices) // 3 + table).tobytes())
                    current[1].extend(array("q", [table.shape[1]]) * len(table))
                continue
            for words in map(_words, lines):
                match words[:1]:
                    case ["v"]:
                        if len(words) < 4:
                            raise ValueError(f"a vertex of fewer than three numbers: {' '.join(words)[:40]!r}")
                        vertices.extend(map(float, words[1:4]))
                    case ["f"]:
                        for word in words[1:]:
                            corner = int(word.split("/", 1)[0])
                            if corner == 0:
                                raise ValueError("a face names vertex 0; they count from 1")
                            current[0].append(corner - 1 if corner > 0 else len(vertices) // 3 + corner)
                        current[1].append(len(words) - 1)
                    case ["usemtl"]:
                        current = groups.setdefault(" ".join(words[1:]) or " ", (array("q"), array("q")))
                    case ["surf"]:
                        raise BrokenSampleError(f"curved surfaces (surf) are not read: {name}; convert it to polygons")
        if not vertices:
            raise BrokenSampleError(f"an empty mesh: {name}")
        corners = np.array(vertices).reshape(-1, 3)
        return checked(corners, np.concatenate([_triangles(corners, *group) for group in reversed(groups.values())]), name)


def _triangles(vertices: np.ndarray, corners: array[int], sizes: array[int]) -> np.ndarray:
    return triangulated(vertices, Polygons(np.array(corners), np.array(sizes)), in_order=len(set(sizes)) > 1)


def _runs(text: str) -> Iterator[tuple[str, list[str]]]:
    """(first two letters, lines) of lines that begin alike; a line that ends in a backslash goes on in the next one."""
    lines = lines_of(re.sub(r"\\[ \t]*\n", " ", text).encode(), "utf-8")
    for start, alike in groupby(lines, itemgetter(slice(2))):
        while run := list(islice(alike, RUN)):
            yield start, run


def _words(line: str) -> list[str]:
    return line.partition("#")[0].split()


def _table(start: str, lines: list[str]) -> np.ndarray | None:
    """The numbers of many vertices or faces at once, or None where a line must be looked at by itself."""
    if start not in SIMPLE:
        return None
    bare = [line[2:] for line in lines]
    try:
        if start[0] == "v":
            table = np.loadtxt(bare, np.float64, usecols=(0, 1, 2), ndmin=2)
        else:
            text = re.sub(r"(?<=\d)/\S*", "", "".join(bare))
            if re.search(r"[^\d\s-]", text):
                return None
            table = np.loadtxt(text.split("\n"), np.int64, ndmin=2)
            if (table == 0).any():
                return None
    except ValueError:
        return None
    return table if len(table) == len(lines) else None
