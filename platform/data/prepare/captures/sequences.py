"""Cameras of recorded and rendered sequences: KITTI odometry, EuRoC, Replica."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from sightline.methods.errors import CallError

from ..files import lines_of, read_text
from ..known import (
    Frames,
    Known,
    Trajectory,
    camera_3x3,
    capture,
    inverted,
    joined,
    lens_of,
    number_in,
    numbers,
    photos_of,
    pose_of_quaternion,
    read_json,
)

_NANO = 1e-9
_TRUTH_SECONDS = 0.05
"""Two poses of the truth, between which that of a photo is made, may lie so far apart: EuRoC has 200 a second."""
REPLICA_SCALE = 6553.5
_EARTH = 6378137.0
"""Metres."""


def kitti(folder: Path) -> Known | None:
    """A sequence of KITTI odometry: `calib.txt` (P0 to P3), `times.txt`, `image_2`, `poses/NN.txt` two folders above.

    The poses are those of camera 0; camera i stands beside it, by the last column of its projection.
    """
    camera = next((number for number in (2, 0, 3, 1) if (folder / f"image_{number}").is_dir()), None)
    if camera is None or not (folder / "calib.txt").is_file():
        return None
    place, names = photos_of(folder, f"image_{camera}")
    P = next(
        (numbers(rest) for key, _, rest in (line.partition(":") for line in lines_of(folder / "calib.txt")) if key == f"P{camera}"), []
    )
    if len(P) != 12 or not np.isfinite(P).all() or P[0] == 0 or P[5] == 0:
        raise CallError(f"{folder / 'calib.txt'} has no P{camera} of 12 numbers", "give the calib.txt of the KITTI odometry sequence")
    K, last = np.reshape(P, (3, 4))[:, :3], np.reshape(P, (3, 4))[:, 3]
    beside = np.eye(4)
    beside[:3, 3] = -inverted(K) @ last  # of this camera in the axes of camera 0
    rows = _rows(_first_file(folder / "poses.txt", *(above / f"poses/{folder.name}.txt" for above in [folder, *folder.parents][:3])), 12)
    poses = [np.vstack([row.reshape(3, 4), (0, 0, 0, 1)]) @ beside for row in rows]
    times = [float(row[0]) for row in _rows(_first_file(folder / "times.txt"), 1)]
    frames = Frames()
    of_row, notes = _numbered(names, len(poses))
    for at, name in enumerate(names):
        row = of_row(at)
        frames.add(
            {
                "file": joined(place, name),
                "time_s": times[row] if row < len(times) else None,
                "cam_to_world": poses[row].tolist() if row < len(poses) else None,
                "K": K.tolist(),
            }
        )
    others = [f"image_{number}" for number in range(4) if number != camera and (folder / f"image_{number}").is_dir()]
    notes += [f"image_{camera} is read, not {', '.join(others)}"] if others else []
    notes += [] if poses else [f"no poses: there is no poses.txt, and no poses/{folder.name}.txt above"]
    return capture("KITTI odometry", frames, unit="metre", notes=notes, complete=True)


def kitti_raw(folder: Path) -> Known | None:
    """A synchronised and rectified drive of KITTI: `image_02/data`, `oxts/data/N.txt`, and the calibration of the day in the folder above.

    As its development kit does it: places by Mercator's projection at the first latitude, in metres from the first frame; `R_rect_00` and
    the last column of `P_rect_02` lead from the laser to camera 2.
    """
    camera = next((number for number in (2, 0, 3, 1) if (folder / f"image_{number:02d}/data").is_dir()), None)
    if camera is None or not (folder / "oxts/data").is_dir():
        return None
    files = [_first_file(above / f"calib_{name}.txt") for name in ("cam_to_cam", "imu_to_velo", "velo_to_cam") for above in [folder.parent]]
    if None in files:
        return None
    lens, *moves = (_kitti_calibration(path) for path in files if path)
    P, size = _numbers_of(lens, f"P_rect_{camera:02d}", 12, files[0]), lens.get(f"S_rect_{camera:02d}", [])
    K, last = np.reshape(P, (3, 4))[:, :3], np.reshape(P, (3, 4))[:, 3]
    rectified = np.eye(4)
    rectified[:3, :3] = np.reshape(_numbers_of(lens, "R_rect_00", 9, files[0]), (3, 3))
    beside = np.eye(4)
    beside[:3, 3] = inverted(K) @ last
    to_camera = beside @ rectified
    for path, move in zip(files[:0:-1], moves[::-1], strict=True):
        step = np.eye(4)
        step[:3, :3] = np.reshape(_numbers_of(move, "R", 9, path), (3, 3))
        step[:3, 3] = _numbers_of(move, "T", 3, path)
        to_camera = to_camera @ step
    on_body = inverted(to_camera)
    place, names = photos_of(folder, f"image_{camera:02d}/data")
    frames, first, without = Frames(), None, 0
    times = _kitti_times(folder / f"image_{camera:02d}/timestamps.txt")
    for row, name in enumerate(names):
        path = folder / f"oxts/data/{name.rpartition('.')[0]}.txt"
        words = numbers(" ".join(lines_of(path))) if path.is_file() else []
        body = _kitti_body(words, first[0] if first else words[0]) if len(words) >= 6 else None
        first = first or (words[0], inverted(body)) if body is not None else first
        without += body is None
        frames.add(
            {
                "file": joined(place, name),
                "time_s": times[row] if len(times) == len(names) else None,
                "cam_to_world": None if body is None or first is None else first[1] @ body @ on_body,
                "K": K.tolist(),
                "width": size[0] if len(size) == 2 else None,
                "height": size[1] if len(size) == 2 else None,
            }
        )
    others = [f"image_{number:02d}" for number in range(4) if number != camera and (folder / f"image_{number:02d}").is_dir()]
    notes = [f"image_{camera:02d} is read, not {', '.join(others)}"] if others else []
    notes += [f"{without:,} photo(s) have no whole file in oxts/data"] if without else []
    return capture("KITTI raw", frames, unit="metre", notes=notes, complete=True)


def _kitti_body(words: Sequence[float], latitude: float) -> np.ndarray:
    """The pose of the sensor, 4 x 4: latitude, longitude, altitude in degrees and metres, then roll, pitch and yaw in radians."""
    from scipy.spatial.transform import Rotation

    scale = np.cos(np.radians(latitude))
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_euler("ZYX", words[5:2:-1]).as_matrix() if np.isfinite(words[3:6]).all() else np.nan
    north = np.log(np.tan(np.radians(90 + words[0]) / 2))
    pose[:3, 3] = scale * _EARTH * np.radians(words[1]), scale * _EARTH * north, words[2]
    return pose


def _kitti_calibration(path: Path) -> dict[str, list[float]]:
    return {key.strip(): numbers(rest) for key, _, rest in (line.partition(":") for line in lines_of(path))}


def _numbers_of(known: dict[str, list[float]], name: str, count: int, path: Path | None) -> list[float]:
    found = known.get(name, [])
    if len(found) != count or not np.isfinite(found).all():
        raise CallError(f"{path} has no {name} of {count} numbers", "give the calibration of the day that belongs to the drive")
    return found


def _kitti_times(path: Path) -> list[float]:
    """Seconds from the first of the lines `2011-09-26 13:02:25.964389445`; none where one cannot be read."""
    try:
        times = np.array([line.replace(" ", "T") for line in lines_of(path)] if path.is_file() else [], "datetime64[ns]")
    except (ValueError, CallError):
        return []
    return ((times - times[:1]) / np.timedelta64(1, "s")).tolist() if len(times) else []


def _numbered(names: Sequence[str], count: int) -> tuple[Any, list[str]]:
    """(place of a photo -> its row of the poses, what to tell): by its number; by its place where the numbers exceed as many rows."""
    rows = [number_in(name) for name in names]
    whole = [row for row in rows if row is not None]
    if count and len(names) == count and (len(whole) < count or max(whole) >= count):
        return (lambda at: at), ["photos and poses are matched by their order, as the numbers of the photos exceed the poses"]
    return (lambda at: rows[at] if rows[at] is not None else count), []


def _first_file(*paths: Path) -> Path | None:
    return next((path for path in paths if path.is_file()), None)


def _rows(path: Path | None, columns: int) -> list[np.ndarray]:
    """Lines of so many numbers; another number of them is NaN, and is named when it is used."""
    rows = [] if path is None else [np.array(numbers(line)) for line in lines_of(path) if not line.startswith("#")]
    return [row if len(row) == columns else np.full(columns, np.nan) for row in rows]


def replica(folder: Path) -> Known | None:
    """Rendered rooms: `results/frameNNNNNN.jpg`, `depthNNNNNN.png` and `traj.txt` of NICE-SLAM, with `cam_params.json` there or above;
    `rgb/rgb_N.png`, `depth/depth_N.png` and `traj_w_c.txt` of Semantic-NeRF. 16 numbers a line, camera to world, OpenCV's axes."""
    nice = (folder / "traj.txt").is_file() and (folder / "results").is_dir()
    if not nice and not ((folder / "traj_w_c.txt").is_file() and (folder / "rgb").is_dir()):
        return None
    place, names = photos_of(folder, "results" if nice else "rgb")
    names = [name for name in names if name.startswith("frame" if nice else "rgb")]
    words = numbers(" ".join(lines_of(folder / ("traj.txt" if nice else "traj_w_c.txt"))))
    poses = np.reshape(words[: len(words) // 16 * 16], (-1, 4, 4))
    params = _first_file(folder / "cam_params.json", folder.parent / "cam_params.json")
    camera: dict[str, Any] = {}
    if params is not None:
        content = read_json(params, "NICE-SLAM")
        camera = content.get("camera", content) if isinstance(content, dict) else {}
    known = [camera.get(name) for name in ("fx", "fy", "cx", "cy")]
    of_row, notes = _numbered(names, len(poses))
    frames = Frames()
    for at, name in enumerate(names):
        row = of_row(at)
        stem = name.rpartition(".")[0]
        depth = f"results/{stem.replace('frame', 'depth', 1)}.png" if nice else f"depth/{stem.replace('rgb', 'depth', 1)}.png"
        frames.add(
            {
                "file": joined(place, name),
                "depth": depth if (folder / depth).is_file() else None,
                "cam_to_world": poses[row].tolist() if row < len(poses) else None,
                "K": camera_3x3(*known) if None not in known else None,
                "width": camera.get("w"),
                "height": camera.get("h"),
            }
        )
    scale = camera.get("scale") if nice else 1000
    return capture("Replica", frames, unit="metre", depth_scale=scale or REPLICA_SCALE, notes=notes, complete=True)


def euroc(folder: Path) -> Known | None:
    """`mav0/cam0` (`sensor.yaml`, `data.csv`, `data/`) and the truth of the body, `mav0/state_groundtruth_estimate0/data.csv`
    (nanoseconds, place, quaternion w x y z). TUM-VI has the truth in `mocap0`."""
    root = folder / "mav0" if (folder / "mav0").is_dir() else folder
    cameras = [name for name in ("cam0", "cam1") if (root / name / "data").is_dir()]
    if not cameras:
        return None
    camera = cameras[0]
    place, names = photos_of(root, f"{camera}/data")
    sensor = _sensor(root / camera / "sensor.yaml")
    K, lens, on_body, size = _euroc_camera(sensor, root / camera / "sensor.yaml")
    path = _first_file(*(root / name / "data.csv" for name in ("state_groundtruth_estimate0", "mocap0", "vicon0")))
    truth = _euroc_truth(path) if path else Trajectory.of([], [])
    times = _euroc_times(root / camera / "data.csv")
    frames = Frames()
    for name in names:
        time = times.get(name, number_in(name))
        body = truth.at(time * _NANO, _TRUTH_SECONDS) if time is not None else None
        frames.add(
            {
                "file": joined(root.relative_to(folder).as_posix(), place, name),
                "time_s": None if time is None else time * _NANO,
                "cam_to_world": None if body is None or on_body is None else (body @ on_body).tolist(),
                "K": K,
                "width": size[0],
                "height": size[1],
            }
            | lens
        )
    notes = [f"{camera} is read, not {', '.join(cameras[1:])}"] if cameras[1:] else []
    notes += ["no poses: state_groundtruth_estimate0/data.csv is not there"] if path is None else []
    notes += [f"no poses: {camera}/sensor.yaml has no T_BS"] if on_body is None else []
    return capture("EuRoC", frames, unit="metre", notes=notes, complete=True)


def _euroc_times(path: Path) -> dict[str, int]:
    """Photo -> nanoseconds."""
    rows = [line.replace(" ", "").split(",") for line in (lines_of(path) if path.is_file() else []) if not line.startswith("#")]
    return {row[1]: int(row[0]) for row in rows if len(row) > 1 and row[0].isdecimal()}


def _euroc_truth(path: Path) -> Trajectory:
    """Poses of the body. What the file tells is the pose of a sensor, such as markers, that `sensor.yaml` beside it places on the body."""
    mounted = _on_body(_sensor(path.with_name("sensor.yaml")), path)
    from_body = np.eye(4) if mounted is None else inverted(mounted)
    times, poses = [], []
    for line in lines_of(path):
        words = numbers(line)
        if len(words) < 8 or line.startswith("#"):
            continue
        time, x, y, z, qw, qx, qy, qz = words[:8]
        times.append(time * _NANO)
        poses.append(pose_of_quaternion(qx, qy, qz, qw, (x, y, z)) @ from_body)
    return Trajectory.of(times, poses)


def _sensor(path: Path) -> dict[str, Any]:
    """A `sensor.yaml`, also with the head and the tags of OpenCV."""
    if not path.is_file():
        return {}
    text = re.sub(r"!!opencv-matrix", "", read_text(path, "sensor.yaml"))
    try:
        content = yaml.safe_load("\n".join(line for line in text.splitlines() if not line.startswith("%")))
    except yaml.YAMLError as error:
        raise CallError(f"{path} cannot be understood: {error}", "give the sensor.yaml of the sequence") from None
    return content if isinstance(content, dict) else {}


def _on_body(sensor: dict[str, Any], path: Path) -> np.ndarray | None:
    """`T_BS`, 4 x 4: points of the sensor to the body; None where it is not told."""
    T = sensor.get("T_BS")
    data = T.get("data") if isinstance(T, dict) else T
    try:
        return None if data is None else np.array(data, np.float64).reshape(4, 4)
    except (ValueError, TypeError) as error:
        raise CallError(f"T_BS of {path} cannot be understood: {error}", "give the sensor.yaml of the sequence") from None


def _euroc_camera(sensor: dict[str, Any], path: Path) -> tuple[Any, Known, np.ndarray | None, tuple[Any, Any]]:
    """(K, lens, camera to body, (width, height)) as far as they are told."""
    on_body = _on_body(sensor, path)
    try:
        K = camera_3x3(*map(float, sensor["intrinsics"])) if "intrinsics" in sensor else None
        bend = [float(number) for number in sensor.get("distortion_coefficients") or ()]
        width, height = sensor.get("resolution") or (None, None)
    except (ValueError, TypeError) as error:
        raise CallError(f"{path} cannot be understood: {error}", "give the sensor.yaml of the sequence") from None
    model = str(sensor.get("distortion_model", "none"))
    names = {"radial-tangential": "OPENCV", "radtan": "OPENCV", "plumb_bob": "OPENCV", "equidistant": "OPENCV_FISHEYE", "none": "PINHOLE"}
    return K, lens_of(names.get(model, model), bend), on_body, (width, height)
