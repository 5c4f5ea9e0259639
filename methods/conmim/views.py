"""What a worker draws for one image: the crop, the mask, and the parameters of the strong view. NumPy and Pillow, no torch."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
from PIL import Image

from ..contract import Sample
from ..errors import BrokenSampleError
from ..ops.crops import draw_box
from .config import ConMIMAugment, ConMIMConfig
from .masks import Mask, block_mask, cell_mask, random_mask

COLOURS = 12
"""Numbers of one strong view: four factors and their order (see `colour_jitter`), then whether they count, grey, blur radius, solarise."""
JITTERED, GREY, BLUR, SOLARISE = 8, 9, 10, 11


class ConMIMViews:
    """From a decoded image to fixed-shape arrays.

    `image`: uint8 H x W x 3, the crop that student and teacher share. `mask`: bool, True = hidden from the student, raster order.
    `colours`: float32, networks with a strong view (1 or 2, the student first) x `COLOURS`; a blur radius of 0 means none.
    """

    def __init__(self, config: ConMIMConfig) -> None:
        self.size, self.augment = config.model.image_size, config.augment
        self.patch = config.model.patch_size
        self.smallest = (self.patch, self.patch)
        self.strong = 2 if config.pretext.strong_view == "both" else 1
        task, grid = config.pretext, config.model.grid
        self.draw_mask = {
            "cells": partial(cell_mask, config.cells, max(1, task.mask_cell // config.model.patch_size), task.mask_ratio),
            "block": partial(block_mask, grid, config.masked, task.block_min),
            "random": partial(random_mask, grid, task.mask_ratio),
        }[task.mask]

    def __call__(self, sample: Sample, rng: np.random.Generator) -> dict[str, np.ndarray]:
        image = self._crop(sample["image"], rng)
        mask: Mask = self.draw_mask(rng=rng)
        return {"image": image, "mask": mask.ravel(), "colours": np.stack([draw_colours(self.augment, rng) for _ in range(self.strong)])}

    def _crop(self, whole: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        height, width = whole.shape[:2]
        if min(height, width) < self.patch:
            raise BrokenSampleError(f"image is {height} x {width} pixels (height x width), smaller than a patch of {self.patch}")
        left, top, right, bottom = draw_box(height, width, rng, self.augment.area, self.augment.ratio)
        cut = Image.fromarray(whole[top:bottom, left:right])
        image = np.asarray(cut.resize(self.size[::-1], Image.Resampling.BICUBIC))
        # The authors flip before they crop: the same, as crops lie symmetrically, with fewer pixels to turn.
        return np.ascontiguousarray(image[:, ::-1] if rng.random() < self.augment.flip else image)


def draw_colours(augment: ConMIMAugment, rng: np.random.Generator) -> np.ndarray:
    """The parameters of one strong view, float32, `COLOURS` numbers."""
    u = rng.random(13)
    strengths = np.array([augment.brightness, augment.contrast, augment.saturation, augment.hue])
    low, high = augment.blur_radius
    out = np.empty(COLOURS, dtype=np.float32)
    out[:4] = np.array([1, 1, 1, 0]) + strengths * (2 * u[:4] - 1)
    out[4:8] = np.argsort(u[4:8])
    out[JITTERED] = u[8] < augment.jitter
    out[GREY] = u[9] < augment.grey
    out[BLUR] = low + (high - low) * u[11] if u[10] < augment.blur else 0
    out[SOLARISE] = u[12] < augment.solarise
    return out


def blur_reach(augment: ConMIMAugment) -> int:
    """Pixels to either side that the widest blur looks at."""
    return math.ceil(3 * augment.blur_radius[1])
