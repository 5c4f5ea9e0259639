"""`cameras.json`: frames with intrinsics, poses and, for RGB-D, depth. OpenCV axes, pixel centres at whole numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from sightline.methods.errors import BrokenSampleError, CallError
from sightline.methods.random import key
from sightline.platform.core.budget import parse_json
from sightline.platform.data.geometry import Placement, camera_matrix, camera_pose, check_intrinsics, same_shape, scale_intrinsics
from sightline.platform.data.lenses import Lens

from ..files import Tree, is_inside, natural, placement_of, suffix_of
from ..known import Frame, Frames
from ..packed import Packed, sorted_by
from .present import present
from .readers import TUM_LISTS, TUM_SCALE, find_capture

NAME = "cameras.json"


@dataclass(frozen=True)
class Cameras:
    frames: Packed[Frame]
    unit: str = "unstated"
    distortion: Any = None
    depth_scale: float | None = None
    """Units of the depth maps in a metre."""
    layout: str = NAME
    """Where this is known from."""
    notes: list[str] = field(default_factory=list)
    complete: bool = False
    """Whether a photo in the folder that no frame names is none: another camera's, a picture of normals, a copy."""
    outside: bool = False
    """Whether depth may lie beside the folder: the reader of the layout made the paths, no list did."""

    @cached_property
    def timed(self) -> bool:
        """Whether every frame has a time."""
        return all(frame.time_s is not None for frame in self.frames)

    @cached_property
    def _firsts(self) -> np.ndarray:
        """The numbers of the frames whose file is not listed before, rising."""
        keys = np.fromiter((key(frame.file) for frame in self.frames), np.uint64, len(self.frames))
        return np.sort(np.unique(keys, return_index=True)[1])

    @cached_property
    def ordered(self) -> Packed[Frame]:
        """The frames by time where all have one, else by the natural order of their names; each file once, the first that is listed."""
        first = np.zeros(len(self.frames), bool)
        first[self._firsts] = True
        once = self.frames if first.all() else Packed(compress(self.frames, first))
        return sorted_by(lambda frame: (frame.time_s if self.timed else 0.0, natural(frame.file)), once)

    @cached_property
    def bent(self) -> list[str]:
        """The models of lenses that are undone."""
        return sorted({frame.bends.model for frame in self.frames if frame.bends})

    @cached_property
    def has_depth(self) -> bool:
        return any(frame.depth for frame in self.frames)

    def with_intrinsics(self, K: tuple[float, float, float, float] | None) -> Cameras:
        """These (fx, fy, cx, cy) for every frame that has none."""
        if K is None:
            return self
        fx, fy, cx, cy = K
        matrix = [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]
        return replace(self, frames=Packed(f if f.K is not None else replace(f, K=matrix) for f in self.frames))

    @property
    def repeated(self) -> list[tuple[str, str]]:
        """(file, why it is skipped) of what is listed again."""
        again = np.setdiff1d(np.arange(len(self.frames)), self._firsts)
        return [(self.frames[number].file, "a frame is listed twice") for number in again.tolist()]


class _Form(BaseModel):
    """What is said of all frames."""

    model_config = ConfigDict(extra="ignore")
    frames: Any
    unit: str = Cameras.unit
    distortion: Any = None
    depth_scale: float | None = None
    layout: str = NAME
    notes: list[str] = []
    complete: bool = False
    outside: bool = False

    @field_validator("frames")
    @classmethod
    def _each(cls, frames: Any) -> Frames:
        if isinstance(frames, Frames):
            return frames
        if not isinstance(frames, list):
            raise PydanticCustomError("list_type", "Input should be a valid list")
        found = Frames()
        for one in frames:
            found.add(one)
        return found


def read_cameras(folder: Path) -> Cameras | None:
    """The cameras of a folder: its `cameras.json`, or what another known layout has instead; None where it has neither.

    Raises `CallError` for what cannot be understood.
    """
    path = folder / NAME
    try:
        known = parse_json(path.read_bytes()) if path.is_file() else find_capture(folder)
        if known is None:
            return None
        cameras = Cameras(**dict(_Form.model_validate(known)))
        if path.is_file():
            cameras = replace(cameras, complete=False, outside=False)
        cameras = _with_files_there(cameras, folder)
        for frame in cameras.frames:
            if not is_inside(frame.file) or not (cameras.outside or is_inside(frame.depth or "x")):
                raise ValueError(f"frame {frame.file}: a path leaves the folder")
        if cameras.depth_scale is not None and not 0 < cameras.depth_scale < math.inf:
            raise ValueError(f"depth_scale is {cameras.depth_scale}, not a number above 0")
    except (ValidationError, ValueError) as error:
        first = str(error)
        if isinstance(error, ValidationError):
            detail = error.errors()[0]
            first = f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}".removeprefix("frames: Value error, ")
        raise CallError(
            f"{path if path.is_file() else folder} cannot be understood: {first}", "docs/captures.md describes the format"
        ) from None
    if not path.is_file():
        return replace(cameras, notes=[f"frames, poses and depth are read as {cameras.layout} has them", *cameras.notes])
    if cameras.depth_scale is None and all((folder / name).is_file() for name in TUM_LISTS):
        note = f"depth is read as TUM RGB-D has it, {TUM_SCALE:,.0f} units in a metre: {' and '.join(TUM_LISTS)} lie beside {NAME}"
        return replace(cameras, depth_scale=TUM_SCALE, notes=[note])
    return cameras


def _with_files_there(cameras: Cameras, folder: Path) -> Cameras:
    """The cameras with the photos and depth maps that are meant, where they lie under another name (`present`); a note tells."""
    photos = present(folder, (frame.file for frame in cameras.frames))
    depth = present(folder, (frame.depth for frame in cameras.frames if frame.depth and not cameras.outside)) if not cameras.outside else {}
    depth = {name: path for name, path in depth.items() if suffix_of(name) == suffix_of(path)}
    if not photos and not depth:
        return cameras
    frames = Packed(
        replace(frame, file=photos.get(frame.file, frame.file), depth=frame.depth and depth.get(frame.depth, frame.depth))
        for frame in cameras.frames
    )
    named, path = next(iter((photos or depth).items()))
    note = f"{len(photos) + len(depth):,} files lie under another name than {cameras.layout} gives, such as {path} for {named}"
    return replace(cameras, frames=frames, notes=[*cameras.notes, note])


def matrix_of(frame: Frame) -> np.ndarray:
    """`K` of a frame, as `camera_matrix` checks it. Raises `BrokenSampleError`, also for a lens that is no pinhole."""
    lens = frame.lens or (frame.bends.model if frame.bends and "FISHEYE" in frame.bends.model else None)
    if lens is not None:
        raise BrokenSampleError(f"no pinhole camera (make pinhole photos of them first): {lens}")
    return camera_matrix(frame.K)


@dataclass(frozen=True)
class Camera:
    """The camera of an upright photo."""

    at: Placement
    """The whole photo, not resized."""
    K: np.ndarray | None
    pose: np.ndarray | None
    """4 x 4, camera to world."""
    lens: Lens | None = None
    """What bends the photo; `K` is that of the bent one."""
    faults: tuple[str, ...] = ()
    """Why `K` or `pose` is None although the frame has one: `reason: detail`."""

    @cached_property
    def flat(self) -> tuple[float, ...] | None:
        """`K`, row after row: one tuple for all pairs of a photo."""
        return None if self.K is None else tuple(self.K.ravel().tolist())


def camera_of(frame: Frame, folder: Path, *, pose: bool = True, straighten: bool = False) -> Camera:
    """`K` and pose of a frame, checked, for the upright pixels of its photo. `pose`: whether it is wanted. `straighten`: whether the lens
    will be undone; else a fisheye is no pinhole, and other lenses are taken for one.

    Raises `BrokenSampleError` where the photo cannot be opened.
    """
    at = placement_of(folder / frame.file)
    faults: list[str] = []
    filed = False
    told = (frame.height, frame.width) if frame.height and frame.width else None
    K = cam_to_world = None
    try:
        K = None if frame.K is None else camera_matrix(frame.K) if straighten and frame.bends else matrix_of(frame)
    except BrokenSampleError as error:
        faults.append(str(error))
    try:
        cam_to_world = camera_pose(frame.cam_to_world) if pose and frame.cam_to_world is not None else None
    except BrokenSampleError as error:
        faults.append(str(error))
    try:
        filed = (K is not None or cam_to_world is not None) and _is_filed(K, told, at)
        if K is not None:
            size = at.filed if filed else at.original
            if told is not None and told != size:
                if not same_shape(told, size):
                    given = f"{told[1]:g} x {told[0]:g}, the photo has {size[1]} x {size[0]}"
                    raise BrokenSampleError(f"width and height in {NAME} have another shape than the photo: {given}")
                K = scale_intrinsics(K, size[1] / told[1], size[0] / told[0])
            check_intrinsics(K, *size, told=told is not None)
            K = at.intrinsics(K, filed)
        cam_to_world = None if cam_to_world is None else at.pose(cam_to_world, filed)
    except BrokenSampleError as error:
        return Camera(at, None, None, faults=(*faults, str(error)))
    lens = Lens(frame.bends.model, frame.bends.params) if straighten and frame.bends and K is not None else None
    if lens and filed:
        lens = lens.turned(at.turn)
    return Camera(at, K, cam_to_world, lens, tuple(faults))


def _is_filed(K: np.ndarray | None, told: tuple[float, float] | None, at: Placement) -> bool:
    """Whether a camera is that of the pixels as they lie in a file that EXIF turns: its size tells, or else where its middle is."""
    if at.orientation == 1:
        return False
    if told is not None:
        return at.is_filed(told)
    at.is_filed(at.original)  # raises where no size could tell
    if K is None:
        raise BrokenSampleError(f"a photo that its EXIF tag turns, and a pose without width and height of its image: {at.tag}")
    off = [abs(2 * K[0, 2] / width - 1) + abs(2 * K[1, 2] / height - 1) for height, width in (at.original, at.filed)]
    return bool(off[1] < off[0])


def unnamed(cameras: Cameras, folder: Path) -> list[str]:
    """A note that counts the images below a folder that its cameras do not name."""
    every = (name for frame in cameras.frames for name in (frame.file, frame.depth) if name)
    named = np.unique(np.fromiter((key(name) for name in every), np.uint64))
    images = Packed(Tree.of(folder).images())
    told = np.isin(np.fromiter((key(path) for path in images), np.uint64, len(images)), named)
    rest = list(compress(images, ~told))
    if not rest:
        return []
    return [f"{len(rest):,} image(s) in {folder.name} that {cameras.layout} does not name, the first {min(rest, key=natural)}"]


def skip_of(what: str, text: str, prefix: str = "") -> tuple[str, str]:
    """(what, why) of a fault `reason: detail`: the detail goes with the name."""
    reason, _, detail = text.partition(": ")
    return (f"{what} ({detail})" if detail else what), prefix + reason
