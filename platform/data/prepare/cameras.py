"""`cameras.json`: frames with intrinsics, poses and, for RGB-D, depth. OpenCV axes, pixel centres at whole numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from sightline.methods.errors import CallError
from sightline.platform.core.budget import parse_json

from .files import is_inside

NAME = "cameras.json"


class Frame(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)
    file: str
    K: list[list[float]] | None = None
    cam_to_world: list[list[float]] | None = None
    depth: str | None = None
    time_s: float | None = None

    @property
    def pose(self) -> np.ndarray | None:
        return None if self.cam_to_world is None else np.array(self.cam_to_world, np.float64).reshape(4, 4)

    @property
    def intrinsics(self) -> tuple[float, ...] | None:
        return None if self.K is None else tuple(float(v) for row in self.K for v in row)


class Cameras(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)
    frames: list[Frame]
    unit: str = "unstated"
    distortion: Any = None


def read_cameras(folder: Path) -> Cameras | None:
    """The cameras of a folder, None where it has no `cameras.json`. Raises `CallError` for one that cannot be understood."""
    path = folder / NAME
    if not path.is_file():
        return None
    try:
        cameras = Cameras.model_validate(parse_json(path.read_bytes()))
        for frame in cameras.frames:
            if np.shape(frame.K or np.eye(3)) != (3, 3) or np.shape(frame.cam_to_world or np.eye(4)) != (4, 4):
                raise ValueError(f"frame {frame.file}: K is 3 x 3 and cam_to_world 4 x 4")
            if not is_inside(frame.file) or not is_inside(frame.depth or "x"):
                raise ValueError(f"frame {frame.file}: a path leaves the folder")
    except (ValidationError, ValueError) as error:
        first = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise CallError(f"{path} cannot be understood: {first}", "docs/data.md describes the format") from None
    return cameras
