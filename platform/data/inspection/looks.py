"""What one image looks like in a few numbers: two perceptual hashes, sharpness, exposure.

pHash is the sign of the lowest 8 x 8 cosine frequencies of 32 x 32 grey pixels against their median, dHash that of the differences between
neighbours of 9 x 8 (the forms of the package imagehash). Sharpness is the variance of the Laplacian in the sharpest of 3 x 3 tiles, so that
a sharp thing before a soft background is sharp.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

WORKING = 256
"""Images whose short side is at least twice as long are averaged down first: sharpness would depend on the size else."""
PLAIN = 4.0
"""Standard deviation of the grey values, of 255: what has less is one colour, and its hashes are noise."""
BLURRED = 40.0
"""Sharpness below this is blur: of 200 photos one was below, blurred by 2 px nearly all."""
BLACK, WHITE = 4, 251
"""Grey values up to and from which a pixel is clipped."""
CLIPPED = 0.5
"""Share of clipped pixels from which an image is named."""
_BITS = np.uint64(1) << np.arange(64, dtype=np.uint64)
_COSINES = np.cos(np.pi * (2 * np.arange(32)[None] + 1) * np.arange(8)[:, None] / 64)


class Look(NamedTuple):
    """Of one image. `dark` and `bright` are shares of clipped pixels, `contrast` the standard deviation of grey."""

    phash: int
    dhash: int
    sharpness: float
    contrast: float
    mean: float
    dark: float
    bright: float


def look_at(image: UInt8[np.ndarray, "h w 3"]) -> Look:
    """The numbers of one image of at least 3 x 3 pixels."""
    grey = Image.fromarray(image).convert("L")
    factor = min(grey.size) // WORKING
    grey = grey.reduce(factor) if factor > 1 else grey
    values = np.asarray(grey)
    counts = np.bincount(values.ravel(), minlength=256) / values.size
    levels = np.arange(256)
    mean = float(counts @ levels)
    return Look(
        _phash(grey),
        _dhash(grey),
        _sharpness(values),
        float(np.sqrt(counts @ (levels - mean) ** 2)),
        mean,
        float(counts[: BLACK + 1].sum()),
        float(counts[WHITE:].sum()),
    )


def _phash(grey: Image.Image) -> int:
    pixels = np.asarray(grey.resize((32, 32), Image.Resampling.LANCZOS), np.float64)
    low = _COSINES @ pixels @ _COSINES.T
    return int(_BITS[(low > np.median(low)).ravel()].sum())


def _dhash(grey: Image.Image) -> int:
    pixels = np.asarray(grey.resize((9, 8), Image.Resampling.LANCZOS))
    return int(_BITS[(pixels[:, 1:] > pixels[:, :-1]).ravel()].sum())


def _sharpness(values: UInt8[np.ndarray, "h w"]) -> float:
    grey = values.astype(np.float32)
    laplacian: Float[np.ndarray, "a b"] = 4 * grey[1:-1, 1:-1] - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
    cuts = [sorted({side * part // 3 for part in range(3)}) for side in laplacian.shape]

    def sums(of: np.ndarray) -> np.ndarray:
        return np.asarray(np.add.reduceat(np.add.reduceat(of, cuts[0], axis=0), cuts[1], axis=1))

    sizes = np.outer(*(np.diff([*cut, side]) for cut, side in zip(cuts, laplacian.shape, strict=True)))
    return float((sums(laplacian**2) / sizes - (sums(laplacian) / sizes) ** 2).max())
