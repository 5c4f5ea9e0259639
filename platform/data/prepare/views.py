"""A view becomes a part of a row: the photo, and whatever belongs to its pixels, placed by one and the same `Placement`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sightline.methods.errors import BrokenSampleError
from sightline.platform.data.depth import read_depth
from sightline.platform.data.geometry import Placement, require_same_view, upright
from sightline.platform.data.images import (
    Resize,
    count_indices,
    cropped_image,
    decode_segmentation,
    encode_depth,
    encode_segmentation,
    is_stored_mask,
    resized_image,
)
from sightline.platform.data.lenses import Lens, Straighten
from sightline.platform.data.remarks import remark

from .crop import Crop
from .files import read_file
from .found import ClassList
from .mask_codes import MaskCode

_NO_CLASSES = ClassList()

_MAYBE = "; 255 mostly means no class, then add --ignore 255; where it means the object, store it as an index"


@dataclass(frozen=True)
class Companion:
    """A depth map or a mask of a photo."""

    data: bytes
    name: str = ""
    """Its file, named where it cannot be used."""

    def stored(self, place: Callable[[bytes], bytes]) -> bytes:
        try:
            return place(self.data)
        except BrokenSampleError as error:
            if not self.name:
                raise
            raise BrokenSampleError(f"{error}{', ' if ': ' in str(error) else ': '}{self.name}") from None


def companion(path: str | None) -> Companion | None:
    return None if path is None else Companion(read_file(path), Path(path).name)


@dataclass(frozen=True)
class StoredView:
    """A view as a row holds it."""

    image: bytes
    depth: bytes | None = None
    mask: bytes | None = None
    K: np.ndarray | None = None


def stored_view(
    image: bytes,
    resize: Resize,
    *,
    K: np.ndarray | None = None,
    lens: Lens | None = None,
    depth: Companion | None = None,
    depth_scale: float | None = None,
    mask: Companion | None = None,
    classes: ClassList = _NO_CLASSES,
    code: MaskCode | None = None,
    upright: bool = False,
    crop: Crop | None = None,
) -> StoredView:
    """The view cut and resized; bytes stay where nothing changes. `crop`: this square of it, straightened before.

    `K` (3 x 3) is for the upright pixels of the photo; with a `lens` these are straightened first. Depth may have a size of its own. Depth
    and mask lie as the photo's upright pixels do or as those of its file do, which their size tells; `upright` says that they are upright.
    Raises `BrokenSampleError` with `reason: detail`.
    """
    straighten = None if lens is None or K is None else Straighten(lens, K)
    if crop is not None:
        data, at = cropped_image(image, crop.top, crop.left, crop.side, resize.size or crop.side, resize.quality, straighten)
    else:
        data, at = resized_image(image, resize, straighten)
    if straighten is not None:  # its matrix is that of the stored pixels, except of a crop, which is cut after it
        K = straighten.K if crop is None else at.intrinsics(straighten.K)
    elif K is not None:
        K = at.intrinsics(K)
    return StoredView(
        data,
        None if depth is None else depth.stored(lambda data: _depth(data, at, depth_scale, upright)),
        None if mask is None else mask.stored(lambda data: _mask(data, at, classes, code, upright)),
        K,
    )


def upright_depth(data: bytes, at: Placement, scale: float | None) -> np.ndarray:
    """Metres of the whole view, upright, at the size of the file. Raises `BrokenSampleError`."""
    metres = read_depth(data, scale, at.filed).metres
    return upright(metres, at.orientation) if at.is_filed(metres.shape) else metres


def _depth(data: bytes, at: Placement, scale: float | None, upright: bool) -> bytes:
    metres, stored_form, _ = read_depth(data, scale, at.filed)
    if not metres.any():
        remark("depth map(s) without a single reading: every value is 0, negative, not finite or too far")
    filed = not upright and at.is_filed(metres.shape[:2])
    require_same_view(at.filed if filed else at.original, metres.shape)
    same = stored_form and at.unchanged and metres.shape == at.stored and not filed
    return data if same else encode_depth(at.nearest(metres, filed))


def _mask(data: bytes, at: Placement, classes: ClassList, code: MaskCode | None, upright: bool) -> bytes:
    indices = decode_segmentation(data) if code is None else code.read(data)
    filed = not upright and at.is_filed(indices.shape[:2])
    if indices.shape != (at.filed if filed else at.original):
        (height, width), (h, w) = indices.shape, at.original
        raise BrokenSampleError(f"mask and image differ in size: {width} x {height} and {w} x {h}")
    count = len(classes.names)
    beyond = [value for value in count_indices(indices) if value >= count and value != classes.ignore_index]
    if beyond:
        raise BrokenSampleError(
            f"mask holds a class index beyond the list of classes: index {beyond[-1]}, {count} classes{_MAYBE if beyond[-1] == 255 else ''}"
        )
    return data if code is None and at.unchanged and not filed and is_stored_mask(data) else encode_segmentation(at.nearest(indices, filed))
