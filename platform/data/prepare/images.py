"""What every source of single images finds: images by file, with class, mask, depth and place in time where they are known."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sightline.methods.errors import BrokenSampleError, CallError
from sightline.platform.data.images import Resize, resized_depth, resized_image, resized_mask
from sightline.platform.data.manifest import Source

from .items import read_file

SPLITS = ("train", "val", "test")
"""Folders of these names are splits, not classes."""
WHOLE = ""
"""The name of the only part of a source that is not split."""


@dataclass(frozen=True, slots=True)
class ClassList:
    """Names by index. `ignore_index` is the value of a mask that means no class."""

    names: tuple[str, ...] = ()
    ignore_index: int | None = None


@dataclass(frozen=True, slots=True)
class ImageFile:
    """One image by file, and what is known of it."""

    id: str
    image: str
    scene: str | None = None
    label: int | None = None
    mask: str | None = None
    classes: ClassList = field(default=ClassList(), repr=False)
    """What the values of the mask may be."""
    depth: str | None = None
    frame: int = -1
    """Place in the sequence of its scene; -1 where there is none."""
    time: float | None = None

    @property
    def frames(self) -> tuple[int, ...]:
        return (self.frame,)

    def row(self, resize: Resize) -> dict[str, Any]:
        """One row of kind `images`; mask and depth follow the image. Raises `BrokenSampleError` with `reason: detail`."""
        row: dict[str, Any] = {"id": self.id, "scene": self.scene, "label": self.label, "time": self.time}
        row["image"], at = resized_image(read_file(self.image), resize)
        if self.mask is not None:
            try:
                row["segmentation"] = resized_mask(read_file(self.mask), at, len(self.classes.names), self.classes.ignore_index)
            except BrokenSampleError as error:
                raise BrokenSampleError(f"{error}{', ' if ': ' in str(error) else ': '}{Path(self.mask).name}") from None
        if self.depth is not None:
            row["depth"] = resized_depth(read_file(self.depth), at)
        return row


@dataclass
class FoundImages:
    """What a source holds. `parts` has one entry under `WHOLE`, or one for each split that the source itself makes."""

    source: Source
    parts: dict[str, list[ImageFile]] = field(default_factory=dict)
    classes: ClassList = ClassList()
    skips: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def joined(found: Sequence[FoundImages]) -> FoundImages:
    """Several folders of one layout as one. Raises `CallError` where a source is empty, or classes or splits are not the same."""
    for one in found:
        if not any(one.parts.values()):
            reasons = f"; {len(one.skips)} skipped, the first: {': '.join(one.skips[0][::-1])}" if one.skips else ""
            raise CallError(f"no images were found in {one.source.where}{reasons}", "see `sightline prepare images --help` for the layouts")
        require_same_classes(found[0].classes, found[0].source.where, one.classes, one.source.where)
        if set(one.parts) != set(found[0].parts):
            raise CallError(
                f"{found[0].source.where} has {_said(found[0].parts)}, {one.source.where} has {_said(one.parts)}",
                "prepare them one by one, then merge",
            )
    return FoundImages(
        found[0].source,
        {name: [image for one in found for image in one.parts[name]] for name in found[0].parts},
        found[0].classes,
        [skip for one in found for skip in one.skips],
        [note for one in found for note in one.notes],
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


def with_scenes(
    images: Sequence[ImageFile], name: str, part: str, pattern: re.Pattern[str], skips: list[tuple[str, str]]
) -> list[ImageFile]:
    """The images of a part with the scene and the time that `pattern` finds in their path without suffix; they are in natural order.

    The first group (or the whole match) names the scene. A second group is the number of the frame and becomes its time; without one
    the place in the scene does. Images in which it finds nothing are skipped.
    """
    placed: list[ImageFile] = []
    counts: Counter[str] = Counter()
    for image in images:
        path = image.id.removeprefix(f"{name}/").removeprefix(f"{part}/")
        found = pattern.search(str(Path(path).with_suffix("")))
        if found is None or not (found.group(1) if pattern.groups else found.group()):
            skips.append((image.id, "--scenes finds nothing in the name"))
            continue
        scene = f"{name}/{found.group(1) if pattern.groups else found.group()}"
        number = found.group(2) if pattern.groups > 1 else str(counts[scene])
        if number is None or not number.isdecimal():
            raise CallError(f"--scenes finds {number!r} where {image.id} should have the number of its frame", "make group 2 digits only")
        placed.append(replace(image, scene=scene, frame=counts[scene], time=float(number)))
        counts[scene] += 1
    return placed


def missing_classes(parts: Mapping[str, Sequence[ImageFile]], names: Sequence[str]) -> list[str]:
    """A note for each part in which a class does not occur."""
    notes = []
    for part, images in parts.items():
        present = {image.label for image in images}
        absent = [name for index, name in enumerate(names) if index not in present]
        if absent:
            more = f" and {len(absent) - 5} more" if len(absent) > 5 else ""
            notes.append(f"{part or 'the data set'} has no image of class {', '.join(absent[:5])}{more}")
    return notes


def _said(parts: Mapping[str, object]) -> str:
    return "no splits" if WHOLE in parts else f"the splits {', '.join(parts)}"
