"""Reads a cloud from one file: a mesh, whose surface is sampled, or a list of points. No other file that it names is read."""

from __future__ import annotations

import io
import re
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sightline.methods.errors import BrokenSampleError
from sightline.platform.data.clouds import MAX_POINTS

from .files import read_file

MESHES = (".off", ".obj", ".stl", ".glb")
ARRAYS = (".npy", ".npz", ".txt", ".xyz", ".pts", ".csv")
SUFFIXES = (*MESHES, ".ply", *ARRAYS)
"""A `.ply` is either: a mesh where it has faces."""
PICKLES = (".pkl", ".pickle", ".dat", ".pt", ".pth")
KEYS = ("points", "xyz", "pc", "arr_0")
"""Of an `.npz` with several arrays, the first of these."""


MAX_ARRAYS = 512 * 2**20
"""Bytes that the arrays of an `.npz` unpack to."""
MAX_SCENE = 20_000_000
"""Vertices of a scene, a geometry counted as often as it stands there."""


class Cloud(NamedTuple):
    """`points` n x 3; `normals` n x 3 and `part` n where the file has them."""

    points: np.ndarray
    normals: np.ndarray | None = None
    part: np.ndarray | None = None


def read_cloud(path: str, count: int, rng: np.random.Generator) -> Cloud:
    """A mesh gives `count` points of its surface, drawn by area; a list of points is taken as it is, or, where it is longer than
    `count`, that many of them in a drawn order. Raises `BrokenSampleError` with `reason: detail`."""
    suffix = Path(path).suffix.lower()
    if suffix in PICKLES:
        raise BrokenSampleError(f"a pickle, which is never opened: {Path(path).name}; convert it to .npy, .npz or .ply")
    data = read_file(path)
    if suffix in ARRAYS:
        return thinned(columns_of(_array(data, suffix), Path(path).name), count, rng)
    mesh = _mesh(data, suffix, Path(path).name)
    if not len(mesh.faces):
        if suffix in MESHES:
            raise BrokenSampleError(f"a mesh without faces: {Path(path).name}")
        return thinned(Cloud(np.asarray(mesh.vertices)), count, rng)
    return sampled(np.asarray(mesh.vertices), np.asarray(mesh.faces), count, rng)


class _Mesh(NamedTuple):
    vertices: np.ndarray
    faces: np.ndarray


def _mesh(data: bytes, suffix: str, name: str) -> _Mesh:
    """All geometries of a scene as one, in their places."""
    import trimesh

    if suffix == ".off":
        data = _corrected_off(data)
    if _cut_short(data, suffix):
        raise BrokenSampleError(f"cut short: {name} has less than its header says")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scene = trimesh.load_scene(io.BytesIO(data), file_type=suffix[1:], process=False, resolver=None, skip_materials=True)
            placed: list[Any] = [scene.geometry[scene.graph[node][1]] for node in scene.graph.nodes_geometry]
            if sum(len(part.vertices) for part in placed) > MAX_SCENE:
                raise BrokenSampleError(f"a scene of more than {MAX_SCENE:,} vertices: {name}")
            parts = scene.dump()
    except BrokenSampleError:
        raise
    except Exception as error:  # trimesh raises exceptions of many types for broken files
        raise BrokenSampleError(f"cannot be read as {suffix[1:].upper()}: {name}, {type(error).__name__}: {error}") from None
    vertices, faces, first = [], [], 0
    for part in parts:
        if not isinstance(part, trimesh.Trimesh | trimesh.PointCloud):  # curves
            continue
        vertices.append(np.asarray(part.vertices, np.float64))
        faces.append(np.asarray(getattr(part, "faces", np.empty((0, 3), int)), np.int64) + first)
        first += len(vertices[-1])
    if not first:
        raise BrokenSampleError(f"an empty mesh: {name}")
    return _Mesh(np.concatenate(vertices), np.concatenate(faces))


def _corrected_off(data: bytes) -> bytes:
    """ModelNet has files whose first line is `OFF490 518 0`."""
    return b"OFF\n" + data[3:] if data[:3] == b"OFF" and data[3:4].isdigit() else data


def _cut_short(data: bytes, suffix: str) -> bool:
    """Whether a text file ends early, which its reader would not notice: a PLY with too few lines, an STL without its last line."""
    if suffix == ".stl":
        return data.lstrip()[:6].lower() == b"solid " and b"facet" in data[:1000] and b"endsolid" not in data.lower()
    header, end, body = data.partition(b"end_header")
    if suffix != ".ply" or not end or b"format ascii" not in header:
        return False
    elements = sum(int(count) for count in re.findall(rb"^element\s+\S+\s+(\d{1,12})", header, re.MULTILINE))
    return sum(bool(line.strip()) for line in body.splitlines()) < elements


def sampled(vertices: np.ndarray, faces: np.ndarray, count: int, rng: np.random.Generator) -> Cloud:
    """Points of the surface, each face by its area, with the normals of their faces."""
    wrong = ~(np.abs(vertices) <= np.finfo(np.float32).max).all(axis=1)
    if wrong.any():
        raise BrokenSampleError(f"coordinates that are not finite: {int(wrong.sum())} vertices")
    corner, one, two = (vertices[faces[:, i]] for i in range(3))
    across = np.cross(one - corner, two - corner)
    doubled = np.linalg.norm(across, axis=1)
    total = doubled.sum()
    if not total > 0:
        raise BrokenSampleError(f"a mesh without area: {len(faces)} faces")
    face = np.searchsorted(np.cumsum(doubled), rng.random(count) * total, side="right").clip(max=len(faces) - 1)
    u, v = rng.random((2, count, 1))
    outside = u + v > 1
    u, v = np.where(outside, 1 - u, u), np.where(outside, 1 - v, v)
    points = corner[face] + u * (one - corner)[face] + v * (two - corner)[face]
    return Cloud(points, across[face] / doubled[face, None].clip(min=1e-300))


def _array(data: bytes, suffix: str) -> np.ndarray:
    try:
        if suffix == ".npy":
            return np.asarray(np.load(io.BytesIO(data), allow_pickle=False))
        if suffix == ".npz":
            with zipfile.ZipFile(io.BytesIO(data)) as members:
                unpacked = sum(member.file_size for member in members.infolist())
            if unpacked > MAX_ARRAYS:
                raise BrokenSampleError(f"arrays of more than {MAX_ARRAYS:,} bytes: they unpack to {unpacked:,}")
            with np.load(io.BytesIO(data), allow_pickle=False) as archive:
                names = archive.files
                key = names[0] if len(names) == 1 else next((k for k in KEYS if k in names), None)
                if key is None:
                    raise BrokenSampleError(f"arrays without a cloud: {', '.join(names[:5])}; one must be named {' or '.join(KEYS[:3])}")
                return np.asarray(archive[key])
        text = data.decode("utf-8", "strict")
        first = text.lstrip().split("\n", 1)[0]
        counted = suffix == ".pts" and first.strip().isdigit()  # the first line of a .pts is often the number of points
        delimiter = "," if "," in first else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a file without a number: the columns tell
            return np.loadtxt(io.StringIO(text), delimiter=delimiter, ndmin=2, max_rows=MAX_POINTS + 1, skiprows=int(counted))
    except BrokenSampleError:
        raise
    except Exception as error:
        raise BrokenSampleError(f"cannot be read as {suffix[1:].upper()}: {type(error).__name__}: {error}") from None


def columns_of(table: np.ndarray, name: str) -> Cloud:
    """x y z; x y z and normal; x y z, normal and part; x y z and part. Raises `BrokenSampleError` for other numbers of columns."""
    if table.dtype.kind not in "fiu" or table.ndim != 2 or table.shape[1] not in (3, 4, 6, 7) or not len(table):
        raise BrokenSampleError(f"not 3, 4, 6 or 7 columns of numbers: {name} has shape {table.shape} of {table.dtype}")
    normals = table[:, 3:6] if table.shape[1] >= 6 else None
    part = table[:, -1] if table.shape[1] in (4, 7) else None
    return Cloud(table[:, :3], normals, part)


def thinned(cloud: Cloud, count: int, rng: np.random.Generator) -> Cloud:
    """At most `count` of the points, in a drawn order where there are more."""
    if len(cloud.points) <= count:
        return cloud
    chosen = rng.permutation(len(cloud.points))[:count]
    normals, part = (None if column is None else column[chosen] for column in cloud[1:])
    return Cloud(cloud.points[chosen], normals, part)


Reader = Callable[[str, int, np.random.Generator], Cloud]
