"""Clouds in files of their own: folders, class folders, and the depth images of a camera."""

from __future__ import annotations

from pathlib import Path

from sightline.methods.errors import CallError
from sightline.platform.data.manifest import Source

from .cameras import read_cameras
from .clouds import CloudFile, CloudFromDepth, Drawn, FoundClouds
from .folders import own_splits
from .images import SPLITS, WHOLE
from .items import existing_folder, natural
from .meshes import PICKLES, SUFFIXES


def clouds_below(folder: Path) -> list[str]:
    """The clouds in a folder and in all folders below it, as relative paths in natural order; hidden ones are left out."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    return sorted((path.as_posix() for path in found if not any(part.startswith(".") for part in path.parts)), key=natural)


def _count_pickles(folder: Path, found: FoundClouds) -> None:
    """Caches that others' code made are told, not opened."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.suffix.lower() in PICKLES and path.is_file())
    found.skips += [(name, "a pickle, which is never opened; convert it to .npy, .npz or .ply") for name in names]


def find_folder(place: str, name: str, licence: str, drawn: Drawn) -> FoundClouds:
    """Every cloud in a folder and below it, without labels."""
    folder = existing_folder(place)
    found = FoundClouds(Source(where=str(folder), licence=licence, reader="folder"), {WHOLE: []})
    found.parts[WHOLE] = [CloudFile(f"{name}/{path}", drawn, file=f"{folder}/{path}") for path in clouds_below(folder)]
    _count_pickles(folder, found)
    return found


def find_classes(place: str, name: str, licence: str, drawn: Drawn) -> FoundClouds:
    """`CLASS/...`, `train/CLASS/...` or ModelNet's `CLASS/train/...`. Raises `CallError` for fewer than two classes."""
    folder = existing_folder(place)
    found = FoundClouds(Source(where=str(folder), licence=licence, reader="classes"))
    splits = own_splits(folder)
    classes = sorted({sub.name for top in [folder / s for s in splits] or [folder] for sub in _folders(top)})
    if len(classes) < 2:
        raise CallError(
            f"{folder} has {'a single class folder: ' + classes[0] if classes else 'no class folders'}; labels need two classes or more",
            f"for clouds without labels: sightline prepare points folder {place} ...",
        )
    found.classes = tuple(classes)
    _count_pickles(folder, found)
    for label, one in enumerate(classes):
        inner = () if splits else tuple(s for s in SPLITS if (folder / one / s).is_dir())
        places = (
            {split: folder / split / one for split in splits} or {split: folder / one / split for split in inner} or {WHOLE: folder / one}
        )
        for part, where in places.items():
            found.parts.setdefault(part, [])
            if where.is_dir():
                below = where.relative_to(folder).as_posix()
                found.parts[part] += [
                    CloudFile(f"{name}/{below}/{path}", drawn, label=label, file=f"{where}/{path}") for path in clouds_below(where)
                ]
    if WHOLE in found.parts and len(found.parts) > 1:
        raise CallError(f"some classes of {folder} have folders of splits, others have none", "give all of them train/ and test/, or none")
    return found


def _folders(folder: Path) -> list[Path]:
    return sorted(sub for sub in folder.iterdir() if sub.is_dir() and not sub.name.startswith("."))


def find_depth(place: str, name: str, licence: str, drawn: Drawn) -> FoundClouds:
    """One cloud for each frame of `cameras.json` that names a depth image, in the axes of its camera."""
    folder = existing_folder(place)
    cameras = read_cameras(folder)
    frames = [frame for frame in cameras.frames if frame.depth] if cameras else []
    if not frames:
        raise CallError(f"{folder} has no cameras.json whose frames name depth images", "docs/data.md describes the format")
    notes = ("seen from the camera: x right, y up, z towards it; metres",)
    found = FoundClouds(Source(where=str(folder), licence=licence, reader="depth", notes=notes), {WHOLE: []})
    for number, frame in enumerate(sorted(frames, key=lambda f: natural(f.file))):
        if frame.intrinsics is None:
            found.skips.append((frame.file, "no intrinsics"))
            continue
        item = CloudFromDepth(f"{name}/{frame.file}", drawn, name, None, number, depth=f"{folder}/{frame.depth}", K=frame.intrinsics)
        found.parts[WHOLE].append(item)
    return found
