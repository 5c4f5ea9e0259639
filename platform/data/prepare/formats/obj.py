"""OBJ: corners and polygons in text. Materials, textures and curves are not read."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sightline.methods.errors import BrokenSampleError

from .polygons import Polygons, triangulated
from .shapes import Mesh, checked, reading, text_of


def read_obj(data: bytes, name: str) -> Mesh:
    """Faces lie together by material, the last material first, so that a data set made again is the same."""
    with reading("OBJ", name):
        vertices: list[list[str]] = []
        groups: dict[str, tuple[list[int], list[int]]] = {}
        current, free_form = groups.setdefault("", ([], [])), False
        for words in _lines(text_of(data)):
            match words[0]:
                case "v":
                    if len(words) < 4:
                        raise ValueError(f"a vertex of fewer than three numbers: {' '.join(words)[:40]!r}")
                    vertices.append(words[1:4])
                case "f":
                    for word in words[1:]:
                        corner = int(word.split("/", 1)[0])
                        if corner == 0:
                            raise ValueError("a face names vertex 0; they count from 1")
                        current[0].append(corner - 1 if corner > 0 else len(vertices) + corner)
                    current[1].append(len(words) - 1)
                case "usemtl":
                    current = groups.setdefault(" ".join(words[1:]) or " ", ([], []))
                case "curv" | "curv2" | "surf":
                    free_form = True
        if not vertices:
            raise BrokenSampleError(f"an empty mesh: {name}")
        corners = np.array(vertices, np.float64)
        cut = [_triangles(corners, *group) for group in reversed(groups.values())]
        mesh = checked(corners, np.concatenate(cut), name)
        if free_form and not len(mesh.faces):
            raise BrokenSampleError(f"curved surfaces (curv, surf) are not read: {name}; convert it to polygons")
        return mesh


def _triangles(vertices: np.ndarray, corners: list[int], sizes: list[int]) -> np.ndarray:
    polygons = Polygons(np.array(corners, np.int64), np.array(sizes, np.int64))
    return triangulated(vertices, polygons, in_order=len(set(sizes)) > 1)


def _lines(text: str) -> Iterator[list[str]]:
    """The words of each line; a line that ends in a backslash goes on in the next one."""
    for line in text.replace("\\\n", " ").split("\n"):
        if words := line.partition("#")[0].split():
            yield words
