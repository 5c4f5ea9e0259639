"""Disparity, optical flow and occlusion as rows hold them: where the pixels of image 1 are in image 2. They follow a cut and a resize.

In a row a map is height and width as int32, then its numbers, little-endian (`arrays` has its form in a shard). NaN is unknown; no number
is changed on the way from a file to a sample where the images keep their size.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Float32

from sightline.methods.errors import BrokenSampleError

from .arrays import ArrayForm
from .geometry import Placement

MAPS = ("disparity", "flow", "occluded")
"""The columns of pairs that hold them."""
DISPARITY_FORM = ArrayForm(pa.float32(), (-1, -1))
FLOW_FORM = ArrayForm(pa.float32(), (-1, -1, 2))
OCCLUDED_FORM = ArrayForm(pa.uint8(), (-1, -1))


def encode_disparity(disparity: Float[np.ndarray, "h w"]) -> bytes:
    """Pixels of a row of image 1, as float32: a pixel (x, y) is at (x - d, y) in image 2. What is not finite becomes NaN, unknown.

    Raises `BrokenSampleError` for a negative one: the sign, or the order of the images, is wrong.
    """
    stored = _stored(disparity, 2)
    if (stored < 0).any():
        raise BrokenSampleError(f"negative disparity (its sign is wrong, or left and right are swapped): {np.nanmin(stored):.4g} px")
    return _encoded(stored)


def decode_disparity(data: bytes) -> Float32[np.ndarray, "h w"]:
    """Raises `BrokenSampleError` for what `encode_disparity` has not written."""
    disparity = _decoded(data, "<f4", ())
    if np.isinf(disparity).any() or (disparity < 0).any():
        raise BrokenSampleError("a disparity that is negative or infinite")
    return disparity


def encode_flow(flow: Float[np.ndarray, "h w 2"]) -> bytes:
    """(dx, dy) in pixels from image 1 to image 2, as float32; a pixel of which one is not finite becomes NaN in both, unknown."""
    return _encoded(_stored(flow, 3))


def decode_flow(data: bytes) -> Float32[np.ndarray, "h w 2"]:
    """Raises `BrokenSampleError` for what `encode_flow` has not written."""
    flow = _decoded(data, "<f4", (2,))
    if np.isinf(flow).any():
        raise BrokenSampleError("a flow that is infinite")
    return flow


def encode_occluded(occluded: Bool[np.ndarray, "h w"]) -> bytes:
    """True where the pixel of image 1 is not seen in image 2."""
    return _encoded(occluded.astype(np.uint8))


def decode_occluded(data: bytes) -> Bool[np.ndarray, "h w"]:
    """Raises `BrokenSampleError` for what `encode_occluded` has not written."""
    values = _decoded(data, "u1", ())
    if (values > 1).any():
        raise BrokenSampleError("an occlusion that is neither 0 nor 1")
    return values.view(bool)


def placed_disparity(disparity: Float[np.ndarray, "h w"], at: Placement) -> Float32[np.ndarray, "h2 w2"]:
    """The disparity of the stored pixels. Nearest, so that what is unknown stays apart; in their pixels. Raises `BrokenSampleError`."""
    return (at.nearest(_fitting(disparity, at)) * np.float32(at.scale[0])).astype(np.float32)


def placed_flow(flow: Float[np.ndarray, "h w 2"], at: Placement) -> Float32[np.ndarray, "h2 w2 2"]:
    """As `placed_disparity`, for flow."""
    return (at.nearest(_fitting(flow, at)) * np.array(at.scale, np.float32)).astype(np.float32)


def placed_occluded(occluded: Bool[np.ndarray, "h w"], at: Placement) -> Bool[np.ndarray, "h2 w2"]:
    """As `placed_disparity`, for occlusion."""
    return at.nearest(_fitting(occluded, at))


def _fitting(values: np.ndarray, at: Placement) -> np.ndarray:
    if values.shape[:2] != at.original:
        (height, width), (h, w) = values.shape[:2], at.original
        raise BrokenSampleError(f"truth and image differ in size: {width} x {height} and {w} x {h}")
    if at.orientation != 1:
        raise BrokenSampleError(f"a photo that its EXIF tag turns has no truth in its pixels (store it upright): {at.tag}")
    return values


def _stored(values: np.ndarray, dimensions: int) -> np.ndarray:
    if values.ndim != dimensions or not values.size:
        raise BrokenSampleError(f"truth of another form: shape {values.shape}")
    with np.errstate(over="ignore", invalid="ignore"):
        stored = values.astype("<f4")
    known = np.isfinite(stored)
    if dimensions == 3:
        known = known.all(axis=-1, keepdims=True)
    return np.where(known, stored, np.float32(np.nan))


def _encoded(values: np.ndarray) -> bytes:
    return np.array(values.shape[:2], "<i4").tobytes() + values.tobytes()


def _decoded(data: bytes, dtype: str, after: tuple[int, ...]) -> np.ndarray:
    """Read-only."""
    height, width = (int(side) for side in np.frombuffer(data[:8], "<i4")) if len(data) >= 8 else (0, 0)
    size = np.dtype(dtype).itemsize * int(np.prod(after, dtype=int))
    if height <= 0 or width <= 0 or len(data) - 8 != height * width * size:
        raise BrokenSampleError(f"{len(data)} bytes are no map of {width} x {height} pixels")
    return np.frombuffer(data, dtype, offset=8).reshape(height, width, *after)
