"""Clouds side by side in the arrays of `.npz` or HDF5 files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sightline.methods.errors import CallError

from ..clouds import CloudInArray, CloudItem, arrays_of, entry, not_opened, read_array, shape_of
from ..files import existing_file, lines_of, natural
from ..formats.columns import unit
from ..found import SPLITS, WHOLE, ClassList, Found, require_same_classes
from ..meshes import PICKLES
from ..packed import Packed
from ..source import CloudSource, Places, Request

ARCHIVES = (".npz", ".h5", ".hdf5")
NAMES = ("xyz", "points", "data")
NORMALS = ("normal", "normals")
PARTS = ("part", "pid")
SPLIT = ("train", "test")
"""What 0 and 1 in `split` mean."""
CLASS_LISTS = ("shape_names.txt", "classes.txt")
_SPLIT_IN_NAME = re.compile(r"(?:^|[^a-z])(train|val|test)(?:ing|idation|id)?(?![a-z])")


@dataclass(frozen=True)
class CloudArrays(CloudSource):
    """`xyz`, `points` or `data` (clouds x points x 3), with `normal`, `label`, `part`, `split`, and names in `classes` and `parts`; or one
    such array for each split, `train_xyz` and `test_xyz`, with `train_label` and so on.

    Several files, or a folder of them, are one data set; `train`, `val` and `test` in their names are splits, and a `shape_names.txt`
    beside them names the classes, as ModelNet40 is shared in HDF5.
    """

    reader = "arrays"
    help = (
        ".npz or HDF5 files, or a folder of them: xyz, points or data with normal, label, part, split, classes, parts; or train_xyz, "
        "test_xyz and so on; several files are split by train and test in their names"
    )
    examples = ("./shapes20.npz --out ./shapes20", "./modelnet40_ply_hdf5_2048 --out ./modelnet40")
    places = Places("FILE", "file(s), or a folder of them")

    def find_all(self, request: Request) -> list[Found[CloudItem]]:
        """Several files as one source, whose ids begin with their folder's name. Raises `CallError` for files that do not go together."""
        paths = [path for place in request.places for path in array_files(place)]
        if len(paths) == 1 and Path(request.places[0]).expanduser().is_file():
            return super().find_all(request)
        folder = paths[0].parent
        return [self.find_files(paths, folder, self.name or folder.name, request.seed)]

    def find(self, place: str, name: str, seed: int = 0) -> Found[CloudItem]:
        """Raises `CallError` where there is no array of clouds, and for arrays that do not belong together."""
        path = existing_file(place)
        found = Found[CloudItem](self.provenance(path), {})
        untaken = self._add(found, path, name, seed)
        found.notes += [f"arrays that are not taken: {', '.join(untaken)}"] if untaken else []
        return found

    def find_files(self, paths: Sequence[Path], where: Path, name: str, seed: int) -> Found[CloudItem]:
        """The clouds of several files as one source."""
        stems = [path.stem for path in paths]
        if twice := sorted({stem for stem in stems if stems.count(stem) > 1}):
            raise CallError(f"two files have one name: {twice[0]}", "prepare them one by one with --name, then merge")
        splits = {path: split_in_name(path) for path in paths}
        found, untaken = Found[CloudItem](self.provenance(where), {}), dict[str, int]()
        for path in paths:
            one = Found[CloudItem](found.source, {})
            for array in self._add(one, path, f"{name}/{path.stem}", seed):
                untaken[array] = untaken.get(array, 0) + 1
            if found.parts:
                require_same_classes(found.classes, str(paths[0]), one.classes, str(path))
                if one.part_names != found.part_names:
                    raise CallError(f"{path} names other parts than {paths[0]}", "prepare them one by one")
            found.classes, found.part_names = one.classes, one.part_names
            for part, items in one.parts.items():
                found.parts.setdefault(part or splits[path] or WHOLE, Packed()).extend(items)
        if WHOLE in found.parts and len(found.parts) > 1:
            without = next(path for path in paths if not splits[path])
            raise CallError(
                f"some files have a split in their names, {without.name} has none", "name train, val or test in each, or in none"
            )
        found.notes += [f"arrays that are not taken: {array} (of {count} files)" for array, count in untaken.items()]
        return found

    def _add(self, found: Found[CloudItem], path: Path, name: str, seed: int) -> list[str]:
        """Add the clouds of one file to `found`, and return the arrays that are not taken."""
        if path.suffix.lower() in PICKLES:
            raise CallError(f"{path.name} is a pickle, which is never opened", "convert it to .npz or HDF5")
        names = array_names(path)
        keys = {WHOLE: next((key for key in NAMES if key in names), None)}
        if keys[WHOLE] is None:
            keys = {split: next((f"{split}_{end}" for end in NAMES if f"{split}_{end}" in names), None) for split in SPLITS}
        if not any(keys.values()):
            others = ", ".join(not_opened(str(path))[:4])
            raise CallError(
                f"{path} has no array of clouds; it has {', '.join(sorted(names)[:8]) or 'none'}"
                f"{', and what is not opened: ' if others else ''}{others}",
                "name it xyz, points or data, or train_xyz and test_xyz",
            )
        labelled = any(f"{where}_label" in names if where else "label" in names for where in keys)
        found.classes = ClassList(_texts(path, "classes", names) or (classes_beside(path) if labelled else ()))
        found.part_names = _texts(path, "parts", names)
        taken = {"classes", "parts"}
        for where, key in keys.items():
            if key is None:
                continue
            prefix = f"{where}_" if where else ""
            count = cloud_count(path, key)
            part = next((f"{prefix}{one}" for one in PARTS if f"{prefix}{one}" in names), "") if found.part_names else ""
            shape = shape_of(str(path), key)[0]
            normal = next((f"{prefix}{one}" for one in NORMALS if f"{prefix}{one}" in names), "")
            if normal and not are_normals(path, normal, shape):
                normal = ""
            labels = labels_of(path, f"{prefix}label", names, count, found.classes.names)
            if labels and labels[0] is not None and not found.classes.names and (first := min(label or 0 for label in labels)):
                found.notes.append(f"the labels of {path.name} begin with {first}: no cloud has label 0")
            splits = labels_of(path, "split", names if not where else set(), count, SPLIT)
            taken |= {key, part, normal, f"{prefix}label", *(["split"] if not where else [])}
            for index, (label, split) in enumerate(zip(labels, splits, strict=True)):
                item = CloudInArray(
                    f"{name}/{where}/{index:06d}" if where else f"{name}/{index:06d}",
                    self.drawn(seed),
                    None,
                    label,
                    file=str(path),
                    points_key=key,
                    part_key=part,
                    parts=len(found.part_names),
                    index=index,
                    normals_key=normal,
                )
                found.parts.setdefault(where if split is None else SPLIT[split], Packed()).append(item)
        return sorted(names - taken)


def array_files(place: str) -> list[Path]:
    """The file at `place`, or those of a folder in natural order. Raises `CallError` where there are none."""
    folder = Path(place).expanduser().resolve()
    if not folder.is_dir():
        return [existing_file(place)]
    found = sorted((path for path in folder.iterdir() if path.suffix.lower() in ARCHIVES and not path.name.startswith(".")), key=natural)
    if not found:
        raise CallError(f"{place} holds no .npz or HDF5 file", "name the files, or the folder that holds them")
    return found


def split_in_name(path: Path) -> str:
    """`train`, `val` or `test` where the name of the file has one of these words, as `ply_data_train0.h5` has; else nothing."""
    found = set(_SPLIT_IN_NAME.findall(path.stem.lower()))
    return found.pop() if len(found) == 1 else ""


def classes_beside(path: Path) -> tuple[str, ...]:
    """The names in the `shape_names.txt` beside a file; none where there is no such list."""
    beside = next((path.parent / name for name in CLASS_LISTS if (path.parent / name).is_file()), None)
    return tuple(lines_of(beside)) if beside else ()


def are_normals(path: Path, key: str, shape: tuple[int, ...]) -> bool:
    """Whether the array has a unit vector for each point, as far as its first and its last cloud show."""
    if shape_of(str(path), key)[0] != shape or not shape[0]:
        return False
    return all(unit(entry(str(path), key, index)) for index in (0, shape[0] - 1))


def array_names(path: Path) -> set[str]:
    with arrays_of(str(path)) as archive:
        return set(archive)


def cloud_count(path: Path, key: str) -> int:
    """How many clouds the array holds. Raises `CallError` for another shape."""
    shape = shape_of(str(path), key)[0]
    if len(shape) == 3 and shape[1] in (3, 6) and shape[2] > 6:
        raise CallError(f"array {key!r} of {path} has shape {shape}: clouds x 3 x points", f"store {key}.transpose(0, 2, 1)")
    if len(shape) == 2 and shape[1] in (3, 6):
        raise CallError(
            f"array {key!r} of {path} has shape {shape}: clouds x points x 3 is needed",
            f"store one cloud as {key}[None], or as an .npy",
        )
    if len(shape) != 3:
        raise CallError(f"array {key!r} of {path} has shape {shape}", "clouds x points x 3 is needed")
    return int(shape[0])


def labels_of(path: Path, key: str, names: set[str], count: int, classes: tuple[str, ...]) -> list[int | None]:
    """One label a cloud, None for all where there is no such array. Raises `CallError` where they are not as many, or no class."""
    if key not in names:
        return [None] * count
    values = read_array(str(path), key).reshape(-1)
    if len(values) != count or values.dtype.kind not in "fiu" or (values != np.floor(values)).any():
        raise CallError(
            f"array {key!r} of {path}: {len(values)} values of {values.dtype} for {count} clouds", "one whole number a cloud is needed"
        )
    if count and not (values.min() >= 0 and (not classes or values.max() < len(classes))):
        known = f"; there are {len(classes)} classes ({', '.join(classes[:3])}, ...)" if classes else ""
        raise CallError(f"array {key!r} of {path} has values from {values.min():g} to {values.max():g}{known}", "they count from 0")
    return [int(value) for value in values]


def _texts(path: Path, key: str, names: set[str]) -> tuple[str, ...]:
    if key not in names:
        return ()
    values = read_array(str(path), key).reshape(-1)
    return tuple(value.decode() if isinstance(value, bytes) else str(value) for value in values.tolist())
