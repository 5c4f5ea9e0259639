"""A person's meshes and photographs for rendered rooms. They are named when a set is prepared, and read where rooms are rendered."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from sightline.methods.errors import BrokenSampleError, CallError
from sightline.platform.data.images import decode_image
from sightline.platform.data.remarks import remark
from sightline.platform.data.synthetic.clutter import Clutter
from sightline.platform.data.synthetic.textures import SIZE

from ..files import Tree, read_file
from ..formats.gltf import read_gltf
from ..formats.shapes import Mesh
from ..meshes import GLTF, READERS, beside, limit_of

MESHES = (".glb", ".gltf", ".obj", ".off", ".ply", ".stl")
Y_UP = (*GLTF, ".obj")
"""Formats whose second axis points upwards, by their specification or by habit."""
MOST_FACES = 200_000
"""Of a mesh: a room holds some of them, and a process per CPU holds a room."""


@dataclass(frozen=True)
class OwnFiles:
    """Files that every room may use. A small value: it travels to the workers, and its `repr` is part of what identifies a shard."""

    folder: str
    names: tuple[str, ...]
    digest: str
    """Of names and sizes."""

    @classmethod
    def of(cls, folder: str, suffixes: tuple[str, ...], what: str, option: str) -> OwnFiles:
        """Raises `CallError` for a place that is no folder or has no such file."""
        place = Path(folder).expanduser().resolve()
        if not place.is_dir():
            raise CallError(f"{option} {folder}: no such folder", f"name a folder of {what}")
        names = tuple(Tree.of(place).take(suffixes))
        if not names:
            raise CallError(f"{option} {folder}: no {what} there", f"files that end in {', '.join(suffixes)}")
        sizes = ",".join(f"{name}:{(place / name).stat().st_size}" for name in names)
        return cls(str(place), names, hashlib.sha256(sizes.encode()).hexdigest()[:16])


def own_clutter(meshes: OwnFiles | None, pictures: OwnFiles | None, count: int) -> Clutter | None:
    """What the files hold. A file that cannot be used is left out and told. Raises `BrokenSampleError` where none is left."""
    if meshes is None and pictures is None:
        return None
    return Clutter(_all(meshes, _mesh) if meshes else (), _all(pictures, _picture) if pictures else (), count)


@lru_cache(maxsize=2)
def _all(files: OwnFiles, read: Callable[[str], np.ndarray]) -> tuple[np.ndarray, ...]:
    found, reasons = [], []
    for name in files.names:
        try:
            found.append(read(str(Path(files.folder) / name)))
        except BrokenSampleError as error:
            reasons.append(f"{name}: {error}")
            remark(f"left out of the rooms: {name}: {error}")
    if not found:
        raise BrokenSampleError(f"none of the {len(files.names)} files in {files.folder} can be used; {reasons[0]}")
    return tuple(found)


def _mesh(path: str) -> np.ndarray:
    """float32 F x 3 corners x 3, z up. Raises `BrokenSampleError`."""
    suffix, name = Path(path).suffix.lower(), Path(path).name
    data = read_file(path, limit_of(path))
    found = read_gltf(data, name, lambda other: beside(path, other)) if suffix in GLTF else READERS[suffix](data, name)
    if not isinstance(found, Mesh) or not len(found.faces):
        raise BrokenSampleError("points without faces, which have no surface to see")
    if len(found.faces) > MOST_FACES:
        raise BrokenSampleError(f"{len(found.faces):,} faces; at most {MOST_FACES:,} (simplify it)")
    corners = found.vertices[found.faces]
    if not np.isfinite(corners).all() or not np.ptp(corners.reshape(-1, 3), axis=0).max() > 0:
        raise BrokenSampleError("a mesh without extent, or with numbers that are not finite")
    if suffix in Y_UP:
        corners = np.stack([corners[..., 0], -corners[..., 2], corners[..., 1]], axis=-1)
    return np.asarray(corners, np.float32)


def _picture(path: str) -> np.ndarray:
    """The largest square in the middle, of the size of a texture."""
    image = decode_image(read_file(path))
    side = min(image.shape[:2])
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    box = (left, top, left + side, top + side)
    return np.asarray(Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.BOX, box=box), np.float32) / 255
