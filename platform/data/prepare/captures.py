"""Cameras of folders that were captured with other tools: TUM RGB-D, 7-Scenes and 3DMatch, ScanNet, `transforms.json`, COLMAP."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from sightline.methods.errors import BrokenSampleError, CallError
from sightline.platform.core.budget import parse_json
from sightline.platform.data.geometry import camera_matrix, scale_intrinsics
from sightline.platform.data.images import IMAGE_SUFFIXES
from sightline.platform.data.lenses import LENSES, Lens

from .files import images_in, is_inside, lines_of, natural, placement_of, suffix_of
from .formats.colmap import has_model, read_model

TRANSFORMS = "transforms.json"
TUM_LISTS = ("rgb.txt", "depth.txt")
TUM_SCALE = 5000.0
TUM_SECONDS = 0.02
"""Colour, depth and pose belong together where their times differ by less, as in the benchmark's own tool."""
PUBLISHED = {
    "TUM RGB-D": (
        ("fr1", r"(fr|freiburg)[-_ ]?1(?!\d)", "517.3,516.5,318.6,255.3"),
        ("fr2", r"(fr|freiburg)[-_ ]?2(?!\d)", "520.9,521.0,325.1,249.7"),
        ("fr3", r"(fr|freiburg)[-_ ]?3(?!\d)", "535.4,539.2,320.1,247.6"),
        ("Bonn", r"bonn", "542.8,542.6,315.6,237.8"),
        ("ICL-NUIM", r"icl[-_ ]?nuim|(living|office)_?room_?traj", "481.2,480,319.5,239.5"),
        ("the default of ROS", "", "525,525,319.5,239.5"),
    ),
    "7-Scenes or 3DMatch": (("7-Scenes", "", "585,585,320,240"),),
}
"""Layout -> (cameras, what a folder of them is called, their `--intrinsics` as published); all are for 640 x 480."""
_OPENGL = np.diag([1.0, -1, -1, 1])
_PINHOLES = frozenset(("PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV", "PERSPECTIVE"))
_IN_ONE_LINE = {9: (3, 3), 12: (3, 4), 16: (4, 4)}
_UNIT = 0.05
"""How far from 1 a quaternion may be: fewer digits, not other columns."""
_PHOTOS = (".jpg", ".jpeg", ".png")
Known = dict[str, Any]
"""The content of a `cameras.json`."""


def find_capture(folder: Path) -> Known | None:
    """What `cameras.json` would say of a folder of a known layout, None for another one. Raises `CallError` for one that is damaged."""
    known = None
    if all((folder / name).is_file() for name in TUM_LISTS):
        known = _tum(folder)
    elif (folder / TRANSFORMS).is_file():
        known = _transforms(folder)
    elif (folder / "color").is_dir() and (folder / "pose").is_dir():
        known = _scannet(folder)
    elif any(folder.glob("*.pose.txt")):
        known = _seven_scenes(folder)
    elif model := colmap_folder(folder):
        known = _colmap(folder, model)
    return known if known and known["frames"] else None


def ask_intrinsics(layout: str, folder: Path) -> str:
    """What to do where no frame has K: the option with the numbers that the authors publish. None is taken without being asked for."""
    published = PUBLISHED.get(layout, ())
    for part in reversed(folder.absolute().parts):
        for name, called, numbers in published:
            if called and re.search(rf"(?<![^\W_])({called})", part, re.I):
                return f"say --intrinsics {numbers} if this is {name}, as {part!r} in its path says (published for 640 x 480)"
    known = "; ".join(f"{name} {numbers}" for name, _, numbers in published)
    return "say --intrinsics fx,fy,cx,cy" + (f"; published for 640 x 480: {known}" if known else "")


_COLMAP = ("sparse/0", "sparse", "colmap/sparse/0", "dense/0/sparse", "dense/sparse", "")
_COLMAP_PHOTOS = ("images", "input", "dense/0/images", "dense/images", "")


def colmap_folder(folder: Path) -> Path | None:
    """The model of COLMAP that belongs to a folder: the largest of `sparse/`, or one that lies in the folder itself."""
    for place in _COLMAP:
        if has_model(folder / place):
            others = [path for path in (folder / place).parent.iterdir() if path.name.isdecimal() and has_model(path)]
            return max([folder / place, *others], key=_size) if place.endswith("/0") else folder / place
    return None


def _size(model: Path) -> int:
    return max((model / f"images{end}").stat().st_size for end in (".bin", ".txt") if (model / f"images{end}").is_file())


def _colmap(folder: Path, place: Path) -> Known:
    """World-to-camera poses and a camera for each image or for all; pixel centres at halves."""
    model = read_model(place)
    first = model.images[0].name if model.images else ""
    photos = next((sub for sub in _COLMAP_PHOTOS if is_inside(first) and (folder / sub / first).is_file()), "images")
    frames = []
    for image in model.images:
        camera = model.cameras[image.camera]
        fx, fy, cx, cy = camera.focal if camera.model != "EQUIRECTANGULAR" else (0.0, 0.0, 0.0, 0.0)
        known: Known = {
            "file": _inside(f"{photos}/{image.name}" if photos else image.name),
            "cam_to_world": np.linalg.inv(image.world_to_cam).tolist(),
            "K": [[fx, 0, cx - 0.5], [0, fy, cy - 0.5], [0, 0, 1]],
            "width": camera.width,
            "height": camera.height,
        }
        frames.append(known | _lens(camera.model, camera.lens))
    others = sorted(path.name for path in place.parent.iterdir() if path != place and path.name.isdecimal() and has_model(path))
    notes = [f"of several models the largest is read, {place.relative_to(folder)}; not {', '.join(others)}"] if others else []
    return _known("COLMAP", frames, unit="arbitrary", notes=notes)


def _lens(model: str, params: Sequence[float]) -> Known:
    """What a frame says of a lens: how it can be undone, or its name where it is no pinhole and cannot."""
    if model in ("SIMPLE_PINHOLE", "PINHOLE") or (model in LENSES and not Lens(model, tuple(params)).bends):
        return {}
    return {"bends": {"model": model, "params": list(params)}} if model in LENSES else {"lens": model}


def _tum(folder: Path) -> Known:
    """`rgb.txt`, `depth.txt` (time, path) and, with poses, `groundtruth.txt` (time, place, quaternion x y z w: camera to world)."""
    colour, depth = (_timed(folder / name, str) for name in TUM_LISTS)
    truth = folder / "groundtruth.txt"
    poses = _timed(truth, _quaternion_pose) if truth.is_file() else ([], [])
    K = _calibration(folder)
    frames = []
    for time, file in zip(*colour, strict=True):
        frames.append({"file": file, "time_s": time, "depth": _nearest(depth, time), "cam_to_world": _nearest(poses, time), "K": K})
    return _known("TUM RGB-D", frames, unit="metre", depth_scale=TUM_SCALE)


def _timed(path: Path, read: Callable[[str], Any]) -> tuple[list[float], list[Any]]:
    """(times, what `read` makes of the rest of the line), by time; comments and lines without a time are left out."""
    rows = []
    for line in lines_of(path):
        time, _, rest = line.replace(",", " ").replace("\t", " ").partition(" ")
        try:
            rows.append((float(time), rest.strip()))
        except ValueError:
            continue
    rows = sorted(row for row in rows if math.isfinite(row[0]) and row[1])
    return [time for time, _ in rows], [read(rest) for _, rest in rows]


def _nearest(timed: tuple[list[float], list[Any]], time: float) -> Any:
    times, values = timed
    if not times:
        return None
    after = int(np.searchsorted(times, time))
    best = min((place for place in (after - 1, after) if 0 <= place < len(times)), key=lambda place: abs(times[place] - time))
    return values[best] if abs(times[best] - time) < TUM_SECONDS else None


def _quaternion_pose(text: str) -> Any:
    numbers = _numbers(text)
    if len(numbers) < 7:
        return []
    length = math.hypot(*numbers[3:7])
    x, y, z, w = np.array(numbers[3:7]) / (length if abs(length - 1) < _UNIT else 1)  # else no rotation, which is named later
    pose = np.eye(4)
    pose[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    pose[:3, 3] = numbers[:3]
    return pose.tolist()


def _calibration(folder: Path) -> Any:
    """`calibration.txt` (fx fy cx cy), which ETH3D has beside TUM's lists."""
    path = folder / "calibration.txt"
    numbers = _numbers(" ".join(lines_of(path))) if path.is_file() else []
    if len(numbers) < 4:
        return None
    fx, fy, cx, cy = numbers[:4]
    return [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]


def _seven_scenes(folder: Path) -> Known:
    """`NAME.color.png`, `NAME.depth.png`, `NAME.pose.txt`; `camera-intrinsics.txt` there or one folder above, as 3DMatch has it."""
    K = _first_matrix(folder / "camera-intrinsics.txt", folder.parent / "camera-intrinsics.txt")
    names = {path.name for path in folder.iterdir()}
    frames = []
    for colour in sorted(names, key=natural):
        stem, dot, suffix = colour.rpartition(".color.")
        if not dot or f".{suffix.lower()}" not in _PHOTOS:
            continue
        depth, pose = f"{stem}.depth.png", f"{stem}.pose.txt"
        frames.append(
            {
                "file": colour,
                "depth": depth if depth in names else None,
                "cam_to_world": _matrix(folder / pose) if pose in names else None,
                "K": K,
            }
        )
    return _known("7-Scenes or 3DMatch", frames, unit="metre", depth_scale=1000)


def _scannet(folder: Path) -> Known:
    """`color/N.jpg`, `depth/N.png`, `pose/N.txt`, `intrinsic/intrinsic_color.txt`: what ScanNet's reader exports."""
    K = _first_matrix(folder / "intrinsic/intrinsic_color.txt", folder / "intrinsic_color.txt")
    K = K and [row[:3] for row in K[:3]]  # ScanNet has 4 x 4
    frames = []
    for path in sorted((folder / "color").iterdir(), key=natural):
        if suffix_of(path.name) not in _PHOTOS:
            continue
        depth, pose = folder / f"depth/{path.stem}.png", folder / f"pose/{path.stem}.txt"
        frames.append(
            {
                "file": f"color/{path.name}",
                "depth": f"depth/{depth.name}" if depth.is_file() else None,
                "cam_to_world": _matrix(pose) if pose.is_file() else None,
                "K": K,
            }
        )
    return _known("ScanNet", frames, unit="metre", depth_scale=1000, notes=_other_lens(folder, frames))


def _other_lens(folder: Path, frames: list[Known]) -> list[str]:
    """A note where `intrinsic_depth.txt` is not `intrinsic_color.txt` at the size of the depth maps."""
    lens = _first_matrix(folder / "intrinsic/intrinsic_depth.txt", folder / "intrinsic_depth.txt")
    frame = next((frame for frame in frames if frame["depth"] and frame["K"]), None)
    if lens is None or frame is None:
        return []
    try:
        (height, width), (rows, columns) = (placement_of(folder / frame[one]).original for one in ("file", "depth"))
        own = camera_matrix([row[:3] for row in lens[:3]])
        taken = scale_intrinsics(camera_matrix(frame["K"]), columns / width, rows / height)
    except BrokenSampleError:  # of a file that is named when it is used
        return []
    corners = np.array([[0, columns - 1, 0, columns - 1], [0, 0, rows - 1, rows - 1], [1, 1, 1, 1]])
    apart = float(np.abs(taken @ np.linalg.inv(own) @ corners - corners).max())
    told = f"intrinsic_depth.txt tells of another lens: depth is taken as seen by the photo's, up to {apart:.1f} of {columns} pixels beside"
    return [told] if apart > 0.5 else []


def _transforms(folder: Path) -> Known:
    """nerfstudio's and instant-ngp's file: OpenGL axes, pixel centres at halves, intrinsics for all frames or for each."""
    path = folder / TRANSFORMS
    try:
        content = parse_json(path.read_bytes())
        photos = _Photos(folder)
        frames = [_transforms_frame(photos, {**content, **frame}) for frame in content["frames"]]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CallError(f"{path} cannot be understood: {error}", "give the file that nerfstudio or instant-ngp wrote") from None
    factor = content.get("depth_unit_scale_factor")
    scale = 1 / factor if isinstance(factor, float | int) and factor > 0 else 1000
    lens = {name: content[name] for name in ("k1", "k2", "k3", "k4", "p1", "p2") if content.get(name)}
    distortion = {"model": "lens distortion", **lens} if lens else None
    return _known(TRANSFORMS, frames, unit="arbitrary", depth_scale=scale, distortion=distortion)


class _Photos:
    """The photos that frames name, also without a suffix."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stems: dict[str, dict[str, str]] = {}
        """Folder -> stem -> name, of the photos in it."""

    def find(self, file: str) -> str:
        """The path of the photo; as it is where there is none."""
        parent, name = PurePosixPath(file).parent, PurePosixPath(file).name
        if (self.folder / file).is_file() or not is_inside(file):
            return file
        if str(parent) not in self.stems:
            there = images_in(self.folder / parent) if (self.folder / parent).is_dir() else []
            there = sorted(there, key=lambda path: IMAGE_SUFFIXES.index(suffix_of(path.name)), reverse=True)
            self.stems[str(parent)] = {path.stem: path.name for path in there}
        return (parent / self.stems[str(parent)].get(name, name)).as_posix()

    def size(self, file: str) -> tuple[float | None, float | None]:
        """(width, height); unknown for a photo that is not there or that EXIF turns."""
        try:
            at = placement_of(self.folder / file)
        except BrokenSampleError:
            return None, None
        return at.original[::-1] if at.orientation == 1 else (None, None)


def _transforms_frame(photos: _Photos, frame: Known) -> Known:
    file = photos.find(_inside(frame["file_path"]))
    width, height = frame.get("w"), frame.get("h")
    fx = frame.get("fl_x")
    if not (width and height) and not (fx and frame.get("cx") and frame.get("cy")) and is_inside(file):
        width, height = photos.size(file)  # the middle of the photo is that of the lens, and its width that of the angle
    if fx is None and frame.get("camera_angle_x") and width:
        fx = width / 2 / math.tan(frame["camera_angle_x"] / 2)
    K = None
    cx = frame.get("cx", width and width / 2)
    cy = frame.get("cy", height and height / 2)
    if fx is not None and cx is not None and cy is not None:
        K = [[fx, 0, cx - 0.5], [0, frame.get("fl_y", fx), cy - 0.5], [0, 0, 1]]
    depth = frame.get("depth_file_path")
    model = str(frame.get("camera_model") or ("OPENCV_FISHEYE" if frame.get("is_fisheye") else "OPENCV")).upper()
    k1, k2, k3, k4, p1, p2 = (float(frame.get(name) or 0) for name in ("k1", "k2", "k3", "k4", "p1", "p2"))
    if model in _PINHOLES:
        model, params = ("FULL_OPENCV", (k1, k2, p1, p2, k3, k4, 0, 0)) if k3 or k4 else ("OPENCV", (k1, k2, p1, p2))
    else:
        params = (k1, k2, k3, k4)
    return _lens(model, params) | {
        "file": file,
        "depth": _inside(depth) if depth else None,
        "cam_to_world": _opencv(frame.get("transform_matrix")),
        "K": K,
        "width": width,
        "height": height,
    }


def _opencv(pose: Any) -> Any:
    """A camera-to-world matrix in OpenCV's axes; what is none stays, and is named when it is used."""
    try:
        return (np.array(pose, np.float64) @ _OPENGL).tolist() if np.shape(pose) in ((4, 4), (3, 4)) else pose
    except (ValueError, TypeError):  # rows of several lengths, texts
        return pose


def _inside(path: str) -> str:
    return PurePosixPath(path.replace("\\", "/")).as_posix()


def _known(name: str, frames: list[Known], **top: Any) -> Known:
    return {"layout": name, "frames": frames, **top}


def _first_matrix(*paths: Path) -> list[list[float]] | None:
    return next((_matrix(path) for path in paths if path.is_file()), None)


def _matrix(path: Path) -> list[list[float]]:
    """The numbers of a text file by rows, also of a matrix in one line; what is no number is NaN, and is named when it is used."""
    try:
        rows = [_numbers(line) for line in lines_of(path)]
    except CallError:  # no text
        return [[math.nan]]
    shape = _IN_ONE_LINE.get(len(rows[0])) if len(rows) == 1 else None
    return np.reshape(rows[0], shape).tolist() if shape else rows


def _numbers(text: str) -> list[float]:
    def number(word: str) -> float:
        try:
            return float(word)
        except ValueError:
            return math.nan

    return [number(word) for word in text.replace(",", " ").split()]
