"""Portable float maps: `Pf` (one channel) or `PF` (three), width, height, a scale whose sign is the byte order, rows from the bottom up."""

from __future__ import annotations

import re

import numpy as np

from sightline.methods.errors import BrokenSampleError

from .images import MAX_PIXELS

PFM = (b"Pf", b"PF")
_HEADER = re.compile(rb"(P[fF])\s+(\d+)\s+(\d+)\s+([-+0-9.eE]+)(?:\r\n|\s)")


def write_pfm(values: np.ndarray) -> bytes:
    """float32 H x W, or H x W x 3, little-endian."""
    height, width = values.shape[:2]
    return f"{'Pf' if values.ndim == 2 else 'PF'}\n{width} {height}\n-1.0\n".encode() + np.ascontiguousarray(values[::-1], "<f4").tobytes()


def read_pfm(data: bytes) -> np.ndarray:
    """float32 H x W, or H x W x 3. The scale's size is not applied: Middlebury's files have one that means nothing.

    Raises `BrokenSampleError` for a header that is none, and for fewer numbers than it says.
    """
    header = _HEADER.match(data[:256])
    if header is None:
        raise BrokenSampleError("damaged float map: no header of a PFM")
    kind, width, height, scale = header[1], int(header[2]), int(header[3]), header[4]
    channels = 3 if kind == b"PF" else 1
    try:
        little = float(scale) < 0
    except ValueError:
        raise BrokenSampleError(f"damaged float map: scale {scale.decode()!r} is no number") from None
    if not 0 < width * height <= MAX_PIXELS:
        raise BrokenSampleError(f"float map of {width} x {height} pixels; the limit is {MAX_PIXELS:,}")
    there, wanted = len(data) - header.end(), 4 * width * height * channels
    if there < wanted:
        raise BrokenSampleError(f"damaged float map: {width} x {height} x {channels} numbers are {wanted:,} bytes, it has {there:,}")
    values = np.frombuffer(data, "<f4" if little else ">f4", width * height * channels, header.end()).astype(np.float32)
    shape = (height, width) if channels == 1 else (height, width, 3)
    return np.ascontiguousarray(values.reshape(shape)[::-1])
