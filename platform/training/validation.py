"""The validation curve: the losses on a fixed sample of `data.val` with fixed draws, shared out over the ranks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from sightline.methods import collective
from sightline.methods.contract import Alarm, Stage, Views
from sightline.methods.random import MicrobatchRng
from sightline.platform.config import Experiment
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.loader.blocks import Columns
from sightline.platform.data.loader.fixed import fixed_microbatches

from .step import buffers_kept, tensors, total

STEP = -2
"""The step that keys the draws of validation microbatches: no step of training."""


@dataclass
class Validation:
    """This rank's microbatches, decoded once and kept as uint8 (77 MB for 256 pairs of 224 px)."""

    microbatches: list[tuple[int, Columns]]
    shares: bool
    """Whether these microbatches are this rank's. A rank without any measures microbatch 0 with weight 0, so that all know all metrics."""
    seed: int
    device: torch.device

    @classmethod
    def load(cls, experiment: Experiment, views: Views, device: torch.device, stage: Stage | None = None) -> Validation:
        dataset = Dataset.open(str(experiment.data.val))
        views = getattr(views, "evaluation", views)
        limit, microbatch = experiment.train.validate_samples, experiment.batch.microbatch

        def part(rank: int, world: int) -> Iterator[tuple[int, Columns]]:
            return fixed_microbatches(dataset, views, microbatch=microbatch, limit=limit, part=rank, parts=world, stage=stage)

        own = list(part(collective.rank(), collective.world_size()))
        return cls(own or list(islice(part(0, world=1), 1)), bool(own), experiment.train.seed, device)

    def measure(self, pretext: Any, weights: Mapping[str, float], autocast: AbstractContextManager[Any]) -> dict[str, float]:
        """`loss` (the weighted total), its terms and the diagnostics, means over all samples of all ranks. Empty for no usable sample."""
        names: list[str] = []
        sums = torch.zeros(0)
        for value in pretext.buffers():  # running statistics live on rank 0
            collective.broadcast(value)
        with evaluating(pretext):
            for index, columns in self.microbatches:
                size = len(next(iter(columns.values()))) if self.shares else 0
                batch = pretext.to_device(tensors(columns, self.device))
                with autocast:
                    losses = pretext(batch, MicrobatchRng(self.seed, STEP, index))
                values = {"loss": total(losses, weights), **losses}
                names = list(values)
                weight = torch.tensor(float(size), dtype=torch.float64, device=self.device)
                weighed = torch.stack([*(value.double() * size for value in values.values()), weight])
                sums = weighed + sums if len(sums) else weighed
        if not names:  # on every rank alike: the same rows are broken for all
            return {}
        whole = torch.stack(collective.gather(sums)).sum(dim=0).tolist()
        return {name: whole[i] / whole[-1] for i, name in enumerate(names)} if whole[-1] else {}


@contextmanager
def evaluating(pretext: Any) -> Iterator[None]:
    """Evaluation mode without gradients, which leaves no trace in running statistics (some methods have a teacher that never evaluates)."""
    pretext.eval()
    try:
        with torch.no_grad(), buffers_kept(pretext):
            yield
    finally:
        pretext.train()


def measure_health(pretext: Any, columns: Columns, seed: int, device: torch.device) -> dict[str, float]:
    """The method's figures of the representation on one microbatch; empty where it has none."""
    if not hasattr(pretext, "health"):
        return {}
    with evaluating(pretext):
        figures = pretext.health(pretext.to_device(tensors(columns, device)), MicrobatchRng(seed, STEP, 0))
    return {name: float(value) for name, value in figures.items()}


def alarms(health: Mapping[str, float], known: Iterable[Alarm], progress: float = 1.0) -> list[str]:
    """A sentence for each figure beyond its limit, at this share of the run. A figure that is not a number is beyond every limit."""
    found = []
    for alarm in known:
        value = health.get(alarm.figure)
        if value is not None and progress >= alarm.after and not alarm.below <= value <= alarm.above:
            limit = f"below {alarm.below:g}" if value < alarm.below else f"above {alarm.above:g}"
            found.append(f"{alarm.figure} = {value:.3g} ({limit}): {alarm.cause}")
    return found
