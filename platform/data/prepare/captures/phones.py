"""Cameras as applications of phones write them: ARKitScenes, Record3D, Polycam. Their photos lie as the sensor has them."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ..files import folders_in, lines_of
from ..known import (
    Frames,
    Known,
    Trajectory,
    camera_3x3,
    capture,
    in_opencv_axes,
    inverted,
    joined,
    number_in,
    numbers,
    photos_of,
    pose_of_quaternion,
    read_json,
)

_ARKIT_PHOTOS = {"vga_wide": ("lowres_depth",), "lowres_wide": ("lowres_depth",), "wide": ("highres_depth", "lowres_depth")}
"""Folder of photos -> where their depth may be. The first that is there is read."""
_ARKIT_POSES = 0.25
"""Two poses, between which that of a photo is made, may lie so many seconds apart: ARKitScenes has 10 a second."""
_ARKIT_SAME, _ARKIT_DEPTH = 0.0025, 0.01
"""Seconds by which the times of a photo and its intrinsics, printed with three digits, and of a photo and its depth may differ."""
_SENSOR = "photos lie as the sensor has them: those of a capture that was held upright lie on their side"


def arkitscenes(folder: Path) -> Known | None:
    """`lowres_wide/ID_TIME.png`, `lowres_wide_intrinsics/ID_TIME.pincam` (width height fx fy cx cy), `lowres_depth/ID_TIME.png`
    and `lowres_wide.traj` (time, axis times angle, place: world to camera), there or in `ID_frames/`."""
    inside = next((sub.name for sub in folders_in(folder) if sub.name.endswith("_frames") and (sub / "lowres_wide.traj").is_file()), "")
    root = folder / inside
    photos = next((name for name in _ARKIT_PHOTOS if (root / name).is_dir() and (root / f"{name}_intrinsics").is_dir()), None)
    if photos is None:
        return None
    place, names = photos_of(root, photos)
    depths = next((sub for sub in _ARKIT_PHOTOS[photos] if (root / sub).is_dir()), None)
    lenses = _by_time(path.name for path in (root / f"{photos}_intrinsics").iterdir() if path.suffix == ".pincam")
    maps = _by_time(path.name for path in (root / depths).iterdir() if path.suffix == ".png") if depths else ([], [])
    path = next((one for one in (root / "lowres_wide.traj", root / f"{photos}.traj") if one.is_file()), None)
    truth = _arkit_truth(path) if path else Trajectory.of([], [])
    frames = Frames()
    for name in names:
        time = _arkit_time(name)
        if time is None:
            continue
        lens, depth = _same_moment(lenses, time, _ARKIT_SAME), _same_moment(maps, time, _ARKIT_DEPTH)
        words = numbers(" ".join(lines_of(root / f"{photos}_intrinsics" / lens))) if lens else []
        width, height, *K = words if len(words) == 6 else (None, None)
        pose = truth.at(time, _ARKIT_POSES)
        frames.add(
            {
                "file": joined(inside, place, name),
                "depth": joined(inside, depths, depth) if depths and depth else None,
                "time_s": time,
                "cam_to_world": None if pose is None else pose.tolist(),
                "K": _arkit_matrix(*K) if K else None,
                "width": width,
                "height": height,
            }
        )
    others = [name for name in _ARKIT_PHOTOS if name != photos and (root / name).is_dir()]
    notes = [f"{photos} is read, not {', '.join(others)}"] if others else []
    return capture("ARKitScenes", frames, unit="metre", depth_scale=1000, notes=[*notes, _SENSOR], complete=True)


def _arkit_time(name: str) -> float | None:
    """Seconds: the second part of `40753679_6790.456.png`."""
    words = numbers(name.rpartition(".")[0].rpartition("_")[2])
    return words[0] if words and np.isfinite(words[0]) else None


def _by_time(names: Any) -> tuple[list[float], list[str]]:
    timed = sorted((time, name) for name in names if (time := _arkit_time(name)) is not None)
    return [time for time, _ in timed], [name for _, name in timed]


def _same_moment(timed: tuple[list[float], list[str]], time: float, within: float) -> str | None:
    times, names = timed
    at = int(np.searchsorted(times, time))
    near = [place for place in (at - 1, at) if 0 <= place < len(times) and abs(times[place] - time) < within]
    return names[min(near, key=lambda place: abs(times[place] - time))] if near else None


def _arkit_truth(path: Path) -> Trajectory:
    from scipy.spatial.transform import Rotation

    rows = [words for line in lines_of(path) if len(words := numbers(line)) == 7 and np.isfinite(words).all()]
    poses = []
    for row in rows:
        world_to_cam = np.eye(4)
        world_to_cam[:3, :3] = Rotation.from_rotvec(row[1:4]).as_matrix()
        world_to_cam[:3, 3] = row[4:7]
        poses.append(inverted(world_to_cam))
    return Trajectory.of([row[0] for row in rows], poses)


def record3d(folder: Path) -> Known | None:
    """An unpacked `.r3d`, or its export: `metadata` or `metadata.json`, with photos in `rgbd/` or `rgb/`.

    `poses` are quaternion x y z w and place, camera to world in OpenGL's axes; `K` lies column after column, for `w` x `h`.
    """
    path = next((one for name in ("metadata", "metadata.json") if (one := folder / name).is_file()), None)
    place, names = photos_of(folder, "rgbd", "rgb", "images") if path else ("", [])
    content = read_json(path, "Record3D") if path and names else None
    if not isinstance(content, dict) or "poses" not in content or not ("K" in content or "perFrameIntrinsicCoeffs" in content):
        return None
    width, height = content.get("w"), content.get("h")
    each, times = content.get("perFrameIntrinsicCoeffs") or (), content.get("frameTimestamps") or ()
    numbered = {number: name for name in names if (number := number_in(name)) is not None}
    unread, packed = set[str](), find_spec("lzfse") is not None
    frames = Frames()
    for row, name in sorted(numbered.items()):
        places = [f"depth/{row}{end}" for end in (".png", ".tiff", ".npy")] + ([f"rgbd/{row}.depth"] if packed else [])
        depth = next((file for file in places if (folder / file).is_file()), None)
        unread.update(file for file in (f"rgbd/{row}.depth", f"depth/{row}.exr") if depth is None and (folder / file).is_file())
        frames.add(
            {
                "file": joined(place, name),
                "depth": depth,
                "time_s": times[row] if row < len(times) else None,
                "cam_to_world": _record3d_pose(content["poses"], row),
                "K": _record3d_matrix(each[row] if row < len(each) else content.get("K")),
                "width": width,
                "height": height,
            }
        )
    ways = ["pip install 'sightline-pretext[record3d]' reads .depth"] if any(file.endswith(".depth") for file in unread) else []
    ways += ["save .exr as 16-bit PNG or .npy"] if any(file.endswith(".exr") for file in unread) else []
    notes = [f"{len(unread):,} depth map(s) are not read ({'; '.join(ways)})"] if unread else []
    return capture("Record3D", frames, unit="metre", notes=notes, complete=True)


def _record3d_matrix(K: Any) -> Any:
    """Of fx fy cx cy of one photo, or of nine numbers column after column for all; what is neither is named when it is used."""
    if np.shape(K) == (9,):
        (fx, *_), (_, fy, _), (cx, cy, _) = np.reshape(K, (3, 3)).tolist()
        return _arkit_matrix(fx, fy, cx, cy)
    return _arkit_matrix(*K) if np.shape(K) == (4,) else K


def _arkit_matrix(fx: Any, fy: Any, cx: Any, cy: Any) -> list[list[Any]]:
    """ARKit counts from the corner of the image."""
    return camera_3x3(fx, fy, cx - 0.5, cy - 0.5)


def _record3d_pose(poses: Sequence[Any], row: int) -> Any:
    if not 0 <= row < len(poses):
        return None
    if np.shape(poses[row]) != (7,):
        return poses[row]  # named when it is used
    x, y, z, w, *centre = poses[row]
    return in_opencv_axes(pose_of_quaternion(x, y, z, w, centre))


def polycam(folder: Path) -> Known | None:
    """Raw data of Polycam: `keyframes/images/N.jpg`, `keyframes/cameras/N.json` (t_00 to t_23, fx fy cx cy), `keyframes/depth/N.png`;
    those that Polycam corrected are taken where it has them. Camera to world in OpenGL's axes."""
    if not (folder / "keyframes").is_dir() and folder.name != "keyframes":
        return None
    inside = "keyframes" if (folder / "keyframes").is_dir() else ""
    root = folder / inside
    better = next((kind for kind in ("corrected_", "") if (root / f"{kind}cameras").is_dir() and (root / f"{kind}images").is_dir()), None)
    if better is None:
        return None
    place, names = photos_of(root, f"{better}images")
    frames, without = Frames(), 0
    for name in names:
        stem = name.rpartition(".")[0]
        path = root / f"{better}cameras/{stem}.json"
        if not path.is_file():
            without += 1
        camera = read_json(path, "Polycam") if path.is_file() else {}
        camera = camera if isinstance(camera, dict) else {}
        depth = joined(inside, f"depth/{stem}.png")
        rows = [[camera.get(f"t_{row}{column}") for column in range(4)] for row in range(3)]
        K = [camera.get(one) for one in ("fx", "fy", "cx", "cy")]
        frames.add(
            {
                "file": joined(inside, place, name),
                "depth": depth if (folder / depth).is_file() else None,
                "cam_to_world": in_opencv_axes(rows) if camera else None,
                "K": _arkit_matrix(*K) if camera and None not in K else None,
                "width": camera.get("width"),
                "height": camera.get("height"),
            }
        )
    notes = [f"the cameras and photos that Polycam corrected are read ({better}cameras)"] if better else []
    notes += [f"{without:,} photo(s) have no camera in {better}cameras"] if without else []
    return capture("Polycam", frames, unit="metre", depth_scale=1000, notes=[*notes, _SENSOR], complete=True)
