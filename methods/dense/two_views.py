"""What a worker makes of a pair with disparity or optical flow: one crop of both images and the truth, and the draws of colour.

NumPy and Pillow, no torch. Lengths follow every change of size by the ratio of the true sizes, and of lengths the nearest is taken: none is
mixed with another or with an unknown one.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..contract import Sample
from ..errors import BrokenSampleError
from .config import FlowConfig, StereoConfig

STILL = (1, 1, 1, 0, 0, 1, 2, 3, 1)
"""The colours that change nothing: factors of brightness, contrast and saturation, hue, the order of these four, gamma."""
TRIES = 8
"""Crops that are drawn before a sample without any known length in them is given up."""
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Pair:
    """Both images, uint8 H x W x 3, and the lengths in pixels: float32 H x W x channels, NaN where not known."""

    image1: np.ndarray
    image2: np.ndarray
    truth: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        return self.truth.shape[0], self.truth.shape[1]

    def flipped(self, axis: int) -> Pair:
        """Top for bottom (axis 0), or left for right (axis 1). A length along the axis changes its sign."""
        sign = np.ones(self.truth.shape[2], np.float32)
        if axis == 1:
            sign[0] = -1
        elif len(sign) == 2:
            sign[1] = -1
        return Pair(*(np.ascontiguousarray(np.flip(a, axis)) for a in (self.image1, self.image2, self.truth * sign)))


def whole_pair(sample: Sample, name: str) -> Pair:
    """Of a decoded row with the column `name`. Raises `BrokenSampleError` for other sizes, no known length, or negative disparities."""
    image1, image2, truth = sample["image1"], sample["image2"], np.asarray(sample[name], np.float32)
    truth = truth[..., None] if truth.ndim == 2 else truth
    for what, found in (("second image", image2), (name, truth)):
        if found.shape[:2] != image1.shape[:2]:
            sizes = f"{found.shape[0]} x {found.shape[1]} pixels, the first image {image1.shape[0]} x {image1.shape[1]}"
            raise BrokenSampleError(f"the {what} has {sizes}: it does not say which pixel is which")
    known = np.asarray(np.isfinite(truth).all(axis=2))
    if not known.any():
        raise BrokenSampleError(f"no {name} is known")
    if name == "disparity" and (truth[known] < 0).mean() > 0.5:
        raise BrokenSampleError("most disparities are negative: the left image is image1, and disparities count to the left")
    return Pair(image1, image2, np.where(known[..., None], truth, np.nan).astype(np.float32))


def cut(
    pair: Pair, scaled: tuple[int, int], corner: tuple[int, int], size: tuple[int, int], moved: tuple[float, float] = (0.0, 0.0)
) -> Pair:
    """A crop of (height, width) `size` at `corner` (top, left) of the pair resized to `scaled` (height, width).

    `moved`: (degrees, pixels down) by which the second image alone is turned about the crop's middle and shifted; the lengths stay.
    """
    (height, width), (h, w) = pair.size, size
    down, across = scaled[0] / height, scaled[1] / width
    (top, left) = corner
    if scaled == pair.size:
        rows, columns = np.arange(top, top + h), np.arange(left, left + w)
        images = [image[top : top + h, left : left + w] for image in (pair.image1, pair.image2)]
    else:
        box = (left / across, top / down, min(width, (left + w) / across), min(height, (top + h) / down))
        images = [np.asarray(Image.fromarray(one).resize((w, h), Image.Resampling.BICUBIC, box=box)) for one in (pair.image1, pair.image2)]
        rows = np.floor((top + np.arange(h) + 0.5) / down).astype(int).clip(0, height - 1)
        columns = np.floor((left + np.arange(w) + 0.5) / across).astype(int).clip(0, width - 1)
    if any(moved):
        images[1] = _moved(pair.image2, (down, across), corner, size, moved)
    factors = np.array([across, down], np.float32)[: pair.truth.shape[2]]
    return Pair(np.ascontiguousarray(images[0]), np.ascontiguousarray(images[1]), pair.truth[rows[:, None], columns] * factors)


def _moved(
    image: np.ndarray, scale: tuple[float, float], corner: tuple[int, int], size: tuple[int, int], moved: tuple[float, float]
) -> np.ndarray:
    """The crop, turned and shifted, in one resampling of the whole image; outside of it its border is repeated."""
    (h, w), (down, across), (top, left) = size, scale, corner
    cos, sin = math.cos(math.radians(moved[0])), math.sin(math.radians(moved[0]))
    border = 8
    padded = np.pad(image, ((border, border), (border, border), (0, 0)), mode="edge")
    # Of a pixel (x, y) of the crop the place in the padded image, as Pillow counts: pixel centres at halves.
    shift = (w / 2 - cos * w / 2 - sin * (h / 2 + moved[1]), h / 2 + sin * w / 2 - cos * (h / 2 + moved[1]))
    matrix = (cos / across, sin / across, (left + shift[0]) / across + border, -sin / down, cos / down, (top + shift[1]) / down + border)
    return np.asarray(Image.fromarray(padded).transform((w, h), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC))


def fitting(size: tuple[int, int], crop: tuple[int, int], scale: tuple[float, float]) -> tuple[int, int]:
    """(height, width) of images of `size` scaled by (down, across), at least as large as the crop; smaller ones are enlarged."""
    least = max(1.0, crop[0] / size[0], crop[1] / size[1])
    return max(crop[0], round(size[0] * least * scale[0])), max(crop[1], round(size[1] * least * scale[1]))


def _check_reach(pair: Pair, crop: tuple[int, int], name: str) -> None:
    """Raise `BrokenSampleError` where hardly any length fits in the crop: no pixel there could find its partner."""
    known = np.isfinite(pair.truth).all(axis=2)
    limits = (crop[1], crop[0])[: pair.truth.shape[2]]
    reached = (np.abs(pair.truth[known]) < limits).all(axis=1)
    if reached.mean() < 0.01:
        middle = float(np.median(np.linalg.norm(pair.truth[known], axis=1)))
        raise BrokenSampleError(
            f"the {name} is beyond the crop: {middle:.0f} pixels in the middle, the crop has {crop[1]} x {crop[0]}; "
            "prepare smaller images (--size), or set a larger model.image_size"
        )


class TwoViewViews(ABC):
    """What stereo and flow share. `image1`, `image2`: uint8 H x W x 3; `colour1`, `colour2`: float32, as `STILL`; the truth: float32 H x W
    x channels, NaN where not known."""

    name: str

    def __init__(self, config: StereoConfig | FlowConfig) -> None:
        self.size = config.model.image_size
        self.columns = (self.name,)
        self.smallest = (1, 1)
        self.evaluation = _TwoViewCentre(self.size, self.name)
        self.whole = _TwoViewWhole(self.name)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> dict[str, np.ndarray]:
        pair = whole_pair(sample, self.name)
        for _ in range(TRIES):
            cropped = self.geometry(pair, rng)
            if np.isfinite(cropped.truth).any():
                break
        else:
            raise BrokenSampleError(f"no {self.name} is known in any of {TRIES} crops")
        _check_reach(cropped, self.size, self.name)
        colours = self.colours(rng)
        return _columns(cropped, self.name, *colours)

    @abstractmethod
    def geometry(self, pair: Pair, rng: np.random.Generator) -> Pair:
        """A crop of the pair, with its truth."""

    @abstractmethod
    def colours(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Of both images, as `STILL`."""

    def _corner(self, scaled: tuple[int, int], rng: np.random.Generator) -> tuple[int, int]:
        return int(rng.integers(scaled[0] - self.size[0] + 1)), int(rng.integers(scaled[1] - self.size[1] + 1))


class StereoViews(TwoViewViews):
    """Horizontal stretch, crop, vertical flip, a right image that is not quite rectified, colours."""

    name = "disparity"

    def __init__(self, config: StereoConfig) -> None:
        super().__init__(config)
        self.augment = config.augment

    def geometry(self, pair: Pair, rng: np.random.Generator) -> Pair:
        augment = self.augment
        ends = augment.widths_small if min(pair.size) < augment.small_below else augment.widths
        across = _log_uniform(rng, ends) if rng.random() < augment.stretch else 1.0
        scaled = fitting(pair.size, self.size, (1.0, across))
        moved = (0.0, 0.0)
        if rng.random() < augment.shift:
            turn, down = rng.uniform(-1, 1, 2)
            moved = (turn * augment.shift_degrees, down * augment.shift_pixels)
        cropped = cut(pair, scaled, self._corner(scaled, rng), self.size, moved)
        return cropped.flipped(0) if rng.random() < augment.flip_vertical else cropped

    def colours(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        augment = self.augment

        def draw() -> np.ndarray:
            ranges = (augment.brightness, augment.contrast, augment.saturation, (-augment.hue, augment.hue), augment.gamma)
            drawn = np.array([rng.uniform(*ends) for ends in ranges])
            chosen = rng.random(5) < augment.colour
            if rng.random() >= augment.all_changes:
                chosen &= np.arange(5) == rng.integers(5)
            values = np.where(chosen, drawn, (1, 1, 1, 0, 1))
            return np.concatenate([values[:4], rng.permutation(4), values[4:]]).astype(np.float32)

        first = draw()
        return first, draw() if rng.random() < augment.asymmetric else first


class FlowViews(TwoViewViews):
    """Scale and stretch, crop, flips, colours."""

    name = "flow"

    def __init__(self, config: FlowConfig) -> None:
        super().__init__(config)
        self.augment = config.augment

    def geometry(self, pair: Pair, rng: np.random.Generator) -> Pair:
        augment = self.augment
        down = across = _log_uniform(rng, augment.scales) if rng.random() < augment.scale else 1.0
        if rng.random() < augment.stretch:
            down, across = down * _log_uniform(rng, augment.stretches), across * _log_uniform(rng, augment.stretches)
        scaled = fitting(pair.size, self.size, (down, across))
        cropped = cut(pair, scaled, self._corner(scaled, rng), self.size)
        for axis, often in ((1, augment.flip), (0, augment.flip_vertical)):
            cropped = cropped.flipped(axis) if rng.random() < often else cropped
        return cropped

    def colours(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        augment = self.augment
        strength = np.array([augment.brightness, augment.contrast, augment.saturation, augment.hue])

        def draw() -> np.ndarray:
            return np.concatenate([(1, 1, 1, 0) + strength * rng.uniform(-1, 1, 4), rng.permutation(4), [1]]).astype(np.float32)

        first = draw()
        return first, draw() if rng.random() < augment.asymmetric else first


class _TwoViewCentre:
    """The middle crop at the stored size, which keeps lengths; a smaller image is enlarged until the crop fits. What validation sees."""

    def __init__(self, size: tuple[int, int], name: str) -> None:
        self.size, self.name, self.columns = size, name, (name,)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> dict[str, np.ndarray]:
        pair = whole_pair(sample, self.name)
        scaled = fitting(pair.size, self.size, (1.0, 1.0))
        corner = (scaled[0] - self.size[0]) // 2, (scaled[1] - self.size[1]) // 2
        return _columns(cut(pair, scaled, corner, self.size), self.name)


class _TwoViewWhole:
    """The images as they are stored: what is measured at the end, in tiles."""

    def __init__(self, name: str) -> None:
        self.name, self.columns = name, (name,)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return _columns(whole_pair(sample, self.name), self.name)


def _columns(pair: Pair, name: str, colour1: np.ndarray | None = None, colour2: np.ndarray | None = None) -> dict[str, np.ndarray]:
    still = np.array(STILL, np.float32)
    colours = {"colour1": still if colour1 is None else colour1, "colour2": still if colour2 is None else colour2}
    return {"image1": pair.image1, "image2": pair.image2, name: pair.truth, **colours}


def _log_uniform(rng: np.random.Generator, ends: tuple[float, float]) -> float:
    return math.exp(rng.uniform(math.log(ends[0]), math.log(ends[1])))
