"""RandAugment (Cubuk et al., 2020) with strengths that grow with the magnitude (`rand-m9-mstd0.5-inc1` in timm's words). Pillow, no torch.

By hand: timm's version draws from Python's global generator, so a run could not be replayed, and importing timm imports torch, which data
workers do without. This one takes its generator as an argument.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

MOST = 10.0
FILL = (124, 116, 104)
"""ImageNet's mean colour, where a geometric operation leaves nothing."""
PROBABILITY = 0.5


def _affine(image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=FILL)


def _solarize_add(image: Image.Image, add: int) -> Image.Image:
    table = [min(255, value + add) if value < 128 else value for value in range(256)]
    return image.point(table * 3)


Operation = Callable[[Image.Image, float, float], Image.Image]
"""(image, strength in [0, 1], sign -1 or 1) -> image"""
OPERATIONS: dict[str, Operation] = {
    "autocontrast": lambda image, m, sign: ImageOps.autocontrast(image),
    "equalize": lambda image, m, sign: ImageOps.equalize(image),
    "invert": lambda image, m, sign: ImageOps.invert(image),
    "rotate": lambda image, m, sign: image.rotate(sign * 30 * m, Image.Resampling.BILINEAR, fillcolor=FILL),
    "posterize": lambda image, m, sign: ImageOps.posterize(image, max(1, 4 - int(4 * m))),
    "solarize": lambda image, m, sign: ImageOps.solarize(image, 256 - int(256 * m)),
    "solarize_add": lambda image, m, sign: _solarize_add(image, int(110 * m)),
    "colour": lambda image, m, sign: ImageEnhance.Color(image).enhance(1 + sign * 0.9 * m),
    "contrast": lambda image, m, sign: ImageEnhance.Contrast(image).enhance(1 + sign * 0.9 * m),
    "brightness": lambda image, m, sign: ImageEnhance.Brightness(image).enhance(1 + sign * 0.9 * m),
    "sharpness": lambda image, m, sign: ImageEnhance.Sharpness(image).enhance(1 + sign * 0.9 * m),
    "shear_x": lambda image, m, sign: _affine(image, (1, sign * 0.3 * m, 0, 0, 1, 0)),
    "shear_y": lambda image, m, sign: _affine(image, (1, 0, 0, sign * 0.3 * m, 1, 0)),
    "translate_x": lambda image, m, sign: _affine(image, (1, 0, sign * 0.45 * m * image.width, 0, 1, 0)),
    "translate_y": lambda image, m, sign: _affine(image, (1, 0, 0, 0, 1, sign * 0.45 * m * image.height)),
}


def rand_augment(image: Image.Image, rng: np.random.Generator, operations: int, magnitude: float, std: float) -> Image.Image:
    """`operations` drawn with replacement, each carried out with probability 1/2 at a magnitude N(`magnitude`, `std`^2) of 10."""
    names = list(OPERATIONS)
    for index in rng.integers(len(names), size=operations):
        carried_out, sign = rng.random() < PROBABILITY, 1.0 if rng.random() < 0.5 else -1.0
        strength = float(np.clip(rng.normal(magnitude, std), 0, MOST)) / MOST
        if carried_out:
            image = OPERATIONS[names[index]](image, strength, sign)
    return image
