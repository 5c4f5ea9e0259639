"""Pictures of numbers: depth and disparity in colours, optical flow as hue and strength, normals as red, green and blue. NumPy only."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8

_TURBO = np.array(
    [
        [0.13572138, 4.61539260, -42.66032258, 132.13108234, -152.94239396, 59.28637943],
        [0.09140261, 2.19418839, 4.84296658, -14.18503333, 4.27729857, 2.82956604],
        [0.10667330, 12.64194608, -60.58204836, 110.36276771, -89.90310912, 27.34824973],
    ]
)
"""Polynomials of Google's Turbo, red, green, blue (Mikhailov, 2019)."""


def turbo(values: Float[np.ndarray, "*n"]) -> UInt8[np.ndarray, "*n 3"]:
    """Of numbers in [0, 1]: from dark blue over green to dark red; black for what is not finite."""
    known = np.isfinite(values)
    x = np.clip(np.where(known, values, 0.0), 0, 1)[..., None]
    colours = (_TURBO * x[..., None] ** np.arange(6)).sum(axis=-1)
    return np.where(known[..., None], np.clip(colours * 255, 0, 255).round(), 0).astype(np.uint8)


def flow_colours(flow: Float[np.ndarray, "*n 2"], longest: float) -> UInt8[np.ndarray, "*n 3"]:
    """Hue by direction (right red, down yellow-green, left cyan, up violet), paler the shorter; white is no motion, black unknown.

    `longest`: the length in pixels that has full colour; longer ones have it, too.
    """
    known = np.isfinite(flow).all(axis=-1)
    x, y = (np.where(known, flow[..., axis], 0.0) for axis in (0, 1))
    hue = np.arctan2(y, x) / (2 * np.pi) % 1.0
    strength = np.clip(np.hypot(x, y) / max(longest, 1e-12), 0, 1)
    channels = []
    for offset in (5, 3, 1):
        k = (offset + 6 * hue) % 6
        channels.append(1 - strength * np.clip(np.minimum(k, 4 - k), 0, 1))
    return np.where(known[..., None], np.stack(channels, axis=-1) * 255, 0).round().astype(np.uint8)


def normal_colours(normals: Float[np.ndarray, "*n 3"]) -> UInt8[np.ndarray, "*n 3"]:
    """Of unit normals in the camera's axes: red the more to the right, green upwards, blue to the camera; black unknown."""
    known = np.isfinite(normals).all(axis=-1, keepdims=True)
    shares = (1 + np.where(known, normals, 0.0) * np.array([1, -1, -1])) / 2
    return np.where(known, np.clip(shares * 255, 0, 255).round(), 0).astype(np.uint8)
