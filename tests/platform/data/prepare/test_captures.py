"""Captures of other tools are read as they are: one view warped into the other shows the same."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sightline.methods.errors import CallError
from sightline.platform.data.images import Resize
from sightline.platform.data.prepare.captures.cameras import read_cameras
from sightline.platform.data.prepare.cloud_sources.depth import CloudDepth
from sightline.platform.data.prepare.image_sources.frames import ImageFrames
from sightline.platform.data.prepare.pair_sources.frames import Frames
from sightline.platform.data.prepare.pair_sources.mine import Mine
from sightline.platform.data.prepare.pair_sources.rgbd import Rgbd
from sightline.platform.data.schema import decode_row
from tests.support.made_images import needs
from tests.support.plane_scene import SIZE, as_depth, camera, depth_error, view, warped_error, write_png

CAPTURES = Path(__file__).resolve().parents[5] / "shared" / "data" / "captures"
K = camera(0)[0]
INTRINSICS = (K[0, 0], K[1, 1], K[0, 2], K[1, 2])
COUNT = 4


def _text(path: Path, matrix: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savetxt(path, matrix)


def _photos(folder: Path, colour: str, depth: str, scale: float) -> None:
    for i in range(COUNT):
        pixels, metres = view(*camera(i))
        write_png(folder / colour.format(i), pixels)
        write_png(folder / depth.format(i), as_depth(metres, scale))


def _tum(folder: Path) -> None:
    """Colour and depth a few milliseconds apart, poses at a rate of their own."""
    _photos(folder, "rgb/{}.png", "depth/{}.png", 5000)
    (folder / "rgb.txt").write_text("# color images\n" + "".join(f"{10 + i / 10:.6f} rgb/{i}.png\n" for i in reversed(range(COUNT))))
    (folder / "depth.txt").write_text("# depth maps\n" + "".join(f"{10.004 + i / 10:.6f} depth/{i}.png\n" for i in range(COUNT)))
    lines = []
    for i in range(COUNT):
        pose = camera(i)[1]
        w = np.sqrt(1 + np.trace(pose[:3, :3])) / 2
        R = pose[:3, :3]
        x, y, z = (R[2, 1] - R[1, 2]) / 4 / w, (R[0, 2] - R[2, 0]) / 4 / w, (R[1, 0] - R[0, 1]) / 4 / w
        lines += [f"{9.999 + i / 10:.6f} {' '.join(map(str, (*pose[:3, 3], x, y, z, w)))}", f"{10.05 + i / 10:.6f} 9 9 9 0 0 0 1"]
    (folder / "groundtruth.txt").write_text("\n".join(lines))


def _seven_scenes(folder: Path) -> None:
    _photos(folder, "frame-{:06d}.color.png", "frame-{:06d}.depth.png", 1000)
    for i in range(COUNT):
        _text(folder / f"frame-{i:06d}.pose.txt", camera(i)[1])


def _three_d_match(folder: Path) -> None:
    _seven_scenes(folder / "seq-01")
    _text(folder / "camera-intrinsics.txt", K)


def _scannet(folder: Path) -> None:
    _photos(folder, "color/{}.png", "depth/{}.png", 1000)
    for i in range(COUNT):
        _text(folder / f"pose/{i}.txt", camera(i)[1])
    _text(folder / "intrinsic/intrinsic_color.txt", np.block([[K, np.zeros((3, 1))], [np.eye(4)[3:]]]))


def _transforms(folder: Path, **each: Any) -> None:
    _photos(folder, "images/{}.png", "depth/{}.png", 1000)
    opengl = np.diag([1, -1, -1, 1])
    frames = [
        {"file_path": f"./images/{i}.png", "depth_file_path": f"depth/{i}.png", "transform_matrix": (camera(i)[1] @ opengl).tolist()}
        for i in reversed(range(COUNT))
    ]
    lens = {"fl_x": K[0, 0], "fl_y": K[1, 1], "cx": K[0, 2] + 0.5, "cy": K[1, 2] + 0.5, "w": float(SIZE[1]), "h": float(SIZE[0])}
    (folder / "transforms.json").write_text(json.dumps(lens | {"frames": [frame | each for frame in frames]}))


@pytest.mark.parametrize(
    ("make", "sub", "options"),
    [
        (_tum, "", {"intrinsics": INTRINSICS}),
        (_seven_scenes, "", {"intrinsics": INTRINSICS}),
        (_three_d_match, "seq-01", {}),
        (_scannet, "", {}),
        (_transforms, "", {}),
    ],
)
def test_views_of_known_layouts_fit(tmp_path: Path, make: Any, sub: str, options: dict[str, Any]) -> None:
    make(tmp_path)
    place = str(tmp_path / sub)
    found = Rgbd(overlap=(0, 1), pairs_per_frame=COUNT, **options).find(place, "wall")
    assert not found.skips and len(found.items) == COUNT * (COUNT - 1) // 2 and len(found.notes) == 1 and "are read as" in found.notes[0]
    for item in found.items:
        sample = decode_row(item.row(Resize(36)), "pairs", depth=True)
        assert warped_error(sample) < 9 and depth_error(sample["image1"], sample["depth1"]) < 0.05
    images = ImageFrames().find(place, "wall").items
    assert [Path(image.image).name for image in images] == sorted(Path(image.image).name for image in images)
    for image in images[:1]:
        sample = decode_row(image.row(Resize()), "images", depth=True)
        assert depth_error(sample["image"], sample["depth"]) < 0.01
    pairs = Frames().find(place, "wall").items
    poses = {frozenset((pair.image1, pair.image2)): pair.T_2from1 for pair in found.items}
    for pair in pairs:
        known = poses[frozenset((pair.image1, pair.image2))]
        back = np.linalg.inv(np.reshape(pair.T_2from1, (4, 4))).ravel()
        assert any(np.allclose(pose, known, atol=1e-6) for pose in (pair.T_2from1, back))


def test_a_layout_without_intrinsics_asks_for_them(tmp_path: Path) -> None:
    _tum(tmp_path)
    with pytest.raises(CallError, match=r"no frame of .* has K, read from TUM RGB-D") as caught:
        Rgbd().find(str(tmp_path), "x")
    assert "--intrinsics" in caught.value.hint
    (tmp_path / "calibration.txt").write_text(" ".join(map(str, INTRINSICS)))
    assert Rgbd(overlap=(0, 1)).find(str(tmp_path), "x").items


@pytest.mark.parametrize(
    ("folder", "numbers"),
    [
        ("rgbd_dataset_freiburg1_xyz", "say --intrinsics 517.3,516.5,318.6,255.3 if this is fr1"),
        ("tum-fr2-desk/half", "say --intrinsics 520.9,521.0,325.1,249.7 if this is fr2"),
        ("FR3", "say --intrinsics 535.4,539.2,320.1,247.6 if this is fr3"),
        ("living_room_traj0_frei_png", "say --intrinsics 481.2,480,319.5,239.5 if this is ICL-NUIM"),
        ("offr1", "say --intrinsics fx,fy,cx,cy; published for 640 x 480: fr1 517.3,516.5,318.6,255.3; fr2 520.9"),
        ("fr12", "the default of ROS 525,525,319.5,239.5"),
    ],
)
def test_the_published_intrinsics_are_told_and_not_taken(tmp_path: Path, folder: str, numbers: str) -> None:
    place = tmp_path / folder
    _text(place / "depth/1.png", np.eye(2))
    _text(place / "rgb/1.png", np.eye(2))
    for name, line in {"rgb": "1 rgb/1.png", "depth": "1 depth/1.png", "groundtruth": "1 0 0 0 0 0 0 1"}.items():
        (place / f"{name}.txt").write_text(line)
    for source in (Rgbd(), CloudDepth()):
        with pytest.raises(CallError, match="has K, read from TUM RGB-D") as caught:
            source.find(str(place), "x")
        assert numbers in caught.value.hint


def test_lists_that_are_not_those_of_tum_are_no_capture(tmp_path: Path) -> None:
    (tmp_path / "rgb.txt").write_text("red green blue")
    (tmp_path / "depth.txt").write_text("")
    assert read_cameras(tmp_path) is None


def test_bad_poses_of_text_files_are_named(tmp_path: Path) -> None:
    _scannet(tmp_path)
    (tmp_path / "pose/1.txt").write_text("-inf -inf -inf -inf\n" * 4)
    (tmp_path / "pose/2.txt").write_text("lost\n")
    found = Rgbd(overlap=(0, 1)).find(str(tmp_path), "x")
    assert found.skips == [("color/1.png", "pose not finite"), ("color/2.png (1 x 1)", "pose of another shape than 4 x 4")]


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"frames": [1]}', '{"frames": [{"file_path": 3}]}', '{"frames": [{"file_path": "../x.png"}]}']
)
def test_a_damaged_transforms_file_is_a_wrong_call(tmp_path: Path, text: str) -> None:
    (tmp_path / "transforms.json").write_text(text)
    with pytest.raises(CallError, match="cannot be understood"):
        read_cameras(tmp_path)


def _edit(folder: Path, change: Any) -> None:
    """`change(content)` of a `transforms.json`."""
    content = json.loads((folder / "transforms.json").read_text())
    change(content)
    (folder / "transforms.json").write_text(json.dumps(content))


def _three_rows(content: Any) -> None:
    for frame in content["frames"]:
        frame["transform_matrix"] = frame["transform_matrix"][:3]


def _no_middle(content: Any) -> None:
    for name in ("cx", "cy", "w", "h"):
        del content[name]


def _angle(content: Any) -> None:
    _no_middle(content)
    content["camera_angle_x"] = 2 * np.arctan(SIZE[1] / 2 / content.pop("fl_x"))


def _no_suffix(content: Any) -> None:
    for frame in content["frames"]:
        frame["file_path"] = frame["file_path"].removesuffix(".png")


def _texts(content: Any) -> None:
    content.update({name: str(content[name]) for name in ("fl_x", "fl_y", "cx", "cy", "w", "h")})


@pytest.mark.parametrize("change", [_three_rows, _no_middle, _angle, _no_suffix, _texts])
def test_transforms_are_read_as_programs_write_them(tmp_path: Path, change: Any) -> None:
    """Three rows kept OpenGL's axes; without `cx` and `w` the middle was at -0.5."""
    _transforms(tmp_path)
    for i in range(COUNT):
        (tmp_path / f"images/{i}.png").rename(tmp_path / f"images/{i}.PNG") if change is _no_suffix else None
    _edit(tmp_path, change)
    found = Rgbd(overlap=(0, 1)).find(str(tmp_path), "wall")
    assert not found.skips and len(found.items) == COUNT * (COUNT - 1) // 2
    assert all(warped_error(decode_row(item.row(Resize(36)), "pairs", depth=True)) < 10 for item in found.items)


def test_a_lens_that_is_no_pinhole_has_no_intrinsics(tmp_path: Path) -> None:
    _transforms(tmp_path)
    _edit(tmp_path, lambda content: content.update(camera_model="OPENCV_FISHEYE"))
    why = ("no pinhole camera (make pinhole photos of them first)", "OPENCV_FISHEYE")
    skips = Rgbd(overlap=(0, 1)).find(str(tmp_path), "x").skips
    assert skips == [(f"images/{i}.png ({why[1]})", why[0]) for i in range(COUNT)]
    pairs = Frames().find(str(tmp_path), "x").items
    assert all(pair.K1 is not None and pair.lens1 is not None for pair in pairs), "photos alone are straightened"
    _edit(tmp_path, lambda content: content.update(camera_model="EQUIRECTANGULAR"))
    pairs = Frames().find(str(tmp_path), "x").items
    assert all(pair.K1 is None and pair.T_2from1 is not None for pair in pairs), "a pose needs no lens"


def test_frames_are_the_photos_that_the_cameras_name(tmp_path: Path) -> None:
    """`transforms.json` of the half size, beside the photos of the whole: their cameras were lost."""
    _transforms(tmp_path)
    (tmp_path / "images_2").mkdir()
    for i in range(COUNT):
        Image.open(tmp_path / f"images/{i}.png").reduce(2).save(tmp_path / f"images_2/{i}.png")
    for name in ("images", "images_2"):
        _edit(tmp_path, lambda content, name=name: [f.update(file_path=f"{name}/{Path(f['file_path']).name}") for f in content["frames"]])
        pairs = Frames().find(str(tmp_path), "x").items
        assert {Path(pair.image1).parent.name for pair in pairs} == {name} and all(pair.T_2from1 for pair in pairs)
    assert pairs[0].K1 is not None and pairs[0].K1[0] == K[0, 0] / 2


def test_text_files_of_matrices_as_people_have_them(tmp_path: Path) -> None:
    _scannet(tmp_path)
    for path, change in (("pose/0.txt", (" ", ", ")), ("pose/1.txt", ("\n", " ")), ("intrinsic/intrinsic_color.txt", ("\n", "\r\n"))):
        (tmp_path / path).write_text((tmp_path / path).read_text().replace(*change))
    (tmp_path / "pose/2.txt").write_bytes(b"\xff\xd8 no text")
    found = Rgbd(overlap=(0, 1)).find(str(tmp_path), "x")
    assert found.skips == [("color/2.png (1 x 1)", "pose of another shape than 4 x 4")] and len(found.items) == 3
    assert all(warped_error(decode_row(item.row(Resize(36)), "pairs", depth=True)) < 9 for item in found.items)


def test_depth_of_another_lens_is_told(tmp_path: Path) -> None:
    """ScanNet's depth has a focal length of 571.6 at 640 pixels, its photos one of 577.9."""
    _scannet(tmp_path)
    for scale, wanted in ((1.0, 1), (0.9, 2)):
        _text(tmp_path / "intrinsic/intrinsic_depth.txt", np.diag([K[0, 0] * scale, K[1, 1] * scale, 1]) + (K - np.diag(np.diag(K))))
        notes = Rgbd(overlap=(0, 1)).find(str(tmp_path), "x").notes
        assert len(notes) == wanted
    assert "intrinsic_depth.txt tells of another lens: depth is taken as seen by the photo's, up to 3.7 of 64 pixels beside" in notes[1]


def test_what_cameras_name_and_lack_is_told(tmp_path: Path) -> None:
    """Times of the truth in milliseconds; photos that are not there; no intrinsics; a lens that is no number; names that are not UTF-8."""
    _tum(tmp_path / "tum")
    truth = tmp_path / "tum/groundtruth.txt"
    truth.write_text("\n".join(f"{1000 * float(line.split()[0])} {line.partition(' ')[2]}" for line in truth.read_text().splitlines()))
    with pytest.raises(CallError, match=r"has cam_to_world, .*within 0.02 s of a photo: photos are of 10 to 10.3, poses of 9999 to 10350"):
        Rgbd(intrinsics=INTRINSICS).find(str(tmp_path / "tum"), "x")
    _transforms(tmp_path)
    _edit(tmp_path, lambda content: [content.pop(name) for name in ("fl_x", "fl_y")])
    (tmp_path / "images/0.png").unlink()
    notes = " ".join(Frames().find(str(tmp_path), "x").notes)
    assert "1 photo(s) that transforms.json names are not there, the first images/0.png" in notes and "no frame has intrinsics" in notes
    _edit(tmp_path, lambda content: content.update(fl_x="wide"))
    with pytest.raises(CallError, match="fl_x is no number: 'wide'"):
        Frames().find(str(tmp_path), "x")
    latin = tmp_path / "latin" / os.fsdecode(b"caf\xe9.png")
    latin.parent.mkdir()
    latin.touch()
    with pytest.raises(CallError, match=r"holds no images; .*caf\\xe9"):
        Frames().find(str(tmp_path / "latin"), "x")


def test_the_hint_for_cameras_that_cannot_be_used_is_about_them(tmp_path: Path) -> None:
    _transforms(tmp_path)
    shutil.rmtree(tmp_path / "depth")

    def larger(content: Any) -> None:
        for frame in content["frames"]:
            frame.pop("depth_file_path")
            frame["transform_matrix"] = (np.array(frame["transform_matrix"]) @ np.diag([2, 2, 2, 1])).tolist()

    _edit(tmp_path, larger)
    with pytest.raises(CallError, match=r"pose without a rotation, such as images/0\.png") as caught:
        Mine().find(str(tmp_path), "x")
    assert caught.value.hint.startswith("correct the cameras")


def test_a_trajectory_of_other_columns_is_no_quaternion(tmp_path: Path) -> None:
    """Rows of matrices, as KITTI has them, behind a time stamp: their numbers were made a rotation."""
    _tum(tmp_path)
    lines = [f"{10 + i / 10} {' '.join(map(str, camera(i + 5)[1][:3].ravel()))}" for i in range(COUNT)]
    (tmp_path / "groundtruth.txt").write_text("\n".join(lines))
    skips = Rgbd(overlap=(0, 1), intrinsics=INTRINSICS).find(str(tmp_path), "x").skips
    assert [why for _, why in skips] == ["pose without a rotation"] * COUNT


@pytest.mark.slow
@needs("captures")
@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (Mine, {}, ""),
        (Rgbd, {"depth_scale": 500.0}, r"different units: by the poses, matched points lie [\d.]+ times as far as the depth says"),
        (CloudDepth, {"depth_scale": 25000.0}, "different units"),
        (Mine, {"depth_scale": 25000.0, "accept_misfit": True}, ""),
    ],
)
def test_depth_in_another_unit_than_that_of_the_poses_is_refused(source: Any, options: dict[str, Any], message: str) -> None:
    """The maps have 5000 units in a metre."""
    mine = source(intrinsics=(517.3, 516.5, 318.6, 255.3), **options)

    def prepared() -> list[str]:
        found = mine.find(str(CAPTURES / "tum-fr1-rpy"), "x")
        mine.checked(found, 0)
        return list(found.notes)

    if message:
        with pytest.raises(CallError, match=message) as caught:
            prepared()
        assert "--depth-scale 5000 (1/5000 m, as TUM RGB-D has it) would fit" in caught.value.hint
    else:
        assert any("Look at the unit of the depth" in note for note in prepared()) == bool(options)


@needs("captures")
def test_real_captures_are_read() -> None:
    found = Rgbd(overlap=(0.2, 0.95), pairs_per_frame=1, intrinsics=(517.3, 516.5, 318.6, 255.3)).find(str(CAPTURES / "tum-fr1-rpy"), "x")
    sample = decode_row(found.items[3].row(Resize(120)), "pairs", depth=True)
    apart = float(np.abs(sample["image1"].astype(float) - sample["image2"]).mean())
    assert warped_error(sample) < 0.6 * apart
    fruit = Frames().find(str(CAPTURES / "fruit-transforms"), "x").items
    assert len(fruit) == 19 and all(pair.T_2from1 is not None and pair.K1 is not None for pair in fruit)
