"""Cameras of multi-view stereo: MVSNet with DTU and BlendedMVS, Strecha, Bundler."""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from sightline.methods.errors import CallError
from sightline.platform.data.geometry import same_shape

from ..files import images_in, is_inside, lines_of
from ..formats.sights import Sights
from ..known import OPENGL, Known, camera_3x3, capture, inverted, joined, lens_of, numbers, photos_of, upright_size

FARTHEST_DEPTH = 60.0
"""Depth beyond it would not be stored, so a scene of arbitrary scale is made smaller."""
_MILLIMETRES = 100.0
"""A scene whose nearest depth is more is in millimetres, as DTU is (425)."""
_STEPS = 192
"""Steps of depth where a file does not say how many."""
_DTU_TRAIN = (128, 160)
"""Rows and columns that the cameras in DTU's `Cameras/train` are for: a quarter of photos of 640 x 512; others have those in `Cameras`."""


def strecha(folder: Path) -> Known | None:
    """`NAME.camera` for the photo NAME: K, three of distortion, the rotation and the place of the camera, width and height.

    A pixel is K R^T (X - place), so the rotation takes the camera's axes to the world.
    """
    sub = next((sub for sub in ("", "gt_dense_cameras", "cameras", "images") if any((folder / sub).glob("*.camera"))), None)
    if sub is None:
        return None
    frames, without = [], []
    for path in sorted((folder / sub).glob("*.camera")):
        places = (joined(at, path.stem) for at in (sub, "images", "urd", "") if (folder / at / path.stem).is_file())
        words = numbers(" ".join(lines_of(path)))
        bent = len(words) == 26 and any(words[9:12])
        words = words[:9] + words[12:] if len(words) == 26 else words
        if len(words) != 23:
            raise CallError(f"{path} has {len(words)} numbers, not 26: K, 3 of distortion, rotation, place, size", "copy it again")
        pose = np.column_stack([np.reshape(words[9:18], (3, 3)), words[18:21]])
        file = next(places, None)
        if file is None:
            without.append(path.name)
            continue
        size = {"width": words[21], "height": words[22]}
        frame = {"file": file, "K": np.reshape(words[:9], (3, 3)).tolist(), "cam_to_world": pose.tolist()}
        frames.append(frame | size | ({"lens": "distortion of Strecha's files"} if bent else {}))
    notes = [f"{len(without):,} camera(s) have no photo, the first {without[0]}"] if without else []
    return capture("Strecha", frames, unit="metre", notes=notes, complete=True)


def mvsnet(folder: Path) -> Known | None:
    """`cams/NNNNNNNN_cam.txt` (extrinsic: world to camera; intrinsic; nearest depth and step), photos in `images` or `blended_images`,
    depth in `rendered_depth_maps` as BlendedMVS has it; or a scan of DTU's training set, `Rectified/scanN_train`, with `Cameras` and
    `Depths` two folders above."""
    place = _dtu(folder) or _mvsnet_place(folder)
    if place is None:
        return None
    read = {number: _cam(place.cams / name) for number, name in place.names.items()}
    ranges = [one.depths for number, one in read.items() if number in place.photos and one.depths]
    unit = _unit_of(ranges)
    frames = []
    for number, file in place.photos.items():
        one = read.get(number)
        if one is None:
            continue
        pose = inverted(one.world_to_cam)
        pose[:3, 3] /= unit
        frames.append(
            {
                "file": file,
                "depth": place.depths.get(number),
                "K": one.K.tolist(),
                "cam_to_world": pose.tolist(),
                "width": place.size and place.size[1],
                "height": place.size and place.size[0],
                "depth_range": [one.depths[0] / unit, one.depths[1] / unit] if one.depths else None,
            }
        )
    told = {1.0: [], 1000.0: ["depth and places are taken as millimetres"]}
    notes = told.get(
        unit, [f"depth and places are divided by {unit:g}: the scene is of arbitrary scale, and depth beyond 65 is not stored"]
    )
    without = len(place.photos) - len(frames)
    notes += [f"{without:,} photo(s) have no camera"] if without else []
    scale = unit if place.depths else None
    metric = "metre" if unit == 1000 else "arbitrary"
    return capture("MVSNet", frames, unit=metric, depth_scale=scale, notes=[*place.notes, *notes], complete=True, outside=True)


def _unit_of(ranges: list[tuple[float, float]]) -> float:
    """By what depth and places are divided."""
    if not ranges:
        return 1.0
    nearest, farthest = float(np.median([one[0] for one in ranges])), max(one[1] for one in ranges)
    if nearest > _MILLIMETRES:
        return 1000.0
    return 10.0 ** math.ceil(math.log10(farthest / FARTHEST_DEPTH)) if farthest > FARTHEST_DEPTH else 1.0


@dataclass(frozen=True)
class _Place:
    """Where a scene lies; the keys are the numbers of the views."""

    cams: Path
    names: dict[int, str]
    photos: dict[int, str]
    depths: dict[int, str]
    size: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()


def _cam_files(folder: Path) -> dict[int, str]:
    found = (re.fullmatch(r"(\d+)_cam\.txt", path.name) for path in folder.iterdir()) if folder.is_dir() else ()
    return {int(match[1]): match[0] for match in found if match}


def _mvsnet_place(folder: Path) -> _Place | None:
    for sub in ("cams", "cams_1", "Cameras", ""):
        if names := _cam_files(folder / sub):
            break
    else:
        return None
    at, found = photos_of(folder, "blended_images", "images", "images_post", "")
    photos = {int(stem): joined(at, name) for name in found if (stem := name.rpartition(".")[0]).isdecimal()}
    maps = folder / "rendered_depth_maps"
    depths = {number: f"rendered_depth_maps/{number:08d}.pfm" for number in photos if (maps / f"{number:08d}.pfm").is_file()}
    return _Place(folder / sub, names, photos, depths)


def _dtu(folder: Path) -> _Place | None:
    """A scan of DTU: photo `rect_001_3_r5000.png` is view 0 in light 3."""
    found = [match for path in images_in(folder) if (match := re.fullmatch(r"rect_(\d+)_(\w+)_r5000\.png", path.name))]
    root = folder.parent.parent
    if not found:
        return None
    width, height = upright_size(folder / found[0][0])
    small = bool(_cam_files(root / "Cameras/train")) and bool(width and height and same_shape((height, width), _DTU_TRAIN))
    cams = root / ("Cameras/train" if small else "Cameras")
    names = _cam_files(cams)
    if not names:
        return None
    lights = sorted({match[2] for match in found})
    light = "3" if "3" in lights else lights[0]
    photos = {int(match[1]) - 1: match[0] for match in found if match[2] == light}
    maps = root / "Depths" / folder.name
    stored = {number: maps / f"depth_map_{number:04d}.pfm" for number in photos}
    depths = {number: joined("../../Depths", folder.name, path.name) for number, path in stored.items() if path.is_file()}
    notes = (f"of {len(lights)} lights the photos of light {light} are read",) if len(lights) > 1 else ()
    return _Place(cams, names, photos, depths, _DTU_TRAIN if small else None, notes)


@dataclass(frozen=True)
class _Cam:
    world_to_cam: np.ndarray
    K: np.ndarray
    depths: tuple[float, float] | None


def _cam(path: Path) -> _Cam:
    """The file of one camera of MVSNet."""
    _, _, text = " ".join(lines_of(path)).partition("extrinsic")
    outer, inner = (numbers(part) for part in text.partition("intrinsic")[::2])
    if len(outer) != 16 or len(inner) < 9:
        told = f"{path} has {len(outer)} and {len(inner)} numbers after extrinsic and intrinsic, not 16 and 9, 11 or 13"
        raise CallError(told, "copy it again")
    depths, rest = None, inner[9:]
    if len(rest) >= 2 and rest[0] > 0:
        depths = (rest[0], rest[3] if len(rest) > 3 else rest[0] + rest[1] * (rest[2] if len(rest) > 2 else _STEPS))
    return _Cam(np.reshape(outer, (4, 4)), np.reshape(inner[:9], (3, 3)), depths)


BUNDLES = ("bundle/bundle.out", "bundle.out", "bundle.rd.out", "sparse.out")


@dataclass(frozen=True)
class Bundle:
    """`bundle.out`: of each camera f, k1, k2, rotation and translation; which points it sees."""

    cameras: np.ndarray
    """n x 15."""
    seen: list[array[int]]
    """The numbers of the points that each camera sees."""


def bundle_file(folder: Path) -> Path | None:
    """Also COLMAP's export, `NAME.bundle.out`."""
    return next((path for path in (*(folder / name for name in BUNDLES), *sorted(folder.glob("*.bundle.out"))) if path.is_file()), None)


def bundler(folder: Path) -> Known | None:
    """Bundler's `bundle.out` and the list of its photos. World to camera in OpenGL's axes, the middle of the photo as its centre, and
    radial distortion k1, k2. A focal length of 0 says that a photo has no camera."""
    path = bundle_file(folder)
    if path is None:
        return None
    bundle = read_bundle(path)
    files = _bundle_photos(folder, path, len(bundle.cameras))
    frames, without = [], 0
    for file, (f, k1, k2, *rest) in zip(files, bundle.cameras.tolist(), strict=True):
        if f == 0:
            without += 1
            continue
        world_to_cam = np.vstack([np.column_stack([np.reshape(rest[:9], (3, 3)), rest[9:]]), (0, 0, 0, 1)])
        width, height = upright_size(folder / file) if is_inside(file) else (None, None)
        frames.append(
            {
                "file": file,
                "cam_to_world": (inverted(world_to_cam) @ OPENGL).tolist(),
                "K": camera_3x3(f, f, width / 2 - 0.5, height / 2 - 0.5) if width and height else None,
                "width": width,
                "height": height,
            }
            | lens_of("RADIAL", (k1, k2))
        )
    notes = [f"{without:,} photo(s) have no camera: Bundler did not place them"] if without else []
    return capture("Bundler", frames, unit="arbitrary", notes=notes, complete=True)


def read_bundle(path: Path, points: bool = False) -> Bundle:
    """`points`: with what each camera sees. Raises `CallError` for a file that ends early or is none."""
    lines = iter(lines_of(path))
    try:
        head = next(lines)
        if not head.startswith("# Bundle file"):
            raise ValueError("its first line is not `# Bundle file`")
        count, many = (int(word) for word in next(lines).split())
        cameras = np.array([[float(word) for _ in range(5) for word in next(lines).split()] for _ in range(count)]).reshape(-1, 15)
        seen = [array("q") for _ in range(count)]
        for number in range(many if points else 0):
            for camera in _views(lines):
                seen[camera].append(number)
    except (ValueError, IndexError, StopIteration) as error:
        raise CallError(f"{path} is no whole file of Bundler: {error or 'it ends early'}", "copy it again") from None
    return Bundle(cameras, seen)


def _views(lines: Iterator[str]) -> list[int]:
    """The cameras that see the next point: after its place and colour a line of how many, and for each camera, key, x, y."""
    next(lines), next(lines)
    words = next(lines).split()
    views = [int(word) for word in words[1::4]]
    if len(views) != int(words[0]):
        raise ValueError(f"a point has {words[0]} views and {len(views)} are listed")
    return views


def _bundle_photos(folder: Path, path: Path, count: int) -> list[str]:
    """The photos in the order of the cameras, relative to the folder. Raises `CallError` where the list has another length."""
    names = (f"{path.name.removesuffix('.bundle.out')}.list.txt", f"{path.name}.list.txt", "list.txt", "list_orig.txt", "image_list.txt")
    listed = next((one for at in (path.parent, folder) for name in names if (one := at / name).is_file()), None)
    if listed is None:
        raise CallError(f"{path} does not name its photos, and there is no list.txt", "put the list that Bundler was given beside it")
    files = []
    for line in lines_of(listed):
        words = line.split()
        named = line if _photo(folder, line) else words[0]
        files.append(_photo(folder, named) or joined(named))
    if len(files) != count:
        raise CallError(f"{listed} names {len(files):,} photos, and {path.name} has {count:,} cameras", "give the list of this bundle")
    return files


def _photo(folder: Path, name: str) -> str | None:
    """The path of a photo that a list names: as it is, in `images/`, or by its name alone."""
    name = name.replace("\\", "/")
    tail = PurePosixPath(name).name
    found = (joined(one) for one in (name, f"images/{name}", tail, f"images/{tail}") if is_inside(one) and (folder / one).is_file())
    return next(found, None)


def seen_in_bundle(folder: Path) -> Sights | None:
    """None where there are no points."""
    path = bundle_file(folder)
    if path is None:
        return None
    bundle = read_bundle(path, points=True)
    files = _bundle_photos(folder, path, len(bundle.cameras))
    return Sights.of(files, bundle.seen) if any(bundle.seen) else None
