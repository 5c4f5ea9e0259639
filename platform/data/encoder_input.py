"""What an encoder takes: the shape and the meaning of its input, and images cut to it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from sightline.methods.contract import (
    HasClassNames,
    HasNormalised,
    HasOutputName,
    HasOutputUnit,
    Predictor,
    TakesImages,
    TakesPairs,
    TakesPoints,
)

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class EncoderInput:
    """What an encoder takes: float32, any batch x `shape`."""

    name: str
    shape: tuple[int, ...]
    words: str
    tokens: str
    from_raw: str = ""
    """Lines of Python with NumPy as `np` that make four samples, under `name`, of what people have; empty where that is not known."""
    sample: Callable[[int], np.ndarray] | None = None
    """Number -> a sample such as the encoder takes, of `shape`; values that differ everywhere where it is not known."""
    plausible: Callable[[torch.Tensor], torch.Tensor] | None = None
    """A batch -> a boolean: False for one that is surely a mistake, such as bytes in place of floats in [0, 1]."""

    def example(self, batch: int) -> torch.Tensor:
        """Samples that differ from each other, without a random generator: float32 `batch` x `shape`."""
        import torch

        if self.sample is not None:
            return torch.from_numpy(np.stack([self.sample(number) for number in range(batch)]).astype(np.float32))
        ramp = torch.linspace(0, 1, batch * math.prod(self.shape)).reshape(batch, *self.shape)
        return ramp + 0.25 * torch.sin(ramp * 1e4)


def image_input(encoder: object) -> EncoderInput | None:
    """The input of an encoder of images, None for another encoder."""
    if isinstance(encoder, TakesPoints) or not isinstance(encoder, TakesImages):
        return None
    height, width = (int(side) for side in encoder.image_size)
    if isinstance(encoder, TakesPairs):
        first, second = encoder.pair
        return EncoderInput(
            name="pairs",
            shape=(2, 3, height, width),
            words=f"float32 RGB in [0, 1], the {first} before the {second}; any batch, this image size; normalisation is inside",
            tokens="patches in raster order",
            from_raw=f"""photos = np.zeros((4, 2, {height}, {width}, 3), np.uint8)  # yours: {first}, {second}; RGB from 0 to 255
pairs = photos.transpose(0, 1, 4, 2, 3).astype(np.float32) / 255""",
            sample=lambda number: np.stack([_picture(height, width, 2 * number + side) for side in (0, 1)]),
            plausible=_in_unit_range,
        )
    return EncoderInput(
        name="images",
        shape=(3, height, width),
        words="float32 RGB in [0, 1]; any batch, this image size; normalisation is inside",
        tokens="patches in raster order",
        from_raw=f"""photos = np.zeros((4, {height}, {width}, 3), np.uint8)  # yours: RGB from 0 to 255, height x width
images = photos.transpose(0, 3, 1, 2).astype(np.float32) / 255""",
        sample=partial(_picture, height, width),
        plausible=_in_unit_range,
    )


def cloud_input(encoder: object) -> EncoderInput | None:
    """The input of an encoder of clouds, None for another encoder."""
    if not isinstance(encoder, TakesPoints):
        return None
    count = int(encoder.points)
    centred = encoder.normalised if isinstance(encoder, HasNormalised) else True
    prepared = "centred on the mean, the farthest at distance 1" if centred else "as in the training data"
    unit = ", in any unit" if centred else ", as in the training data"
    raw = f"clouds = np.sin(np.arange(4 * {count} * 3.0)).reshape(4, {count}, 3)  # yours: {count} points each{unit}"
    fit = """
clouds = clouds - clouds.mean(axis=1, keepdims=True)
points = (clouds / np.linalg.norm(clouds, axis=2).max(axis=1)[:, None, None]).astype(np.float32)"""
    return EncoderInput(
        name="points",
        shape=(count, 3),
        words=f"float32 coordinates, {prepared}; any batch, this many points",
        tokens="groups",
        from_raw=raw + (fit if centred else "\npoints = clouds.astype(np.float32)"),
        sample=partial(_cloud, count),
        plausible=_centred_and_scaled if centred else None,
    )


PIXEL_SLACK = 0.01
"""How far beyond [0, 1] a pixel may lie, after a resize that overshoots."""


def _in_unit_range(images: torch.Tensor) -> torch.Tensor:
    return ((images >= -PIXEL_SLACK) & (images <= 1 + PIXEL_SLACK)).all()


def _centred_and_scaled(points: torch.Tensor) -> torch.Tensor:
    """Loosely, since there are other ways to scale a cloud: not in millimetres, not beside the origin."""
    farthest, middle = points.norm(dim=2).amax(dim=1), points.mean(dim=1).norm(dim=1)
    near: torch.Tensor = (farthest > 0.5) & (farthest < 2) & (middle < 0.5)
    return near.all()


def _picture(height: int, width: int, number: int) -> np.ndarray:
    """Soft waves in sixteenths, so that they are short as text: 3 x height x width."""
    down, across = np.linspace(0, 1, height)[:, None], np.linspace(0, 1, width)
    turns = np.array([2.0, 3.0, 5.0])[:, None, None] * (number + 1)
    return np.asarray(np.round((0.5 + 0.5 * np.sin(turns * (down + 2 * across * (1 + down)))) * 16) / 16)


def _cloud(count: int, number: int) -> np.ndarray:
    """Points along a spiral on an ellipsoid, centred, the farthest at distance 1: count x 3."""
    along = (np.arange(count) + 0.5) / count
    turn, height = np.pi * (1 + 5**0.5) * (count * along + number), 1 - 2 * along
    ring = np.sqrt(1 - height**2)
    points = np.stack([ring * np.cos(turn), ring * np.sin(turn), height * (0.4 + 0.1 * number)], axis=1)
    points -= points.mean(axis=0)
    return np.asarray(points / np.linalg.norm(points, axis=1).max())


def output_name(encoder: object) -> str:
    """Name of what the encoder's `forward` gives."""
    return encoder.output if isinstance(encoder, HasOutputName) else "tokens"


def output_unit(encoder: object) -> str:
    """Unit of what the encoder's `forward` gives; empty where it has none."""
    return encoder.output_unit if isinstance(encoder, HasOutputUnit) else ""


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
