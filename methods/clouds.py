"""Point clouds as networks see them: so many points, centred, of one size. NumPy alone."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from .errors import BrokenSampleError


def draw_points(points: np.ndarray, count: int, least: int, rng: np.random.Generator, width: int = 3) -> Float[np.ndarray, "c w"]:
    """`count` points without replacement; a smaller cloud gives all of its points and as many drawn again as are missing.

    The first `width` columns are kept, of which three are coordinates. Raises `BrokenSampleError` where fewer than `least` points are
    distinct, or where one is not finite.
    """
    if points.ndim != 2 or points.shape[1] < 3 or not len(points):
        raise BrokenSampleError(f"points of shape {points.shape} are no list of (x, y, z)")
    points = points[:, :width]
    if not np.isfinite(points).all():
        raise BrokenSampleError(f"{int((~np.isfinite(points)).any(axis=1).sum())} of {len(points)} points are not finite")
    if len(points) >= count:
        chosen = points[rng.choice(len(points), count, replace=False)]
    else:
        chosen = np.concatenate([points, points[rng.integers(len(points), size=count - len(points))]])
    distinct = len(np.unique(chosen[:, :3], axis=0))
    if distinct < least:
        raise BrokenSampleError(f"{distinct} distinct points; model.groups needs {least}")
    return chosen


def normalised(points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    """Centred on the mean, farthest point at distance 1. Raises `BrokenSampleError` for a cloud without extent."""
    points = points.astype(np.float64) - points.mean(axis=0, dtype=np.float64)
    radius = np.sqrt((points**2).sum(axis=1).max())
    if not radius > 0:
        raise BrokenSampleError("all points are the same")
    return np.asarray(points / radius)
