"""Cameras as programs around NeRF write them: `transforms.json`, the scenes rendered with Blender, LLFF."""

from __future__ import annotations

import math
from pathlib import Path, PurePosixPath

import numpy as np

from sightline.methods.errors import BrokenSampleError, CallError
from sightline.platform.core.budget import parse_json
from sightline.platform.data.depth import read_npy
from sightline.platform.data.images import IMAGE_SUFFIXES

from ..files import images_in, is_inside, lines_of, read_file, suffix_of
from ..known import Known, camera_3x3, capture, in_opencv_axes, joined, lens_of, upright_size

TRANSFORMS = "transforms.json"
POSES_BOUNDS = "poses_bounds.npy"
_PINHOLES = frozenset(("PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV", "PERSPECTIVE"))
_LLFF_PHOTOS = ("images", "images_2", "images_4", "images_8", "")


def transforms(folder: Path) -> Known | None:
    """nerfstudio's and instant-ngp's file: OpenGL axes, pixel centres at halves, intrinsics for all frames or for each."""
    return _transforms(folder, TRANSFORMS) if (folder / TRANSFORMS).is_file() else None


def blender(folder: Path) -> Known | None:
    """Scenes of NeRF, rendered with Blender: a file as `transforms.json` for each of train, val and test.

    They are read as one. A file none of whose photos are there is left out: add-ons write `transforms_test.json` without rendering.
    """
    parts: list[tuple[str, Known]] = []
    empty: list[tuple[str, Known]] = []
    for part in ("train", "val", "test"):
        if (folder / f"transforms_{part}.json").is_file():
            one = _transforms(folder, f"transforms_{part}.json")
            there = any(is_inside(frame["file"]) and (folder / frame["file"]).is_file() for frame in one["frames"])
            (parts if there else empty).append((part, one))
    if not parts:
        return empty[0][1] if empty else None
    notes = (
        [f"{', '.join(part for part, _ in parts)} are read as one set; split it with --split, or move one away"] if len(parts) > 1 else []
    )
    notes += [f"transforms_{part}.json is left out: none of its {len(one['frames']):,} photos is there" for part, one in empty]
    frames = [frame for _, one in parts for frame in one["frames"]]
    return {**parts[0][1], "layout": "Blender scene of NeRF", "frames": frames, "notes": notes, "complete": True}


def _transforms(folder: Path, name: str) -> Known:
    path = folder / name
    try:
        content = parse_json(path.read_bytes())
        photos = _Photos(folder)
        top, listed = {name: value for name, value in content.items() if name != "frames"}, content["frames"]
        frames = [_transforms_frame(photos, _with_numbers({**top, **frame})) for frame in listed]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CallError(f"{path} cannot be understood: {error}", "give the file that nerfstudio or instant-ngp wrote") from None
    factor = content.get("depth_unit_scale_factor")
    scale = 1 / factor if isinstance(factor, float | int) and factor > 0 else 1000
    lens = {name: content[name] for name in ("k1", "k2", "k3", "k4", "p1", "p2") if content.get(name)}
    distortion = {"model": "lens distortion", **lens} if lens else None
    return capture(name, frames, unit="arbitrary", depth_scale=scale, distortion=distortion)


_NUMBERS = ("w", "h", "fl_x", "fl_y", "cx", "cy", "camera_angle_x", "camera_angle_y", "k1", "k2", "k3", "k4", "p1", "p2")


def _with_numbers(frame: Known) -> Known:
    """Its lens in numbers, which some programs write as texts. Raises `ValueError` naming what is none."""
    for name in _NUMBERS:
        value = frame.get(name)
        if isinstance(value, str):
            try:
                frame[name] = float(value)
            except ValueError:
                raise ValueError(f"{name} is no number: {value!r}") from None
    return frame


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


def _transforms_frame(photos: _Photos, frame: Known) -> Known:
    file = photos.find(joined(frame["file_path"]))
    width, height = frame.get("w"), frame.get("h")
    fx = frame.get("fl_x")
    if not (width and height) and not (fx and frame.get("cx") and frame.get("cy")) and is_inside(file):
        width, height = upright_size(photos.folder / file)  # the middle of the photo is that of the lens, and its width that of the angle
    if fx is None and frame.get("camera_angle_x") and width:
        fx = width / 2 / math.tan(frame["camera_angle_x"] / 2)
    fy = frame.get("fl_y", fx)
    if frame.get("fl_y") is None and frame.get("fl_x") is None and frame.get("camera_angle_y") and height:
        fy = height / 2 / math.tan(frame["camera_angle_y"] / 2)
    K = None
    cx = frame.get("cx", width and width / 2)
    cy = frame.get("cy", height and height / 2)
    if fx is not None and cx is not None and cy is not None:
        K = camera_3x3(fx, fy, cx - 0.5, cy - 0.5)
    depth = frame.get("depth_file_path")
    model = str(frame.get("camera_model") or ("OPENCV_FISHEYE" if frame.get("is_fisheye") else "OPENCV")).upper()
    k1, k2, k3, k4, p1, p2 = (float(frame.get(name) or 0) for name in ("k1", "k2", "k3", "k4", "p1", "p2"))
    if model in _PINHOLES:
        model, params = ("FULL_OPENCV", (k1, k2, p1, p2, k3, k4, 0, 0)) if k3 or k4 else ("OPENCV", (k1, k2, p1, p2))
    else:
        params = (k1, k2, k3, k4)
    return lens_of(model, params) | {
        "file": file,
        "depth": joined(depth) if depth else None,
        "cam_to_world": in_opencv_axes(frame.get("transform_matrix")),
        "K": K,
        "width": width,
        "height": height,
    }


def llff(folder: Path) -> Known | None:
    """`poses_bounds.npy`: a row of 17 for each photo in the order of the alphabet.

    3 x 5, row after row: the camera's axes down, right and back, its place, and height, width and focal length of the photo; then the
    nearest and the farthest depth.
    """
    path = folder / POSES_BOUNDS
    if not path.is_file():
        return None
    try:
        rows = read_npy(read_file(str(path)))
    except BrokenSampleError as error:
        raise CallError(f"{path} cannot be understood: {error}", "give the file that LLFF wrote") from None
    if rows.ndim != 2 or rows.shape[1] != 17 or rows.dtype.kind not in "fiu":
        raise CallError(f"{path} cannot be understood: {rows.dtype} of shape {rows.shape}, not n x 17", "give the file that LLFF wrote")
    place, names = _llff_photos(folder, len(rows))
    frames = []
    for name, row in zip(names, rows.astype(np.float64), strict=True):
        down, right, back, centre, (height, width, focal) = row[:15].reshape(3, 5).T
        pose = np.vstack([np.stack([right, down, -back, centre], 1), (0, 0, 0, 1)])
        frames.append(
            {
                "file": joined(place, name),
                "cam_to_world": pose.tolist(),
                "K": camera_3x3(focal, focal, width / 2 - 0.5, height / 2 - 0.5),
                "width": width,
                "height": height,
                "depth_range": row[15:].tolist(),
            }
        )
    return capture("LLFF", frames, unit="arbitrary", complete=True)


def _llff_photos(folder: Path, count: int) -> tuple[str, list[str]]:
    """(the first folder with as many photos, their names as LLFF sorts them)."""
    seen = {}
    for place in _LLFF_PHOTOS:
        names = sorted(path.name for path in images_in(folder / place)) if (folder / place).is_dir() else []
        listed = folder / "view_imgs.txt"  # which of them have a pose, where not all have
        if names and len(names) != count and listed.is_file():
            names = [name for line in lines_of(listed) if (name := PurePosixPath(line).name) in names]
        if len(names) == count:
            return place, names
        if names:
            seen[place or "the folder itself"] = len(names)
    told = ", ".join(f"{where} has {number:,}" for where, number in seen.items()) or "there are no photos beside it"
    raise CallError(
        f"{folder / POSES_BOUNDS} has {count:,} poses in the order of the photos, and {told}",
        "keep only the photos that it was made from: `view_imgs.txt` or COLMAP's model names them",
    )
