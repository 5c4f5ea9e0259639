"""What the readers of files give: a mesh or a list of points."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from sightline.methods.errors import BrokenSampleError

MAX_SCENE = 20_000_000
"""Vertices of a mesh or points of a list; in a scene a geometry counts as often as it stands there."""

MAX_FACES = 6_000_000
"""Polygons that a header may name: files within the limits have as many only where they name a handful of vertices again and again."""


class Mesh(NamedTuple):
    """`vertices` n x 3 float64; `faces` m x 3 int64, none where the file has only points; `left_out` says what else it has."""

    vertices: np.ndarray
    faces: np.ndarray
    left_out: tuple[str, ...] = ()


class Cloud(NamedTuple):
    """`points` n x 3; `normals` n x 3 and `part` n where the file has them; `left_out` says what else it has of each point."""

    points: np.ndarray
    normals: np.ndarray | None = None
    part: np.ndarray | None = None
    left_out: tuple[str, ...] = ()


_CONTROL = re.compile(rb"[\0-\x08\x0e-\x19]")
"""Bytes that no text has, whatever its code."""
PIECE = 1 << 20
"""Rows of a large array that are looked at at once: what is made of them takes many times their bytes."""
NO_FACES = np.empty((0, 3), np.int64)


@contextmanager
def reading(what: str, name: str) -> Iterator[None]:
    """A file that does not keep its own format raises one of many errors; here they become a `BrokenSampleError` that names the file."""
    try:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # what is not finite is named later
            yield
    except BrokenSampleError:
        raise
    except UnicodeDecodeError:
        raise BrokenSampleError(f"cannot be read as {what}: {name} is not text") from None
    except (ArithmeticError, EOFError, MemoryError, RecursionError, ValueError, struct.error) as error:
        raise BrokenSampleError(
            f"cannot be read as {what}: {name}, {str(error).partition('; use `usecols`')[0] or type(error).__name__}"
        ) from None
    except (AttributeError, LookupError, TypeError) as error:  # a part of it that is missing, or of another kind
        raise BrokenSampleError(f"cannot be read as {what}: {name}, {type(error).__name__}: {error}") from None


def text_of(data: bytes) -> str:
    """Text in UTF-8, or in UTF-16 where its first bytes say so; line ends of any system become `\\n`. Raises `UnicodeDecodeError`.

    Where it is no UTF-8, names and comments are in some older code: the numbers are the same in all of them.
    """
    try:
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        if _CONTROL.search(data):
            raise
        text = data.decode("latin-1")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def lines_of(text: bytes, encoding: str = "latin-1") -> Iterator[str]:
    """Its lines one by one, each with its end, which becomes `\\n`. A list of short lines takes ten times the bytes of the text."""
    return io.TextIOWrapper(io.BytesIO(text), encoding)


def filled_lines(text: bytes) -> Iterator[str]:
    """Those of `lines_of` that are not empty."""
    return (line for line in lines_of(text) if not line.isspace())


def checked(vertices: np.ndarray, faces: np.ndarray, name: str) -> Mesh:
    """Raises `BrokenSampleError` for faces of vertices that are not there."""
    vertices = np.asarray(vertices, np.float64).reshape(-1, 3)
    faces = np.asarray(faces, np.int64).reshape(-1, 3)
    if len(vertices) > MAX_SCENE:
        raise BrokenSampleError(f"a scene of more than {MAX_SCENE:,} vertices: {name}")
    if len(faces) and (faces.min() < 0 or faces.max() >= len(vertices)):
        raise ValueError(f"a face names vertex {faces.max() if faces.max() >= len(vertices) else faces.min()} of {len(vertices)}")
    return Mesh(vertices, faces)


def sampled(vertices: np.ndarray, faces: np.ndarray, count: int, rng: np.random.Generator) -> Cloud:
    """Points of the surface, each face by its area, with the normals of their faces."""
    largest, parts = np.finfo(np.float32).max, (vertices[at : at + PIECE] for at in range(0, len(vertices), PIECE))
    if wrong := sum(int((~(np.abs(part) <= largest).all(axis=1)).sum()) for part in parts):
        raise BrokenSampleError(f"coordinates that are not finite: {wrong} vertices")
    pieces = (_across(vertices, faces[at : at + PIECE]) for at in range(0, len(faces), PIECE))
    doubled = np.concatenate([np.linalg.norm(across, axis=1) for across in pieces])
    total = doubled.sum()
    if not total > 0:
        raise BrokenSampleError(f"a mesh without area: {len(faces)} faces")
    face = np.searchsorted(np.cumsum(doubled), rng.random(count) * total, side="right").clip(max=len(faces) - 1)
    u, v = rng.random((2, count, 1))
    outside = u + v > 1
    u, v = np.where(outside, 1 - u, u), np.where(outside, 1 - v, v)
    corner, one, two = (vertices[faces[face, i]] for i in range(3))
    points = corner + u * (one - corner) + v * (two - corner)
    return Cloud(points, _across(vertices, faces[face]) / doubled[face, None].clip(min=1e-300))


def _across(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """The normals of triangles, of twice the length of their areas."""
    corner, one, two = (vertices[faces[:, i]] for i in range(3))
    return np.cross(one - corner, two - corner)


def thinned(cloud: Cloud, count: int, rng: np.random.Generator) -> Cloud:
    """At most `count` of the points, in a drawn order where there are more."""
    if len(cloud.points) <= count:
        return cloud
    chosen = rng.permutation(len(cloud.points))[:count]
    normals, part = (None if column is None else column[chosen] for column in (cloud.normals, cloud.part))
    return cloud._replace(points=cloud.points[chosen], normals=normals, part=part)
