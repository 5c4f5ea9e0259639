"""Random resized crops, as all methods on single images draw them. NumPy only."""

from __future__ import annotations

import numpy as np

TRIES = 10


def draw_box(
    height: int, width: int, rng: np.random.Generator, area: tuple[float, float], ratio: tuple[float, float]
) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of a random resized crop: uniform area, log-uniform ratio w / h, 10 tries, then the centre."""
    for _ in range(TRIES):
        size = rng.uniform(*area) * height * width
        shape = float(np.exp(rng.uniform(*np.log(ratio))))
        w, h = round((size * shape) ** 0.5), round((size / shape) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
            return left, top, left + w, top + h
    w, h = min(width, round(height * ratio[1])), min(height, round(width / ratio[0]))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h
