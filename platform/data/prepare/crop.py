"""A square of a photo."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

Points = Float[np.ndarray, "n 2"]
"""(x, y) in pixels of upright photos, straightened where they have a lens; centres at whole numbers."""


@dataclass(frozen=True, slots=True)
class Crop:
    """A square of an upright photo, in its pixels."""

    top: int
    left: int
    side: int

    def holds(self, xy: Points) -> np.ndarray:
        """Which of the points lie in it, bool n."""
        low = np.array([self.left, self.top]) - 0.5
        inside: np.ndarray = np.all((xy >= low) & (xy < low + self.side), axis=1)
        return inside
