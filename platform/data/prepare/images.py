"""Single images by file, with class, mask, depth and place in time where they are known."""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from sightline.methods.errors import CallError
from sightline.platform.data.images import Resize
from sightline.platform.data.kinds import Row

from .files import read_file
from .found import ClassList
from .mask_codes import MaskCode
from .packed import Packed
from .views import Companion, companion, stored_view


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
    depth_scale: float | None = None
    """Units of the depth map in a metre; None for the usual ones (`read_depth`)."""
    code: MaskCode | None = None
    """How the file of the mask says the classes; None where its pixels are indices. Without a file it knows the mask itself."""

    @property
    def frames(self) -> tuple[int, ...]:
        return (self.frame,)

    def row(self, resize: Resize) -> Row:
        """One row of kind `images`; mask and depth follow the image. Raises `BrokenSampleError` with `reason: detail`."""
        row: dict[str, Any] = {"id": self.id, "scene": self.scene, "label": self.label, "time": self.time}
        stored = stored_view(
            read_file(self.image),
            resize,
            depth=companion(self.depth),
            depth_scale=self.depth_scale,
            mask=Companion(b"") if self.mask is None and self.code is not None else companion(self.mask),
            classes=self.classes,
            code=self.code,
        )
        return row | {"image": stored.image, "segmentation": stored.mask, "depth": stored.depth}


def with_scenes(
    images: Sequence[ImageFile], name: str, part: str, pattern: re.Pattern[str], skips: list[tuple[str, str]]
) -> Packed[ImageFile]:
    """The images of a part with the scene and the time that `pattern` finds in their path without suffix; they are in natural order.

    The first group (or the whole match) names the scene. A second group is the number of the frame and becomes its time and its place in
    the scene; without one the place is that in natural order. Images in which it finds nothing are skipped.
    """
    placed = Packed[ImageFile]()
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
        placed.append(replace(image, scene=scene, time=float(number)))
        counts[scene] += 1
    return _in_time(placed)


def _in_time(images: Sequence[ImageFile]) -> Packed[ImageFile]:
    """The images as they are, each with its place in time among those of its scene."""
    numbers: dict[str | None, int] = {}
    scenes, times = array("q"), array("d")
    for image in images:
        scenes.append(numbers.setdefault(image.scene, len(numbers)))
        times.append(image.time or 0.0)
    order = np.lexsort((np.asarray(times), np.asarray(scenes)))
    sorted_scenes = np.asarray(scenes)[order]
    frames = np.empty(len(order), np.int64)
    frames[order] = np.arange(len(order)) - np.searchsorted(sorted_scenes, sorted_scenes)
    return Packed(replace(image, frame=frame) for image, frame in zip(images, frames.tolist(), strict=True))
