"""Cameras of other programs: written as their descriptions say, of a wall whose true cameras are known, in a world of another axes."""

from __future__ import annotations

import gzip
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lzfse
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from sightline.methods.errors import CallError
from sightline.platform.data.geometry import reproject, visible_share
from sightline.platform.data.images import Resize
from sightline.platform.data.prepare.captures.cameras import camera_of, read_cameras
from sightline.platform.data.prepare.pair_sources.frames import Frames
from sightline.platform.data.prepare.pair_sources.mine import Mine
from sightline.platform.data.prepare.pair_sources.rgbd import Rgbd
from sightline.platform.data.schema import decode_row
from tests.support.plane_scene import SIZE, as_depth, camera, depth_error, view, wall_error, warped_error, write_png

COUNT = 4
HEIGHT, WIDTH = SIZE
GL = np.diag([1.0, -1, -1, 1])
WORLD = np.eye(4)
WORLD[:3, :3], WORLD[:3, 3] = Rotation.from_rotvec([0.9, -0.5, 1.7]).as_matrix(), (3, -2, 5)
"""The wall's axes in those of the files: none of them is along another."""
FREE = camera(0)[0]
CENTRED = np.array([[60.0, 0, WIDTH / 2 - 0.5], [0, 60, HEIGHT / 2 - 0.5], [0, 0, 1]])
Pose = Callable[[int], np.ndarray]


def _pose(number: int) -> np.ndarray:
    """Camera to the world of the files."""
    return WORLD @ camera(number)[1]


def _photo(path: Path, number: int, K: np.ndarray, size: tuple[int, int] = SIZE, alpha: bool = False) -> np.ndarray:
    pixels, metres = view(K, camera(number)[1], size)
    write_png(path, np.dstack([pixels, np.full(size, 255, np.uint8)]) if alpha else pixels)
    return metres


def _depth(path: Path, number: int, K: np.ndarray, scale: float) -> None:
    write_png(path, as_depth(view(K, camera(number)[1])[1], scale))


def _text(path: Path, *rows: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "\n".join(row if isinstance(row, str) else " ".join(f"{number:.12g}" for number in np.ravel(row)) for row in rows) + "\n"
    )


def _pfm(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(f"Pf\n{values.shape[1]} {values.shape[0]}\n-1.0\n".encode() + np.flipud(values).astype("<f4").tobytes())


def blender(folder: Path) -> None:
    """As the scenes of NeRF: RGBA, an angle, paths without suffix; a picture of normals beside."""
    angle = 2 * np.arctan(WIDTH / 2 / CENTRED[0, 0])
    for part, numbers in {"train": (0, 1), "test": (2, 3)}.items():
        frames = [{"file_path": f"./{part}/r_{i}", "rotation": 0.01, "transform_matrix": (_pose(i) @ GL).tolist()} for i in numbers]
        _text(folder / f"transforms_{part}.json", json.dumps({"camera_angle_x": angle, "frames": frames}))
        for i in numbers:
            _photo(folder / f"{part}/r_{i}.png", i, CENTRED, alpha=True)
    write_png(folder / "test/r_2_normal_0001.png", np.zeros((*SIZE, 4), np.uint8))
    _text(folder / "transforms_val.json", json.dumps({"camera_angle_x": angle, "frames": [{"file_path": "./val/r_0"}]}))


def llff(folder: Path) -> None:
    """The file tells of photos 8 times as large; their names in the order of the alphabet, not of numbers."""
    rows = []
    for i in range(COUNT):
        right, down, forward, centre = _pose(i)[:3].T
        five = np.stack([down, right, -forward, centre, (8 * HEIGHT, 8 * WIDTH, 8 * CENTRED[0, 0])], 1)
        rows.append(np.concatenate([five.ravel(), (1.2, 4.5)]))
        _photo(folder / f"images_8/{('1', '10', '2', '9')[i]}.png", i, CENTRED)
    np.save(folder / "poses_bounds.npy", rows)


def kitti(folder: Path) -> None:
    """Poses are those of camera 0; camera 2 stands at `beside` in its axes."""
    beside = np.eye(4)
    beside[:3, 3] = 0.06, 0.01, -0.02
    lines = [f"P{i}: " + " ".join(map(str, (FREE @ np.linalg.inv(beside)[:3] if i == 2 else np.eye(4)[:3]).ravel())) for i in range(4)]
    _text(folder / "calib.txt", *lines, "Tr: 1 0 0 0 0 1 0 0 0 0 1 0")
    _text(folder / "times.txt", *(f"{i / 10:e}" for i in range(COUNT + 3)))
    _text(folder / "poses.txt", *(np.eye(4)[:3] for _ in range(3)), *((_pose(i) @ np.linalg.inv(beside))[:3] for i in range(COUNT)))
    for i in range(COUNT):
        _photo(folder / f"image_2/{i + 3:06d}.png", i, FREE)
        _photo(folder / f"image_3/{i + 3:06d}.png", i, FREE)


def _told(numbers: Any) -> str:
    return " ".join(f"{one:.15g}" for one in np.ravel(numbers))


def kitti_raw(folder: Path) -> None:
    """Latitude, longitude and angles of a sensor, from it to the laser, from there to camera 0, and camera 2 beside it."""
    day, drive = folder / "2011_09_26", folder / "2011_09_26/drive"
    beside, rectified, laser, sensor = (np.eye(4) for _ in range(4))
    beside[:3, 3] = 0.06, 0.01, -0.02
    for move, turn, place in ((rectified, [0.01, -0.02, 0.01], 0), (laser, [1.2, -1.1, 1.3], [0.1, -0.2, 0.3]), (sensor, [0, 0.1, 0.2], 1)):
        move[:3, :3], move[:3, 3] = Rotation.from_rotvec(turn).as_matrix(), place
    to_camera = beside @ rectified @ laser @ sensor
    P = FREE @ beside[:3]
    size = f"S_rect_02: {WIDTH:e} {HEIGHT:e}"
    rows = [f"{name}: {_told(values)}" for name, values in (("R_rect_00", rectified[:3, :3]), ("P_rect_02", P))]
    _text(day / "calib_cam_to_cam.txt", "calib_time: 09-Jan-2012 13:57:47", "corner_dist: 9.950000e-02", size, *rows)
    for name, move in (("imu_to_velo", sensor), ("velo_to_cam", laser)):
        told = f"R: {_told(move[:3, :3])}", f"T: {_told(move[:3, 3])}"
        _text(day / f"calib_{name}.txt", "calib_time: 25-May-2012 16:47:16", *told)
    bodies = [_pose(i) @ to_camera for i in range(COUNT)]
    across = 6378137 * np.cos(np.radians(49))
    for i, body in enumerate(bodies):
        x, y, z = body[:3, 3] - bodies[0][:3, 3]
        north = np.log(np.tan(np.radians(90 + 49) / 2)) + y / across
        yaw, pitch, roll = Rotation.from_matrix(body[:3, :3]).as_euler("ZYX")
        latitude = 2 * np.degrees(np.arctan(np.exp(north))) - 90
        words = (latitude, 8.4 + np.degrees(x / across), 112 + z, roll, pitch, yaw, *range(24))
        _text(drive / f"oxts/data/{i:010d}.txt", " ".join(map(repr, map(float, words))))
        _photo(drive / f"image_02/data/{i:010d}.png", i, FREE)
    _text(drive / "image_02/timestamps.txt", *(f"2011-09-26 13:02:25.{i}64389445" for i in range(COUNT)))
    (drive / "image_03").mkdir()


def co3d(folder: Path) -> None:
    """x left and y up, points as rows; two forms of intrinsics; another sequence of the category."""
    flip, told = np.diag([-1.0, -1, 1]), []
    for i in range(COUNT):
        world_to_cam = np.linalg.inv(_pose(i))
        form, half = ("ndc_isotropic", [HEIGHT / 2] * 2) if i < 2 else ("ndc_norm_image_bounds", [WIDTH / 2, HEIGHT / 2])
        middle = (np.array([WIDTH, HEIGHT]) / 2 - FREE[:2, 2] - 0.5) / half
        seen = {"R": (flip @ world_to_cam[:3, :3]).T.tolist(), "T": (flip @ world_to_cam[:3, 3]).tolist(), "intrinsics_format": form}
        seen |= {"focal_length": (FREE[[0, 1], [0, 1]] / half).tolist(), "principal_point": middle.tolist()}
        image = {"path": f"apple/110/images/{i}.png", "size": [HEIGHT, WIDTH]}
        told.append({"sequence_name": "110", "frame_number": i, "image": image, "viewpoint": seen, "frame_timestamp": i / 10, "meta": {}})
        _photo(folder / f"apple/110/images/{i}.png", i, FREE)
    told.append({**told[0], "sequence_name": "220"})
    (folder / "apple/frame_annotations.jgz").write_bytes(gzip.compress(json.dumps(told).encode()))


def record3d_file(folder: Path) -> None:
    """As the phone shares it."""
    record3d(folder / "unpacked")
    with zipfile.ZipFile(folder / "walk.r3d", "w") as archive:
        for path in [folder / "unpacked/metadata", *sorted((folder / "unpacked").rglob("*.*"))]:
            archive.write(path, path.relative_to(folder / "unpacked"))


def sens(folder: Path) -> None:
    """As ScanNet describes its recordings; 4,000 units in a metre."""
    matrices = [np.pad(FREE, (0, 1)), np.eye(4), np.pad(FREE, (0, 1)), np.eye(4)]
    head = struct.pack("<IQ", 4, 9) + b"Structure" + b"".join(one.astype("<f4").tobytes() for one in matrices)
    head += struct.pack("<iiIIIIfQ", 1, 1, WIDTH, HEIGHT, WIDTH, HEIGHT, 4000, COUNT)
    for i in range(COUNT):
        metres = _photo(folder / f"{i}.png", i, FREE)
        photo = (folder / f"{i}.png").read_bytes()
        depth = zlib.compress(np.rint(metres * 4000).astype("<u2").tobytes())
        head += _pose(i).astype("<f4").tobytes() + struct.pack("<QQQQ", 1000 * i, 1000 * i, len(photo), len(depth)) + photo + depth
    (folder / "scene0000_00.sens").write_bytes(head)


def _cut_sens(folder: Path) -> None:
    sens(folder)
    (folder / "scene0000_00.sens").write_bytes((folder / "scene0000_00.sens").read_bytes()[:-9])


def strecha(folder: Path) -> None:
    """The camera is that of a photo 3 times as large."""
    large = np.array([[3, 0, 1], [0, 3, 1], [0, 0, 1]]) @ FREE
    for i in range(COUNT):
        _photo(folder / f"images/{i:04d}.png", i, FREE)
        pose = _pose(i)
        _text(folder / f"gt_dense_cameras/{i:04d}.png.camera", *large, (0, 0, 0), *pose[:3, :3], pose[:3, 3], (3 * WIDTH, 3 * HEIGHT))


def _cam(path: Path, pose: np.ndarray, K: np.ndarray, *depths: float) -> None:
    _text(path, "extrinsic", *np.linalg.inv(pose), "", "intrinsic", *K, "", depths)


def blended_mvs(folder: Path) -> None:
    """A scene of arbitrary scale, 50 of its units in a metre of the wall."""
    for i in range(COUNT):
        pose = _pose(i)
        pose[:3, 3] *= 50
        _cam(folder / f"cams/{i:08d}_cam.txt", pose, FREE, 50, 1, 128, 220)
        metres = _photo(folder / f"blended_images/{i:08d}.png", i, FREE)
        _photo(folder / f"blended_images/{i:08d}_masked.png", i, FREE)
        _pfm(folder / f"rendered_depth_maps/{i:08d}.pfm", 50 * metres)
    _text(folder / "cams/pair.txt", "1", "0", "1 1 9.5")


def dtu(folder: Path) -> None:
    """Millimetres; cameras are for 160 x 128, the photos counted from 1 in several lights, depth beside."""
    K = np.array([[4 * 42.0, 0, 75], [0, 4 * 41.0, 60], [0, 0, 1]])
    for i in range(COUNT):
        pose = _pose(i)
        pose[:3, 3] *= 1000
        _cam(folder / f"Cameras/train/{i:08d}_cam.txt", pose, K, 425, 2.5)
        metres = view(K, camera(i)[1], (128, 160))[1]
        _pfm(folder / f"Depths/scan1_train/depth_map_{i:04d}.pfm", 1000 * metres)
        half = np.array([[0.5, 0, -0.25], [0, 0.5, -0.25], [0, 0, 1]]) @ K
        for light in (0, 3):
            _photo(folder / f"Rectified/scan1_train/rect_{i + 1:03d}_{light}_r5000.png", i, half, (64, 80))


def arkitscenes(folder: Path) -> None:
    """World to camera as axis times angle, at times between which those of the photos lie."""
    frames = folder / "40753679_frames"
    for i in range(COUNT):
        stem = f"40753679_{100 + i / 10:.3f}"
        _photo(frames / f"lowres_wide/{stem}.png", i, FREE)
        _depth(frames / f"lowres_depth/{stem}.png", i, FREE, 1000)
        fx, fy, cx, cy = FREE[0, 0], FREE[1, 1], FREE[0, 2] + 0.5, FREE[1, 2] + 0.5
        near = f"40753679_{100.001 + i / 10:.3f}"
        _text(frames / f"lowres_wide_intrinsics/{near}.pincam", (WIDTH, HEIGHT, fx, fy, cx, cy))
    lines = []
    for time, number in ((99.95, -0.5), (100.05, 0.5), (100.15, 1.5), (100.25, 2.5), (100.35, 3.5)):
        back = np.linalg.inv(WORLD @ camera(number)[1])  # type: ignore[arg-type]
        lines.append((time, *Rotation.from_matrix(back[:3, :3]).as_rotvec(), *back[:3, 3]))
    _text(frames / "lowres_wide.traj", *lines)


def replica(folder: Path) -> None:
    K = {"w": WIDTH, "h": HEIGHT, "fx": FREE[0, 0], "fy": FREE[1, 1], "cx": FREE[0, 2], "cy": FREE[1, 2], "scale": 6553.5}
    _text(folder / "cam_params.json", json.dumps({"camera": K}))
    _text(folder / "room0/traj.txt", *(_pose(i) for i in range(COUNT)))
    for i in range(COUNT):
        _photo(folder / f"room0/results/frame{i:06d}.png", i, FREE)
        _depth(folder / f"room0/results/depth{i:06d}.png", i, FREE, 6553.5)


def semantic_nerf(folder: Path) -> None:
    _text(folder / "traj_w_c.txt", *(_pose(i) for i in range(COUNT)))
    for i in range(COUNT):
        _photo(folder / f"rgb/rgb_{i}.png", i, FREE)
        _depth(folder / f"depth/depth_{i}.png", i, FREE, 1000)


def euroc(folder: Path) -> None:
    """The truth is that of the body, the camera is fixed to it in other axes; nanoseconds, lines of Windows."""
    body = np.eye(4)
    body[:3, :3], body[:3, 3] = Rotation.from_rotvec([0.1, 0.2, 1.5]).as_matrix(), (-0.02, -0.06, 0.01)
    sensor = ["%YAML:1.0", "sensor_type: camera", "T_BS:", "  cols: 4", "  rows: 4", f"  data: {body.ravel().tolist()}", "rate_hz: 20"]
    sensor += [
        f"resolution: [{WIDTH}, {HEIGHT}]",
        "camera_model: pinhole",
        f"intrinsics: {[*FREE[[0, 1, 0, 1], [0, 1, 2, 2]].tolist()]} #fu, fv",
    ]
    _text(folder / "mav0/cam0/sensor.yaml", *sensor, "distortion_model: radial-tangential", "distortion_coefficients: [0.0, 0.0, 0.0, 0.0]")
    start, step = 1403636579763555584, 50_000_000
    marker = np.eye(4)
    marker[:3, :3], marker[:3, 3] = Rotation.from_rotvec([0.5, 0, -0.3]).as_matrix(), (0.1, 0, 0.05)
    _text(folder / "mav0/vicon0/sensor.yaml", f"T_BS: {{cols: 4, rows: 4, data: {marker.ravel().tolist()}}}")
    rows, truth = ["#timestamp [ns],filename\r"], ["#timestamp, p_RS_R_x [m], ...\r"]
    for i in range(COUNT):
        _photo(folder / f"mav0/cam0/data/{start + i * step}.png", i, FREE)
        rows.append(f"{start + i * step},{start + i * step}.png\r")
    for half in range(-1, 2 * COUNT):
        pose = WORLD @ camera(half / 2)[1] @ np.linalg.inv(body) @ marker  # type: ignore[arg-type]
        x, y, z, w = Rotation.from_matrix(pose[:3, :3]).as_quat()
        numbers = ",".join(f"{number:.9f}" for number in (*pose[:3, 3], w, x, y, z, *(0,) * 9))
        truth.append(f"{start + half * step // 2},{numbers}\r")
    _text(folder / "mav0/cam0/data.csv", *rows)
    _text(folder / "mav0/vicon0/data.csv", *truth)


def record3d(folder: Path) -> None:
    """OpenGL's axes, x y z w, columns of K; two photos have intrinsics of their own."""
    poses = [(*Rotation.from_matrix((_pose(i) @ GL)[:3, :3]).as_quat(), *_pose(i)[:3, 3]) for i in range(COUNT)]
    K = FREE + np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
    each = [[K[0, 0], K[1, 1], K[0, 2], K[1, 2]]] * 2
    known = {"w": WIDTH, "h": HEIGHT, "K": K.T.ravel().tolist(), "perFrameIntrinsicCoeffs": each, "poses": poses, "fps": 60}
    _text(folder / "metadata", json.dumps(known | {"frameTimestamps": [i / 60 for i in range(COUNT)]}))
    for i in range(COUNT):
        metres = _photo(folder / f"rgbd/{i}.png", i, FREE).astype("<f4")
        (folder / f"rgbd/{i}.depth").write_bytes(lzfse.compress(metres.tobytes()))


def polycam(folder: Path) -> None:
    """The corrected ones count; the others are wrong here."""
    for i in range(COUNT):
        pose = _pose(i) @ GL
        known = {f"t_{row}{column}": pose[row, column] for row in range(3) for column in range(4)}
        known |= {"fx": 2 * FREE[0, 0], "fy": 2 * FREE[1, 1], "cx": 2 * FREE[0, 2] + 1, "cy": 2 * FREE[1, 2] + 1}
        stem = 92_000_000_000 + i
        for kind, wrong in (("corrected_", 0), ("", 1)):
            camera_file = known | {"width": 2 * WIDTH, "height": 2 * HEIGHT, "t_03": pose[0, 3] + wrong, "blur_score": 12.5}
            _text(folder / f"keyframes/{kind}cameras/{stem}.json", json.dumps(camera_file))
            _photo(folder / f"keyframes/{kind}images/{stem}.png", i, FREE)
        _depth(folder / f"keyframes/depth/{stem}.png", i, FREE, 1000)


def bundle_fusion(folder: Path) -> None:
    K = "{} 0 {} 0 0 {} {} 0 0 0 1 0 0 0 0 1".format(*FREE[[0, 0, 1, 1], [0, 2, 1, 2]])
    sizes = [f"m_{what}{side} = {number}" for what in ("color", "depth") for side, number in (("Width", WIDTH), ("Height", HEIGHT))]
    _text(folder / "info.txt", "m_versionNumber = 4", "m_sensorName = StructureSensor", *sizes, "m_depthShift = 2000")
    with (folder / "info.txt").open("a") as file:
        file.write(f"m_calibrationColorIntrinsic = {K} \nm_calibrationDepthIntrinsic = {K} \n")
    for i in range(COUNT):
        _photo(folder / f"frame-{i:06d}.color.png", i, FREE)
        _depth(folder / f"frame-{i:06d}.depth.png", i, FREE, 2000)
        _text(folder / f"frame-{i:06d}.pose.txt", *_pose(i))


def bundler(folder: Path) -> None:
    """Points of the wall that the cameras see; the second photo of the list was not placed."""
    rows, columns = (number.ravel() for number in np.mgrid[4:HEIGHT:8, 4:WIDTH:8])
    points, views = [], []
    for i in range(COUNT):
        pose = camera(i)[1]
        metres = view(CENTRED, pose)[1][rows, columns]
        points += list(
            (pose @ np.vstack([np.linalg.inv(CENTRED) @ [columns, rows, np.ones(len(rows))] * metres, np.ones(len(rows))])).T[:, :3]
        )
    for point in points:
        found = []
        for i in range(COUNT):
            x, y, z = CENTRED @ (np.linalg.inv(camera(i)[1]) @ [*point, 1])[:3]
            if 0 <= x / z < WIDTH and 0 <= y / z < HEIGHT:
                found.append(f"{i + (i > 0)} 7 {x / z - WIDTH / 2:.2f} {HEIGHT / 2 - y / z:.2f}")
        views.append(f"{len(found)} {' '.join(found)}")
    cameras: list[Any] = []
    for i in (0, None, *range(1, COUNT)):
        back = np.zeros((4, 4)) if i is None else GL @ np.linalg.inv(_pose(i))
        cameras += [(0 if i is None else 60.0, 0, 0), *back[:3, :3], back[:3, 3]]
    placed = [row for point, seen in zip(points, views, strict=True) for row in ((WORLD @ [*point, 1])[:3], (9, 9, 9), seen)]
    _text(folder / "bundle/bundle.out", "# Bundle file v0.3", f"{COUNT + 1} {len(points)}", *cameras, *placed)
    _text(folder / "list.txt", "./0.png 0 60.0", "./lost.png", *(f"./{i}.png 0 60.0" for i in range(1, COUNT)))
    for i in range(COUNT):
        _photo(folder / f"images/{i}.png", i, CENTRED)


LAYOUTS: dict[Callable[[Path], None], tuple[str, np.ndarray, bool, tuple[str, ...]]] = {
    blender: ("", CENTRED, False, ("train, test are read as one set", "transforms_val.json is left out: none of its 1 photos is there")),
    llff: ("", CENTRED, False, ()),
    kitti: ("", FREE, False, ("image_2 is read, not image_3",)),
    kitti_raw: ("2011_09_26/drive", FREE, False, ("image_02 is read, not image_03",)),
    co3d: ("apple/110", FREE, False, ()),
    record3d_file: ("walk.r3d", FREE, True, ()),
    sens: ("scene0000_00.sens", FREE, True, ()),
    strecha: ("", FREE, False, ()),
    blended_mvs: ("", FREE, True, ("divided by 10",)),
    dtu: ("Rectified/scan1_train", FREE, True, ("of 2 lights the photos of light 3 are read", "millimetres")),
    arkitscenes: ("", FREE, True, ("lie on their side",)),
    replica: ("room0", FREE, True, ()),
    semantic_nerf: ("", FREE, True, ()),
    euroc: ("", FREE, False, ()),
    record3d: ("", FREE, True, ()),
    polycam: ("", FREE, True, ("Polycam corrected are read", "lie on their side")),
    bundle_fusion: ("", FREE, True, ()),
    bundler: ("", CENTRED, False, ("1 photo(s) have no camera",)),
}
"""Writer -> (folder that is given, K of the photos, whether there is depth, what the notes say besides that the layout is read)."""


@pytest.mark.parametrize("make", LAYOUTS, ids=lambda make: make.__name__)
def test_the_cameras_are_the_true_ones(tmp_path: Path, make: Callable[[Path], None], record_property: Any) -> None:
    make(tmp_path)
    sub, K, with_depth, notes = LAYOUTS[make]
    if make is dtu:
        K = np.array([[2 * 42.0, 0, 37.25], [0, 2 * 41.0, 29.75], [0, 0, 1]])
    scale = {blended_mvs: 5.0}.get(make, 1.0)
    options: dict[str, Any] = {"intrinsics": tuple(FREE[[0, 1, 0, 1], [0, 1, 2, 2]])} if make is semantic_nerf else {}
    place = str(tmp_path / sub)
    found = Rgbd(overlap=(0, 1), pairs_per_frame=COUNT, **options).find(place, "x") if with_depth else Frames(gap=(1, 2)).find(place, "x")
    assert not found.skips
    told = [note for note in found.notes if "frames, poses and depth are read as" not in note]
    assert all(any(wanted in note for note in told) for wanted in notes) and (with_depth or len(told) <= len(notes) + 1)
    files = sorted({image for pair in found.items for image in (pair.image1, pair.image2)}, key=_order(make))
    assert len(files) == COUNT and len(found.items) >= (2 if make is blender else 5)
    worst = 0.0
    for pair in found.items:
        sample = decode_row(pair.row(Resize()), "pairs", depth=with_depth)
        first, second = files.index(pair.image1), files.index(pair.image2)
        size = sample["image1"].shape[:2]
        depth = view(K, camera(first)[1], size)[1]
        truth = np.linalg.inv(camera(second)[1]) @ camera(first)[1]
        _, x, y, _ = reproject(depth, K, K, truth)
        _, seen_x, seen_y, _ = reproject(depth * scale, sample["K1"], sample["K2"], sample["T_2from1"])
        worst = max(worst, float(np.hypot(x - seen_x, y - seen_y).max()))
        assert warped_error(sample, depth * scale) < 9
        if with_depth:
            assert depth_error(sample["image1"], sample["depth1"] / scale) < 0.02
            assert wall_error(sample["depth1"] / scale, sample["K1"], camera(first)[1]) < 0.02
    record_property("reprojection", worst)
    print(f"{make.__name__}: {worst:.2g} px")
    assert worst < 0.01


def _order(make: Callable[[Path], None]) -> Callable[[str], Any]:
    """By the number of the camera."""
    if make is blender:
        return lambda file: int(Path(file).stem[2:])
    return lambda file: Path(file).stem


def test_a_recording_that_is_cut_is_named(tmp_path: Path) -> None:
    _cut_sens(tmp_path)
    with pytest.raises(CallError, match=r"scene0000_00.sens is damaged.* ends in frame 3 of 4"):
        Rgbd().find(str(tmp_path / "scene0000_00.sens"), "x")
    with pytest.raises(CallError, match=r"the \.sens itself: name it"):
        Rgbd().find(str(tmp_path), "x")


def test_pairs_are_mined_from_the_points_of_a_bundle(tmp_path: Path) -> None:
    bundler(tmp_path)
    found = Mine(min_score=0, near=1, max_angle=180).find(str(tmp_path), "x")
    assert len(found.items) == COUNT * (COUNT - 1) // 2 and "IoU by the points of the model that both see" in found.source.notes[0]
    for pair in found.items:
        assert pair.overlap is not None and 0.5 < pair.overlap < 1 and warped_error(_with_truth(pair), _true_depth(pair)) < 9
    known = read_cameras(tmp_path)
    (tmp_path / "bundle/bundle.out").rename(tmp_path / "model.bundle.out")  # as COLMAP exports it
    (tmp_path / "list.txt").rename(tmp_path / "model.list.txt")
    assert read_cameras(tmp_path) == known


def test_pairs_are_mined_from_how_near_and_far_things_are(tmp_path: Path) -> None:
    """The wall lies between 1.5 and 3 m, so the shares are about those of the wall itself."""
    kitti(tmp_path)
    with pytest.raises(CallError, match="KITTI odometry names no depth, and has no points") as caught:
        Mine().find(str(tmp_path), "x")
    assert "--depth-range 2..30" in caught.value.hint
    found = Mine(min_score=0, near=1, max_angle=180, depth_range=(1.5, 3)).find(str(tmp_path), "x")
    assert len(found.items) == COUNT * (COUNT - 1) // 2 and "IoU by geometry alone" in found.source.notes[0]
    for pair in found.items:
        (one, depth1), (two, depth2) = (
            (camera(i)[1], view(FREE, camera(i)[1])[1]) for i in (int(Path(f).stem) - 3 for f in (pair.image1, pair.image2))
        )
        T = np.linalg.inv(two) @ one
        both = (visible_share(depth1, FREE, depth2, FREE, T) + visible_share(depth2, FREE, depth1, FREE, np.linalg.inv(T))) / 2
        assert pair.overlap == pytest.approx(both / (2 - both), abs=0.05)
    llff(tmp_path / "llff")
    assert Mine(min_score=0).find(str(tmp_path / "llff"), "x").items, "it tells the depths by itself"


def test_packed_depth_without_its_package_or_damaged_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record3d(tmp_path)
    (tmp_path / "rgbd/1.depth").write_bytes((tmp_path / "rgbd/1.depth").read_bytes()[:200])
    (tmp_path / "rgbd/2.depth").write_bytes(lzfse.compress(bytes(4 * 31)))
    skips = Rgbd(overlap=(0, 1)).find(str(tmp_path), "x").skips
    assert [(what.partition(" ")[0], why) for what, why in skips] == [
        (f"rgbd/{i}.depth", "depth of a frame: damaged depth map") for i in (1, 2)
    ]
    monkeypatch.setattr("sightline.platform.data.prepare.captures.phones.find_spec", lambda name: None)
    known = read_cameras(tmp_path)
    assert known is not None and not any(frame.depth for frame in known.frames)
    assert "4 depth map(s) are not read (pip install 'sightline-pretext[record3d]' reads .depth)" in known.notes[1]


def _with_truth(pair: Any) -> dict[str, Any]:
    return decode_row(pair.row(Resize()), "pairs", depth=False)


def _true_depth(pair: Any) -> np.ndarray:
    return view(CENTRED, camera(int(Path(pair.image1).stem))[1])[1]


def _llff_without_one(folder: Path) -> None:
    llff(folder)
    (folder / "images_8/2.png").unlink()


def _cut_annotations(folder: Path) -> None:
    co3d(folder)
    path = folder / "apple/frame_annotations.jgz"
    path.write_bytes(path.read_bytes()[:-9])


def _no_list(folder: Path) -> None:
    bundler(folder)
    (folder / "list.txt").unlink()


def _edited(make: Callable[[Path], None], file: str, old: str, new: str) -> Callable[[Path], None]:
    def edited(folder: Path) -> None:
        make(folder)
        text = (folder / file).read_text()
        assert old in text
        (folder / file).write_text(text.replace(old, new, 1))

    return edited


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_llff_without_one, r"poses_bounds.npy has 4 poses in the order of the photos, and images_8 has 3"),
        (_no_list, "does not name its photos"),
        (_edited(bundler, "list.txt", "./lost.png\n", ""), "names 4 photos, and bundle.out has 5 cameras"),
        (_edited(bundler, "bundle/bundle.out", "# Bundle file v0.3", "# Other"), "no whole file of Bundler: its first line"),
        (_edited(kitti, "calib.txt", "P2:", "P5:"), "has no P2 of 12 numbers"),
        (_edited(kitti_raw, "2011_09_26/calib_velo_to_cam.txt", "T:", "U:"), "calib_velo_to_cam.txt has no T of 3 numbers"),
        (_cut_annotations, "frame_annotations.jgz cannot be understood"),
        (_edited(strecha, "gt_dense_cameras/0001.png.camera", "0 0 0\n", "0 0\n"), "has 25 numbers, not 26"),
        (_edited(blended_mvs, "cams/00000001_cam.txt", "extrinsic", "extrinsic\n1 2 3"), "19 and 13 numbers"),
        (_edited(blended_mvs, "cams/00000001_cam.txt", "intrinsic", ""), "29 and 0 numbers"),
        (_edited(euroc, "mav0/cam0/sensor.yaml", "rows: 4", "rows: ["), "sensor.yaml cannot be understood"),
        (_edited(euroc, "mav0/cam0/sensor.yaml", "intrinsics: [", "intrinsics: [x, "), "sensor.yaml cannot be understood"),
        (_edited(record3d, "metadata", "{", "["), "metadata cannot be understood"),
        (_edited(record3d, "metadata", '"poses": [[', '"poses": [["x", '), None),
    ],
)
def test_what_is_damaged_is_named(tmp_path: Path, make: Callable[[Path], None], message: str | None) -> None:
    """A whole file, or the one frame."""
    make(tmp_path)
    if message is not None:
        with pytest.raises(CallError, match=message):
            read_cameras(tmp_path / LAYOUTS[make][0] if make in LAYOUTS else next(tmp_path.glob("*/*/image*"), tmp_path / "x").parent)
        return
    skips = Frames().find(str(tmp_path), "x").skips
    assert len(skips) == 1 and skips[0][1].startswith("left out of its pairs: ")


def test_smaller_copies_of_photos_beside_a_model_of_colmap(tmp_path: Path) -> None:
    """LLFF calls its copies otherwise than COLMAP the photos; other programs keep the names."""
    llff(tmp_path)
    _text(tmp_path / "sparse/0/cameras.txt", "1 PINHOLE 512 384 480 480 256 192")
    _text(tmp_path / "sparse/0/images.txt", *(line for i in (1, 2) for line in (f"{i} 1 0 0 0 0 0 {i} 1 IMG_{i}.JPG", "")))
    known = read_cameras(tmp_path)
    assert known is not None and known.layout == "LLFF" and len(known.frames) == COUNT
    _photo(tmp_path / "images_4/IMG_2.png", 0, CENTRED)
    (tmp_path / "images_4/IMG_2.png").rename(tmp_path / "images_4/IMG_2.JPG")
    known = read_cameras(tmp_path)
    assert known is not None and known.layout == "COLMAP" and known.frames[1].file == "images_4/IMG_2.JPG"
    K = camera_of(known.frames[1], tmp_path).K
    assert K is not None and K[0, 0] == 60 and K[0, 2] == WIDTH / 2 - 0.5
