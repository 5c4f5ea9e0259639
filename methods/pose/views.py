"""What a worker makes of a posed pair: a crop of each image with its intrinsics, the pose, the colours. NumPy and Pillow, no torch.

Pixel centres are at whole numbers, as in the stored intrinsics. `pose` is T_2from1: a point p of camera 1 is pose[:3, :3] @ p + pose[:3, 3]
in camera 2.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from ..contract import Sample
from ..errors import BrokenSampleError
from .config import PoseConfig

STILL = (1, 1, 1, 0, 1, 2)
"""The jitter that changes nothing: three factors, and their order."""
MIRROR = np.diag([-1.0, 1.0, 1.0])
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class PosedPair:
    """uint8 H x W x 3, 3 x 3 and 4 x 4 in float64."""

    image1: np.ndarray
    image2: np.ndarray
    K1: np.ndarray
    K2: np.ndarray
    pose: np.ndarray

    def flipped(self) -> PosedPair:
        """Left for right: what cameras would see of a mirrored world."""
        one, two = (mirrored(K, image.shape[1]) for K, image in ((self.K1, self.image1), (self.K2, self.image2)))
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = MIRROR @ self.pose[:3, :3] @ MIRROR, MIRROR @ self.pose[:3, 3]
        return PosedPair(self.image1[:, ::-1], self.image2[:, ::-1], one, two, pose)

    def swapped(self) -> PosedPair:
        pose = np.eye(4)
        pose[:3, :3] = self.pose[:3, :3].T
        pose[:3, 3] = -pose[:3, :3] @ self.pose[:3, 3]
        return PosedPair(self.image2, self.image1, self.K2, self.K1, pose)

    def cropped(self, box1: Box, box2: Box, size: tuple[int, int]) -> PosedPair:
        """The boxes (left, top, right, bottom; pixel edges at whole numbers) of the images, resized to (height, width) `size`."""
        (image1, K1), (image2, K2) = _cropped(self.image1, self.K1, box1, size), _cropped(self.image2, self.K2, box2, size)
        return replace(self, image1=image1, image2=image2, K1=K1, K2=K2)


def mirrored(K: np.ndarray, width: int) -> np.ndarray:
    """Intrinsics of an image flipped left for right, for a world that is mirrored too."""
    K = K.copy()
    K[0, 1], K[0, 2] = -K[0, 1], width - 1 - K[0, 2]
    return K


def _cropped(image: np.ndarray, K: np.ndarray, box: Box, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    (h, w), (left, top, right, bottom) = size, box
    small = np.asarray(Image.fromarray(image).resize((w, h), Image.Resampling.BICUBIC, box=box))
    across, down = w / (right - left), h / (bottom - top)
    moved = np.array([[across, 0, across * (0.5 - left) - 0.5], [0, down, down * (0.5 - top) - 0.5], [0, 0, 1.0]])
    return small, moved @ K


def posed_pair(sample: Sample) -> PosedPair:
    """Of a decoded row. Raises `BrokenSampleError` for what is no camera or no motion of one."""
    pose, intrinsics = np.asarray(sample["T_2from1"], np.float64), [np.asarray(sample[name], np.float64) for name in ("K1", "K2")]
    rotation = pose[:3, :3]
    if not np.isfinite(pose).all() or np.abs(rotation @ rotation.T - np.eye(3)).max() > 1e-2 or np.linalg.det(rotation) < 0:
        raise BrokenSampleError("T_2from1 is no rotation with a translation")
    for name, K in zip(("K1", "K2"), intrinsics, strict=True):
        if not np.isfinite(K).all() or min(K[0, 0], K[1, 1]) <= 0 or np.abs(K[2] - (0, 0, 1)).max() > 1e-6:
            raise BrokenSampleError(f"{name} is no matrix of intrinsics: focal lengths above 0, last row 0 0 1")
    return PosedPair(sample["image1"], sample["image2"], intrinsics[0], intrinsics[1], pose)


class PoseViews:
    """`image1`, `image2`: uint8 H x W x 3; `K1`, `K2`: float32 3 x 3 of the crops; `pose`: float32 4 x 4; `jitter1`, `jitter2`: float32,
    the factors and their order."""

    columns = ("K1", "K2", "T_2from1")

    def __init__(self, config: PoseConfig) -> None:
        self.augment, self.size = config.augment, config.model.image_size
        self.smallest = (1, 1)
        self.evaluation = PoseCentre(self.size)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> dict[str, np.ndarray]:
        augment, pair = self.augment, posed_pair(sample)
        pair = pair.cropped(self._box(pair.image1, rng), self._box(pair.image2, rng), self.size)
        flip, swap = rng.random(2) < (augment.flip, augment.swap)
        pair = pair.flipped() if flip else pair
        pair = pair.swapped() if swap else pair
        return _columns(pair, self._jitter(rng), self._jitter(rng))

    def _box(self, image: np.ndarray, rng: np.random.Generator) -> Box:
        (height, width), (h, w) = image.shape[:2], self.size
        fit = max(h / height, w / width) * rng.uniform(*self.augment.scale)
        left, top = rng.uniform(0, max(0.0, width - w / fit)), rng.uniform(0, max(0.0, height - h / fit))
        return left, top, min(width, left + w / fit), min(height, top + h / fit)

    def _jitter(self, rng: np.random.Generator) -> np.ndarray:
        strength = np.array([self.augment.brightness, self.augment.contrast, self.augment.saturation])
        return np.concatenate([1 + strength * rng.uniform(-1, 1, 3), rng.permutation(3)]).astype(np.float32)


class PoseCentre:
    """The largest centre crops, resized: what validation and tests see."""

    columns = ("K1", "K2", "T_2from1")

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size

    def __call__(self, sample: Sample, rng: np.random.Generator) -> dict[str, np.ndarray]:
        pair = posed_pair(sample)
        one, two = (centre(image.shape[0], image.shape[1], self.size) for image in (pair.image1, pair.image2))
        still = np.array(STILL, np.float32)
        return _columns(pair.cropped(one, two, self.size), still, still)


def centre(height: int, width: int, size: tuple[int, int]) -> Box:
    scale = min(height / size[0], width / size[1])
    left, top = (width - size[1] * scale) / 2, (height - size[0] * scale) / 2
    return left, top, left + size[1] * scale, top + size[0] * scale


def _columns(pair: PosedPair, jitter1: np.ndarray, jitter2: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "image1": np.ascontiguousarray(pair.image1),
        "image2": np.ascontiguousarray(pair.image2),
        "K1": pair.K1.astype(np.float32),
        "K2": pair.K2.astype(np.float32),
        "pose": pair.pose.astype(np.float32),
        "jitter1": jitter1,
        "jitter2": jitter2,
    }


def relative_intrinsics(K: np.ndarray, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """As `PoseModel.intrinsics`, of images of (height, width) `size`."""
    h, w = size
    return float(K[0, 0] / w), float(K[1, 1] / h), float((K[0, 2] + 0.5) / w - 0.5), float((K[1, 2] + 0.5) / h - 0.5)
