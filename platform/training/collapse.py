"""Early signs of a collapse, for any method with `embeddings`: RankMe and LiDAR on a fixed few samples of the validation data."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sightline.methods import collective
from sightline.methods.contract import Alarm, NeedsColumns, Sample, Views
from sightline.methods.random import key
from sightline.platform.config import Experiment
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.loader.blocks import Columns
from sightline.platform.data.loader.fixed import SampleReader, spread

from .step import tensors

SAMPLES, DRAWS = 64, 4
"""Samples, and draws of the views of each: RankMe is at most their product, LiDAR less than the samples."""
LEAST = 10
"""With fewer samples the ranks are low by themselves, and are not measured."""
ALARMS = (
    Alarm(
        "lidar",
        "samples differ in one direction only, beside what augmentation does: the encoder collapses, or data.val holds little else",
        below=1.05,
        fall=0.5,
    ),
)
"""For every method. How low RankMe may be says the method: what all embeddings share lowers it in sound runs, too."""
EPSILON = 1e-7
"""Added to each share before its logarithm is taken, in RankMe and in LiDAR."""
WITHIN = 1e-4
"""Added to the diagonal of the covariance within samples, in LiDAR (delta)."""


class Draws:
    """Several draws of a method's views of each sample, along a first dimension."""

    def __init__(self, views: Views) -> None:
        self.views = views
        self.columns = views.columns if isinstance(views, NeedsColumns) else ()

    def __call__(self, sample: Sample, rng: np.random.Generator) -> dict[str, np.ndarray]:
        drawn = [self.views(sample, rng) for _ in range(DRAWS)]
        return {name: np.stack([one[name] for one in drawn]) for name in drawn[0]}


@dataclass(frozen=True)
class CollapseMeter:
    """Samples in `DRAWS` draws each, decoded once and kept as the views give them."""

    columns: Columns
    """samples x draws x ..."""
    device: torch.device

    @classmethod
    def load(cls, experiment: Experiment, views: Views, device: torch.device) -> CollapseMeter | None:
        """None where fewer than `LEAST` samples can be used."""
        dataset = Dataset.open(str(experiment.data.val))
        rows = spread(dataset.rows, min(SAMPLES, experiment.train.validate_samples))
        batch = next(SampleReader(dataset, Draws(views), key("collapse") >> 1).batches(rows, len(rows)), None)
        return cls(batch.columns, device) if batch and len(batch.scenes) >= LEAST else None

    def measure(self, pretext: Any, size: int, autocast: AbstractContextManager[Any]) -> dict[str, float]:
        """`rankme`, `lidar`. `pretext`: in evaluation mode, with `embeddings`; it gets `size` views at a time, or the draws of a sample.

        Called by all processes together: each embeds a part of the samples.
        """
        step, samples = max(1, size // DRAWS), len(next(iter(self.columns.values())))
        starts = range(0, samples, step)
        rows = torch.zeros(0)
        for start in starts[collective.rank() :: collective.world_size()] or starts[:1]:
            part = {name: value[start : start + step] for name, value in self.columns.items()}
            flat = {name: value.reshape(-1, *value.shape[2:]) for name, value in part.items()}
            batch = pretext.to_device(tensors(flat, self.device))  # outside of autocast, as in training
            with autocast:
                found = pretext.embeddings(batch).float()
            if not len(rows):
                rows = found.new_zeros(samples * DRAWS, found.shape[1])
            if collective.rank() < len(starts):
                rows[start * DRAWS : start * DRAWS + len(found)] = found
        rows = collective.sum_(rows).cpu()  # of parts that are zero where another process has filled them
        return {"rankme": float(rankme(rows)), "lidar": float(lidar(rows.view(-1, DRAWS, rows.shape[1])))}


@torch.no_grad()
def rankme(embeddings: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """exp(entropy of the singular values of the rows, scaled to sum 1): RankMe (Garrido et al., ICML 2023, equation 1).

    Between 1 (all rows are multiples of one, as after a collapse) and min(n, d). Not centred, unlike `effective_rank`. For a
    matrix of rank k with equal singular values it is k.
    """
    rows = embeddings.double()
    return _smooth_rank(torch.linalg.svdvals(rows)) if rows.isfinite().all() else torch.tensor(torch.nan)


@torch.no_grad()
def lidar(embeddings: Float[Tensor, "n q d"]) -> Float[Tensor, ""]:
    """exp(entropy of the eigenvalues, scaled to sum 1, of W^-1/2 B W^-1/2): LiDAR (Thilak et al., ICLR 2024, equations 1 to 4).

    `embeddings`: of n samples in q draws of their views each. B: covariance of the samples' means; W: mean covariance of the draws of a
    sample about their mean, plus 1e-4 on the diagonal. Directions count by how well they tell samples apart beside what augmentation
    does, so noise does not look like rank. Between 1 (also where all samples are the same) and min(n - 1, d); it grows with n.
    """
    if not embeddings.isfinite().all():
        return torch.tensor(torch.nan)
    means = embeddings.double().mean(dim=1)
    around = (embeddings.double() - means[:, None]).flatten(0, 1)
    between = means - means.mean(dim=0)
    values, vectors = torch.linalg.eigh(around.T @ around / len(around))
    whitened = between @ vectors * (values.clamp_min(0) + WITHIN).rsqrt()
    return _smooth_rank(torch.linalg.svdvals(whitened).square())  # its squares are the eigenvalues, times n


def _smooth_rank(values: Float[Tensor, " k"]) -> Float[Tensor, ""]:
    if values.sum() == 0:
        return torch.tensor(1.0)
    share = values / values.sum() + EPSILON
    return (-(share * share.log()).sum()).exp().float()
