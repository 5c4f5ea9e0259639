"""`cameras.json`: frames with intrinsics, poses and, for RGB-D, depth. OpenCV axes, pixel centres at whole numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from sightline.methods.errors import BrokenSampleError, CallError
from sightline.platform.core.budget import parse_json
from sightline.platform.data.geometry import Placement, camera_matrix, camera_pose, check_intrinsics, same_shape, scale_intrinsics
from sightline.platform.data.images import IMAGE_SUFFIXES
from sightline.platform.data.lenses import Lens

from ..files import Tree, is_inside, natural, placement_of, suffix_of
from .present import present
from .readers import TUM_LISTS, TUM_SCALE, find_capture

NAME = "cameras.json"


def _finite(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _range(value: Any) -> tuple[float, float] | None:
    """None also for what is no range."""
    numbers = [_finite(number) for number in value] if isinstance(value, list | tuple) else []
    low, high = numbers if len(numbers) == 2 else (None, None)
    return (low, high) if low is not None and high is not None and 0 < low < high else None


class Bends(BaseModel):
    """A lens that can be undone: see `lenses.Lens`."""

    model_config = ConfigDict(frozen=True)
    model: str
    params: tuple[float, ...]


class Frame(BaseModel):
    """One photo as `cameras.json` describes it; `K` and `cam_to_world` are checked where they are used."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    file: str
    K: Any = None
    cam_to_world: Any = None
    depth: str | None = None
    time_s: Annotated[float | None, BeforeValidator(_finite)] = None
    """None also for what is no number."""
    width: Annotated[float | None, BeforeValidator(_finite)] = None
    """Of the image that `K` is for."""
    lens: str | None = None
    """The model of a lens that is no pinhole, so that `K` does not describe it."""
    bends: Bends | None = None
    """A lens that is undone where the photo becomes a row, so that `K` describes it then."""
    height: Annotated[float | None, BeforeValidator(_finite)] = None
    depth_range: Annotated[tuple[float, float] | None, BeforeValidator(_range)] = None
    """The nearest and the farthest depth, in the unit of the pose."""


class Cameras(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)
    frames: list[Frame]
    unit: str = "unstated"
    distortion: Any = None
    depth_scale: float | None = None
    """Units of the depth maps in a metre."""
    layout: str = NAME
    """Where this is known from."""
    notes: list[str] = []
    complete: bool = False
    """Whether a photo in the folder that no frame names is none: another camera's, a picture of normals, a copy."""
    outside: bool = False
    """Whether depth may lie beside the folder: the reader of the layout made the paths, no list did."""

    @cached_property
    def timed(self) -> bool:
        """Whether every frame has a time."""
        return all(frame.time_s is not None for frame in self.frames)

    @cached_property
    def ordered(self) -> list[Frame]:
        """The frames by time where all have one, else by the natural order of their names; each file once, the first that is listed."""
        once = {frame.file: frame for frame in reversed(self.frames)}
        return sorted(once.values(), key=lambda frame: (frame.time_s if self.timed else 0.0, natural(frame.file)))

    def with_intrinsics(self, K: tuple[float, float, float, float] | None) -> Cameras:
        """These (fx, fy, cx, cy) for every frame that has none."""
        if K is None:
            return self
        fx, fy, cx, cy = K
        update = {"K": [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]}
        return self.model_copy(update={"frames": [f if f.K is not None else f.model_copy(update=update) for f in self.frames]})

    @property
    def repeated(self) -> list[tuple[str, str]]:
        """(file, why it is skipped) of what is listed again."""
        seen: set[str] = set()
        again = [frame.file for frame in self.frames if frame.file in seen or seen.add(frame.file)]  # type: ignore[func-returns-value]
        return [(file, "a frame is listed twice") for file in again]


def read_cameras(folder: Path) -> Cameras | None:
    """The cameras of a folder: its `cameras.json`, or what another known layout has instead; None where it has neither.

    Raises `CallError` for what cannot be understood.
    """
    path = folder / NAME
    try:
        known = parse_json(path.read_bytes()) if path.is_file() else find_capture(folder)
        if known is None:
            return None
        cameras = Cameras.model_validate(known)
        if path.is_file():
            cameras = cameras.model_copy(update={"complete": False, "outside": False})
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
            first = f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}"
        raise CallError(
            f"{path if path.is_file() else folder} cannot be understood: {first}", "docs/captures.md describes the format"
        ) from None
    if not path.is_file():
        return cameras.model_copy(update={"notes": [f"frames, poses and depth are read as {cameras.layout} has them", *cameras.notes]})
    if cameras.depth_scale is None and all((folder / name).is_file() for name in TUM_LISTS):
        note = f"depth is read as TUM RGB-D has it, {TUM_SCALE:,.0f} units in a metre: {' and '.join(TUM_LISTS)} lie beside {NAME}"
        return cameras.model_copy(update={"depth_scale": TUM_SCALE, "notes": [note]})
    return cameras


def _with_files_there(cameras: Cameras, folder: Path) -> Cameras:
    """The cameras with the photos and depth maps that are meant, where they lie under another name (`present`); a note tells."""
    photos = present(folder, (frame.file for frame in cameras.frames))
    depth = present(folder, (frame.depth for frame in cameras.frames if frame.depth and not cameras.outside)) if not cameras.outside else {}
    depth = {name: path for name, path in depth.items() if suffix_of(name) == suffix_of(path)}
    if not photos and not depth:
        return cameras
    frames = [
        frame.model_copy(update={"file": photos.get(frame.file, frame.file), "depth": frame.depth and depth.get(frame.depth, frame.depth)})
        for frame in cameras.frames
    ]
    named, path = next(iter((photos or depth).items()))
    note = f"{len(photos) + len(depth):,} files lie under another name than {cameras.layout} gives, such as {path} for {named}"
    return cameras.model_copy(update={"frames": frames, "notes": [*cameras.notes, note]})


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
    named = {name for frame in cameras.frames for name in (frame.file, frame.depth)}
    rest = [path for path in Tree.of(folder).take(IMAGE_SUFFIXES) if path not in named]
    return [f"{len(rest):,} image(s) in {folder.name} that {cameras.layout} does not name, the first {rest[0]}"] if rest else []


def skip_of(what: str, text: str, prefix: str = "") -> tuple[str, str]:
    """(what, why) of a fault `reason: detail`: the detail goes with the name."""
    reason, _, detail = text.partition(": ")
    return (f"{what} ({detail})" if detail else what), prefix + reason
