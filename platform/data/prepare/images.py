"""Single images by file, with class, mask, depth and place in time where they are known."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sightline.methods.errors import BrokenSampleError, CallError
from sightline.platform.data.images import Resize, resized_depth, resized_image, resized_mask
from sightline.platform.data.kinds import Row

from .files import read_file
from .found import ClassList


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

    def row(self, resize: Resize) -> Row:
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
