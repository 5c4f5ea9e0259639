"""Point clouds in plain NumPy: draw a number of points, normalise, and draw an image of a cloud."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float, Float32, UInt8

from ..errors import BrokenSampleError
from ..random import keyed_rng

TURN, TILT = math.radians(35), math.radians(25)
NEAR, FAR = np.array([0.05, 0.25, 0.55]), np.array([0.75, 0.85, 0.95])


def coordinates(points: np.ndarray, width: int = 3) -> Float[np.ndarray, "n w"]:
    """The first `width`, of which three are coordinates. Raises `BrokenSampleError` where there are none, or where one is not finite."""
    if points.ndim != 2 or points.shape[1] < 3 or not len(points):
        raise BrokenSampleError(f"points of shape {points.shape} are no list of (x, y, z)")
    points = points[:, :width]
    if not np.isfinite(points).all():
        raise BrokenSampleError(f"{int((~np.isfinite(points)).any(axis=1).sum())} of {len(points)} points are not finite")
    return points


def draw_points(points: np.ndarray, count: int, least: int, rng: np.random.Generator, width: int = 3) -> Float[np.ndarray, "c w"]:
    """`count` points without replacement; a smaller cloud gives all of its points and as many drawn again as are missing.

    The first `width` columns are kept, of which three are coordinates. Raises `BrokenSampleError` where fewer than `least` points are
    distinct, or where one is not finite.
    """
    points = coordinates(points, width)
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


def fitted(points: np.ndarray, count: int, least: int, width: int = 3) -> Float32[np.ndarray, "c w"]:
    """The input of an encoder of clouds: `count` points drawn as in training, but the same ones every time, centred, the farthest at 1.

    Columns beyond the three coordinates come along. Raises `BrokenSampleError` as `draw_points` and `normalised` do.
    """
    drawn = draw_points(points, count, least, keyed_rng("fitted cloud"), width)
    return np.concatenate([normalised(drawn[:, :3]), drawn[:, 3:]], axis=1).astype(np.float32)


def draw_cloud(points: Float[np.ndarray, "n 3"], side: int, colours: Float[np.ndarray, "n 3"] | None = None) -> UInt8[np.ndarray, "s s 3"]:
    """An image of a cloud, seen from the side and a little from above, y up; near points are dark. The unit sphere fills the image.

    `colours`: of each point, in [0, 1], in place of blue.
    """
    x, y, z = points.astype(np.float64).T
    right = x * math.cos(TURN) + z * math.sin(TURN)
    depth = -x * math.sin(TURN) + z * math.cos(TURN)
    up, depth = y * math.cos(TILT) - depth * math.sin(TILT), y * math.sin(TILT) + depth * math.cos(TILT)
    column, row = ((v * 0.47 + 0.5) * side for v in (right, -up))
    shown = (column >= 0) & (column < side - 1) & (row >= 0) & (row < side - 1)
    order = np.flatnonzero(shown)[np.argsort(depth[shown], kind="stable")]  # far ones first, so that near ones lie on top
    shade = ((depth[order, None] + 1) / 2).clip(0, 1)
    near, far = (NEAR, FAR) if colours is None else (colours[order] * 0.8, 0.55 + 0.45 * colours[order])
    colour = (255 * (far * (1 - shade) + near * shade)).round().astype(np.uint8)
    image = np.full((side, side, 3), 255, np.uint8)
    dots = row[order].astype(int)[:, None] + [0, 0, 1, 1], column[order].astype(int)[:, None] + [0, 1, 0, 1]
    image[dots] = colour[:, None]
    return image
