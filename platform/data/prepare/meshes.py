"""Reads a cloud from one file: a mesh, whose surface is sampled, or a list of points."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np

from sightline.methods.errors import BrokenSampleError
from sightline.platform.data.images import MAX_BYTES

from .files import Tree, is_inside, read_file
from .formats.gltf import needed_files, read_gltf
from .formats.lists import read_array_file, read_text
from .formats.obj import read_obj
from .formats.off import read_off
from .formats.pcd import read_pcd
from .formats.ply import read_ply
from .formats.scans import read_bin, read_las
from .formats.shapes import Cloud, Mesh, sampled, thinned
from .formats.stl import read_stl

ARRAYS = (".npy", ".npz")
TEXTS = (".txt", ".xyz", ".pts", ".csv", ".asc")
READERS: dict[str, Callable[[bytes, str], Mesh | Cloud]] = {
    ".off": read_off,
    ".obj": read_obj,
    ".stl": read_stl,
    ".ply": read_ply,
    ".pcd": read_pcd,
    ".las": read_las,
    ".laz": read_las,
    ".bin": read_bin,
}
GLTF = (".glb", ".gltf")
POINTS_TOO = (".ply", *GLTF)
"""Meshes or, without faces, clouds."""
SUFFIXES = (*READERS, *GLTF, *ARRAYS, *TEXTS)
PICKLES = (".pkl", ".pickle", ".dat", ".pt", ".pth")


def read_cloud(path: str, count: int, rng: np.random.Generator) -> Cloud:
    """A mesh gives `count` points of its surface, drawn by area; a list of points is taken as it is, or, where it is longer than
    `count`, that many of them in a drawn order. Raises `BrokenSampleError` with `reason: detail`.

    No other file is read, except what a `.gltf` takes its numbers from, where it lies in the same folder or below it.
    """
    name, suffix = Path(path).name, Path(path).suffix.lower()
    if suffix in PICKLES:
        raise BrokenSampleError(f"a pickle, which is never opened: {name}; convert it to .npy, .npz or .ply")
    data = read_file(path)
    found: Mesh | Cloud
    if suffix in ARRAYS:
        found = read_array_file(data, suffix, name)
    elif suffix in TEXTS:
        found = read_text(data, suffix, name)
    elif suffix in GLTF:
        found = read_gltf(data, name, lambda other: _beside(path, other))
    else:
        found = READERS[suffix](data, name)
    if isinstance(found, Cloud):
        return thinned(found, count, rng)
    if len(found.faces):
        return sampled(found.vertices, found.faces, count, rng)
    if suffix in POINTS_TOO:
        return thinned(Cloud(found.vertices), count, rng)
    raise BrokenSampleError(f"a mesh without faces: {name}")


def clouds_in(tree: Tree, below: str = "") -> list[str]:
    """The meshes and clouds in the folder `below` and those below it, relative to it; no file that a `.gltf` keeps its numbers in."""
    found = tree.take(SUFFIXES, below)
    parts = {
        str(PurePosixPath(name).parent / part)
        for name in found
        if name.lower().endswith(".gltf") and (path := tree.root / below / name).stat().st_size <= MAX_BYTES
        for part in needed_files(path.read_bytes())
    }
    return [name for name in found if name not in parts]


def _beside(path: str, other: str) -> bytes:
    """A file in the folder of `path` or below it; links that lead out of it are not followed."""
    folder = Path(path).parent
    if "://" in other or not is_inside(other) or not (folder / other).resolve().is_relative_to(folder.resolve()):
        raise BrokenSampleError(f"numbers in a file outside its folder: {Path(path).name} names {other[:80]!r}")
    return read_file(str(folder / other))
