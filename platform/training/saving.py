"""Saves the checkpoints of a training: rank 0 writes them beside the training, and all ranks learn at the same step how it went."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch

from sightline.methods import collective
from sightline.methods.errors import MachineError, SightlineError
from sightline.platform import config
from sightline.platform.checkpoints import local as checkpoint
from sightline.platform.checkpoints.background import BackgroundWriter, Written
from sightline.platform.checkpoints.retention import Retention
from sightline.platform.checkpoints.uploader import Uploader
from sightline.platform.data.loader.plan import PLAN_VERSION
from sightline.platform.runs.events import CheckpointWritten, Post, TrainingFailed

from .inputs import TrainInputs
from .step import Stepper

PUBLISH_SECONDS = 5.0
"""At least this long between two checkpoints that are published; Ray Train's controller takes one in two seconds, and others would wait."""


class Publication(NamedTuple):
    """A checkpoint that is whole, as it is published."""

    written: Written | None
    """None on all ranks but 0."""
    metrics: Mapping[str, float]
    """Of its step, under their names in MLflow; empty on all ranks but 0."""


Publish = Callable[[Publication], None]
"""Told of whole checkpoints. Called by all ranks together."""


class Agreed(NamedTuple):
    """What rank 0 knows, as all ranks know it at the same step."""

    stop: bool
    """The driver asked for an early end."""
    failed: bool
    """A checkpoint could not be written."""
    publish: bool
    """A checkpoint is published now."""


class CheckpointSaver:
    """Rank 0 writes; the methods that are not `look` and `close` are called by all ranks together."""

    def __init__(
        self, inputs: TrainInputs, stepper: Stepper, post: Post, uploader: Uploader | None, retention: Retention, publish: Publish | None
    ) -> None:
        self.inputs, self.stepper, self.post, self.uploader, self.retention = inputs, stepper, post, uploader, retention
        self.publish = publish
        self._writer = BackgroundWriter(inputs.job.checkpoints, retention)
        self._metrics: dict[int, Mapping[str, float]] = {}
        """By step, of checkpoints that are not published yet."""
        self._unpublished: Written | None = None
        self._published = float("-inf")
        """When the last one was."""
        self._best: float | None = None
        self._failed = False
        if collective.rank() == 0:
            self._best = retention.best_in(inputs.job.checkpoints)

    def save(self, step: int, history: str, measured: Mapping[str, float], train: Mapping[str, float], wait: bool) -> bool:
        """Save the state after `step`. Returns when it is copied, or with `wait` when it is written. Waits for the checkpoint before it.

        `measured`: by the validation of this step; `train`: losses of the training, for those who are told of the checkpoint. False on
        all ranks where rank 0 could not write one.
        """
        with self.stepper.phases("checkpoint"):
            if collective.rank() == 0:
                self.close()
                if not self._failed:
                    self._start(step, history, measured)
                    if self.publish:
                        self._metrics[step] = {**train, **measured}
                if wait:
                    self.close()
            return not self.agree(stop=False).failed

    def agree(self, stop: bool, ending: bool = False) -> Agreed:
        """What rank 0 knows, on every rank. `ending`: no other step follows."""
        self.look()
        due = ending or time.monotonic() - self._published >= PUBLISH_SECONDS
        mine = Agreed(stop, self._failed, self.publish is not None and self._unpublished is not None and due)
        agreed = Agreed(*map(bool, collective.broadcast(torch.tensor(mine, dtype=torch.uint8, device=self.stepper.device)).tolist()))
        if agreed.publish and self.publish:
            written = self._unpublished
            self.publish(Publication(written, self._metrics.get(written.step, {}) if written else {}))
            self._metrics = {step: metrics for step, metrics in self._metrics.items() if written and step > written.step}
            self._unpublished, self._published = None, time.monotonic()
        return agreed

    def look(self) -> None:
        """Post what was written meanwhile, or that it failed. Raises what nobody foresaw."""
        try:
            written = self._writer.take()
        except SightlineError as error:
            self._failed = True
            self.post(TrainingFailed(str(error), error.hint, isinstance(error, MachineError)))
            return
        if written:
            self._unpublished = written
            self.post(CheckpointWritten(written.step, str(written.path), written.seconds))
            if self.uploader:
                self.uploader.begin()

    def close(self) -> None:
        """Wait until nothing is being written, and `look`."""
        self._writer.wait()
        self.look()

    def is_best(self, metrics: Mapping[str, float]) -> bool:
        """Whether `metrics` are better than those of every checkpoint so far. Rank 0 knows it.

        Raises `SightlineError` on rank 0 where the metric of `train.keep_best` is not among those that were measured.
        """
        if self.retention.best is None:
            return False
        value = self.retention.measured(metrics) if collective.rank() == 0 else None
        better = value is not None and (self._best is None or value > self._best)
        return bool(collective.broadcast(torch.tensor([int(better)], device=self.stepper.device)))

    def _start(self, step: int, history: str, measured: Mapping[str, float]) -> None:
        experiment = self.inputs.job.experiment
        state = checkpoint.TrainState(
            step=step,
            samples=step * experiment.batch.size,
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
        self._writer.start(state, tensors, checkpoint.Note(self.retention.is_milestone(step), dict(measured)))
        values = [value for value in (self._best, self.retention.value(measured)) if value is not None]
        self._best = max(values, default=None)
