"""What a worker makes of an image with depth: a crop of both, and the colour jitter. NumPy and Pillow, no torch."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ..contract import Sample
from ..errors import BrokenSampleError
from .config import DepthConfig

STILL = (1, 1, 1, 0, 1, 2)
"""The jitter that changes nothing: three factors, and their order."""


class DepthViews:
    """`image`: uint8 H x W x 3; `depth`: float32 H x W in metres, 0 = unknown; `jitter`: float32, the factors and their order."""

    columns = ("depth",)

    def __init__(self, config: DepthConfig) -> None:
        self.config, self.size = config, config.model.image_size
        self.smallest = (1, 1)
        self.evaluation = _DepthCentre(config)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> dict[str, np.ndarray]:
        augment, (h, w) = self.config.augment, self.size
        image, depth = _whole(sample)
        height, width = depth.shape
        scale = rng.uniform(*augment.scale)
        fit = max(h / height, w / width) * scale
        left, top = rng.uniform(0, max(0.0, width - w / fit)), rng.uniform(0, max(0.0, height - h / fit))
        views = _cropped(image, depth, (left, top, min(float(width), left + w / fit), min(float(height), top + h / fit)), self.size)
        if augment.nearer:
            views["depth"] /= np.float32(scale)
        if rng.random() < augment.flip:
            views = {name: np.ascontiguousarray(view[:, ::-1]) for name, view in views.items()}
        strength = np.array([augment.brightness, augment.contrast, augment.saturation])
        jitter = np.concatenate([1 + strength * rng.uniform(-1, 1, 3), rng.permutation(3)]).astype(np.float32)
        return {**views, "jitter": jitter}


class _DepthCentre:
    """The largest centre crop, resized: what validation and tests see."""

    columns = ("depth",)

    def __init__(self, config: DepthConfig) -> None:
        self.size = config.model.image_size

    def __call__(self, sample: Sample, rng: np.random.Generator) -> dict[str, np.ndarray]:
        image, depth = _whole(sample)
        (height, width), (h, w) = depth.shape, self.size
        scale = min(height / h, width / w)
        left, top = (width - w * scale) / 2, (height - h * scale) / 2
        box = (left, top, left + w * scale, top + h * scale)
        return {**_cropped(image, depth, box, self.size), "jitter": np.array(STILL, np.float32)}


def _whole(sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    image, depth = sample["image"], sample["depth"]
    if depth.shape != image.shape[:2]:
        sizes = f"{depth.shape[0]} x {depth.shape[1]} pixels, the image {image.shape[0]} x {image.shape[1]}"
        raise BrokenSampleError(f"the depth has {sizes}: it does not say which pixel is which")
    return image, depth


def cropped_pair(
    image: np.ndarray, truth: np.ndarray, box: tuple[float, float, float, float], size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Of the same box (left, top, right, bottom). The image bicubic; of the truth the nearest, none mixed with another or with unknown."""
    h, w = size
    left, top, right, bottom = box
    small = np.asarray(Image.fromarray(image).resize((w, h), Image.Resampling.BICUBIC, box=box))
    rows = np.floor(top + (np.arange(h) + 0.5) * (bottom - top) / h).astype(int).clip(0, truth.shape[0] - 1)
    columns = np.floor(left + (np.arange(w) + 0.5) * (right - left) / w).astype(int).clip(0, truth.shape[1] - 1)
    return small, truth[rows[:, None], columns]


def _cropped(image: np.ndarray, depth: np.ndarray, box: tuple[float, float, float, float], size: tuple[int, int]) -> dict[str, np.ndarray]:
    small, chosen = cropped_pair(image, depth, box, size)
    chosen = np.where(np.isfinite(chosen) & (chosen > 0), chosen, 0).astype(np.float32)
    if not chosen.any():
        raise BrokenSampleError("no depth is known in the crop")
    return {"image": small, "depth": chosen}
