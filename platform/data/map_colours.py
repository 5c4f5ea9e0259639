"""Disparity and flow as pictures of their own range: near is red and far is blue, a direction is a hue. Unknown is black."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8

from sightline.methods.ops import colour_maps


def disparity_colours(disparity: Float[np.ndarray, "h w"], largest: float | None = None) -> UInt8[np.ndarray, "h w 3"]:
    """Blue is 0, red is `largest` (by default 98 % of the known pixels are smaller)."""
    return colour_maps.turbo(disparity / (largest or _top(disparity)))


def flow_colours(flow: Float[np.ndarray, "h w 2"], largest: float | None = None) -> UInt8[np.ndarray, "h w 3"]:
    """White does not move; a flow of `largest` (by default 98 % of the known ones are shorter) has full colour."""
    return colour_maps.flow_colours(flow, largest or _top(np.hypot(*np.moveaxis(flow, -1, 0))))


def _top(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return max(float(np.quantile(known, 0.98)) if known.size else 1.0, 1e-6)
