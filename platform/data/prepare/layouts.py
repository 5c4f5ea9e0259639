"""Recognises how other programs lay out captures with cameras: by the names of their files, without reading them.

Those that `captures` reads are here as well, for folders in or above their own, and for ones of which a part is missing. The message says
what the folder is, and names a command that works on it as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sightline.platform.data.images import IMAGE_SUFFIXES

from .files import folders_in, suffix_of


@dataclass(frozen=True)
class Layout:
    """One layout. Each of `signs` is a set of paths below the folder, `*` for any text, that all must exist; one set suffices."""

    name: str
    signs: tuple[tuple[str, ...], ...]
    photos: tuple[str, ...] = ("",)
    """Where the photos may lie."""


LAYOUTS = (
    Layout("7-Scenes or 3DMatch", (("*.color.png", "*.pose.txt"), ("seq-*/*.color.png", "seq-*/*.pose.txt"))),
    Layout("TUM RGB-D", (("rgb.txt", "groundtruth.txt"), ("rgb.txt", "depth.txt"), ("rgb", "associations.txt")), ("rgb",)),
    Layout("ScanNet", (("color", "pose", "intrinsic"), ("color", "depth", "pose"), ("*.sens",)), ("color",)),
    Layout("nerfstudio or instant-ngp", (("transforms.json",), ("transforms_train.json",)), ("images", "train", "")),
    Layout(
        "COLMAP",
        (
            *((f"{at}cameras{end}", f"{at}images{end}") for at in ("sparse/0/", "sparse/", "") for end in (".bin", ".txt")),
            ("database.db", "images"),
        ),
        ("images", "input", ""),
    ),
    Layout("LLFF", (("poses_bounds.npy",),), ("images", "")),
    Layout("Replica as NICE-SLAM has it", (("traj.txt", "results"),), ("results",)),
    Layout("EuRoC", (("mav0",),), ("mav0/cam0/data",)),
    Layout("KITTI odometry", (("calib.txt", "image_2"), ("calib.txt", "image_0")), ("image_2", "image_0")),
    Layout("MVSNet or BlendedMVS", (("cams/*_cam.txt",), ("blended_images", "cams")), ("blended_images", "images", "")),
    Layout("Polycam", (("keyframes/cameras",), ("keyframes/corrected_cameras",)), ("keyframes/images", "keyframes/corrected_images")),
    Layout("ARKitScenes", (("lowres_wide", "lowres_depth"), ("*_frames/lowres_wide",)), ("lowres_wide", "")),
    Layout("CO3D", (("frame_annotations.jgz",),)),
)


def layout_of(folder: Path) -> Layout | None:
    """The first layout whose signs are in the folder."""
    return next((one for one in LAYOUTS if any(all(_exists(folder, sign) for sign in signs) for signs in one.signs)), None)


def no_cameras(folder: Path, place: str, need: str) -> tuple[str, str]:
    """(what is wrong, what to do) where `cameras.json` is needed and missing; `need` is what a reader would take from it."""
    layout = layout_of(folder)
    photos = _photos(folder, layout)
    what = f"{place} has no cameras.json" + (f"; it looks like {layout.name}, whose cameras are not read from here" if layout else "")
    write = f"for {need}, write cameras.json beside the photos (docs/data.md has a whole sample)"
    if photos is None:
        return what, f"{write}; there are no photos in {place} yet"
    return what, f"`sightline prepare pairs frames {Path(place) / photos}` pairs its photos without cameras; {write}"


def unread_cameras(folder: Path) -> list[str]:
    """A note where photos of a known layout are read and its cameras are not."""
    layout = next((layout for above in (folder, *list(folder.parents)[:3]) if (layout := layout_of(above))), None)
    return [f"this looks like {layout.name}: its poses, intrinsics and depth are not read, only the photos"] if layout else []


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
