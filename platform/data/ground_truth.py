"""Ground truth of stereo, optical flow and depth as the benchmarks store it: bytes in, arrays out. Unknown is +inf, as in CroCo's losses.

Every reader keeps exactly what a file says to be unknown apart from what it says to be zero. Raises `BrokenSampleError` for a file that
is not what its reader reads, or whose size or length is not what it states.
"""

from __future__ import annotations

import io
import re
import struct
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from sightline.methods.errors import BrokenSampleError, first_line

from .images import DAMAGED, MAX_BYTES, MAX_PIXELS
from .pfm import PFM, read_pfm

FLO_MAGIC = 202021.25
FLO_UNKNOWN = 1e9
"""Middlebury's `.flo`: a component that is larger is unknown."""
MAX_HDF5 = 2 * 2**30
KITTI_DISPARITY = 256.0
KITTI_FLOW_ZERO, KITTI_FLOW = 2**15, 64.0
KITTI_DEPTH, VKITTI_DEPTH = 256.0, 100.0
"""Units of a whole number in a metre."""
_PNG, _HDF5, _FLO = b"\x89PNG", b"\x89HDF\r\n\x1a\n", b"PIEH"


# Optical flow: float32 H x W x 2, (x, y) in pixels from image 1 to image 2.


def read_flow(data: bytes) -> np.ndarray:
    """By what the file begins with: `.flo`, KITTI's 16-bit PNG, `.pfm` of three channels, Spring's `.flo5`."""
    if data.startswith(_FLO):
        return read_flo(data)
    if data.startswith(_PNG):
        return read_kitti_flow(data)
    if data.startswith(b"PF"):
        return unknown_to_inf(read_pfm(data)[..., :2])
    if data.startswith(_HDF5):
        return unknown_to_inf(_hdf5(data, "flow", (2,)))
    raise BrokenSampleError("not a readable flow field (.flo, 16-bit PNG of KITTI, .pfm, .flo5)")


def read_flo(data: bytes) -> np.ndarray:
    """Middlebury's format, which FlyingChairs and Sintel have, too: 202021.25, width, height, then (u, v) row by row, little-endian."""
    values = _tagged(data, 2, "flow field")
    with np.errstate(invalid="ignore"):
        values[np.abs(values) > FLO_UNKNOWN] = np.inf
    return unknown_to_inf(values)


def read_kitti_flow(data: bytes) -> np.ndarray:
    """A 16-bit PNG of three channels: (u, v) as value / 64 after 2^15 is taken away, and 0 in the third where nothing is known."""
    values = read_png16(data, 3).astype(np.float32)
    flow = (values[..., :2] - KITTI_FLOW_ZERO) / KITTI_FLOW
    flow[values[..., 2] == 0] = np.inf
    return flow


def read_vkitti_flow(data: bytes) -> np.ndarray:
    """Virtual KITTI 2: a 16-bit PNG whose first two channels are (u, v), where 0 to 65535 is -(side - 1) to side - 1, and 0 in the third
    where nothing is known."""
    values = read_png16(data, 3).astype(np.float64)
    height, width = values.shape[:2]
    flow: np.ndarray = ((values[..., :2] * 2 / 65535 - 1) * (width - 1, height - 1)).astype(np.float32)
    flow[values[..., 2] == 0] = np.inf
    return flow


# Disparity: float32 H x W in pixels; a left pixel (x, y) matches the right one at (x - d, y).


def read_disparity(data: bytes, scale: float | None = None) -> np.ndarray:
    """By what the file begins with: 16-bit PNG (KITTI: value / 256, 0 unknown), `.pfm` (Middlebury, ETH3D, SceneFlow), Spring's `.dsp5`,
    or a PNG of 8 bits with its own `scale` (Middlebury 2001 to 2006: value / scale, 0 unknown)."""
    if data.startswith(PFM):
        values = read_pfm(data)
        if values.ndim != 2:
            raise BrokenSampleError("a disparity has one channel, this float map has three (a flow?)")
        return unknown_to_inf(values)
    if data.startswith(_HDF5):
        return unknown_to_inf(_hdf5(data, "disparity", ()))
    if not data.startswith(_PNG):
        raise BrokenSampleError("not a readable disparity (16-bit PNG, .pfm, .dsp5, or a PNG of 8 bits with a scale)")
    if _png_depth(data) == 16:
        values = read_png16(data, 1).astype(np.float32)
    elif scale is None:
        raise BrokenSampleError("a disparity of 8 bits does not say its scale: give it (--scale; Middlebury: 1, 2, 3, 4 or 8, by data set)")
    else:
        values = _grey8(data).astype(np.float32)
    return np.where(values == 0, np.inf, values / np.float32(scale or KITTI_DISPARITY)).astype(np.float32)


def read_sintel_disparity(data: bytes) -> np.ndarray:
    """An RGB PNG: 4 R + G / 2^6 + B / 2^14. What is occluded or out of the frame is in masks beside it: `read_mask`."""
    return np.asarray(_rgb8(data).astype(np.float32) @ np.array([4, 2**-6, 2**-14], np.float32))


def read_mask(data: bytes) -> np.ndarray:
    """bool H x W: True where the picture is not 0. Sintel's `occlusions` and `invalid`, Middlebury's `mask0nocc` (255 visible in both,
    128 in one, 0 unknown) with `== 255` by `read_levels`."""
    return np.asarray(read_levels(data) != 0)


def read_levels(data: bytes) -> np.ndarray:
    """uint8 H x W of a grey PNG, as it stands."""
    return _grey8(data)


def without(truth: np.ndarray, *unknown: np.ndarray) -> np.ndarray:
    """`truth` with +inf where one of the masks is True. Raises `BrokenSampleError` for a mask of another size."""
    out = truth.copy()
    for mask in unknown:
        if mask.shape != truth.shape[:2]:
            raise BrokenSampleError(f"the mask is {mask.shape[0]} x {mask.shape[1]}, its truth {truth.shape[0]} x {truth.shape[1]}")
        out[mask] = np.inf
    return out


# Depth: float32 H x W in metres.


def read_depth_png(data: bytes, scale: float = KITTI_DEPTH) -> np.ndarray:
    """A 16-bit PNG: value / `scale` metres (KITTI 256, Virtual KITTI 2 100); 0 and 65535 are unknown."""
    values = read_png16(data, 1)
    return np.where((values == 0) | (values == 65535), np.inf, values / scale).astype(np.float32)


def read_dpt(data: bytes) -> np.ndarray:
    """Sintel's `.dpt`: 202021.25, width, height, then metres row by row, little-endian."""
    return unknown_to_inf(_tagged(data, 1, "depth map")[..., 0])


@dataclass(frozen=True)
class NyuFrame:
    """`image`: uint8 H x W x 3; `depth`: float32 H x W in metres."""

    image: np.ndarray
    depth: np.ndarray


class NyuLabeled:
    """NYUv2's `nyu_depth_v2_labeled.mat` (MATLAB 7.3, which is HDF5), frame by frame: it has 1,449 of 480 x 640 pixels and 2.8 GB.

    MATLAB stores columns first, so a frame comes as channels x width x height and is turned. `file`: an open `h5py.File`.
    """

    def __init__(self, file: Any, raw: bool = False) -> None:
        name = "rawDepths" if raw else "depths"
        missing = [key for key in ("images", name) if key not in file]
        if missing:
            raise BrokenSampleError(f"no NYUv2 file of labelled frames: it lacks {', '.join(missing)}; it has {', '.join(list(file)[:8])}")
        self.images, self.depths = file["images"], file[name]
        if self.images.ndim != 4 or self.images.shape[1] != 3 or self.depths.shape != (len(self.images), *self.images.shape[2:]):
            raise BrokenSampleError(f"images of shape {self.images.shape} and depths of {self.depths.shape} do not belong together")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> NyuFrame:
        """0 metres, which the camera gives for no reading, is unknown."""
        depth = np.asarray(self.depths[index], np.float32).T
        image = np.ascontiguousarray(np.asarray(self.images[index], np.uint8).transpose(2, 1, 0))
        return NyuFrame(image, unknown_to_inf(np.where(depth > 0, depth, np.inf)))


def read_nyu_h5(data: bytes) -> NyuFrame:
    """One frame as `.h5`: `rgb` 3 x H x W and `depth` H x W, as the preprocessed NYUv2 has it."""
    import h5py

    with _opened(data, h5py) as file:
        if "rgb" not in file or "depth" not in file:
            raise BrokenSampleError(f"no frame of NYUv2: it holds {', '.join(list(file)[:8]) or 'nothing'}, not rgb and depth")
        image, depth = np.asarray(file["rgb"]), np.asarray(file["depth"], np.float32)
    if image.ndim != 3 or image.shape[0] != 3 or image.shape[1:] != depth.shape:
        raise BrokenSampleError(f"rgb of shape {image.shape} and depth of {depth.shape} do not belong together")
    return NyuFrame(np.ascontiguousarray(image.transpose(1, 2, 0)).astype(np.uint8), unknown_to_inf(np.where(depth > 0, depth, np.inf)))


# Calibration


@dataclass(frozen=True)
class StereoCalibration:
    """Of a rectified pair. `K1`, `K2`: 3 x 3 in pixels; `baseline` in the unit of the file (Middlebury: millimetres); `offset`: difference
    of the two principal points' columns, cx2 - cx1, which is added to a disparity to make a depth."""

    K1: np.ndarray
    K2: np.ndarray
    baseline: float
    offset: float = 0.0
    size: tuple[int, int] | None = None
    """(height, width), where the file says."""

    def depth(self, disparity: np.ndarray) -> np.ndarray:
        """baseline f / (d + offset); +inf where the disparity is unknown, or the point at infinity or behind."""
        shifted = disparity.astype(np.float64) + self.offset
        known = np.isfinite(shifted) & (shifted > 0)
        return np.where(known, self.baseline * self.K1[0, 0] / np.where(known, shifted, 1.0), np.inf).astype(np.float32)


def read_middlebury_calibration(text: str) -> StereoCalibration:
    """`calib.txt` of Middlebury 2014 and ETH3D: cam0, cam1, doffs, baseline, width, height. Raises `BrokenSampleError`."""
    values = dict(re.findall(r"^\s*(\w+)\s*=\s*(.+?)\s*$", text, re.MULTILINE))
    try:
        K1, K2 = (_matrix(values[name], 3, 3) for name in ("cam0", "cam1"))
        size = (int(values["height"]), int(values["width"])) if {"height", "width"} <= values.keys() else None
        offset = float(values.get("doffs", K2[0, 2] - K1[0, 2]))
        return StereoCalibration(K1, K2, float(values["baseline"]), offset, size)
    except KeyError as error:
        raise BrokenSampleError(f"calib.txt lacks {error.args[0]}: it has {', '.join(values) or 'nothing'}") from None
    except ValueError as error:
        raise BrokenSampleError(f"calib.txt cannot be read: {first_line(error)}") from None


def read_kitti_calibration(text: str, left: int = 2, right: int = 3) -> StereoCalibration:
    """`calib_cam_to_cam.txt` (P_rect_02, P_rect_03) or `calib.txt` of the odometry (P2, P3); baseline in metres."""
    values = dict(re.findall(r"^(\w+):\s*(.+?)\s*$", text, re.MULTILINE))
    found = []
    for camera in (left, right):
        row = values.get(f"P_rect_{camera:02d}") or values.get(f"P{camera}")
        if row is None:
            raise BrokenSampleError(f"the calibration has no camera {camera}: it has {', '.join(values) or 'nothing'}")
        try:
            found.append(_matrix(row, 3, 4))
        except ValueError as error:
            raise BrokenSampleError(f"the calibration of camera {camera} cannot be read: {first_line(error)}") from None
    one, two = found
    baseline = one[0, 3] / one[0, 0] - two[0, 3] / two[0, 0]
    return StereoCalibration(one[:, :3], two[:, :3], float(baseline), float(two[0, 2] - one[0, 2]))


def _matrix(text: str, rows: int, columns: int) -> np.ndarray:
    numbers = [float(word) for word in text.strip("[] ").replace(";", " ").split()]
    if len(numbers) != rows * columns or not np.isfinite(numbers).all():
        raise ValueError(f"{text!r} is no matrix of {rows} x {columns} numbers")
    return np.array(numbers).reshape(rows, columns)


# Pictures and files


def read_png16(data: bytes, channels: int) -> np.ndarray:
    """uint16 H x W of a grey PNG of 16 bits, or H x W x 3 of one in colour, of which Pillow alone would keep the upper 8 bits."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            depth, colour, width, height = _png_header(data)
            if depth != 16 or colour != {1: 0, 3: 2}[channels]:
                kinds = {0: "grey", 2: "RGB", 3: "a palette", 4: "grey with alpha", 6: "RGBA"}
                raise BrokenSampleError(
                    f"a PNG of 16 bits and {channels} channels is needed; this has {depth} bits, {kinds.get(colour, colour)}"
                )
            if not 0 < width * height <= MAX_PIXELS:
                raise BrokenSampleError(f"a map of {width} x {height} pixels; the limit is {MAX_PIXELS:,}")
            if channels == 1:
                with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
                    return np.asarray(image).astype(np.uint16)
            upper, lower = (_raw_bytes(data, mode) for mode in ("RGB;16B", "RGB;16L"))
            return np.asarray((upper.astype(np.uint16) << 8) | lower)
    except BrokenSampleError:
        raise
    except DAMAGED as error:
        raise BrokenSampleError(f"damaged PNG: {first_line(error)}") from None


def _raw_bytes(data: bytes, mode: str) -> np.ndarray:
    """One byte of each 16-bit value, uint8 H x W x 3: PNG is big-endian, so `16B` takes the upper, `16L` the lower one."""
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        image.tile = [tile._replace(args=mode) for tile in image.tile]
        return np.asarray(image)


def _png_header(data: bytes) -> tuple[int, int, int, int]:
    """(bits, colour type, width, height)."""
    if data[12:16] != b"IHDR":
        raise BrokenSampleError("not a PNG")
    width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
    return depth, colour, width, height


def _png_depth(data: bytes) -> int:
    return _png_header(data)[0] if len(data) >= 26 else 0


def _opened_picture(data: bytes, modes: Mapping[str, str]) -> np.ndarray:
    if len(data) > MAX_BYTES:
        raise BrokenSampleError(f"file of {len(data):,} bytes exceeds the limit of {MAX_BYTES:,}")
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise BrokenSampleError(f"a map of {image.width} x {image.height} pixels; the limit is {MAX_PIXELS:,}")
            if image.mode not in modes:
                raise BrokenSampleError(f"a PNG of mode {' or '.join(modes)} is needed, this has {image.mode}")
            return np.asarray(image.convert(modes[image.mode]))
    except BrokenSampleError:
        raise
    except DAMAGED as error:
        raise BrokenSampleError(f"damaged PNG: {first_line(error)}") from None


def _grey8(data: bytes) -> np.ndarray:
    return _opened_picture(data, {"L": "L", "1": "L"})


def _rgb8(data: bytes) -> np.ndarray:
    return _opened_picture(data, {"RGB": "RGB"})


def _tagged(data: bytes, channels: int, what: str) -> np.ndarray:
    """float32 H x W x channels after the tag, width and height."""
    if len(data) < 12 or struct.unpack("<f", data[:4])[0] != np.float32(FLO_MAGIC):
        raise BrokenSampleError(f"not a {what}: it does not begin with {FLO_MAGIC}")
    width, height = struct.unpack("<ii", data[4:12])
    if width <= 0 or height <= 0 or width * height > MAX_PIXELS:
        raise BrokenSampleError(f"a {what} of {width} x {height} pixels; the limit is {MAX_PIXELS:,}")
    if len(data) != (wanted := 12 + 4 * width * height * channels):
        raise BrokenSampleError(f"damaged {what}: {width} x {height} pixels are {wanted:,} bytes, it has {len(data):,}")
    return np.frombuffer(data, "<f4", offset=12).reshape(height, width, channels).astype(np.float32)


def unknown_to_inf(values: np.ndarray) -> np.ndarray:
    """float32 with +inf where a value is not finite, in all channels of its pixel."""
    known = np.isfinite(values)
    if values.ndim == 3:
        known = known.all(axis=-1, keepdims=True)
    return np.where(known, values, np.inf).astype(np.float32)


def _opened(data: bytes, h5py: Any) -> Any:
    if len(data) > MAX_HDF5:
        raise BrokenSampleError(f"HDF5 of {len(data):,} bytes exceeds the limit of {MAX_HDF5:,}")
    try:
        return h5py.File(io.BytesIO(data), "r")
    except DAMAGED as error:
        raise BrokenSampleError(f"damaged HDF5: {first_line(error)}") from None


def _hdf5(data: bytes, name: str, after: tuple[int, ...]) -> np.ndarray:
    import h5py

    with _opened(data, h5py) as file:
        if name not in file:
            raise BrokenSampleError(f"the HDF5 file has no {name!r}: it has {', '.join(list(file)[:8]) or 'nothing'}")
        shape = file[name].shape
        if len(shape) != 2 + len(after) or shape[2:] != after or not 0 < shape[0] * shape[1] <= MAX_PIXELS:
            raise BrokenSampleError(f"{name} of shape {shape} is no map")
        return np.asarray(file[name], np.float32)
