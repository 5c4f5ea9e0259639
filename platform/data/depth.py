"""Depth maps as people have them: whole numbers or metres, with values that mean no reading."""

from __future__ import annotations

import io
import warnings
from tokenize import TokenError
from typing import NamedTuple

import numpy as np
from PIL import Image

from sightline.methods.errors import BrokenSampleError, first_line

from .geometry import same_shape
from .images import DAMAGED, DEPTH_UNIT, FARTHEST, MAX_BYTES, MAX_PIXELS
from .pfm import read_pfm

FORMATS = ("PNG", "TIFF")
NEAREST = 0.01
"""Metres. A map of whole numbers whose every reading is nearer has another unit than its scale says."""
_NPY, _PFM, _PNG = b"\x93NUMPY", b"Pf", b"\x89PNG"
_LZFSE = (b"bvx2", b"bvx1", b"bvxn", b"bvx-")
_MOST_PACKED = 2 * 2**20
"""Bytes of a packed map of Record3D; they have some 100,000, and a small file can unpack to gigabytes."""
_REFUSED = {
    b"v/1\x01": "OpenEXR",
    b"PF": "PFM of three channels",
    b"PK\x03\x04": ".npz or zip archive",
    b"\x89HDF": "HDF5",
    b"\x1f\x8b": "gzip",
    b"\xff\xd8\xff": "JPEG (its values are not exact)",
}
_UNREADABLE = "not a readable depth map (16-bit PNG, TIFF, .npy, .pfm)"


class DepthMap(NamedTuple):
    """What a file of depth says."""

    metres: np.ndarray
    """float32 H x W, 0 = no reading."""
    stored_form: bool
    """Whether the file is as a data set stores it, so that its bytes can stay."""
    units: float
    """Of the file, in a metre."""


def read_depth(data: bytes, scale: float | None = None, photo: tuple[int, int] | None = None) -> DepthMap:
    """The depth of a 16-bit PNG, a TIFF, `.npy` or `.pfm`, or of Record3D's `.depth`, whose shape is that of its `photo` (height, width).

    `scale`: units of the file in a metre; None: 1000 (millimetres) for whole numbers, 1 (metres) for floats. No reading are 0 and less, the
    largest value of the type (65535), what is not finite, and what lies beyond `FARTHEST`. Raises `BrokenSampleError` for what is no map
    of depth, and where all readings have an unlikely unit.
    """
    values = _values(data, photo)
    whole = values.dtype.kind in "iu"
    if whole:  # 65535 in a wider type: 16 bits that a program widened
        invalid = (values == np.iinfo(values.dtype).max) | (values == np.iinfo(np.uint16).max)
        none = invalid | (values <= 0)
    else:
        none = ~(np.isfinite(values) & (values > 0))
    units = scale or (DEPTH_UNIT if whole else 1.0)
    metres = np.where(none, 0, values) / np.float64(units)
    farthest, nearest = (float(pick(metres[~none])) if not none.all() else 0.0 for pick in (np.max, np.min))
    if nearest > FARTHEST or (whole and 0 < farthest < NEAREST):
        raise BrokenSampleError(
            f"depth in an unlikely unit (say its units in a metre with --depth-scale): from {nearest:.4g} to {farthest:.4g} m"
        )
    stored_form = whole and data.startswith(_PNG) and scale in (None, DEPTH_UNIT) and not invalid.any()
    return DepthMap(np.where(metres <= FARTHEST, metres, 0).astype(np.float32), stored_form, units)


def _values(data: bytes, photo: tuple[int, int] | None) -> np.ndarray:
    """H x W as they lie in the file: whole numbers of 16 bits and more, or floats."""
    if len(data) > MAX_BYTES:
        raise BrokenSampleError(f"depth file of {len(data):,} bytes exceeds the limit of {MAX_BYTES:,}")
    for magic, what in _REFUSED.items():
        if data.startswith(magic):
            raise BrokenSampleError(f"{_UNREADABLE}: {what}")
    if data.startswith(_LZFSE):
        return _record3d(data, photo)
    values = read_npy(data) if data.startswith(_NPY) else _pfm(data) if data.startswith(_PFM) else _picture(data)
    if values.ndim == 3 and 1 in (values.shape[0], values.shape[2]):
        values = values.squeeze(0 if values.shape[0] == 1 else 2)
    if values.ndim != 2 or not values.size or values.dtype.kind not in "iuf":
        raise BrokenSampleError(f"depth is not a map of numbers: {values.dtype} of shape {values.shape}")
    if values.dtype.itemsize < 2:
        raise BrokenSampleError("depth of 8 bits (256 steps are a picture of depth, or relative depth)")
    return values


def _record3d(data: bytes, photo: tuple[int, int] | None) -> np.ndarray:
    """Metres as float32, packed with LZFSE; the file does not say its shape."""
    try:
        import lzfse
    except ImportError:
        raise BrokenSampleError("depth of Record3D needs another package (pip install 'sightline-pretext[record3d]')") from None
    if len(data) > _MOST_PACKED:
        raise BrokenSampleError(f"depth file of {len(data):,} bytes exceeds the limit of {_MOST_PACKED:,} for LZFSE")
    try:
        values = np.frombuffer(lzfse.decompress(data), "<f4")
    except (lzfse.error, ValueError):
        raise BrokenSampleError("damaged depth map: it cannot be unpacked (LZFSE)") from None
    if photo is None:
        raise BrokenSampleError("depth of Record3D without its photo, which tells its shape")
    height = round((len(values) * photo[0] / photo[1]) ** 0.5)
    if not height or len(values) % height or not same_shape((height, len(values) // height), photo):
        raise BrokenSampleError(f"damaged depth map: {len(values):,} readings are no map of the shape of {photo[1]} x {photo[0]}")
    return values.reshape(height, -1)


def _picture(data: bytes) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # our own limit follows; what is damaged is an error
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise BrokenSampleError(f"depth of {image.width} x {image.height} pixels exceeds the limit of {MAX_PIXELS:,}")
                if len(image.getbands()) > 1 or image.mode in ("1", "P"):
                    raise BrokenSampleError(f"depth holds colours (a picture of depth?): {image.format} of mode {image.mode}")
                return np.asarray(image)
    except BrokenSampleError:
        raise
    except DAMAGED as error:
        known = data.startswith((_PNG, b"II*\0", b"MM\0*"))
        raise BrokenSampleError(f"damaged depth image: {first_line(error)}" if known else _UNREADABLE) from None


def read_npy(data: bytes) -> np.ndarray:
    """The array of an `.npy` file; nothing in it is run. Raises `BrokenSampleError`."""
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
        if dtype.hasobject:
            raise ValueError("it holds Python objects")
        if np.prod(shape, dtype=float) * dtype.itemsize > len(data) - file.tell():
            raise ValueError("it is cut short")
        file.seek(0)
        return np.asarray(np.load(file, allow_pickle=False))
    except (ValueError, TypeError, OverflowError, EOFError, OSError, SyntaxError, TokenError) as error:
        raise BrokenSampleError(f"damaged array: {first_line(error)}") from None


def _pfm(data: bytes) -> np.ndarray:
    try:
        return read_pfm(data)
    except BrokenSampleError as error:
        raise BrokenSampleError(f"damaged depth map: {error}") from None
