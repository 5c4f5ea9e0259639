"""Images and maps cut to what an encoder sees: the largest centre crop of its shape, resized to its size, and the patches of that."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Shaped

from sightline.platform.data.encoder_input import centre_box, fit_image

__all__ = ["centre_box", "fit_image", "fit_nearest", "nearest_pixels", "patch_cells", "patch_depth", "pixel_cells"]


def nearest_pixels(height: int, width: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """(rows, columns) of the pixels nearest to those of the crop of `size` that `fit_image` makes: what is never interpolated."""
    left, top, right, bottom = centre_box(height, width, size)
    y = (top + (np.arange(size[0]) + 0.5) * (bottom - top) / size[0]).astype(int).clip(0, height - 1)
    x = (left + (np.arange(size[1]) + 0.5) * (right - left) / size[1]).astype(int).clip(0, width - 1)
    return y, x


def fit_nearest(values: Shaped[np.ndarray, "h w"], size: tuple[int, int]) -> Shaped[np.ndarray, "H W"]:
    """Depth or class indices in the crop that `fit_image` makes, each pixel as it was measured."""
    y, x = nearest_pixels(values.shape[0], values.shape[1], size)
    fitted: np.ndarray = values[np.ix_(y, x)]
    return fitted


def patch_cells(values: Shaped[np.ndarray, "h w"], patch: int) -> Shaped[np.ndarray, "rows columns p"]:
    """The pixels of each patch of a fitted map; what the patches leave over at the right and below is cut off."""
    rows, columns = values.shape[0] // patch, values.shape[1] // patch
    used = values[: rows * patch, : columns * patch]
    return used.reshape(rows, patch, columns, patch).transpose(0, 2, 1, 3).reshape(rows, columns, patch * patch)


def patch_depth(depth: Float[np.ndarray, "h w"], size: tuple[int, int], patch: int, min_valid: float) -> Float[np.ndarray, "rows columns"]:
    """Median of the known depths (> 0) in each patch of the crop that `fit_image` makes; NaN where fewer than `min_valid` are known.

    Depth is sampled to the nearest pixel and never interpolated, which would invent surfaces between near and far.
    """
    cells = patch_cells(fit_nearest(depth, size), patch)
    known = cells > 0
    enough = known.mean(axis=2) >= min_valid
    ordered = np.sort(np.where(known, cells, np.inf), axis=2)
    middle = (known.sum(axis=2) - 1).clip(0) // 2  # the lower median is a depth that was measured
    median = np.take_along_axis(ordered, middle[..., None], axis=2)[..., 0]
    return np.where(enough, median, np.nan).astype(np.float32)


def pixel_cells(images: Float[torch.Tensor, "b 3 h w"], cells: int = 8) -> Float[torch.Tensor, "b d"]:
    """Mean colours of `cells` x `cells` cells of each image (or patch) as features: what no network has touched."""
    return torch.nn.functional.adaptive_avg_pool2d(images, cells).flatten(1)
