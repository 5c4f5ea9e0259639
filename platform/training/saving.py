"""Writes the checkpoints of a training: rank 0 writes, and all ranks learn whether it went well."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from sightline.methods import collective
from sightline.methods.errors import MachineError, SightlineError
from sightline.platform import config
from sightline.platform.checkpoints import local as checkpoint
from sightline.platform.checkpoints.retention import Retention, prune
from sightline.platform.checkpoints.uploader import Uploader
from sightline.platform.data.loader.plan import PLAN_VERSION
from sightline.platform.runs.events import CheckpointWritten, Post, TrainingFailed

from .inputs import TrainInputs
from .step import Stepper


@dataclass(frozen=True)
class CheckpointSaver:
    inputs: TrainInputs
    stepper: Stepper
    post: Post
    uploader: Uploader | None
    retention: Retention

    def save(self, step: int, history: str, metrics: Mapping[str, float]) -> bool:
        """Write the checkpoint of `step`, at which `metrics` were measured. Called by all ranks together.

        False on all of them where rank 0 could not write it.
        """
        with self.stepper.phases("checkpoint"):
            written = collective.rank() != 0 or self._write(step, history, metrics)
            return not agree(not written, self.stepper.device)

    def is_best(self, metrics: Mapping[str, float]) -> bool:
        """Whether `metrics` are better than those of every checkpoint that is kept. Called by all ranks together; rank 0 knows it.

        Raises `SightlineError` on rank 0 where the metric of `train.keep_best` is not among those that were measured.
        """
        if self.retention.best is None:
            return False
        return agree(collective.rank() == 0 and self.retention.is_best(metrics, self.inputs.job.checkpoints), self.stepper.device)

    def _write(self, step: int, history: str, metrics: Mapping[str, float]) -> bool:
        start, experiment = time.perf_counter(), self.inputs.job.experiment
        state = checkpoint.TrainState(
            step=step,
            samples=step * self.inputs.plan.batch,
            seed=experiment.train.seed,
            plan_version=PLAN_VERSION,
            fingerprint=self.inputs.dataset.fingerprint,
            settings=config.settings_hash(experiment),
            precision=self.stepper.precision,
            history=history,
            settings_version=config.SETTINGS_VERSION,
        )
        optimizer = checkpoint.optimizer_tensors(self.stepper.optimizer, self.stepper.names)
        tensors = {"model": self.stepper.pretext.state_dict(), "optimizer": optimizer}
        try:
            note = checkpoint.Note(self.retention.is_milestone(step), dict(metrics))
            path = checkpoint.write(self.inputs.job.checkpoints, state, tensors, note)
            prune(self.inputs.job.checkpoints, self.retention)
        except SightlineError as error:
            self.post(TrainingFailed(str(error), error.hint, isinstance(error, MachineError)))
            return False
        self.post(CheckpointWritten(step, str(path), time.perf_counter() - start))
        if self.uploader:
            self.uploader.begin()
        return True


def agree(flag: bool, device: torch.device) -> bool:
    """What rank 0 says, on every rank."""
    return bool(collective.broadcast(torch.tensor([int(flag)], device=device)))
