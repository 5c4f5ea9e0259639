"""Images side by side in one image."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

GAP = 4
SIDE = 160
"""Smaller images are shown enlarged, by a whole factor, to about this many pixels."""


def zoom(size: tuple[int, int]) -> int:
    """The factor by which images of (height, width) pixels are shown enlarged."""
    return max(1, SIDE // min(size))


def enlarge(images: Float[Tensor, "b 3 h w"], factor: int) -> Float[Tensor, "b 3 h2 w2"]:
    return images.repeat_interleave(factor, 2).repeat_interleave(factor, 3)


def image_grid(columns: list[Float[Tensor, "b 3 h w"]]) -> np.ndarray:
    """One row a sample, one column an entry, white gaps, small images enlarged: uint8 H x W x 3."""
    height, width = columns[0].shape[2:]
    shown = [enlarge(column, zoom((height, width))) for column in columns]
    cells = torch.stack(shown, dim=1).permute(0, 1, 3, 4, 2).mul(255).round().byte().cpu().numpy()
    rows, cols, h, w, _ = cells.shape
    sheet: UInt8[np.ndarray, "h w 3"] = np.full((rows * (h + GAP) - GAP, cols * (w + GAP) - GAP, 3), 255, dtype=np.uint8)
    for r in range(rows):
        for c in range(cols):
            sheet[r * (h + GAP) : r * (h + GAP) + h, c * (w + GAP) : c * (w + GAP) + w] = cells[r, c]
    return sheet
