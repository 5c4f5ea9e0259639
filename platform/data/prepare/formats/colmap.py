"""Models of COLMAP: the files `cameras`, `images` and `points3D`, binary or text, as colmap.github.io/format.html describes them."""

from __future__ import annotations

import io
import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sightline.methods.errors import CallError
from sightline.platform.core.budget import check_text

from ..packed import Packed
from .sights import Sights

MODELS: dict[str, tuple[int, int]] = {
    "SIMPLE_PINHOLE": (0, 3),
    "PINHOLE": (1, 4),
    "SIMPLE_RADIAL": (2, 4),
    "RADIAL": (3, 5),
    "OPENCV": (4, 8),
    "OPENCV_FISHEYE": (5, 8),
    "FULL_OPENCV": (6, 12),
    "FOV": (7, 5),
    "SIMPLE_RADIAL_FISHEYE": (8, 4),
    "RADIAL_FISHEYE": (9, 5),
    "THIN_PRISM_FISHEYE": (10, 12),
    "RAD_TAN_THIN_PRISM_FISHEYE": (11, 16),
    "SIMPLE_DIVISION": (12, 4),
    "DIVISION": (13, 5),
    "SIMPLE_FISHEYE": (14, 3),
    "FISHEYE": (15, 4),
    "EUCM": (16, 6),
    "EQUIRECTANGULAR": (17, 2),
}
"""Name -> (number in binary files, how many parameters)."""
ONE_FOCAL = frozenset(
    ("SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE", "SIMPLE_DIVISION", "SIMPLE_FISHEYE")
)
"""Their parameters begin with f, cx, cy; those of the others with fx, fy, cx, cy."""
_NAMES = {number: (name, count) for name, (number, count) in MODELS.items()}
NO_POINT = -1


@dataclass(frozen=True)
class ColmapCamera:
    """`params` as COLMAP orders them; pixel centres lie at halves."""

    model: str
    width: int
    height: int
    params: tuple[float, ...]

    @property
    def focal(self) -> tuple[float, float, float, float]:
        """fx, fy, cx, cy."""
        fx, *rest = self.params
        fy, cx, cy = (fx, *rest[:2]) if self.model in ONE_FOCAL else rest[:3]
        return fx, fy, cx, cy

    @property
    def lens(self) -> tuple[float, ...]:
        """The parameters that make it another lens than a pinhole."""
        return self.params[3 if self.model in ONE_FOCAL else 4 :]


@dataclass(frozen=True, slots=True)
class ColmapImage:
    name: str
    camera: int
    world_to_cam: np.ndarray
    """4 x 4."""


@dataclass(frozen=True)
class ColmapModel:
    folder: Path
    cameras: dict[int, ColmapCamera]
    images: Packed[ColmapImage]
    seen: Sights
    """By the name of the image; empty where it was not asked for."""
    points: dict[int, int] = field(default_factory=dict)
    """Id -> row of `xyz`."""
    xyz: np.ndarray = field(default_factory=lambda: np.zeros((0, 3)))


def has_model(folder: Path) -> bool:
    return any(all((folder / f"{name}{end}").is_file() for name in ("cameras", "images")) for end in (".bin", ".txt"))


def read_model(folder: Path, *, seen: bool = False, points: bool = False) -> ColmapModel:
    """The model in a folder, binary where it lies there in both forms. `seen`: with what each image sees. `points`: with the 3-D points.

    Raises `CallError` naming the file that is damaged.
    """
    binary = all((folder / f"{name}.bin").is_file() for name in ("cameras", "images"))
    end = ".bin" if binary else ".txt"
    path = folder / f"cameras{end}"
    try:
        cameras = dict(_cameras_of_bytes(path) if binary else _cameras_of_text(path))
        path = folder / f"images{end}"
        images, sights = Packed[ColmapImage](), Sights()
        for image, own in _images_of_bytes(path) if binary else _images_of_text(path):
            images.append(image)
            if seen:
                sights.add(image.name, own)
        path = folder / f"points3D{end}"
        ids, xyz = (_points_of_bytes(path) if binary else _points_of_text(path)) if points and path.is_file() else ([], [])
    except (struct.error, ValueError, IndexError, KeyError, UnicodeDecodeError, MemoryError) as error:
        raise CallError(
            f"{path} is no whole file of COLMAP: {error}", "copy the model again, or export it with `colmap model_converter`"
        ) from None
    for image in images:
        if image.camera not in cameras:
            raise CallError(
                f"{folder}: image {image.name} has camera {image.camera}, which cameras{end} does not list", "copy the model again"
            )
    rows = {number: row for row, number in enumerate(ids)}
    return ColmapModel(folder, cameras, images.close(), sights, rows, np.asarray(xyz, np.float64).reshape(-1, 3))


def _mapped(path: Path) -> bytes | mmap.mmap:
    """The content of a file, which is not read as a whole."""
    with path.open("rb") as file:
        try:
            number = file.fileno()
        except io.UnsupportedOperation:  # in an archive
            return bytes(file.read())
        return mmap.mmap(number, 0, access=mmap.ACCESS_READ)


class _Bytes:
    """Little-endian numbers, one after the other. Counts that promise more than the file holds are refused before anything is made."""

    def __init__(self, path: Path) -> None:
        self.data, self.at = _mapped(path), 0

    def take(self, form: str) -> tuple[int | float, ...]:
        values = struct.unpack_from(f"<{form}", self.data, self.at)
        self.at += struct.calcsize(f"<{form}")
        return values

    def count(self, least: int) -> int:
        """A number of things that take `least` bytes each."""
        (count,) = self.take("Q")
        if count * least > len(self.data) - self.at:
            raise ValueError(f"it ends before its {count:,} entries")
        return int(count)

    def text(self) -> str:
        end = self.data.find(b"\0", self.at)
        if end < 0:
            raise ValueError("it ends in a name")
        value = self.data[self.at : end].decode()
        self.at = end + 1
        return value

    def array(self, dtype: np.dtype[np.void], count: int) -> np.ndarray:
        values = np.frombuffer(self.data, dtype, count, self.at)
        self.at += count * dtype.itemsize
        return values


_SEEN = np.dtype([("xy", "<f8", 2), ("point", "<i8")])


def _cameras_of_bytes(path: Path) -> Iterator[tuple[int, ColmapCamera]]:
    file = _Bytes(path)
    for _ in range(file.count(24)):
        number, kind, width, height = map(int, file.take("iiQQ"))
        if kind not in _NAMES:
            raise ValueError(f"camera {number} is of model {kind}, which is not known")
        name, count = _NAMES[kind]
        yield number, ColmapCamera(name, width, height, tuple(map(float, file.take(f"{count}d"))))


def _images_of_bytes(path: Path) -> Iterator[tuple[ColmapImage, np.ndarray]]:
    """Each with the ids of the points that it sees."""
    file = _Bytes(path)
    for _ in range(file.count(73)):
        numbers = file.take("i7di")
        name = file.text()
        seen = file.array(_SEEN, file.count(_SEEN.itemsize))
        yield ColmapImage(name, int(numbers[8]), _pose(numbers[1:8])), seen["point"][seen["point"] != NO_POINT]


def _points_of_bytes(path: Path) -> tuple[list[int], list[np.ndarray]]:
    file = _Bytes(path)
    ids, xyz = [], []
    for _ in range(file.count(51)):
        number, x, y, z = file.take("Q3d")
        file.at += 11  # colour and error
        track = file.count(8)
        file.at += 8 * track
        ids.append(int(number))
        xyz.append(np.array([x, y, z]))
    return ids, xyz


def _lines(path: Path, keep_empty: bool = False) -> Iterator[str]:
    check_text(path)
    with path.open("rb") as opened, io.TextIOWrapper(opened, encoding="utf-8-sig") as lines:
        for line in lines:
            if not line.startswith("#") and (keep_empty or line.strip()):
                yield line


def _cameras_of_text(path: Path) -> Iterator[tuple[int, ColmapCamera]]:
    for line in _lines(path):
        number, model, width, height, *params = line.split()
        if model not in MODELS:
            raise ValueError(f"camera {number} is of model {model}, which is not known")
        if len(params) != MODELS[model][1]:
            raise ValueError(f"camera {number} is {model} with {len(params)} parameters in place of {MODELS[model][1]}")
        yield int(number), ColmapCamera(model, int(width), int(height), tuple(map(float, params)))


def _images_of_text(path: Path) -> Iterator[tuple[ColmapImage, np.ndarray]]:
    """As `_images_of_bytes`: two lines an image; the second, of its points, may be empty."""
    lines = _lines(path, keep_empty=True)
    for line in lines:
        if not line.strip():
            continue
        words = line.split(maxsplit=9)
        seen = np.array(next(lines, "").split(), np.float64).reshape(-1, 3)
        there = seen[:, 2] != NO_POINT
        pose = _pose(list(map(float, words[1:8])))
        yield ColmapImage(words[9].strip(), int(words[8]), pose), seen[there, 2].astype(np.int64)


def _points_of_text(path: Path) -> tuple[list[int], list[np.ndarray]]:
    ids, xyz = [], []
    for line in _lines(path):
        number, x, y, z, *_ = line.split(maxsplit=4)
        ids.append(int(number))
        xyz.append(np.array([x, y, z], np.float64))
    return ids, xyz


def _pose(numbers: tuple[int | float, ...] | list[float]) -> np.ndarray:
    """World to camera, of a quaternion w x y z and a translation."""
    w, x, y, z = np.array(numbers[:4]) / (np.linalg.norm(numbers[:4]) or 1)
    pose = np.eye(4)
    pose[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    pose[:3, 3] = numbers[4:7]
    return pose
