"""From a stored cloud to the cloud a network sees: sampled, normalised, scaled and shifted. NumPy alone."""

from __future__ import annotations

import numpy as np

from ..contract import Sample
from ..ops.clouds import draw_points, normalised
from .config import I2PConfig


class I2PViews:
    """`points`: n x 3 float32, `model.points` of them."""

    columns = ("points",)

    def __init__(self, config: I2PConfig) -> None:
        self.config = config
        self.least = config.model.groups[0]

    def __call__(self, sample: Sample, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Raises `BrokenSampleError` where the cloud has too few distinct points, no extent, or coordinates that are not finite."""
        cloud = normalised(draw_points(np.asarray(sample["points"]), self.config.model.points, self.least, rng))
        augment = self.config.augment
        scale = rng.uniform(*augment.scale, size=3)
        shift = rng.uniform(-augment.shift, augment.shift, size=3)
        return {"points": (cloud * scale + shift).astype(np.float32)}
