"""The validation curve: losses on a fixed sample of `data.val` with fixed random draws, divided among the ranks; and health metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from sightline.methods import collective
from sightline.methods.catalog import find_method
from sightline.methods.contract import HasEmbeddings, HasEvaluationViews, HasHealth, Pretext, Stage, Views
from sightline.methods.random import MicrobatchRng
from sightline.platform.config import Experiment
from sightline.platform.core.event_log import read_events
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.loader.blocks import Columns
from sightline.platform.data.loader.fixed import fixed_microbatches
from sightline.platform.runs.events import EVENTS, HealthMeasured, Post, RunEvent, ValidationDone

from . import collapse
from .alarms import LOSS, HealthJudge
from .collapse import CollapseMeter
from .inputs import TrainInputs
from .step import Stepper, buffers_kept, tensors, total

STEP = -2
"""The step that keys the random draws of validation microbatches; no training step has it."""


class Validator:
    """Measures validation losses and health during training. The validation data are read at the first use."""

    def __init__(self, inputs: TrainInputs, stepper: Stepper, post: Post, first: int) -> None:
        """`first`: the step that the training begins or continues at."""
        self.inputs, self.stepper, self.post = inputs, stepper, post
        experiment, clock = inputs.job.experiment, inputs.clock
        known = (*find_method(experiment.method).alarms, *collapse.ALARMS)
        self.judge = HealthJudge(known, clock.in_steps(experiment.optim.warmup), clock.steps)
        if first and collective.rank() == 0:
            self.judge.repeat(read_events(inputs.job.folder / EVENTS, RunEvent), until=first)
        self._validation: Validation | None = None
        self._collapse: CollapseMeter | None = None

    def measure(self, step: int, columns: Columns) -> dict[str, float]:
        """What was measured, under its names in MLflow. Called by all ranks together; rank 0 posts the events, and only it knows health.

        `columns`: the views of a training microbatch, on which health is measured where there are no validation data.
        """
        losses: dict[str, float] = {}
        with self.stepper.phases("validation"):
            if self.inputs.job.experiment.data.val is not None:
                validation = self._load()
                losses = validation.measure(self.stepper.pretext, self.stepper.weights, self.stepper.autocast())
                columns = validation.microbatches[0][1] if validation.microbatches else columns
                if losses and collective.rank() == 0:
                    self.post(ValidationDone(step, losses))
        with self.stepper.phases("health"):
            ranks = self._measure_collapse()
        health = self._measure_health(step, columns, losses, ranks) if collective.rank() == 0 else {}
        return {f"val/{name}": value for name, value in losses.items()} | {f"health/{name}": value for name, value in health.items()}

    def _load(self) -> Validation:
        if self._validation is None:
            stage = self.inputs.make_stage() if self.inputs.make_stage else None
            self._validation = Validation.load(self.inputs.job.experiment, self.inputs.views, self.stepper.device, stage)
        return self._validation

    def _measure_health(self, step: int, columns: Columns, losses: Mapping[str, float], ranks: Mapping[str, float]) -> dict[str, float]:
        experiment = self.inputs.job.experiment
        with self.stepper.phases("health"):
            health = {**measure_health(self.stepper.pretext, columns, experiment.train.seed, self.stepper.device), **ranks}
        if health:
            known = health | ({LOSS: losses["loss"]} if losses else {})
            self.post(HealthMeasured(step, health, self.judge.judge(step, known)))
        return health

    def _measure_collapse(self) -> dict[str, float]:
        """On samples of the validation data, divided among the processes; empty without them, and where the method gives no embeddings."""
        experiment, pretext = self.inputs.job.experiment, self.stepper.pretext
        if experiment.data.val is None or not isinstance(pretext, HasEmbeddings):
            return {}
        if self._collapse is None:
            self._collapse = CollapseMeter.load(experiment, self.inputs.views, self.stepper.device)
        if self._collapse is None:
            return {}
        with evaluating(pretext):
            return self._collapse.measure(pretext, experiment.batch.microbatch, self.stepper.autocast())


@dataclass
class Validation:
    """This rank's validation microbatches, decoded once and kept as uint8 (77 MB for 256 pairs of 224 px)."""

    microbatches: list[tuple[int, Columns]]
    shares: bool
    """Whether these microbatches are this rank's own. A rank without any measures microbatch 0 with weight 0, so that all ranks gather
    the same metrics."""
    seed: int
    device: torch.device

    @classmethod
    def load(cls, experiment: Experiment, views: Views, device: torch.device, stage: Stage | None = None) -> Validation:
        dataset = Dataset.open(str(experiment.data.val))
        views = views.evaluation if isinstance(views, HasEvaluationViews) else views
        limit, microbatch = experiment.train.validate_samples, experiment.batch.microbatch

        def part(rank: int, world: int) -> Iterator[tuple[int, Columns]]:
            return fixed_microbatches(dataset, views, microbatch=microbatch, limit=limit, part=rank, parts=world, stage=stage)

        own = list(part(collective.rank(), collective.world_size()))
        return cls(own or list(islice(part(0, world=1), 1)), bool(own), experiment.train.seed, device)

    def measure(self, pretext: Pretext, weights: Mapping[str, float], autocast: AbstractContextManager[Any]) -> dict[str, float]:
        """`loss` (the weighted total), its terms and the diagnostics: means over all samples of all ranks. Empty without usable samples."""
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
def evaluating(pretext: Pretext) -> Iterator[None]:
    """Evaluation mode without gradients. Running statistics are restored afterwards: some teachers stay in training mode."""
    pretext.eval()
    try:
        with torch.no_grad(), buffers_kept(pretext):
            yield
    finally:
        pretext.train()


def measure_health(pretext: Pretext, columns: Columns, seed: int, device: torch.device) -> dict[str, float]:
    """The method\'s health metrics of the representation on one microbatch; empty where it has none."""
    if not isinstance(pretext, HasHealth):
        return {}
    with evaluating(pretext):
        metrics = pretext.health(pretext.to_device(tensors(columns, device)), MicrobatchRng(seed, STEP, 0))
    return {name: float(value) for name, value in metrics.items()}
