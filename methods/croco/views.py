"""What a worker draws for one pair: two crops, the mask of image 1, the colour jitter of each image. NumPy only."""

from __future__ import annotations

import numpy as np

from ..contract import Sample
from ..errors import BrokenSampleError
from .config import CrocoConfig

JITTER = 6
"""Numbers of one colour jitter: the factors of brightness, contrast and saturation, then the order in which these (0, 1, 2) act."""


class CrocoViews:
    """From a decoded pair to fixed-shape arrays.

    `image1`, `image2`: uint8 H x W x 3 crops, drawn independently. `mask`: bool, True = hidden, exactly `config.hidden` of the
    patches in raster order. `jitter1`, `jitter2`: float32, `JITTER` numbers.
    """

    def __init__(self, config: CrocoConfig) -> None:
        self.size = config.model.image_size
        self.patches = config.model.patches
        self.hidden = config.hidden
        self.strength = np.array([config.augment.brightness, config.augment.contrast, config.augment.saturation])

    def __call__(self, sample: Sample, rng: np.random.Generator) -> dict[str, np.ndarray]:
        draws = rng.random(16 + self.patches)  # one call: a generator's overhead is as large as the rest
        mask = np.zeros(self.patches, dtype=bool)
        mask[np.argpartition(draws[16:], self.hidden - 1)[: self.hidden]] = True
        return {
            "image1": self._crop("image1", sample["image1"], draws[0], draws[1]),
            "image2": self._crop("image2", sample["image2"], draws[2], draws[3]),
            "mask": mask,
            "jitter1": self._jitter(draws[4:10]),
            "jitter2": self._jitter(draws[10:16]),
        }

    def _crop(self, name: str, image: np.ndarray, u: float, v: float) -> np.ndarray:
        (h, w), (height, width) = self.size, image.shape[:2]
        if height < h or width < w:
            raise BrokenSampleError(f"{name} is {height} x {width} pixels (height x width), smaller than the crop of {h} x {w}")
        top, left = int(u * (height - h + 1)), int(v * (width - w + 1))
        return np.ascontiguousarray(image[top : top + h, left : left + w])

    def _jitter(self, draws: np.ndarray) -> np.ndarray:
        out = np.empty(JITTER, dtype=np.float32)
        out[:3] = 1 + self.strength * (2 * draws[:3] - 1)
        out[3:] = np.argsort(draws[3:])
        return out
