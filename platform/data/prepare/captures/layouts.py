"""Recognises how other programs lay out captures with cameras: by the names of their files, without reading them.

For folders in or above a capture, and for captures of which a part is missing. The message says what the folder is, and names a command
that works on it as it is.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sightline.platform.data.images import IMAGE_SUFFIXES

from ..files import folders_in, suffix_of


@dataclass(frozen=True)
class Layout:
    """One layout. Each of `signs` is a set of paths below the folder, `*` for any text, that all must exist; one set suffices."""

    name: str
    signs: tuple[tuple[str, ...], ...]
    photos: tuple[str, ...] = ("",)
    """Where the photos may lie."""
    cameras: str = ""
    """The files that its cameras are read from; empty where they are not read."""


_COLMAP = tuple((f"{at}cameras{end}", f"{at}images{end}") for at in ("sparse/*/", "sparse/", "") for end in (".bin", ".txt"))
LAYOUTS = (
    Layout("7-Scenes, 3DMatch or BundleFusion", (("*.color.*", "*.pose.txt"),), cameras="NAME.color.png and NAME.pose.txt"),
    Layout(
        "TUM RGB-D",
        (("rgb.txt", "groundtruth.txt"), ("rgb.txt", "depth.txt"), ("rgb", "associations.txt")),
        ("rgb",),
        "rgb.txt, depth.txt and groundtruth.txt",
    ),
    Layout("ScanNet", (("color", "pose", "intrinsic"), ("color", "depth", "pose")), ("color",), "color/, pose/ and intrinsic/"),
    Layout("ScanNet's or BundleFusion's .sens", (("*.sens",),), cameras="the .sens itself: name it in place of its folder"),
    Layout(
        "nerfstudio, instant-ngp or a Blender scene of NeRF",
        (("transforms.json",), ("transforms_train.json",)),
        ("images", "train", ""),
        "transforms.json, or transforms_train.json, transforms_val.json and transforms_test.json",
    ),
    Layout("COLMAP", (*_COLMAP, ("database.db", "images")), ("images", "input", ""), "a model, cameras.bin and images.bin, in sparse/0"),
    Layout("LLFF", (("poses_bounds.npy",),), ("images", ""), "poses_bounds.npy"),
    Layout("Replica", (("traj.txt", "results"), ("traj_w_c.txt", "rgb")), ("results", "rgb"), "traj.txt and results/"),
    Layout("EuRoC", (("mav0",), ("cam0/data", "imu0")), ("mav0/cam0/data", "cam0/data"), "mav0/cam0 and mav0/state_groundtruth_estimate0"),
    Layout(
        "KITTI odometry",
        (("calib.txt", "image_2"), ("calib.txt", "image_0"), ("times.txt", "image_2"), ("times.txt", "image_0")),
        ("image_2", "image_0"),
        "calib.txt, image_2 and poses.txt",
    ),
    Layout(
        "KITTI raw",
        (("image_02/data", "oxts"), ("image_00/data", "oxts")),
        ("image_02/data", "image_00/data"),
        "oxts/data and, in the folder above, calib_cam_to_cam.txt, calib_imu_to_velo.txt and calib_velo_to_cam.txt",
    ),
    Layout(
        "MVSNet, BlendedMVS or DTU",
        (("cams/*_cam.txt",), ("*_cam.txt",), ("blended_images", "cams"), ("rect_*_r5000.png",)),
        ("blended_images", "images", ""),
        "cams/NNNNNNNN_cam.txt, or Cameras/ two folders above a scan of DTU",
    ),
    Layout("Strecha", (("*.camera",), ("*/*.camera",)), ("images", "urd", ""), "NAME.camera for each photo NAME"),
    Layout("Bundler", (("bundle.out",), ("*.bundle.out",), ("bundle",)), ("images", ""), "bundle.out and list.txt"),
    Layout(
        "Polycam",
        (("keyframes/images",), ("keyframes/corrected_images",)),
        ("keyframes/images", "keyframes/corrected_images"),
        "keyframes/cameras and keyframes/images",
    ),
    Layout(
        "Record3D",
        (("metadata", "rgbd"), ("metadata.json", "rgb"), ("*.r3d",)),
        ("rgbd", "rgb"),
        "metadata and rgbd/; of a .r3d, name the file itself",
    ),
    Layout(
        "ARKitScenes",
        (("lowres_wide", "lowres_depth"), ("lowres_wide.traj",), ("*_frames/lowres_wide",)),
        ("lowres_wide", "vga_wide", ""),
        "lowres_wide/, lowres_wide_intrinsics/ and lowres_wide.traj",
    ),
    Layout(
        "CO3D",
        (("frame_annotations.jgz",), ("../frame_annotations.jgz", "images")),
        ("images",),
        "a sequence, with frame_annotations.jgz above",
    ),
)
_MOST_FOLDERS = 200
"""Of a folder that many are looked at for captures below it."""


def layout_of(folder: Path) -> Layout | None:
    """The first layout whose signs are in the folder."""
    return next((one for one in LAYOUTS if any(all(_exists(folder, sign) for sign in signs) for signs in one.signs)), None)


def no_cameras(folder: Path, place: str, need: str) -> tuple[str, str]:
    """(what is wrong, what to do) where `cameras.json` is needed and missing; `need` is what a reader would take from it."""
    layout = layout_of(folder)
    photos = _photos(folder, layout)
    what = f"{place} has no cameras.json"
    if layout:
        missing = f", which is read from {layout.cameras}: not all of it is there" if layout.cameras else ", whose cameras are not read"
        what += f"; it looks like {layout.name}{missing}"
    elif below := captures_below(folder):
        names = ", ".join(shlex.quote(str(Path(place) / one.relative_to(folder))) for one, _ in below[:3])
        return (
            f"{what} of its own",
            f"name the captures in it, {len(below):,} of {below[0][1].name}: {names}{' ...' if len(below) > 3 else ''}",
        )
    write = f"for {need}, write cameras.json beside the photos (docs/captures.md has a whole sample)"
    if photos is None:
        return what, f"{write}; there are no photos in {place} yet"
    return what, f"`sightline prepare pairs frames {shlex.quote(str(Path(place) / photos))}` pairs its photos without cameras; {write}"


def captures_below(folder: Path) -> list[tuple[Path, Layout]]:
    """The captures in a folder, or in the folders of it, that can be named in its place."""
    first = folders_in(folder)[:_MOST_FOLDERS]
    for level in (first, [sub for one in first for sub in folders_in(one)][:_MOST_FOLDERS]):
        found = [(sub, layout) for sub in level if (layout := layout_of(sub)) and layout.cameras]
        if found:
            return found
    return []


def unread_cameras(folder: Path) -> list[str]:
    """A note where photos of a known layout are read and its cameras are not."""
    for above in (folder, *list(folder.parents)[:3]):
        if layout := layout_of(above):
            name = f"name {above} to read them" if layout.cameras and above != folder else ""
            told = f" ({name})" if name else f" ({layout.cameras} are not all there)" if layout.cameras else ""
            return [f"this looks like {layout.name}: its poses, intrinsics and depth are not read, only the photos{told}"]
    return []


def _photos(folder: Path, layout: Layout | None) -> Path | None:
    """The first folder that holds photos, relative, as `prepare pairs frames` would take it; None where there is none."""
    candidates = [*(layout.photos if layout else ()), "", "images", "rgb", "color"]
    for sub in candidates:
        if (folder / sub).is_dir() and _has_photos(folder / sub):
            return Path(sub)
    return Path() if any(_has_photos(sub) for sub in folders_in(folder)) else None


def _has_photos(folder: Path) -> bool:
    return any(suffix_of(path.name) in IMAGE_SUFFIXES and not path.name.startswith(".") for path in folder.iterdir())


def _exists(folder: Path, sign: str) -> bool:
    return next(_matches(folder, sign.split("/")), None) is not None


def _matches(folder: Path, parts: list[str]) -> Iterator[Path]:
    first, *rest = parts
    if "*" not in first:
        found = [folder / first] if (folder / first).exists() else []
    elif folder.is_dir():
        pattern = re.compile(".*".join(map(re.escape, first.split("*"))))
        found = [path for path in folder.iterdir() if pattern.fullmatch(path.name)]
    else:
        found = []
    for path in found:
        if rest:
            yield from _matches(path, rest)
        else:
            yield path
