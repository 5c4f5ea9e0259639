"""Cameras of folders that were captured with other tools, and which reader knows a folder.

TUM RGB-D, 7-Scenes with 3DMatch and BundleFusion, ScanNet, COLMAP are read here, the others in the modules `capture_*` beside.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sightline.methods.errors import BrokenSampleError, CallError
from sightline.platform.data.geometry import camera_matrix, scale_intrinsics

from ..files import folders_in, is_inside, lines_of, natural, placement_of, suffix_of
from ..formats.colmap import ColmapModel, has_model, read_model
from ..formats.sights import Sights
from ..known import PHOTOS, Frames, Known, camera_3x3, capture, first_matrix, is_told, joined, lens_of, matrix, numbers, pose_of_quaternion
from ..packed import Packed
from .co3d import co3d
from .nerf import POSES_BOUNDS, blender, llff, transforms
from .phones import arkitscenes, polycam, record3d
from .present import present
from .sequences import euroc, kitti, kitti_raw, replica
from .stereo import bundler, mvsnet, seen_in_bundle, strecha

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
    "Replica": (("Semantic-NeRF", "", "320,320,319.5,239.5"),),
    "7-Scenes or 3DMatch": (("7-Scenes", "", "585,585,320,240"),),
}
"""Layout -> (cameras, what a folder of them is called, their `--intrinsics` as published); all are for 640 x 480."""


def find_capture(folder: Path) -> Known | None:
    """What `cameras.json` would say of a folder of a known layout, None for another one. Raises `CallError` for one that is damaged."""
    for read in READERS:
        try:
            known = read(folder)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError) as error:  # texts in place of numbers, and such
            told = f"{folder} has the layout of {read.__name__.strip('_')}, and cannot be understood: {error}"
            raise CallError(told, "give the files as the program wrote them") from None
        if known is not None:
            return known if known["frames"] else None
    return None


def ask_intrinsics(layout: str, folder: Path) -> str:
    """What to do where no frame has K: the option with the numbers that the authors publish. None is taken without being asked for."""
    published = PUBLISHED.get(layout, ())
    for part in reversed(folder.absolute().parts):
        for name, called, words in published:
            if called and re.search(rf"(?<![^\W_])({called})", part, re.I):
                return f"say --intrinsics {words} if this is {name}, as {part!r} in its path says (published for 640 x 480)"
    known = "; ".join(f"{name} {words}" for name, _, words in published)
    return "say --intrinsics fx,fy,cx,cy" + (f"; published for 640 x 480: {known}" if known else "")


_COLMAP = ("sparse", "colmap/sparse", "dense/0/sparse", "dense/sparse", "")
_COLMAP_PHOTOS = ("images", "input", "dense/0/images", "dense/images", "", "images_2", "images_4", "images_8")


def colmap_folder(folder: Path) -> Path | None:
    """The model of COLMAP that belongs to a folder: the largest of `sparse/`, or one that lies in the folder itself."""
    for place in _COLMAP:
        there = folders_in(folder / place) if place and (folder / place).is_dir() else []
        numbered = [path for path in there if path.name.isdecimal() and has_model(path)]
        if numbered:
            return max(sorted(numbered), key=_size)
        if has_model(folder / place):
            return folder / place
    return None


def _size(model: Path) -> int:
    return max((model / f"images{end}").stat().st_size for end in (".bin", ".txt") if (model / f"images{end}").is_file())


def _colmap(folder: Path) -> Known | None:
    """World-to-camera poses and a camera for each image or for all; pixel centres at halves."""
    place = colmap_folder(folder)
    if place is None:
        return None
    model = read_model(place)
    photos = _colmap_photos(folder, model)
    if (folder / POSES_BOUNDS).is_file() and not any(
        is_inside(one.name) and (folder / photos / one.name).is_file() for one in model.images
    ):
        return None  # LLFF's smaller copies have other names
    frames = Frames()
    for image in model.images:
        camera = model.cameras[image.camera]
        fx, fy, cx, cy = camera.focal if camera.model != "EQUIRECTANGULAR" else (0.0, 0.0, 0.0, 0.0)
        known: Known = {
            "file": joined(photos, image.name),
            "cam_to_world": np.linalg.inv(image.world_to_cam),
            "K": [[fx, 0, cx - 0.5], [0, fy, cy - 0.5], [0, 0, 1]],
            "width": camera.width,
            "height": camera.height,
        }
        frames.add(known | lens_of(camera.model, camera.lens))
    others = sorted(path.name for path in place.parent.iterdir() if path != place and path.name.isdecimal() and has_model(path))
    notes = [f"of several models the largest is read, {place.relative_to(folder)}; not {', '.join(others)}"] if others else []
    return capture("COLMAP", frames, unit="arbitrary", notes=notes)


def _colmap_photos(folder: Path, model: ColmapModel) -> str:
    """Where the photos of a model lie: the first folder that has one of the first few, `images` where none has."""
    names = [image.name for image in model.images[:20] if is_inside(image.name)]
    return next((sub for sub in _COLMAP_PHOTOS if any((folder / sub / name).is_file() for name in names)), "images")


def seen_points(folder: Path, layout: str) -> Sights | None:
    """Of a model of COLMAP or Bundler; None where there is none."""
    if layout == "Bundler":
        return seen_in_bundle(folder)
    place = colmap_folder(folder) if layout == "COLMAP" else None
    if place is None:
        return None
    model = read_model(place, seen=True)
    photos = _colmap_photos(folder, model)
    names = Packed(joined(photos, image.name) for image in model.images)
    meant = present(folder, names)
    model.seen.rename(meant.get(name, name) for name in names)
    return model.seen


def placed_points(folder: Path) -> dict[int, np.ndarray]:
    """Point of a COLMAP model -> its place in the world, 3; empty where there is no model."""
    place = colmap_folder(folder)
    if place is None:
        return {}
    model = read_model(place, points=True)
    return {number: model.xyz[row] for number, row in model.points.items()}


def _tum(folder: Path) -> Known | None:
    """`rgb.txt`, `depth.txt` (time, path) and, with poses, `groundtruth.txt` (time, place, quaternion x y z w: camera to world)."""
    if not all((folder / name).is_file() for name in TUM_LISTS):
        return None
    colour, depth = (_timed(folder / name, str) for name in TUM_LISTS)
    truth = folder / "groundtruth.txt"
    poses = _timed(truth, _quaternion_pose) if truth.is_file() else ([], [])
    K = _calibration(folder)
    frames = Frames()
    for time, file in zip(*colour, strict=True):
        frames.add({"file": file, "time_s": time, "depth": _nearest(depth, time), "cam_to_world": _nearest(poses, time), "K": K})
    notes = []
    if colour[0] and poses[0] and not any(is_told(frame.cam_to_world) for frame in frames):
        spans = (f"{times[0]:.10g} to {times[-1]:.10g}" for times in (colour[0], poses[0]))
        notes.append("no pose of groundtruth.txt is within {:g} s of a photo: photos are of {}, poses of {}".format(TUM_SECONDS, *spans))
    return capture("TUM RGB-D", frames, unit="metre", depth_scale=TUM_SCALE, notes=notes)


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
    words = numbers(text)
    if len(words) < 7:
        return []
    x, y, z, w = words[3:7]
    return pose_of_quaternion(x, y, z, w, words[:3]).tolist()


def _calibration(folder: Path) -> Any:
    """`calibration.txt` (fx fy cx cy), which ETH3D has beside TUM's lists."""
    path = folder / "calibration.txt"
    words = numbers(" ".join(lines_of(path))) if path.is_file() else []
    return camera_3x3(*words[:4]) if len(words) >= 4 else None


def _seven_scenes(folder: Path) -> Known | None:
    """`NAME.color.png`, `NAME.depth.png`, `NAME.pose.txt`; the intrinsics in `camera-intrinsics.txt` there or one folder above, as
    3DMatch has it, or in `info.txt`, as BundleFusion and 3RScan have it."""
    names = {path.name for path in folder.iterdir()}
    if not any(name.endswith(".pose.txt") for name in names):
        return None
    info = next((_info(path) for name in _INFO for path in (folder / name, folder.parent / name) if path.is_file()), {})
    K = first_matrix(folder / "camera-intrinsics.txt", folder.parent / "camera-intrinsics.txt") or _info_matrix(info, "Color")
    size = [values[0] if (values := info.get(f"m_color{side}")) else None for side in ("Width", "Height")]
    frames = Frames()
    for colour in sorted(names, key=natural):
        stem, dot, suffix = colour.rpartition(".color.")
        if not dot or f".{suffix.lower()}" not in PHOTOS:
            continue
        depth, pose = f"{stem}.depth.png", f"{stem}.pose.txt"
        frames.add(
            {
                "file": colour,
                "depth": depth if depth in names else None,
                "cam_to_world": matrix(folder / pose) if pose in names else None,
                "K": K,
                "width": size[0],
                "height": size[1],
            }
        )
    scale = next(iter(info.get("m_depthShift", ())), 0)
    name = "BundleFusion or 3RScan" if info else "7-Scenes or 3DMatch"
    other = _info_matrix(info, "Depth")
    notes = _other_lens(folder, frames, other, "m_calibrationDepthIntrinsic") if other else []
    notes += ["depth in .pgm is not read"] if any(name.endswith(".depth.pgm") for name in names) else []
    return capture(name, frames, unit="metre", depth_scale=scale if scale > 0 else 1000, notes=notes)


_INFO = ("info.txt", "_info.txt")


def _info(path: Path) -> dict[str, list[float]]:
    """`m_name = numbers` of BundleFusion's `info.txt`."""
    return {key.strip(): numbers(rest) for key, _, rest in (line.partition("=") for line in lines_of(path)) if key.startswith("m_")}


def _info_matrix(info: dict[str, list[float]], of: str) -> list[list[float]] | None:
    """The 3 x 3 of the photos (Color) or the depth maps (Depth); rows of four."""
    words = info.get(f"m_calibration{of}Intrinsic", [])
    return [words[row : row + 3] for row in (0, 4, 8)] if len(words) >= 11 else None


def _scannet(folder: Path) -> Known | None:
    """`color/N.jpg`, `depth/N.png`, `pose/N.txt`, `intrinsic/intrinsic_color.txt`: what ScanNet's reader exports."""
    if not ((folder / "color").is_dir() and (folder / "pose").is_dir()):
        return None
    K = first_matrix(folder / "intrinsic/intrinsic_color.txt", folder / "intrinsic_color.txt")
    K = K and [row[:3] for row in K[:3]]  # ScanNet has 4 x 4
    frames = Frames()
    for path in sorted((folder / "color").iterdir(), key=natural):
        if suffix_of(path.name) not in PHOTOS:
            continue
        depth, pose = folder / f"depth/{path.stem}.png", folder / f"pose/{path.stem}.txt"
        frames.add(
            {
                "file": f"color/{path.name}",
                "depth": f"depth/{depth.name}" if depth.is_file() else None,
                "cam_to_world": matrix(pose) if pose.is_file() else None,
                "K": K,
            }
        )
    lens = first_matrix(folder / "intrinsic/intrinsic_depth.txt", folder / "intrinsic_depth.txt")
    return capture("ScanNet", frames, unit="metre", depth_scale=1000, notes=_other_lens(folder, frames, lens, "intrinsic_depth.txt"))


def _other_lens(folder: Path, frames: Frames, lens: list[list[float]] | None, named: str) -> list[str]:
    """A note where the intrinsics of the depth maps are not those of the photos at their size."""
    frame = next((frame for frame in frames if frame.depth and is_told(frame.K)), None)
    if lens is None or frame is None:
        return []
    try:
        (height, width), (rows, columns) = (placement_of(folder / str(one)).original for one in (frame.file, frame.depth))
        own = camera_matrix([row[:3] for row in lens[:3]])
        taken = scale_intrinsics(camera_matrix(frame.K), columns / width, rows / height)
    except BrokenSampleError:  # of a file that is named when it is used
        return []
    corners = np.array([[0, columns - 1, 0, columns - 1], [0, 0, rows - 1, rows - 1], [1, 1, 1, 1]])
    apart = float(np.abs(taken @ np.linalg.inv(own) @ corners - corners).max())
    told = f"{named} tells of another lens: depth is taken as seen by the photo's, up to {apart:.1f} of {columns} pixels beside"
    return [told] if apart > 0.5 else []


READERS: tuple[Callable[[Path], Known | None], ...] = (
    _tum,
    transforms,
    blender,
    _scannet,
    _seven_scenes,
    _colmap,
    llff,
    kitti,
    kitti_raw,
    co3d,
    strecha,
    mvsnet,
    arkitscenes,
    replica,
    euroc,
    record3d,
    polycam,
    bundler,
)
"""Each gives what it knows of a folder, None where the folder has another layout; the first that knows one is asked."""
