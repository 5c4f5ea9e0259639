"""Cameras of CO3D: one sequence of a category, whose `frame_annotations.jgz` lies in the folder above."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec
import numpy as np

from sightline.methods.errors import CallError
from sightline.platform.core.budget import OverBudgetError, check_unpacked

from ..known import Frames, Known, camera_3x3, capture, inverted

ANNOTATIONS = "frame_annotations.jgz"
_PYTORCH3D = np.diag([-1.0, -1, 1])
"""From axes x left, y up, z forward to x right, y down, z forward."""
_CHUNK = 2**22


class _Image(msgspec.Struct):
    path: str
    size: tuple[int, int]
    """Height, width."""


class _View(msgspec.Struct):
    R: Any
    T: Any
    focal_length: tuple[float, float]
    principal_point: tuple[float, float]
    intrinsics_format: str = "ndc_norm_image_bounds"


class _Annotation(msgspec.Struct):
    sequence_name: str
    frame_number: int
    image: _Image
    frame_timestamp: float | None = None
    viewpoint: _View | None = None
    depth: Any = None


def co3d(folder: Path) -> Known | None:
    """PyTorch3D's cameras: a point is `x R + T` as a row, x left, y up, z forward; focal lengths and centres in shares of half the image,
    from its middle. Depth is stored as bits of half floats, and is not read."""
    path = folder.parent / ANNOTATIONS
    if not (folder / "images").is_dir() or not path.is_file():
        return None
    try:
        own = [one for one in msgspec.json.decode(_unpacked(path), type=list[_Annotation]) if one.sequence_name == folder.name]
    except (OSError, EOFError, zlib.error, msgspec.MsgspecError, OverBudgetError) as error:
        raise CallError(f"{path} cannot be understood: {error}", "get the file again") from None
    frames, depth = Frames(), 0
    for one in sorted(own, key=lambda one: one.frame_number):
        file = PurePosixPath(one.image.path)
        inside = file.relative_to(f"{folder.parent.name}/{folder.name}") if file.parts[1:2] == (folder.name,) else file
        height, width = one.image.size
        known = {"file": inside.as_posix(), "time_s": one.frame_timestamp, "width": width, "height": height}
        frames.add(known | (_camera(one.viewpoint, height, width) if one.viewpoint else {}))
        depth += one.depth is not None
    notes = [f"{depth:,} depth map(s) of half floats are not read"] if depth else []
    return capture("CO3D", frames, unit="arbitrary", notes=notes, complete=True)


def _camera(view: _View, height: int, width: int) -> Known:
    half = np.array([width, height]) / 2
    if view.intrinsics_format == "ndc_isotropic":
        half_unit = np.full(2, half.min())
    elif view.intrinsics_format == "ndc_norm_image_bounds":
        half_unit = half
    else:
        return {"lens": f"intrinsics in the form {view.intrinsics_format}"}
    (fx, fy), (cx, cy) = np.array(view.focal_length) * half_unit, half - np.array(view.principal_point) * half_unit
    world_to_cam = np.full((4, 4), np.nan)
    if np.shape(view.R) == (3, 3) and np.shape(view.T) == (3,):
        world_to_cam = np.eye(4)
        world_to_cam[:3, :3], world_to_cam[:3, 3] = _PYTORCH3D @ np.transpose(view.R), _PYTORCH3D @ view.T
    return {"K": camera_3x3(fx, fy, cx - 0.5, cy - 0.5), "cam_to_world": inverted(world_to_cam)}


def _unpacked(path: Path) -> bytes:
    packed, parts = path.stat().st_size, bytearray()
    with path.open("rb") as opened, gzip.open(opened) as file:
        while chunk := file.read(_CHUNK):
            parts += chunk
            check_unpacked(packed, len(parts), path.name)
    return bytes(parts)
