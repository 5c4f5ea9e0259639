"""Clouds side by side in the arrays of an `.npz` or HDF5 file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sightline.methods.errors import CallError

from .clouds import CloudInArray, CloudItem, arrays_of, read_array
from .files import existing_file
from .found import SPLITS, WHOLE, ClassList, Found
from .meshes import PICKLES
from .source import CloudSource, Places

NAMES = ("xyz", "points", "data")
SPLIT = ("train", "test")
"""What 0 and 1 in `split` mean."""


@dataclass(frozen=True)
class CloudArrays(CloudSource):
    """`xyz`, `points` or `data` (clouds x points x 3), with `label`, `part`, `split`, and names in `classes` and `parts`; or one such
    array for each split, `train_xyz` and `test_xyz`, with `train_label` and so on."""

    reader = "arrays"
    help = "an .npz or HDF5 file: xyz, points or data with label, part, split, classes, parts; or train_xyz, test_xyz and so on"
    examples = ("./shapes20.npz --out ./shapes20",)
    places = Places("FILE", "what is read", many=False)

    def find(self, place: str, name: str, seed: int = 0) -> Found[CloudItem]:
        """Raises `CallError` where there is no array of clouds, and for arrays that do not belong together."""
        path = existing_file(place)
        if path.suffix.lower() in PICKLES:
            raise CallError(f"{path.name} is a pickle, which is never opened", "convert it to .npz or HDF5")
        names = array_names(path)
        found = Found[CloudItem](self.provenance(path), {})
        found.classes, found.part_names = ClassList(_texts(path, "classes", names)), _texts(path, "parts", names)
        keys = {WHOLE: next((key for key in NAMES if key in names), None)}
        if keys[WHOLE] is None:
            keys = {split: next((f"{split}_{end}" for end in NAMES if f"{split}_{end}" in names), None) for split in SPLITS}
        for where, key in keys.items():
            if key is None:
                continue
            prefix = f"{where}_" if where else ""
            part = f"{prefix}part" if f"{prefix}part" in names and found.part_names else ""
            count = cloud_count(path, key)
            labels = labels_of(path, f"{prefix}label", names, count, found.classes.names)
            splits = labels_of(path, "split", names if not where else set(), count, SPLIT)
            for index, (label, split) in enumerate(zip(labels, splits, strict=True)):
                id = f"{name}/{where}/{index:06d}" if where else f"{name}/{index:06d}"
                item = CloudInArray(
                    id,
                    self.drawn(seed),
                    None,
                    label,
                    file=str(path),
                    points_key=key,
                    part_key=part,
                    parts=len(found.part_names),
                    index=index,
                )
                found.parts.setdefault(where if split is None else SPLIT[split], []).append(item)
        if not any(keys.values()):
            raise CallError(
                f"{path} has no array of clouds; it has {', '.join(sorted(names)[:8]) or 'none'}",
                "name it xyz, points or data, or train_xyz and test_xyz",
            )
        return found


def array_names(path: Path) -> set[str]:
    with arrays_of(str(path)) as archive:
        return set(archive)


def cloud_count(path: Path, key: str) -> int:
    """How many clouds the array holds. Raises `CallError` for another shape."""
    shape = read_array(str(path), key).shape
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
