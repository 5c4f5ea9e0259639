"""One trial, in a process of Ray Tune: a training that is measured at each rung. Only it writes its run's events and checkpoints; only the
driver writes the sweep's record and MLflow. What is on disk is not done again."""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sightline.methods.errors import CallError, SightlineError
from sightline.methods.settings import nearest
from sightline.platform.checkpoints import local as checkpoint
from sightline.platform.cluster.code_wheel import verify
from sightline.platform.cluster.shared_fs import sees
from sightline.platform.config import Experiment
from sightline.platform.core.event_log import append_events, read_events
from sightline.platform.experiments.train_run import nonfinite_error
from sightline.platform.runs.events import (
    EVENTS,
    CheckpointWritten,
    NonFiniteLoss,
    RunEvent,
    TrainingEnded,
    TrainingFailed,
    ValidationDone,
)
from sightline.platform.training.job import TrainJob

STOP = "stop"
"""A file of this name in a run's folder asks a trial for an early end."""
VALIDATION = "val/"
"""An objective with this prefix is a validation loss; any other is PROBE.METRIC."""


class RecordedError(SightlineError):
    """An error that the training has already recorded."""


@dataclass(frozen=True)
class TrialTask:
    """A trial as the driver hands it to a process of Ray Tune."""

    number: int
    job: TrainJob
    objective: str
    rungs: tuple[int, ...]
    """Steps at which the trial is measured; the last is its end."""
    known: tuple[int, ...] = ()
    """Rungs whose objective is recorded."""
    share: float = 1.0
    """Of the cluster, for trials whose workers are processes of Ray Train."""

    def to_values(self) -> dict[str, Any]:
        """As Ray Tune takes a trial's settings."""
        return {
            "trial": self.number,
            "job": self.job.to_values(),
            "objective": self.objective,
            "rungs": list(self.rungs),
            "known": list(self.known),
            "share": self.share,
        }

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> TrialTask:
        job = TrainJob.from_values(values["job"])
        return cls(values["trial"], job, values["objective"], tuple(values["rungs"]), tuple(values["known"]), values["share"])


class TrialRun:
    """Runs one trial.

    `report(step, objective, seconds)` ends this process's part by `SystemExit` where the scheduler stops the trial. `seconds`: of
    measuring, by step.
    """

    def __init__(self, task: TrialTask, report: Callable[[int, float, dict[str, float]], None]) -> None:
        self.task, self.job, self.folder, self.report = task, task.job, task.job.folder, report
        self.validation: dict[str, float] = {}
        self.ended: TrainingEnded | None = None
        self.measuring: dict[str, float] = {}

    def run(self) -> None:
        rungs, found = self.task.rungs, checkpoint.newest(self.job.checkpoints)
        if found and found.state.step in rungs and found.state.step not in self.task.known:
            self._measure(found.state.step)
            if found.state.step == rungs[-1]:
                return
        if self.job.experiment.train.workers == 1:
            self._train_here()
        else:
            self._train_on_workers()
        if self.ended and self.ended.step == rungs[-1]:
            self._measure(rungs[-1])

    def _train_here(self) -> None:
        """One worker trains in this process, without a second set of processes."""
        from sightline.platform.training.loop import train

        train(self.job, self._post, self._asked_to_stop)

    def _train_on_workers(self) -> None:
        import ray

        from sightline.platform.cluster.resources import plan_on
        from sightline.platform.cluster.workers import run_workers

        total, share = ray.cluster_resources(), self.task.share  # type: ignore[no-untyped-call]
        plan = plan_on(self.job.experiment, total.get("CPU", 0) * share, int(total.get("GPU", 0) * share))
        max_failures = self.job.experiment.train.max_failures
        error = run_workers(self.job, plan, self.folder.name, max_failures, self._see, self._asked_to_stop)
        if self.ended is None:
            raise SightlineError(f"training ended without a result: {error}", f"see {self.folder / 'ray'}")

    def _asked_to_stop(self) -> bool:
        return (self.folder / STOP).exists()

    def _post(self, event: RunEvent) -> None:
        append_events(self.folder / EVENTS, [event])
        self._see(event)

    def _see(self, event: RunEvent) -> None:
        match event:
            case ValidationDone(losses=losses):
                self.validation = losses
            case TrainingEnded():
                self.ended = event
            case TrainingFailed(what=what, hint=hint):
                raise RecordedError(what, hint)
            case NonFiniteLoss():
                raise nonfinite_error(event)
            case CheckpointWritten(step=step) if step in self.task.rungs[:-1] and step not in self.task.known:
                self._measure(step)

    def _measure(self, step: int) -> None:
        """The last rung is measured after the training has ended, so that its record is complete."""
        start, objective = time.perf_counter(), self.task.objective
        if objective.startswith(VALIDATION):
            value = self._loss(objective.removeprefix(VALIDATION), step)
        else:
            value = measure_probe(self.job.experiment, self.job.checkpoints, step, objective)
        if not math.isfinite(value):
            raise SightlineError(f"{objective} of step {step} is {value}, which compares with nothing", "look at the trial's losses")
        self.measuring[str(step)] = time.perf_counter() - start
        self.report(step, value, self.measuring)

    def _loss(self, name: str, step: int) -> float:
        if not self.validation:  # of an earlier attempt
            events = read_events(self.folder / EVENTS, RunEvent)
            found = [event for event in events if isinstance(event, ValidationDone) and event.step == step]
            self.validation = found[-1].losses
        if name not in self.validation:
            raise CallError(f"--objective {VALIDATION}{name}: the validation has no such loss: {nearest(name, list(self.validation))}")
        return self.validation[name]


def measure_probe(experiment: Experiment, checkpoints: Path, step: int, objective: str) -> float:
    """A probe's metric for the encoder of the checkpoint at `step`. Raises `SightlineError` where there is no such checkpoint any more."""
    from sightline.methods.catalog import find_method
    from sightline.methods.contract import BuildContext
    from sightline.platform.core.device import choose_device
    from sightline.platform.data.dataset import Dataset
    from sightline.platform.evaluation.probes.context import EvaluatedModel
    from sightline.platform.evaluation.probes.dataset_pairs import DatasetPair
    from sightline.platform.evaluation.probes.run import run_probes
    from sightline.platform.evaluation.results import SkippedProbe

    found = next((one for one in checkpoint.checkpoints(checkpoints) if one.state.step == step), None)
    if found is None:
        raise SightlineError(f"the checkpoint of step {step} is not there to be measured", "raise train.keep")
    name, _, metric = objective.partition(".")
    pretext = find_method(experiment.method).build(experiment.method_config, BuildContext(seed=experiment.train.seed))
    pretext.load_state_dict(found.tensors("model"))
    device = choose_device(experiment.train.device)
    model = EvaluatedModel("trial", pretext.encoder().to(device).eval())
    dataset_pairs = [DatasetPair(Dataset.open(train), Dataset.open(test)) for train, test in experiment.probe_data]
    outcome = run_probes([name], [model], dataset_pairs, device=device)[name]
    if isinstance(outcome, SkippedProbe):
        raise CallError(outcome.sentence)
    return outcome.row("trial").values[metric].value


def trainable(settings: dict[str, Any]) -> None:
    """The function that Ray Tune runs. A `SightlineError` is recorded as the run's failure: Tune would only repeat it."""
    from ray import tune

    def report(step: int, objective: float, seconds: dict[str, float]) -> None:
        tune.report({"step": step, "objective": objective, "seconds": seconds})

    verify()
    task = TrialTask.from_values(settings)
    folder = task.job.folder
    if not sees(folder, task.job.token):
        raise SightlineError(
            f"the node {socket.gethostname()} does not see the run's folder {folder}",
            "put $SIGHTLINE_HOME on a folder that all nodes share",
        )
    try:
        TrialRun(task, report).run()
    except RecordedError:
        return
    except SightlineError as error:
        append_events(folder / EVENTS, [TrainingFailed(str(error), error.hint)])
