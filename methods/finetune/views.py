"""What a worker makes of a labelled image: the augmented crop and its label or label mask. NumPy and Pillow, no torch."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ..contract import Sample
from ..errors import BrokenSampleError
from ..ops.crops import draw_box, resized_centre
from .config import ClassificationConfig, FinetuneConfig, SegmentationConfig
from .randaugment import FILL, rand_augment

NO_CLASS = 255
"""Pixels outside the image or of the ignored class, in the masks that the network is given."""


STILL = np.array([1, 1, 1, 0, 1, 2], np.float32)
"""Factors of brightness, contrast and saturation that change nothing, and their order."""
CROPS = 10
"""Draws of a crop in which one class covers too much; the last one is taken as it is."""


def centre_box(height: int, width: int, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) of the largest centred box with the shape of `size` (height, width)."""
    scale = min(height / size[0], width / size[1])
    h, w = size[0] * scale, size[1] * scale
    return (width - w) / 2, (height - h) / 2, (width + w) / 2, (height + h) / 2


def class_index(label: int, classes: int) -> np.ndarray:
    """int64. Raises `BrokenSampleError` for a class that the model does not have."""
    if not 0 <= label < classes:
        raise BrokenSampleError(f"label {label} is none of the {classes} classes (0 .. {classes - 1})")
    return np.asarray(label, np.int64)


class ClassificationViews:
    """`image`: uint8 H x W x 3; `label`: int64; `erase`: int64 top, left, height, width of the box to fill (0 height: none)."""

    columns = ("label",)

    def __init__(self, config: ClassificationConfig) -> None:
        self.config, self.size = config, config.model.image_size
        self.smallest = (1, 1)
        self.evaluation = _ClassificationCentre(config)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> dict[str, np.ndarray]:
        augment, (h, w) = self.config.augment, self.size
        label = class_index(sample["label"], self.config.model.classes)
        whole = sample["image"]
        box = draw_box(whole.shape[0], whole.shape[1], rng, augment.area, augment.ratio)
        image = Image.fromarray(whole).resize((w, h), Image.Resampling.BICUBIC, box=box)
        if rng.random() < augment.flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        image = rand_augment(image, rng, augment.rand_ops, augment.rand_magnitude, augment.rand_std)
        erase = np.zeros(4, np.int64)
        if rng.random() < augment.erase:
            left, top, right, bottom = draw_box(h, w, rng, (0.02, 1 / 3), (0.3, 1 / 0.3))
            erase[:] = top, left, bottom - top, right - left
        return {"image": np.asarray(image), "label": label, "erase": erase}


class _ClassificationCentre:
    """What validation and tests see: the largest centre crop, resized; below a `crop_ratio` of 1 the centre of the resized image."""

    columns = ("label",)

    def __init__(self, config: ClassificationConfig) -> None:
        self.config, self.size = config, config.model.image_size

    def __call__(self, sample: Sample, rng: np.random.Generator) -> dict[str, np.ndarray]:
        whole, (h, w) = sample["image"], self.size
        label = class_index(sample["label"], self.config.model.classes)
        ratio = self.config.augment.crop_ratio
        if ratio < 1:
            seen = resized_centre(whole, self.size, ratio)
        else:
            box = centre_box(whole.shape[0], whole.shape[1], self.size)
            seen = np.asarray(Image.fromarray(whole).resize((w, h), Image.Resampling.BICUBIC, box=box))
        return {"image": seen, "label": label, "erase": np.zeros(4, np.int64)}


class SegmentationViews:
    """`image`: uint8 H x W x 3; `mask`: uint8 H x W class indices, 255 = does not count; `jitter`: float32, the factors and their order."""

    columns = ("segmentation",)

    def __init__(self, config: SegmentationConfig) -> None:
        self.config, self.size = config, config.model.image_size
        self.smallest = (1, 1)
        self.evaluation = _SegmentationCentre(config)
        self.whole = _SegmentationWhole(config)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> dict[str, np.ndarray]:
        augment, (h, w) = self.config.augment, self.size
        whole, labels = sample["image"], _mask(sample, self.config)
        # At scale 1 the crop just fits into the image; a smaller scale shows the whole image with a border that does not count.
        fit = max(h / whole.shape[0], w / whole.shape[1]) * rng.uniform(*augment.scale)
        box_h, box_w = h / fit, w / fit
        for _ in range(CROPS):
            top = rng.uniform(*sorted((0.0, whole.shape[0] - box_h)))
            left = rng.uniform(*sorted((0.0, whole.shape[1] - box_w)))
            matrix = (box_w / w, 0, left, 0, box_h / h, top)
            mask = Image.fromarray(labels).transform((w, h), Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST, fillcolor=NO_CLASS)
            if augment.most_of_one_class == 1 or _largest_share(mask) <= augment.most_of_one_class:
                break
        image = Image.fromarray(whole).transform((w, h), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC, fillcolor=FILL)
        if rng.random() < augment.flip:
            image, mask = (side.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for side in (image, mask))
        strength = np.array([augment.brightness, augment.contrast, augment.saturation])
        jitter = np.concatenate([1 + strength * rng.uniform(-1, 1, 3), rng.permutation(3)]).astype(np.float32)
        return {"image": np.asarray(image), "mask": np.asarray(mask), "jitter": jitter}


class _SegmentationCentre:
    columns = ("segmentation",)

    def __init__(self, config: SegmentationConfig) -> None:
        self.config, self.size = config, config.model.image_size

    def __call__(self, sample: Sample, rng: np.random.Generator) -> dict[str, np.ndarray]:
        whole, labels, (h, w) = sample["image"], _mask(sample, self.config), self.size
        box = centre_box(whole.shape[0], whole.shape[1], self.size)
        image = Image.fromarray(whole).resize((w, h), Image.Resampling.BICUBIC, box=box)
        mask = Image.fromarray(labels).resize((w, h), Image.Resampling.NEAREST, box=box)
        return {"image": np.asarray(image), "mask": np.asarray(mask), "jitter": STILL}


class _SegmentationWhole:
    """The stored image and its mask as they are: what test metrics see."""

    columns = ("segmentation",)

    def __init__(self, config: SegmentationConfig) -> None:
        self.config = config

    def __call__(self, sample: Sample, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return {"image": sample["image"], "mask": _mask(sample, self.config), "jitter": STILL}


def _largest_share(mask: Image.Image) -> float:
    """Of one class among the pixels that count; 1 where none counts, or one class alone."""
    counts = np.bincount(np.asarray(mask).ravel(), minlength=NO_CLASS + 1)[:NO_CLASS]
    return float(counts.max() / counts.sum()) if np.count_nonzero(counts) > 1 else 1.0


def _mask(sample: Sample, config: FinetuneConfig) -> np.ndarray:
    """uint8, with the ignored class as `NO_CLASS`. Raises `BrokenSampleError` for a class that the model does not have."""
    stored, ignore, classes = sample["segmentation"], config.pretext.ignore_index, config.model.classes
    mask = np.where(stored == ignore, NO_CLASS, stored) if ignore is not None else stored
    if (wrong := mask[(mask >= classes) & (mask != NO_CLASS)]).size:
        raise BrokenSampleError(f"mask has class {int(wrong[0])}, the model has {classes} classes (0 .. {classes - 1})")
    return np.ascontiguousarray(mask, np.uint8)
