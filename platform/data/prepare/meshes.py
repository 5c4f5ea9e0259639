"""Reads a cloud from one file: a mesh, whose surface is sampled, or a list of points."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
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
LARGE = (".las", ".laz", ".npy", ".npz", ".bin", ".pcd")
"""May be larger where they are binary: 250 MiB of points take 3 seconds. Faces and text take many times their bytes in memory."""
MAX_BINARY = 256 * 2**20
NO_CLOUD = {
    **{b"version https://git-lfs": "a Git LFS pointer, not the file itself: get it with git lfs pull", b"\x1f\x8b": "packed with gzip"},
    **{b"<!doctype": "a web page", b"<html": "a web page", b"<?xml": "XML, such as COLLADA or X3D; convert it to .glb or .ply"},
}
PICKLES = (".pkl", ".pickle", ".dat", ".pt", ".pth")


def read_cloud(path: str, count: int, rng: np.random.Generator) -> Cloud:
    """A mesh gives `count` points of its surface, drawn by area; a list of points is taken as it is, or, where it is longer than
    `count`, that many of them in a drawn order. Raises `BrokenSampleError` with `reason: detail`.

    No other file is read, except what a `.gltf` takes its numbers from, where it lies in the same folder or below it.
    """
    name, suffix = Path(path).name, Path(path).suffix.lower()
    if suffix in PICKLES:
        raise BrokenSampleError(f"a pickle, which is never opened: {name}; convert it to .npy, .npz or .ply")
    data = read_file(path, limit_of(path))
    found: Mesh | Cloud
    if other := next((what for start, what in NO_CLOUD.items() if data[:64].lower().startswith(start)), None):
        raise BrokenSampleError(f"{other}: {name}")
    if suffix in ARRAYS:
        found = read_array_file(data, suffix, name)
    elif suffix in TEXTS:
        found = read_text(data, suffix, name)
    elif suffix in GLTF:
        found = read_gltf(data, name, lambda other: beside(path, other))
    else:
        found = READERS[suffix](data, name)
    if isinstance(found, Cloud):
        return thinned(found, count, rng)
    if len(found.faces):
        return sampled(found.vertices, found.faces, count, rng)._replace(left_out=found.left_out)
    if suffix in POINTS_TOO:
        return thinned(Cloud(found.vertices, left_out=found.left_out), count, rng)
    raise BrokenSampleError(f"a mesh without faces: {name}")


def limit_of(path: str) -> int:
    """The bytes that a cloud or mesh may have."""
    if Path(path).suffix.lower() in LARGE:
        with suppress(OSError), Path(path).open("rb") as file:
            start = file.read(64 * 2**10)
            if b"\0" in start:
                return MAX_BINARY
    return MAX_BYTES


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


def beside(path: str, other: str) -> bytes:
    """A file in the folder of `path` or below it; links that lead out of it are not followed."""
    folder = Path(path).parent
    if "://" in other or not is_inside(other) or not (folder / other).resolve().is_relative_to(folder.resolve()):
        raise BrokenSampleError(f"numbers in a file outside its folder: {Path(path).name} names {other[:80]!r}")
    return read_file(str(folder / other))
