"""Disparity, depth and flow as KITTI's benchmarks take them: PNGs of 16 bits. `ground_truth.py` reads them."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from jaxtyping import Float, UInt16

from .ground_truth import KITTI_DISPARITY, KITTI_FLOW, KITTI_FLOW_ZERO

LARGEST = 2**16 - 1


def disparity_png(values: Float[np.ndarray, "h w"]) -> bytes:
    """Pixels, or metres of depth: value x 256, from 1 (a prediction is known everywhere) to 65,535."""
    return write_png16(np.clip(np.rint(values.astype(np.float64) * KITTI_DISPARITY), 1, LARGEST).astype(np.uint16))


def flow_png(flow: Float[np.ndarray, "h w 2"]) -> bytes:
    """(u, v) as value x 64 + 2^15, clipped to 512 px, and 1 for known."""
    coded = np.clip(np.rint(flow.astype(np.float64) * KITTI_FLOW) + KITTI_FLOW_ZERO, 0, LARGEST)
    return write_png16(np.concatenate([coded, np.ones((*flow.shape[:2], 1))], axis=2).astype(np.uint16))


def write_png16(values: UInt16[np.ndarray, "h w *c"]) -> bytes:
    """Grey, H x W, or in colour, H x W x 3, which Pillow cannot write in 16 bits."""
    height, width = values.shape[:2]
    rows = values.astype(">u2").reshape(height, -1).view(np.uint8)
    body = np.concatenate([np.zeros((height, 1), np.uint8), rows], axis=1).tobytes()  # filter 0 in front of each row
    header = struct.pack(">IIBBBBB", width, height, 16, 0 if values.ndim == 2 else 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(body)) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
