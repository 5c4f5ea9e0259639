"""What an encoder takes: the shape and the meaning of its input."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class EncoderInput:
    """What an encoder takes: float32, any batch x `shape`."""

    name: str
    shape: tuple[int, ...]
    words: str
    tokens: str

    def example(self, batch: int) -> torch.Tensor:
        """Values that differ everywhere, without a random generator: float32 `batch` x `shape`."""
        import torch

        ramp = torch.linspace(0, 1, batch * math.prod(self.shape)).reshape(batch, *self.shape)
        return ramp + 0.25 * torch.sin(ramp * 1e4)


def image_input(encoder: object) -> EncoderInput | None:
    """The input of an `ImageEncoder`, None for another encoder."""
    size = getattr(encoder, "image_size", None)
    if size is None or hasattr(encoder, "points"):
        return None
    words = "float32 RGB in [0, 1]; any batch, this image size; normalisation is inside"
    return EncoderInput("images", (3, *map(int, size)), words, "patches in raster order")


def cloud_input(encoder: object) -> EncoderInput | None:
    """The input of a `PointEncoder`, None for another encoder."""
    points = getattr(encoder, "points", None)
    if points is None:
        return None
    prepared = "centred on the mean, the farthest at distance 1" if getattr(encoder, "normalised", True) else "as in the training data"
    words = f"float32 coordinates, {prepared}; any batch, this many points"
    return EncoderInput("points", (int(points), 3), words, "groups")
