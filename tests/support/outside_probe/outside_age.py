"""A probe that another package publishes: how far the class number of the nearest training image is from the true one."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

from sightline.methods.contract import MetricInfo
from sightline.platform.data.dataset import Dataset
from sightline.platform.evaluation.probes.context import ImageEvalContext
from sightline.platform.evaluation.probes.image_features import pooled_features, pooled_table
from sightline.platform.evaluation.probes.protocol import PooledProtocol
from sightline.platform.evaluation.probes.spec import ProbeSpec
from sightline.platform.evaluation.result_table import Measurement


class AgeProtocol(PooledProtocol):
    name: Literal["outside_age"] = "outside_age"
    features: str = "as they are"
    head: str = "none: the class number of the nearest training image"
    metrics: tuple[str, ...] = ("rmse",)


def measure(context: ImageEvalContext, train: Dataset, test: Dataset, protocol: AgeProtocol) -> Measurement:
    """Squared errors by image."""
    pooled = pooled_features(context, train, test, protocol)
    sums = {}
    for name, features in pooled.train.features.items():
        nearest = torch.cdist(pooled.test.features[name], features).argmin(dim=1).numpy()
        error = pooled.train.labels[nearest] - pooled.test.labels
        sums[name] = np.stack([error**2, np.ones(len(error))], axis=1).astype(np.float64)
    return Measurement(pooled_table(context), sums, pooled.units, rmse, pooled.counts)


def rmse(sums: np.ndarray) -> dict[str, np.ndarray]:
    return {"rmse": np.sqrt(sums[..., 0] / sums[..., 1])}


probe = ProbeSpec(
    title="Age by the nearest neighbour",
    protocol=AgeProtocol(),
    columns={"images": ("label",)},
    metrics={"rmse": MetricInfo(means="root mean squared error", label="RMSE", unit="years", better="lower")},
    sentence="The nearest training image is {value} off",
    measure=measure,
)
