"""What readers of captures share: numbers of text files, poses in OpenCV's axes, poses by time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import numpy as np
from pydantic import BeforeValidator, TypeAdapter, ValidationError

from sightline.methods.errors import BrokenSampleError, CallError
from sightline.platform.core.budget import parse_json
from sightline.platform.data.lenses import LENSES, Lens

from .files import images_in, lines_of, placement_of
from .packed import Packed

Known = dict[str, Any]
"""The content of a `cameras.json`."""
OPENGL = np.diag([1.0, -1, -1, 1])
"""Takes points of a camera with y up and z back to one with y down and z forward, and back."""
PHOTOS = (".jpg", ".jpeg", ".png")
_IN_ONE_LINE = {9: (3, 3), 12: (3, 4), 16: (4, 4)}
_MATRICES = ((3, 3), (3, 4), (4, 4))
_UNIT = 0.05
"""How far from 1 a quaternion may be: fewer digits, not other columns."""


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


def _matrix(value: Any) -> Any:
    """Numbers of a matrix as an array, which takes a tenth of the memory; what is none stays as it is."""
    if isinstance(value, list):
        with suppress(TypeError, ValueError, OverflowError):
            numbers = np.array(value, np.float64)
            return numbers if numbers.shape in _MATRICES else value
    return value


@dataclass(frozen=True, slots=True)
class Bends:
    """A lens that can be undone: see `lenses.Lens`."""

    model: str
    params: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Frame:
    """One photo as `cameras.json` describes it; `K` and `cam_to_world` are checked where they are used."""

    file: str
    K: Annotated[Any, BeforeValidator(_matrix)] = None
    cam_to_world: Annotated[Any, BeforeValidator(_matrix)] = None
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


_FRAME: TypeAdapter[Frame] = TypeAdapter(Frame)


class Frames(Packed[Frame]):
    """The frames of a capture; each is what its layout says of it."""

    def add(self, known: Known) -> None:
        """Raises `ValueError` naming what is wrong with it."""
        try:
            self.append(_FRAME.validate_python(known))
        except ValidationError as error:
            detail = error.errors()[0]
            raise ValueError(f"frames.{'.'.join(map(str, (len(self), *detail['loc'])))}: {detail['msg']}") from None


def is_told(value: Any) -> bool:
    """Whether there is something of a frame: a matrix, a path."""
    return value is not None and len(value) > 0 if not isinstance(value, int | float) else bool(value)


def capture(name: str, frames: Iterable[Known] | Frames, **top: Any) -> Known:
    """The content of a `cameras.json` of this layout."""
    return {"layout": name, "frames": frames, **top}


def lens_of(model: str, params: Sequence[float]) -> Known:
    """What a frame says of a lens: how it can be undone, or its name where it is no pinhole and cannot."""
    if model in ("SIMPLE_PINHOLE", "PINHOLE") or (model in LENSES and not Lens(model, tuple(params)).bends):
        return {}
    return {"bends": {"model": model, "params": list(params)}} if model in LENSES else {"lens": model}


def numbers(text: str) -> list[float]:
    """The numbers between spaces or commas; NaN for what is none."""

    def number(word: str) -> float:
        try:
            return float(word)
        except ValueError:
            return math.nan

    return [number(word) for word in text.replace(",", " ").split()]


def matrix(path: Path) -> list[list[float]]:
    """The numbers of a text file by rows, also of a matrix in one line; what is no number is NaN, and is named when it is used."""
    try:
        rows = [numbers(line) for line in lines_of(path)]
    except CallError:  # no text
        return [[math.nan]]
    shape = _IN_ONE_LINE.get(len(rows[0])) if len(rows) == 1 else None
    return np.reshape(rows[0], shape).tolist() if shape else rows


def first_matrix(*paths: Path) -> list[list[float]] | None:
    return next((matrix(path) for path in paths if path.is_file()), None)


def camera_3x3(fx: Any, fy: Any, cx: Any, cy: Any) -> list[list[Any]]:
    """`K`; what is no number is named when it is used."""
    return [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]


def pose_of_quaternion(x: float, y: float, z: float, w: float, place: Sequence[float]) -> np.ndarray:
    """4 x 4. One that is no rotation stays none, and is named when it is used."""
    length = math.hypot(x, y, z, w)
    x, y, z, w = np.array([x, y, z, w]) / (length if abs(length - 1) < _UNIT else 1)
    pose = np.eye(4)
    pose[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    pose[:3, 3] = place
    return pose


def inverted(pose: np.ndarray) -> np.ndarray:
    """The other direction of a pose; NaN for what has none."""
    try:
        return np.linalg.inv(pose)
    except np.linalg.LinAlgError:
        return np.full(pose.shape, np.nan)


def in_opencv_axes(pose: Any) -> Any:
    """A camera-to-world matrix of OpenGL's axes in OpenCV's; what is none stays, and is named when it is used."""
    try:
        return (np.array(pose, np.float64) @ OPENGL).tolist() if np.shape(pose) in ((4, 4), (3, 4)) else pose
    except (ValueError, TypeError):  # rows of several lengths, texts
        return pose


@dataclass(frozen=True)
class Trajectory:
    """Poses at times of their own."""

    times: np.ndarray
    """Seconds, rising."""
    poses: np.ndarray
    """n x 4 x 4, camera or body to world."""

    @classmethod
    def of(cls, times: Sequence[float], poses: Sequence[np.ndarray]) -> Trajectory:
        """Sorted by time, the first of several at one time; what is not finite or no rotation is left out."""
        pairs = zip(times, poses, strict=True)
        good = {time: pose for time, pose in reversed([*pairs]) if math.isfinite(time) and _is_rigid(pose)}
        order = sorted(good)
        return cls(np.array(order), np.reshape([good[time] for time in order], (-1, 4, 4)))

    def at(self, time: float, apart: float) -> np.ndarray | None:
        """The pose at a time, between the two poses around it; None outside, and where these are more than `apart` seconds apart."""
        after = int(np.searchsorted(self.times, time))
        for near in (after - 1, after):
            if 0 <= near < len(self.times) and abs(self.times[near] - time) < 1e-5:
                return np.asarray(self.poses[near])
        if not 0 < after < len(self.times) or self.times[after] - self.times[after - 1] > apart:
            return None
        from scipy.spatial.transform import Rotation, Slerp

        span = self.times[after - 1 : after + 1]
        share = (time - span[0]) / (span[1] - span[0])
        pose = np.eye(4)
        pose[:3, :3] = Slerp(span, Rotation.from_matrix(self.poses[after - 1 : after + 1, :3, :3]))(time).as_matrix()
        pose[:3, 3] = (1 - share) * self.poses[after - 1, :3, 3] + share * self.poses[after, :3, 3]
        return pose


def _is_rigid(pose: np.ndarray) -> bool:
    R = pose[:3, :3]
    return bool(np.isfinite(pose).all() and np.abs(R.T @ R - np.eye(3)).max() < _UNIT and np.linalg.det(R) > 0)


def read_json(path: Path, who: str) -> Any:
    """Raises `CallError` for what is no JSON. `who` wrote it."""
    try:
        return parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CallError(f"{path} cannot be understood: {error}", f"give the file that {who} wrote") from None


def photos_of(folder: Path, *places: str) -> tuple[str, list[str]]:
    """(the first of the folders below that holds photos, their names in natural order); ("", []) where none does."""
    for place in places:
        if (folder / place).is_dir() and (names := [path.name for path in images_in(folder / place)]):
            return place, names
    return "", []


def joined(*parts: str) -> str:
    """A relative path of these parts, of which some may be empty."""
    return PurePosixPath(*(part.replace("\\", "/") for part in parts if part)).as_posix()


def upright_size(path: Path) -> tuple[float | None, float | None]:
    """(width, height) of a photo; unknown for one that is not there or that EXIF turns."""
    try:
        at = placement_of(path)
    except BrokenSampleError:
        return None, None
    return at.original[::-1] if at.orientation == 1 else (None, None)


def number_in(name: str) -> int | None:
    """The last whole number in the stem of a file name: `frame000012.jpg` is 12."""
    digits = "".join(letter if letter.isdecimal() else " " for letter in PurePosixPath(name).stem).split()
    return int(digits[-1]) if digits else None
