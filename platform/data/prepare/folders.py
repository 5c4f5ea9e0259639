"""Images in folders: all of them without labels, folders that are classes, and the frames of a sequence."""

from __future__ import annotations

from pathlib import Path

from sightline.methods.errors import CallError
from sightline.platform.data.manifest import Source

from .cameras import read_cameras
from .frames import sequences
from .images import SPLITS, WHOLE, ClassList, FoundImages, ImageFile, missing_classes
from .items import existing_folder, images_below, images_in, natural


def find_folder(place: str, name: str, licence: str = "unstated") -> FoundImages:
    """Every image in a folder and below it. A scene is a sub-folder, or the folder itself."""
    folder = existing_folder(place)
    found = FoundImages(Source(where=str(folder), licence=licence, reader="folder"), {WHOLE: []})
    for path in images_below(folder):
        parent = Path(path).parent.as_posix()
        scene = name if parent == "." else f"{name}/{parent}"
        found.parts[WHOLE].append(ImageFile(f"{name}/{path}", f"{folder}/{path}", scene))
    return found


def find_classes(place: str, name: str, licence: str = "unstated") -> FoundImages:
    """Sub-folders are classes, their images (in folders below, too) are of that class. `train/`, `val/`, `test/` are splits of them.

    The classes of all splits are the sorted names of the folders; an image has no scene. Raises `CallError` for fewer than two classes
    and for a class that `train` lacks.
    """
    folder = existing_folder(place)
    found = FoundImages(Source(where=str(folder), licence=licence, reader="classes"))
    folders = {split: folder / split for split in own_splits(folder)} or {WHOLE: folder}
    below = {part: _sub_folders(place) for part, place in folders.items()}
    names = tuple(sorted({sub.name for subs in below.values() for sub in subs}))
    if len(names) < 2:
        raise CallError(
            f"{folder} has {'a single class folder: ' + names[0] if names else 'no class folders'}; labels need two classes or more",
            f"for images without labels: sightline prepare images folder {place} ...",
        )
    for part, place_of_part in folders.items():
        beside = images_in(place_of_part)
        found.skips += [(path.relative_to(folder).as_posix(), "an image lies beside the class folders") for path in beside]
        found.parts[part] = [
            ImageFile(f"{name}/{(sub / path).relative_to(folder).as_posix()}", f"{sub}/{path}", label=names.index(sub.name))
            for sub in below[part]
            for path in images_below(sub)
        ]
    if "train" in folders:
        trained = {image.label for image in found.parts["train"]}
        unknown = [label for part, images in found.parts.items() for label in sorted({i.label for i in images} - trained, key=str)]
        if unknown and unknown[0] is not None:
            raise CallError(
                f"class {names[unknown[0]]!r} has images in another split, but none in {folder}/train",
                "correct the name of the folder, or move the class away",
            )
    found.classes = ClassList(names)
    found.notes = missing_classes(found.parts, names)
    return found


def find_frames(place: str, name: str, licence: str = "unstated") -> FoundImages:
    """The frames of one or several sequences, with their place in time; depth and times from `cameras.json` where there is one."""
    folder = existing_folder(place)
    cameras = read_cameras(folder)
    found = FoundImages(Source(where=str(folder), licence=licence, reader="frames"), {WHOLE: []})
    if cameras is None:
        for scene, files in sequences(folder, name).items():
            found.parts[WHOLE] += [
                ImageFile(f"{scene}/{file.name}", str(file), scene, frame=place, time=float(place)) for place, file in enumerate(files)
            ]
        return found
    timed = all(frame.time_s is not None for frame in cameras.frames)
    frames = sorted(cameras.frames, key=lambda frame: (frame.time_s or 0.0 if timed else 0.0, natural(frame.file)))
    for number, frame in enumerate(frames):
        time = frame.time_s if timed and frame.time_s is not None else float(number)
        depth = f"{folder}/{frame.depth}" if frame.depth else None
        found.parts[WHOLE].append(ImageFile(f"{name}/{frame.file}", f"{folder}/{frame.file}", name, depth=depth, frame=number, time=time))
    if any(frame.depth for frame in cameras.frames):
        notes = (f"unit: {cameras.unit}; distortion: {cameras.distortion}", "colour and depth are taken as registered to each other")
        found.source = found.source.model_copy(update={"notes": notes})
    return found


def own_splits(folder: Path) -> tuple[str, ...]:
    """The splits that a folder makes itself: `train/` alone or with its like.

    `train` among other folders is a class like them (there are such); with `val` or `test` beside them it is a `CallError`.
    """
    subs = {sub.name for sub in _sub_folders(folder)}
    splits = tuple(split for split in SPLITS if split in subs)
    others = sorted(subs - set(SPLITS))
    if others and "train" in splits and len(splits) > 1:
        raise CallError(f"{folder} has folders of splits ({', '.join(splits)}) and others ({others[0]})", "move the others away")
    return splits if "train" in splits and not others else ()


def _sub_folders(folder: Path) -> list[Path]:
    return sorted((sub for sub in folder.iterdir() if sub.is_dir() and not sub.name.startswith(".")), key=lambda sub: sub.name)
