"""Encodes and decodes clouds: in a row of ours they are little-endian numbers, point after point (`arrays` has their form in a shard)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Int16

from sightline.methods.errors import BrokenSampleError

MAX_POINTS = 1_000_000
"""Of a stored cloud."""
LOSS = 1e-5
"""Share of a cloud's extent that a stored coordinate may be off."""
NO_PART = -1
"""In `part`: the point belongs to no part."""


def encode_points(points: np.ndarray) -> bytes:
    """N x 3 numbers as float32. Raises `BrokenSampleError` with `reason: detail` for anything that is no cloud."""
    if points.ndim != 2 or points.shape[1] != 3:
        raise BrokenSampleError(f"not a list of (x, y, z): shape {points.shape}")
    if not 1 <= len(points) <= MAX_POINTS:
        raise BrokenSampleError(f"no points, or more than {MAX_POINTS:,}: {len(points):,} points")
    with np.errstate(over="ignore"):
        stored = points.astype("<f4")
    bad = int((~np.isfinite(stored)).any(axis=1).sum())
    if bad:
        raise BrokenSampleError(f"coordinates that are not finite: {bad} of {len(points)} points")
    return stored.tobytes()


def centred(points: np.ndarray) -> tuple[np.ndarray, tuple[float, float, float] | None]:
    """(the points, what was taken from each of them, or None). Stored numbers are float32, of seven digits: where a cloud lies so far
    from the origin that they would lose more than `LOSS` of its extent, as map coordinates do, the middle of its box is taken from it in
    double precision, rounded to the size of the cloud."""
    if points.dtype.itemsize < 8 or points.ndim != 2 or not len(points):  # what came as float32 has no more digits to lose
        return points, None
    low, high = points.min(axis=0), points.max(axis=0)
    extent, farthest = float((high - low).max()), float(np.abs([low, high]).max())
    if not 0 < extent < np.inf or not farthest < np.finfo(np.float32).max or np.spacing(np.float32(farthest)) <= LOSS * extent:
        return points, None
    x, y, z = np.round((low + high) / 2, int(max(0, 1 - np.floor(np.log10(extent))))).tolist()
    return points - (x, y, z), (x, y, z)


def decode_points(data: bytes) -> Float32[np.ndarray, "n 3"]:
    """Raises `BrokenSampleError` where the bytes are no finite cloud of at most `MAX_POINTS` points."""
    if not data or len(data) % 12 or len(data) > 12 * MAX_POINTS:
        raise BrokenSampleError(f"{len(data)} bytes are no list of three float32 a point")
    points = np.frombuffer(data, "<f4").reshape(-1, 3)
    if not np.isfinite(points).all():
        raise BrokenSampleError("coordinates that are not finite")
    return points


def encode_parts(parts: np.ndarray, points: int) -> bytes:
    """The part of each point. Raises `BrokenSampleError` where their number differs."""
    if parts.shape != (points,):
        raise BrokenSampleError(f"parts do not fit the points: {parts.shape} for {points}")
    return parts.astype("<i2").tobytes()


def decode_parts(data: bytes) -> Int16[np.ndarray, " n"]:
    if len(data) % 2:
        raise BrokenSampleError(f"{len(data)} bytes are no list of int16")
    return np.frombuffer(data, "<i2")


def distinct(points: Float32[np.ndarray, "n 3"]) -> int:
    """How many points are in different places."""
    rows = points[np.lexsort(points.T)]
    return len(rows[:1]) + int((rows[1:] != rows[:-1]).any(axis=1).sum())


def count_parts(parts: Int16[np.ndarray, " n"]) -> dict[int, int]:
    values, counts = np.unique(parts, return_counts=True)
    return {int(value): int(count) for value, count in zip(values, counts, strict=True)}
