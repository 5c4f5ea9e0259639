"""What an encoder takes: the shape and the meaning of its input."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Input:
    """What an encoder takes: float32, any batch x `shape`."""

    name: str
    shape: tuple[int, ...]
    words: str
    tokens: str

    def example(self, batch: int) -> torch.Tensor:
        """Structure everywhere, without a random generator."""
        ramp = torch.linspace(0, 1, batch * math.prod(self.shape)).reshape(batch, *self.shape)
        return ramp + 0.25 * torch.sin(ramp * 1e4)


def input_of(encoder: Any) -> Input:
    """Of an `ImageEncoder`, or of a `PointEncoder`."""
    if hasattr(encoder, "points"):
        prepared = "centred on the mean, the farthest at distance 1" if getattr(encoder, "normalised", True) else "as in the training data"
        words = f"float32 coordinates, {prepared}; any batch, this many points"
        return Input("points", (int(encoder.points), 3), words, "groups")
    words = "float32 RGB in [0, 1]; any batch, this image size; normalisation is inside"
    return Input("images", (3, *map(int, encoder.image_size)), words, "patches in raster order")
