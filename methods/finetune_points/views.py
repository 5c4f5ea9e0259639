"""What a worker makes of a labelled cloud: its farthest points, a draw of them, scaled and shifted. NumPy alone."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float32

from ..contract import Sample
from ..errors import BrokenSampleError
from ..finetune.views import class_index
from ..ops.clouds import coordinates, normalised
from ..ops.farthest_point_sampling import farthest_point_sampling
from .config import ROUNDS, FinetunePointsConfig


class FinetunePointsViews:
    """`points`: float32 n x 3, drawn from the cloud's farthest points, scaled and shifted; `label`: int64."""

    columns = ("points", "label")

    def __init__(self, config: FinetunePointsConfig) -> None:
        self.config = config
        self.evaluation = _Farthest(config)
        self.voting = _Votes(config) if config.pretext.votes else None

    def __call__(self, sample: Sample, rng: np.random.Generator) -> dict[str, np.ndarray]:
        label, cloud = _read(sample, self.config)
        cloud = rng.permutation(cloud)  # sampling begins with the first point
        points = _augmented(_farthest(cloud, self.config.pool, self.config), self.config, rng)
        return {"points": points, "label": label}


class _Farthest:
    """The cloud's farthest points as they are: what validation and tests see."""

    columns = FinetunePointsViews.columns

    def __init__(self, config: FinetunePointsConfig) -> None:
        self.config = config

    def __call__(self, sample: Sample, rng: np.random.Generator) -> dict[str, np.ndarray]:
        label, cloud = _read(sample, self.config)
        return {"points": _farthest(cloud, self.config.model.points, self.config), "label": label}


class _Votes:
    """`points`: rounds x votes x n x 3, draws of one cloud as in training, from the farthest points of the cloud as it is stored."""

    columns = FinetunePointsViews.columns

    def __init__(self, config: FinetunePointsConfig) -> None:
        self.config = config
        self.rounds = ROUNDS if config.pretext.best_of_49 else 1

    def __call__(self, sample: Sample, rng: np.random.Generator) -> dict[str, np.ndarray]:
        label, cloud = _read(sample, self.config)
        pool = _farthest(cloud, self.config.pool, self.config)
        votes = self.config.pretext.votes
        draws = np.stack([_augmented(pool, self.config, rng) for _ in range(self.rounds * votes)])
        return {"points": draws.reshape(self.rounds, votes, *draws.shape[1:]), "label": label}


def _read(sample: Sample, config: FinetunePointsConfig) -> tuple[np.ndarray, Float32[np.ndarray, "n 3"]]:
    """(label, the whole cloud). Raises `BrokenSampleError` for too few points, a cloud without extent or an unknown class."""
    label = class_index(sample["label"], config.model.classes)
    cloud = coordinates(np.asarray(sample["points"]))
    if len(cloud) < config.model.points:
        raise BrokenSampleError(f"{len(cloud)} points; model.points needs {config.model.points}")
    return label, (normalised(cloud) if config.augment.normalise else cloud).astype(np.float32)


def _farthest(cloud: Float[np.ndarray, "n 3"], count: int, config: FinetunePointsConfig) -> Float32[np.ndarray, "c 3"]:
    """`count` points of the cloud, or all in another order where it has fewer."""
    return np.asarray(cloud[farthest_point_sampling(cloud, min(len(cloud), count), skip_origin=config.pretext.official)])


def _augmented(pool: Float[np.ndarray, "p 3"], config: FinetunePointsConfig, rng: np.random.Generator) -> Float32[np.ndarray, "c 3"]:
    """`model.points` of the pool without replacement, in random order, each axis scaled and shifted."""
    augment = config.augment
    points = pool[rng.choice(len(pool), config.model.points, replace=False)]
    scale, shift = rng.uniform(*augment.scale, size=3), rng.uniform(-augment.shift, augment.shift, size=3)
    return np.asarray(points * scale + shift, np.float32)
