"""Annotations in COCO's JSON: images, categories, and outlines, segments or boxes of each image."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from sightline.methods.errors import CallError, first_line
from sightline.platform.core.budget import OverBudgetError, check_text

from ..files import is_inside


class Image(msgspec.Struct):
    id: int | str
    file_name: str
    width: int = 0
    height: int = 0


class Category(msgspec.Struct):
    id: int
    name: str


class Segment(msgspec.Struct):
    id: int
    category_id: int


class _Annotation(msgspec.Struct):
    image_id: int | str
    category_id: int | None = None
    file_name: str | None = None
    segments_info: list[Segment] | None = None


class _File(msgspec.Struct):
    images: list[Image]
    annotations: list[msgspec.Raw]
    categories: list[Category]


@dataclass(frozen=True)
class CocoFile:
    """One file of annotations. What each image has stays as its text, a tenth of what Python objects would take."""

    path: Path
    images: Sequence[Image]
    categories: Sequence[Category]
    of_image: dict[int | str, list[bytes]]
    panoptic: bool
    """Whether the annotations name PNGs of segments."""

    def classes_of(self, image: Image) -> set[int]:
        """The categories that an image shows."""
        found = (msgspec.json.decode(one, type=_Annotation) for one in self.of_image.get(image.id, ()))
        return {
            category
            for one in found
            for category in ([s.category_id for s in one.segments_info or ()] if self.panoptic else [one.category_id])
            if category is not None
        }

    def segments_of(self, image: Image) -> tuple[str, list[Segment]] | None:
        """(PNG, its segments) of an image; None where it has none."""
        for one in self.of_image.get(image.id, ()):
            found = msgspec.json.decode(one, type=_Annotation)
            if found.file_name is not None:
                return found.file_name, found.segments_info or []
        return None


def read_coco(path: Path) -> CocoFile:
    """Raises `CallError` for what is no such file, or names categories or images that are not there."""
    try:
        check_text(path, COCO_BYTES)
        file = msgspec.json.decode(path.read_bytes(), type=_File)
        of_image: dict[int | str, list[bytes]] = defaultdict(list)
        known, panoptic = {category.id for category in file.categories}, False
        for raw in file.annotations:
            one = msgspec.json.decode(raw, type=_Annotation)
            panoptic = panoptic or one.segments_info is not None
            named = [one.category_id] if one.segments_info is None else [segment.category_id for segment in one.segments_info]
            if unknown := [category for category in named if category is not None and category not in known]:
                raise CallError(f"{path} has an annotation of category {unknown[0]}, which it does not name", "give all `categories`")
            of_image[one.image_id].append(bytes(raw))
    except (msgspec.DecodeError, OverBudgetError, RecursionError, UnicodeDecodeError) as error:
        what = f"{path} holds no annotations of COCO: {first_line(error)}"
        raise CallError(what, "it needs `images`, `annotations` and `categories`") from None
    names = [category.name for category in file.categories]
    if twice := [name for index, name in enumerate(names) if name in names[:index]]:
        raise CallError(f"{path} names the category {twice[0]!r} twice", "give each a name of its own")
    if leaving := [image.file_name for image in file.images if not is_inside(image.file_name)]:
        raise CallError(f"{path} names the image {leaving[0]}, which leaves the folder", "write paths below the folder of images")
    return CocoFile(path, file.images, sorted(file.categories, key=lambda one: one.id), dict(of_image), panoptic)


COCO_BYTES = 2**31
"""Of one file: `instances_train2017.json` has 470 MB."""
