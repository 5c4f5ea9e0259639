"""Does a field say where the pixels of image 1 are in image 2? Images warped by it, and how well they then agree."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class WarpError(NamedTuple):
    """Mean colour difference over the pixels that are known and stay inside, of 255: unmoved, and moved by the field."""

    still: float
    moved: float
    pixels: int


def warped(image: np.ndarray, flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(float32 H x W x C of `image` at each pixel + `flow`, bilinear; bool H x W where that is known and inside). `flow`: H x W x 2."""
    height, width = flow.shape[:2]
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    return sampled(image, columns + flow[..., 0], rows + flow[..., 1])


def sampled(image: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(float32 ... x C of `image` at these places, bilinear; bool ... where they are known and inside)."""
    known = np.isfinite(x) & np.isfinite(y)
    x, y = (np.where(known, at, -1) for at in (x, y))
    inside = (x >= 0) & (y >= 0) & (x <= image.shape[1] - 1) & (y <= image.shape[0] - 1)
    x, y = (np.where(inside, at, 0) for at in (x, y))
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    right, below = np.minimum(left + 1, image.shape[1] - 1), np.minimum(top + 1, image.shape[0] - 1)
    a, b = (x - left)[..., None], (y - top)[..., None]
    upper = image[top, left] * (1 - a) + image[top, right] * a
    lower = image[below, left] * (1 - a) + image[below, right] * a
    return (upper * (1 - b) + lower * b).astype(np.float32), inside


def warp_error(image1: np.ndarray, image2: np.ndarray, flow: np.ndarray) -> WarpError:
    """Of uint8 images H x W x 3 and the flow of image 1. Truth that fits has `moved` far below `still`."""
    moved, inside = warped(image2, flow)
    if not inside.any():
        return WarpError(float("nan"), float("nan"), 0)
    one = image1.astype(np.float32)
    still = np.abs(one - image2.astype(np.float32))[inside].mean()
    return WarpError(float(still), float(np.abs(one - moved)[inside].mean()), int(inside.sum()))


def flow_of_disparity(disparity: np.ndarray) -> np.ndarray:
    """H x W x 2: a left pixel (x, y) lies at (x - d, y) in the right image."""
    known = np.isfinite(disparity)
    return np.stack([np.where(known, -np.where(known, disparity, 0), np.inf), np.where(known, 0, np.inf)], axis=-1).astype(np.float32)
