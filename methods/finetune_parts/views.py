"""What a worker makes of a cloud with parts: a draw of its points with their parts, scaled and shifted. NumPy alone."""

from __future__ import annotations

import numpy as np

from ..contract import Sample
from ..errors import BrokenSampleError
from ..finetune.views import class_index
from ..ops.clouds import coordinates, normalised
from .config import FinetunePartsConfig

NO_PART = -1
"""Of a point without a label: it does not count."""


class FinetunePartsViews:
    """`points`: float32 n x 3; `part`: int64 n, `NO_PART` for none; `label`: int64, the category."""

    columns = ("points", "label", "part")

    def __init__(self, config: FinetunePartsConfig) -> None:
        self.config = config
        self.evaluation = _Drawn(config)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> dict[str, np.ndarray]:
        found, augment = self.evaluation(sample, rng), self.config.augment
        scale, shift = rng.uniform(*augment.scale), rng.uniform(-augment.shift, augment.shift, size=3)
        return {**found, "points": np.asarray(found["points"] * scale + shift, np.float32)}


class _Drawn:
    """The points as they are drawn, neither scaled nor shifted: what validation and tests see."""

    columns = FinetunePartsViews.columns

    def __init__(self, config: FinetunePartsConfig) -> None:
        self.config = config

    def __call__(self, sample: Sample, rng: np.random.Generator) -> dict[str, np.ndarray]:
        model = self.config.model
        label = class_index(sample["label"], model.classes)
        cloud, part = coordinates(np.asarray(sample["points"])), np.asarray(sample["part"], np.int64)
        if len(part) != len(cloud):
            raise BrokenSampleError(f"{len(part)} parts for {len(cloud)} points")
        least, replace = model.network.groups[0], self.config.pretext.replacement
        if len(cloud) < (least if replace else model.points):
            raise BrokenSampleError(
                f"{len(cloud)} points; {f'model.groups needs {least}' if replace else f'model.points is {model.points}'}"
            )
        if strange := sorted(set(part.tolist()) - {NO_PART, *model.parts_of[label]}):
            raise BrokenSampleError(f"part {strange[0]} is none of its category, which has {list(model.parts_of[label])}")
        if (part == NO_PART).all():
            raise BrokenSampleError("no point has a part")
        chosen = rng.choice(len(cloud), model.points, replace=replace)
        return {"points": normalised(cloud)[chosen].astype(np.float32), "part": part[chosen], "label": label}
