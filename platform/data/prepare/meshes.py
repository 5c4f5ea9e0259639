"""Clouds out of one file: a mesh whose surface is sampled, or a list of points. Files come from strangers: nothing beside them is read."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sightline.methods.errors import BrokenSampleError

from ..clouds import MAX_POINTS
from .items import read_file

MESHES = (".off", ".obj", ".stl", ".glb")
ARRAYS = (".npy", ".npz", ".txt", ".xyz", ".pts", ".csv")
SUFFIXES = (*MESHES, ".ply", *ARRAYS)
"""A `.ply` is either: a mesh where it has faces."""
PICKLES = (".pkl", ".pickle", ".dat", ".pt", ".pth")
KEYS = ("points", "xyz", "pc", "arr_0")
"""Of an `.npz` with several arrays, the first of these."""


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
        data = _mended_off(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scene = trimesh.load_scene(io.BytesIO(data), file_type=suffix[1:], process=False, resolver=None, skip_materials=True)
            parts = scene.dump()
    except Exception as error:  # a reader of strangers' files raises whatever it meets
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


def _mended_off(data: bytes) -> bytes:
    """ModelNet has files whose first line is `OFF490 518 0`."""
    return b"OFF\n" + data[3:] if data[:3] == b"OFF" and data[3:4].isdigit() else data


def sampled(vertices: np.ndarray, faces: np.ndarray, count: int, rng: np.random.Generator) -> Cloud:
    """Points of the surface, each face by its area, with the normals of their faces."""
    if not np.isfinite(vertices).all():
        raise BrokenSampleError(f"coordinates that are not finite: {int((~np.isfinite(vertices)).any(axis=1).sum())} vertices")
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
            with np.load(io.BytesIO(data), allow_pickle=False) as archive:
                names = archive.files
                key = names[0] if len(names) == 1 else next((k for k in KEYS if k in names), None)
                if key is None:
                    raise BrokenSampleError(f"arrays without a cloud: {', '.join(names[:5])}; one must be named {' or '.join(KEYS[:3])}")
                return np.asarray(archive[key])
        text = data.decode("utf-8", "strict")
        first = text.lstrip().split("\n", 1)[0]
        return np.loadtxt(io.StringIO(text), delimiter="," if "," in first else None, ndmin=2, max_rows=MAX_POINTS + 1)
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
