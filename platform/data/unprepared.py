"""What somebody named in place of a data set, and the command that helps."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from pyarrow import fs

from sightline.methods.errors import CallError
from sightline.platform.core.filesystem import missing_bucket
from sightline.platform.core.paths import shown_path

from .images import IMAGE_SUFFIXES
from .manifest import MANIFEST_NAME

CLOUD_SUFFIXES = (".off", ".obj", ".stl", ".glb", ".gltf", ".ply", ".pcd", ".las", ".laz", ".npy", ".npz", ".h5", ".hdf5", ".xyz", ".pts")
LOOKED_AT = 2000
"""Files of a folder that are looked at to see what they are."""
NEVER_FINISHED = "the manifest is written last: this data set was never finished; run prepare again"


def no_dataset(uri: str, system: fs.FileSystem, path: str, kind: str | None) -> CallError:
    """The error for a place without a manifest. `kind`: of the data that are needed."""
    place = system.get_file_info(path)
    if place.type == fs.FileType.NotFound:
        bucket = missing_bucket(system, path)
        why = f"there is no bucket {bucket!r}" if bucket else "the folder does not exist"
        several = "; several data sets are written '[FOLDER: 3, OTHER: 1]'" if "," in uri else ""
        return CallError(f"there is no data set at {uri}: {why}", f"see `sightline prepare --help`{several}")
    if place.type != fs.FileType.Directory:
        return CallError(f"{uri} is a file, and a data set is a folder", "name the folder that `sightline prepare` made")
    what = f"there is no data set at {uri}: it has no {MANIFEST_NAME}"
    below = [info.path for info in system.get_file_info(fs.FileSelector(path)) if info.type == fs.FileType.Directory]
    parts = [name for name in sorted(below) if system.get_file_info(f"{name}/{MANIFEST_NAME}").type == fs.FileType.File]
    if parts:
        names = sorted((Path(part).name for part in parts), key=lambda name: (name != "train", name))
        return CallError(f"{uri} holds the data sets {', '.join(names)}, and is none itself", f"name one of them: {uri}/{names[0]}")
    if "://" in uri:
        return CallError(what, NEVER_FINISHED)
    return CallError(what, _hint(Path(path), kind))


def _hint(folder: Path, kind: str | None) -> str:
    found = list(islice(_files(folder), LOOKED_AT))
    if (folder / ".staging").is_dir() or any(file.suffix == ".parquet" and file.parent == folder for file in found):
        return NEVER_FINISHED
    images = [file for file in found if file.suffix.lower() in IMAGE_SUFFIXES]
    clouds = [file for file in found if file.suffix.lower() in CLOUD_SUFFIXES]
    if images and (kind != "points" or not clouds):
        what, source = "images", _images_source(folder, images, kind)
    elif clouds:
        what, source = "clouds or meshes", "points " + ("classes" if _is_by_class(folder, clouds) else "folder")
    else:
        return "name a folder that `sightline prepare` made, or make one: sightline prepare --help"
    place = shown_path(folder)
    out = shlex.quote(f"./{folder.name}-set")
    command = f"sightline prepare {source} {shlex.quote(place)} --split train=0.9,val=0.1 --out {out}"
    return f"it is a folder of {what}; make a data set of it first: {command}"


def _images_source(folder: Path, images: list[Path], kind: str | None) -> str:
    if kind == "pairs":
        return "pairs rgbd" if (folder / "cameras.json").is_file() else "pairs frames"
    return "images classes" if _is_by_class(folder, images) else "images folder"


def _is_by_class(folder: Path, files: list[Path]) -> bool:
    """Whether all lie in folders just below, two or more, as classes do."""
    parents = {file.parent for file in files}
    return len(parents) > 1 and all(parent.parent == folder for parent in parents)


def _files(folder: Path) -> Iterator[Path]:
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name == ".staging" or not name.startswith("."))
        yield from (Path(where) / name for name in sorted(names) if not name.startswith("."))
