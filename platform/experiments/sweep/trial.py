"""One trial, in a process of Ray Tune: a training that is measured at each rung. Only it writes its run's events and checkpoints; only the
driver writes the sweep's record and MLflow. What is on disk is not done again."""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
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
    PROBES,
    CheckpointWritten,
    NonFiniteLoss,
    ProbesMeasured,
    RunEvent,
    TrainingEnded,
    TrainingFailed,
    ValidationDone,
)
from sightline.platform.training.job import TrainJob

from .objectives import COSTS, TESTS, VALIDATION, cost

STOP = "stop"
"""A file of this name in a run's folder asks a trial for an early end."""


class RecordedError(SightlineError):
    """An error that the training has already recorded."""


@dataclass(frozen=True)
class TrialTask:
    """A trial as the driver hands it to a process of Ray Tune."""

    number: int
    jobs: tuple[TrainJob, ...]
    """One for each training seed."""
    objectives: tuple[str, ...]
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
            "jobs": [job.to_values() for job in self.jobs],
            "objectives": list(self.objectives),
            "rungs": list(self.rungs),
            "known": list(self.known),
            "share": self.share,
        }

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> TrialTask:
        jobs = tuple(TrainJob.from_values(job) for job in values["jobs"])
        objectives, rungs, known = (tuple(values[key]) for key in ("objectives", "rungs", "known"))
        return cls(values["trial"], jobs, objectives, rungs, known, values["share"])


Report = Callable[[int, dict[str, float]], None]
"""Takes the objectives of a step, by name. It ends this process's part by `SystemExit` where the scheduler stops the trial."""


class TrialRun:
    """Trains one run of a trial and measures it at each rung, up to rung `until`."""

    def __init__(self, task: TrialTask, job: TrainJob, report: Report, until: int | None = None) -> None:
        self.task, self.job, self.folder, self.report = task, job, job.folder, report
        self.until = task.rungs[-1] if until is None else until
        self.validation: dict[int, dict[str, float]] = {}
        """By step: that of a later step may be known before a checkpoint is written."""
        self.ended: TrainingEnded | None = None
        self.measured = set(task.known)
        self.seconds: dict[int, float] = {}
        """Of measuring, by step."""

    def run(self) -> None:
        last = self.task.rungs[-1]
        there = {found.state.step for found in checkpoint.checkpoints(self.job.checkpoints)}
        for step in self.task.rungs:
            if step in there and step <= self.until:
                self._measure(step)
        if self.until in self.measured:
            return
        if self.job.experiment.train.workers == 1:
            self._train_here()
        else:
            self._train_on_workers()
        if self.ended and self.ended.step == last == self.until:
            self._measure(last)

    def _train_here(self) -> None:
        """One worker trains in this process, without a second set of processes."""
        from sightline.platform.training.loop import train

        train(self.job, self._post, self._asked_to_stop, wait=True)

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
        asked = any((job.folder / STOP).exists() for job in self.task.jobs)
        return asked or (self.until < self.task.rungs[-1] and self.until in self.measured)

    def _post(self, event: RunEvent) -> None:
        append_events(self.folder / EVENTS, [event])
        self._see(event)

    def _see(self, event: RunEvent) -> None:
        match event:
            case ValidationDone(step=step, losses=losses):
                self.validation[step] = losses
            case TrainingEnded():
                self.ended = event
            case TrainingFailed(what=what, hint=hint):
                raise RecordedError(what, hint)
            case NonFiniteLoss():
                raise nonfinite_error(event)
            case CheckpointWritten(step=step) if step in self.task.rungs[:-1] and step <= self.until:
                self._measure(step)

    def _measure(self, step: int) -> None:
        """Once. The last rung is measured after the training has ended, so that its record is complete."""
        if step in self.measured:
            return
        start = time.perf_counter()
        values = {name: self._value(name, step) for name in self.task.objectives}
        for name, value in values.items():
            if not math.isfinite(value):
                raise SightlineError(f"{name} of step {step} is {value}, which compares with nothing", "look at the trial's losses")
        self.measured.add(step)
        self.seconds[step] = time.perf_counter() - start
        self.report(step, values)

    def _value(self, objective: str, step: int) -> float:
        if objective.startswith(VALIDATION):
            return self._loss(objective.removeprefix(VALIDATION), step)
        if objective in COSTS:
            return cost(objective, list(read_events(self.folder / EVENTS, RunEvent)))
        if objective.startswith(TESTS):
            return measure_test(self.job.experiment, self.job.checkpoints, step, objective.removeprefix(TESTS))
        return measure_probe(self.job.experiment, self.job.checkpoints, step, objective)

    def _loss(self, name: str, step: int) -> float:
        if step not in self.validation:  # of an earlier attempt
            events = read_events(self.folder / EVENTS, RunEvent)
            self.validation |= {event.step: event.losses for event in events if isinstance(event, ValidationDone)}
        losses = self.validation[step]
        if name not in losses:
            raise CallError(f"--objective {VALIDATION}{name}: the validation has no such loss: {nearest(name, list(losses))}")
        return losses[name]


def run_trial(task: TrialTask, tell: Callable[[dict[str, Any]], None]) -> None:
    """Train and measure all runs of a trial. `tell` takes each result as Ray Tune does; see `Report`.

    Several training seeds take turns: each is trained to a rung and measured there before any goes on.
    """
    if len(task.jobs) == 1:
        run = TrialRun(task, task.jobs[0], lambda step, values: tell(_result(step, [values], [run.seconds])))
        run.run()
        return
    seconds: list[dict[int, float]] = [{} for _ in task.jobs]
    for step in task.rungs:
        if step in task.known:
            continue
        found: list[dict[str, float]] = []
        so_far = replace(task, known=tuple(rung for rung in task.rungs if rung < step))
        for job, spent in zip(task.jobs, seconds, strict=True):
            one = TrialRun(so_far, job, _adding_to(found), until=step)
            one.run()
            spent.update(one.seconds)
            if step not in one.measured:  # a person stopped it
                return
        tell(_result(step, found, seconds))


def _adding_to(found: list[dict[str, float]]) -> Report:
    return lambda step, values: found.append(values)


def _result(step: int, found: list[dict[str, float]], seconds: list[dict[int, float]]) -> dict[str, Any]:
    """What Ray Tune is told: means over the training seeds, the first objective apart. Lists, because Tune flattens mappings."""
    means = {name: sum(values[name] for values in found) / len(found) for name in found[0]}
    objective, *others = means.values()
    spent = {str(at): sum(each.get(at, 0.0) for each in seconds) for at in {at for each in seconds for at in each}}
    seeds = [[values[name] for values in found] for name in means] if len(found) > 1 else []
    return {"step": step, "objective": objective, "others": others, "seeds": seeds, "seconds": spent}


def _checkpoint_of(checkpoints: Path, step: int) -> checkpoint.Checkpoint:
    found = next((one for one in checkpoint.checkpoints(checkpoints) if one.state.step == step), None)
    if found is None:
        raise SightlineError(f"the checkpoint of step {step} is not there to be measured", "raise train.keep")
    return found


def measure_test(experiment: Experiment, checkpoints: Path, step: int, metric: str) -> float:
    """A test metric on `data.val` of the model in the checkpoint at `step`. Raises `CallError` for a method that predicts nothing."""
    from sightline.methods.catalog import find_method
    from sightline.methods.contract import BuildContext, HasPredictor
    from sightline.platform.core.device import choose_device
    from sightline.platform.data.dataset import Dataset
    from sightline.platform.evaluation.test_metrics import measure_test_metrics

    method, config = find_method(experiment.method), experiment.method_config
    pretext = method.build(config, BuildContext(seed=experiment.train.seed))
    if not isinstance(pretext, HasPredictor):
        raise CallError(f"{method.id} has no test metrics", "compare by a probe: --objective PROBE.METRIC")
    pretext.load_state_dict(_checkpoint_of(checkpoints, step).tensors("model"))
    device, val = choose_device(experiment.train.device), Dataset.open(str(experiment.data.val))
    found = measure_test_metrics(pretext, method.views(config), val, batch=experiment.batch.microbatch, device=device)
    if metric not in found.values:
        raise CallError(f"{method.id} has no test metric {metric!r}", f"name one of {', '.join(found.main_metrics)}")
    return found.values[metric].value


def measure_probe(experiment: Experiment, checkpoints: Path, step: int, objective: str) -> float:
    """A probe's metric for the encoder of the checkpoint at `step`, and a note of it in the run's record (`probes.jsonl`).

    Raises `SightlineError` where there is no such checkpoint any more.
    """
    from sightline.methods.catalog import find_method
    from sightline.methods.contract import BuildContext
    from sightline.platform.core.device import choose_device
    from sightline.platform.data.dataset import Dataset
    from sightline.platform.evaluation.probes.context import EvaluatedModel
    from sightline.platform.evaluation.probes.dataset_pairs import DatasetPair
    from sightline.platform.evaluation.probes.run import run_probes
    from sightline.platform.evaluation.results import SkippedProbe

    name, _, metric = objective.partition(".")
    pretext = find_method(experiment.method).build(experiment.method_config, BuildContext(seed=experiment.train.seed))
    pretext.load_state_dict(_checkpoint_of(checkpoints, step).tensors("model"))
    device = choose_device(experiment.train.device)
    model = EvaluatedModel("trial", pretext.encoder().to(device).eval())
    dataset_pairs = [DatasetPair(Dataset.open(train), Dataset.open(test)) for train, test in experiment.probe_data]
    outcome = run_probes([name], [model], dataset_pairs, device=device)[name]
    if isinstance(outcome, SkippedProbe):
        raise CallError(outcome.sentence)
    measured = {f"probe/{name}/{key}": outcome.row("trial").values[key] for key in outcome.main_metrics}
    ends = {key: one for key, one in measured.items() if one.has_ends}
    event = ProbesMeasured(
        step=step,
        values={key: one.value for key, one in measured.items()},
        low={key: one.low for key, one in ends.items()},
        high={key: one.high for key, one in ends.items()},
        baselines={},
        skipped={},
        seconds=outcome.seconds,
    )
    append_events(checkpoints.parent / PROBES, [event])
    return measured[f"probe/{name}/{metric}"].value


def trainable(settings: dict[str, Any]) -> None:
    """The function that Ray Tune runs. A `SightlineError` is recorded as the run's failure: Tune would only repeat it."""
    from ray import tune

    verify()
    os.environ.setdefault("TUNE_FUNCTION_THREAD_TIMEOUT_S", "600")  # for the workers of a stopped trial; after 2 s Ray would hang
    task = TrialTask.from_values(settings)
    for job in task.jobs:
        if not sees(job.folder, job.token):
            raise SightlineError(
                f"the node {socket.gethostname()} does not see the run's folder {job.folder}",
                "put $SIGHTLINE_HOME on a folder that all nodes share",
            )
    try:
        run_trial(task, tune.report)
    except RecordedError:
        return
    except SightlineError as error:
        append_events(task.jobs[0].folder / EVENTS, [TrainingFailed(str(error), error.hint)])
