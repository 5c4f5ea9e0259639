"""What an encoder takes: the shape and the meaning of its input."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sightline.methods.contract import HasNormalised, HasOutputName, TakesImages, TakesPoints

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
    """The input of an encoder of images, None for another encoder."""
    if isinstance(encoder, TakesPoints) or not isinstance(encoder, TakesImages):
        return None
    height, width = encoder.image_size
    words = "float32 RGB in [0, 1]; any batch, this image size; normalisation is inside"
    return EncoderInput("images", (3, int(height), int(width)), words, "patches in raster order")


def cloud_input(encoder: object) -> EncoderInput | None:
    """The input of an encoder of clouds, None for another encoder."""
    if not isinstance(encoder, TakesPoints):
        return None
    centred = encoder.normalised if isinstance(encoder, HasNormalised) else True
    prepared = "centred on the mean, the farthest at distance 1" if centred else "as in the training data"
    words = f"float32 coordinates, {prepared}; any batch, this many points"
    return EncoderInput("points", (int(encoder.points), 3), words, "groups")


def output_name(encoder: object) -> str:
    """Name of what the encoder's `forward` gives."""
    return encoder.output if isinstance(encoder, HasOutputName) else "tokens"
