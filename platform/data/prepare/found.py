"""What a source finds, whatever its kind: items by file, with the splits and the classes that the source itself has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from sightline.methods.errors import CallError
from sightline.platform.data.manifest import MANIFEST_NAME, Source
from sightline.platform.data.shard_stats import reasons, skipped_table

from .files import Tree
from .items import Item
from .packed import Packed

SPLITS = ("train", "val", "test")
"""Folders of these names are splits, not classes."""
OTHER_NAMES = {"training": "train", "valid": "val", "validation": "val", "dev": "val", "testing": "test"}
"""What other programs call them."""
WHOLE = ""
"""The name of the only part of a source that has no splits of its own."""
T = TypeVar("T", bound=Item)


def split_of(name: str) -> str | None:
    """The split that a folder of this name means: `Train`, `valid` and `testing` are written too."""
    low = name.lower()
    return low if low in SPLITS else OTHER_NAMES.get(low)


@dataclass(frozen=True, slots=True)
class ClassList:
    """Names by index. `ignore_index` is the value of a mask that means no class."""

    names: tuple[str, ...] = ()
    ignore_index: int | None = None
    palette: tuple[tuple[int, int, int], ...] = ()
    """Red, green and blue of each class in pictures; empty where the source has none."""


class PhotoPose(NamedTuple):
    photo: str
    pose: np.ndarray
    """Camera to world, 4 x 4."""


@dataclass
class Found(Generic[T]):
    """What a source holds. `parts` has one entry under `WHOLE`, or one for each split that the source itself makes."""

    source: Source
    parts: dict[str, Packed[T]] = field(default_factory=lambda: {WHOLE: Packed()})
    classes: ClassList = ClassList()
    skips: list[tuple[str, str]] = field(default_factory=list)
    """(what, why)"""
    notes: list[str] = field(default_factory=list)
    part_names: tuple[str, ...] = ()
    """Names of the parts of clouds, by index."""
    poses: Packed[PhotoPose] = field(default_factory=Packed)
    """Where files tell them: matches are held against these."""

    def every(self) -> Iterator[T]:
        """The items of all parts."""
        return chain.from_iterable(self.parts.values())

    def nth(self, place: int) -> T:
        """One of `every`."""
        for items in self.parts.values():
            if place < len(items):
                return items[place]
            place -= len(items)
        raise IndexError(place)

    def count(self, tree: Tree) -> None:
        """Name and count the files that were met and not read."""
        self.skips += tree.skips
        self.notes += tree.notes

    @property
    def items(self) -> Packed[T]:
        """The items of a source that has no splits of its own."""
        return self.parts[WHOLE]


def joined(found: Sequence[Found[T]], kind: str, noun: str) -> Found[T]:
    """Several folders of one layout as one. Raises `CallError` where a source is empty, or classes or splits are not the same.

    `noun` is what the messages call the items, such as "images".
    """
    first = found[0]
    for one in found:
        if not any(one.parts.values()):
            told = "; ".join([*([f"skipped: {reasons(skipped_table(one.skips))}"] if one.skips else []), *one.notes])
            raise CallError(
                f"no {noun} were found in {one.source.where}{f'; {told}' if told else ''}",
                "it is a data set already: look at it with `sightline inspect`, train on it with data.train=..."
                if (Path(one.source.where) / MANIFEST_NAME).is_file()
                else f"see `sightline prepare {kind} --help` for the layouts",
            )
        require_same_classes(first.classes, first.source.where, one.classes, one.source.where)
        if set(one.parts) != set(first.parts):
            raise CallError(
                f"{first.source.where} has {_named(first.parts)}, {one.source.where} has {_named(one.parts)}",
                "prepare them one by one, then merge",
            )
    return Found(
        first.source,
        first.parts if len(found) == 1 else {name: Packed(chain.from_iterable(one.parts[name] for one in found)) for name in first.parts},
        first.classes,
        [skip for one in found for skip in one.skips],
        [note for one in found for note in one.notes],
        first.part_names,
    )


def require_same_classes(classes: ClassList, where: str, other: ClassList, other_where: str) -> None:
    """Raises `CallError` naming the first difference."""
    for index in range(max(len(classes.names), len(other.names))):
        one, two = (names[index] if index < len(names) else None for names in (classes.names, other.names))
        if one != two:
            said = [f"{name!r}" if name is not None else "no such class" for name in (one, two)]
            raise CallError(
                f"class {index} is {said[0]} in {where}, but {said[1]} in {other_where}",
                "prepare both with the same class folders, or with the same --classes FILE",
            )
    if classes.ignore_index != other.ignore_index:
        raise CallError(
            f"the ignored index is {classes.ignore_index} in {where}, but {other.ignore_index} in {other_where}",
            "prepare both with the same --ignore",
        )


def missing_classes(parts: Mapping[str, Sequence[Item]], names: Sequence[str]) -> list[str]:
    """A note for each part in which a class does not occur."""
    notes = []
    for part, items in parts.items():
        present = {item.label for item in items}
        absent = [name for index, name in enumerate(names) if index not in present]
        if absent:
            more = f" and {len(absent) - 5} more" if len(absent) > 5 else ""
            notes.append(f"{part or 'the data set'} has no image of class {', '.join(absent[:5])}{more}")
    return notes


def _named(parts: Mapping[str, object]) -> str:
    return "no splits" if WHOLE in parts else f"the splits {', '.join(parts)}"
