"""What an encoder takes: the shape and the meaning of its input, and images cut to it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from sightline.methods.contract import HasClassNames, HasNormalised, HasOutputName, Predictor, TakesImages, TakesPoints

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


def class_names(predictor: Predictor) -> tuple[str, ...]:
    """Of a fine-tuned network, in the order of its logits; numbers where it is older than its names."""
    names = predictor.class_names if isinstance(predictor, HasClassNames) else ()
    return tuple(names) or tuple(str(number) for number in range(predictor.classes))


def centre_box(height: int, width: int, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) of the largest centred box with the aspect of `size` (height, width), in pixels of the image."""
    scale = min(height / size[0], width / size[1])
    box_height, box_width = size[0] * scale, size[1] * scale
    left, top = (width - box_width) / 2, (height - box_height) / 2
    return left, top, left + box_width, top + box_height


def fit_image(image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "H W 3"]:
    """The largest centre crop of the shape of `size`, resized to it (bicubic, antialiased)."""
    box = centre_box(image.shape[0], image.shape[1], size)
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BICUBIC, box=box))
