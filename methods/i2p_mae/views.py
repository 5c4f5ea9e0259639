"""From a stored cloud to the cloud a network sees: sampled, normalised, scaled and shifted. NumPy alone."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from ..contract import Sample
from ..errors import BrokenSampleError
from .config import I2PConfig


class I2PViews:
    """`points`: n x 3 float32, `model.points` of them."""

    columns = ("points",)

    def __init__(self, config: I2PConfig) -> None:
        self.config = config

    def __call__(self, sample: Sample, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Raises `BrokenSampleError` where the cloud has too few distinct points, no extent, or coordinates that are not finite."""
        cloud = normalised(draw_points(np.asarray(sample["points"]), self.config.model.points, self.config.model.groups[0], rng))
        augment = self.config.augment
        scale = rng.uniform(*augment.scale, size=3)
        shift = rng.uniform(-augment.shift, augment.shift, size=3)
        return {"points": (cloud * scale + shift).astype(np.float32)}


def coordinates(points: np.ndarray) -> Float[np.ndarray, "n 3"]:
    """The first three columns. Raises `BrokenSampleError` where there are none, or where one is not finite."""
    if points.ndim != 2 or points.shape[1] < 3 or not len(points):
        raise BrokenSampleError(f"points of shape {points.shape} are no list of (x, y, z)")
    points = points[:, :3]
    if not np.isfinite(points).all():
        raise BrokenSampleError(f"{int((~np.isfinite(points)).any(axis=1).sum())} of {len(points)} points are not finite")
    return points


def draw_points(points: np.ndarray, count: int, least: int, rng: np.random.Generator) -> Float[np.ndarray, "c 3"]:
    """`count` points without replacement; a smaller cloud gives all of its points and as many drawn again as are missing.

    Raises `BrokenSampleError` where fewer than `least` points are distinct, or where one is not finite.
    """
    points = coordinates(points)
    if len(points) >= count:
        chosen = points[rng.choice(len(points), count, replace=False)]
    else:
        chosen = np.concatenate([points, points[rng.integers(len(points), size=count - len(points))]])
    distinct = len(np.unique(chosen, axis=0))
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
