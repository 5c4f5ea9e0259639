"""Disparity and flow as pictures: near is red and far is blue; direction is a hue and length its strength. Unknown is black."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, UInt8

_TURBO = np.array(
    [
        (0.13572138, 4.61539260, -42.66032258, 132.13108234, -152.94239396, 59.28637943),
        (0.09140261, 2.19418839, 4.84296658, -14.18503333, 4.27729857, 2.82956604),
        (0.10667330, 12.64194608, -60.58204836, 110.36276771, -89.90310912, 27.34824973),
    ]
)
"""Red, green and blue of Google's Turbo as polynomials of [0, 1] (Mikhailov, 2019)."""


def disparity_colours(disparity: Float[np.ndarray, "h w"], largest: float | None = None) -> UInt8[np.ndarray, "h w 3"]:
    """Blue is 0, red is `largest` (by default 98 % of the known pixels are smaller)."""
    known = np.isfinite(disparity)
    top = largest if largest is not None else _top(disparity[known])
    share = np.clip(np.where(known, disparity, 0) / top, 0, 1)
    powers = share[..., None] ** np.arange(6)
    return _pixels(powers @ _TURBO.T, known)


def flow_colours(flow: Float[np.ndarray, "h w 2"], largest: float | None = None) -> UInt8[np.ndarray, "h w 3"]:
    """White does not move; right is red, down is yellow-green, left is cyan, up is violet. A flow of `largest` has full colour."""
    known = np.isfinite(flow).all(axis=-1)
    x, y = np.moveaxis(np.where(known[..., None], flow, 0), -1, 0)
    length = np.hypot(x, y)
    strength = np.clip(length / (largest if largest is not None else _top(length[known])), 0, 1)[..., None]
    turn = (np.arctan2(y, x) * (3 / np.pi)) % 6
    full = np.stack([np.abs(turn - 3) - 1, 2 - np.abs(turn - 2), 2 - np.abs(turn - 4)], axis=-1)  # of HSV
    return _pixels(1 - strength * (1 - np.clip(full, 0, 1)), known)


def darkened(picture: UInt8[np.ndarray, "h w 3"], where: Bool[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """At a third of its brightness where `where`: what is occluded."""
    return np.where(where[..., None], picture // 3, picture)


def _top(values: np.ndarray) -> float:
    return max(float(np.quantile(values, 0.98)) if values.size else 1.0, 1e-6)


def _pixels(colours: np.ndarray, known: np.ndarray) -> np.ndarray:
    return np.where(known[..., None], (np.clip(colours, 0, 1) * 255).round(), 0).astype(np.uint8)
