"""How the file of a mask says the class of each pixel, where it is not the index itself: other numbers, colours, outlines.

A code is a small frozen dataclass that travels with its image. `read` gives the indices of `ClassList`; `VOID` is no class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol

import msgspec
import numpy as np
from PIL import Image

from sightline.methods.errors import BrokenSampleError, first_line
from sightline.platform.data.images import DAMAGED, MASK_FORMATS, decode_segmentation, open_image
from sightline.platform.data.remarks import remark

from .label_tables import VOID, void_of

FEW = 0.01
"""Share of pixels of other colours that are taken as no class: the edges of a mask that was once smoothed."""


FAR = 4
"""Sides of the image that a polygon may reach beyond it: it is drawn point by point."""


class MaskCode(Protocol):
    """Reads one mask."""

    def read(self, data: bytes) -> np.ndarray:
        """uint8 or uint16 H x W of indices. Raises `BrokenSampleError` with `reason: detail`."""
        ...


@dataclass(frozen=True)
class Numbers:
    """Numbers that stand for classes: (number in the file, index)."""

    table: tuple[tuple[int, int], ...]
    rest: int = -1
    """The index of all other numbers; -1 where there must be none."""

    @classmethod
    def of(cls, table: Mapping[int, int], rest: int = -1) -> Numbers:
        return cls(tuple(sorted(table.items())), rest)

    def read(self, data: bytes) -> np.ndarray:
        return self.indices(decode_segmentation(data))

    def indices(self, numbers: np.ndarray) -> np.ndarray:
        """The indices of an array of numbers from 0."""
        known = np.full(max(int(numbers.max()), self.table[-1][0]) + 1, self.rest, np.int64)
        for number, index in self.table:
            known[number] = index
        found = known[numbers]
        if (found < 0).any():
            raise BrokenSampleError(f"mask has a number that means nothing: {int(numbers[found < 0].min())}")
        return np.asarray(found, np.uint8 if known.max() < 256 else np.uint16)


@dataclass(frozen=True)
class Colours:
    """Colours that stand for classes: (red, green, blue, index). A few pixels of other colours are no class."""

    table: tuple[tuple[int, int, int, int], ...]

    def read(self, data: bytes) -> np.ndarray:
        packed = _packed(pixels_of(data))
        keys, indices = _sorted(self.table)
        place = np.searchsorted(keys, packed).clip(max=len(keys) - 1)
        other = keys[place] != packed
        found = np.where(other, VOID, indices[place]).astype(np.uint8 if indices.max() < 256 else np.uint16)
        if count := int(other.sum()):
            values, counts = np.unique(packed[other], return_counts=True)
            most = int(values[counts.argmax()])
            told = f"({most >> 16}, {most >> 8 & 255}, {most & 255})"
            if count > FEW * packed.size:
                raise BrokenSampleError(f"mask has colours that the palette lacks: {told} and {len(values) - 1} others, {count:,} pixels")
            remark("mask(s) with a few pixels of colours that the palette lacks: they have no class")
        return found


@dataclass(frozen=True)
class AdeObjects:
    """The full release of ADE20K: red and green hold the number of the object's name, blue the instance."""

    names: Numbers

    def read(self, data: bytes) -> np.ndarray:
        pixels = pixels_of(data)
        return self.names.indices(pixels[..., 0].astype(np.int64) // 10 * 256 + pixels[..., 1])


@dataclass(frozen=True)
class Segments:
    """COCO's panoptic PNG: a pixel is the id of its segment, red + 256 green + 65536 blue; 0 is no segment."""

    table: tuple[tuple[int, int], ...]
    """(id of a segment, index)"""
    void: int = VOID

    def read(self, data: bytes) -> np.ndarray:
        packed = _packed(pixels_of(data)[..., ::-1])
        ids, place = np.unique(packed, return_inverse=True)
        known = {0: self.void, **dict(self.table)}
        if unknown := [int(one) for one in ids if int(one) not in known]:
            raise BrokenSampleError(f"mask has a segment that the list lacks: {unknown[0]}")
        indices = np.array([known[int(one)] for one in ids])
        return indices[place.reshape(packed.shape)].astype(np.uint8 if indices.max() < 256 else np.uint16)


class Outline(msgspec.Struct):
    """One annotation of COCO, as far as it is needed."""

    category_id: int
    segmentation: list[list[float]] | RunLengths | None = None


class RunLengths(msgspec.Struct):
    counts: list[int] | str
    size: tuple[int, int]


@dataclass(frozen=True)
class Outlines:
    """COCO's polygons and run lengths of one image, drawn as pycocotools does. Background is index 0.

    Where objects of two classes lie on each other, which of them is seen is not said: those pixels are no class.
    """

    size: tuple[int, int]
    """(height, width)"""
    index_of: tuple[tuple[int, int], ...]
    """(category, index)"""
    annotations: tuple[bytes, ...] = field(repr=False)
    digest: str = ""
    """Of the annotations: they are too long for the name of a job."""

    def read(self, data: bytes) -> np.ndarray:
        from pycocotools import mask as coco

        known = dict(self.index_of)
        height, width = self.size
        void = void_of(max(known.values()) + 1)
        found = np.zeros(self.size, np.uint8 if void == VOID else np.uint16)
        twice = np.zeros(self.size, bool)
        for one in map(_outline, self.annotations):
            shapes, index = one.segmentation, known[one.category_id]
            if not shapes:
                raise BrokenSampleError("an annotation has a box and no outline")
            try:
                if isinstance(shapes, RunLengths):
                    drawn = _run_lengths(shapes, self.size)
                else:
                    if any(len(polygon) < 6 or len(polygon) % 2 or not np.isfinite(polygon).all() for polygon in shapes):
                        raise BrokenSampleError("a polygon has fewer than 3 points, half a point, or no finite numbers")
                    if any(np.abs(polygon).max() > FAR * max(height, width) for polygon in shapes):
                        raise BrokenSampleError("a polygon reaches far beyond the image")
                    packed = coco.merge(coco.frPyObjects(shapes, height, width))["counts"].decode()
                    drawn = _run_lengths(RunLengths(packed, self.size), self.size)
            except BrokenSampleError:
                raise
            except DAMAGED as error:
                raise BrokenSampleError(f"an outline cannot be drawn: {first_line(error)}") from None
            twice |= drawn & (found != 0) & (found != index)
            found[drawn] = index
        found[twice] = void
        return found


def _outline(data: bytes) -> Outline:
    return msgspec.json.decode(data, type=Outline)


def _run_lengths(runs: RunLengths, size: tuple[int, int]) -> np.ndarray:
    """bool H x W. Columns are written one after the other, as in Fortran."""
    if tuple(runs.size) != size:
        raise BrokenSampleError(f"run lengths are of another size: {runs.size[0]} x {runs.size[1]}, the image has {size[0]} x {size[1]}")
    counts = np.array(runs.counts if isinstance(runs.counts, list) else packed_counts(runs.counts), np.int64)
    if (counts < 0).any() or counts.sum() != size[0] * size[1]:
        raise BrokenSampleError("run lengths do not add up to the image")
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(size, order="F")


def packed_counts(text: str) -> list[int]:
    """The run lengths of COCO's compressed form: groups of 5 bits and a bit that says that more follow, from `0` on in ASCII; after the
    third run as differences to the one before the last. Raises `BrokenSampleError` for a text that ends within a number."""
    counts: list[int] = []
    value = shift = 0
    for letter in text.encode("ascii", "replace"):
        bits = letter - 48
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    if shift:
        raise BrokenSampleError("run lengths end within a number")
    return counts


def pixels_of(data: bytes) -> np.ndarray:
    """uint8 H x W x 3 of a mask whose colours count. Raises `BrokenSampleError`, also for formats that change colours."""
    image = open_image(data)
    if image.format not in MASK_FORMATS:
        raise BrokenSampleError(f"mask is no PNG: {image.format} changes the colours")
    try:
        return np.array(_rgb(image))
    except DAMAGED as error:
        raise BrokenSampleError(f"damaged mask: {first_line(error)}") from None


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        raise BrokenSampleError(f"mask holds numbers, not colours: {image.format} of mode {image.mode}")
    return image.convert("RGBA").convert("RGB") if "transparency" in image.info else image.convert("RGB")


def _packed(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(pixels[..., 0].astype(np.int32) << 16 | pixels[..., 1].astype(np.int32) << 8 | pixels[..., 2])


@lru_cache(maxsize=8)
def _sorted(table: Sequence[tuple[int, int, int, int]]) -> tuple[np.ndarray, np.ndarray]:
    keys = np.array([red << 16 | green << 8 | blue for red, green, blue, _ in table], np.int32)
    order = keys.argsort()
    return keys[order], np.array([index for *_, index in table])[order]
