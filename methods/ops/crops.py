"""Random resized crops, as all methods on single images draw them. NumPy and Pillow, no torch."""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8
from PIL import Image

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


def resized_centre(image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int], ratio: float) -> UInt8[np.ndarray, "H W 3"]:
    """The centre of `size` (height, width) of the image resized so that `size` / `ratio` just fits (bicubic, antialiased): with a size of
    224 and a ratio of 0.875 torchvision's Resize(256), CenterCrop(224)."""
    height, width = image.shape[:2]
    rows, columns = int(size[0] / ratio), int(size[1] / ratio)
    if rows * width >= columns * height:
        columns = max(columns, rows * width // height)
    else:
        rows = max(rows, columns * height // width)
    top, left = round((rows - size[0]) / 2), round((columns - size[1]) / 2)
    whole = Image.fromarray(image).resize((columns, rows), Image.Resampling.BICUBIC)
    return np.asarray(whole)[top : top + size[0], left : left + size[1]]
