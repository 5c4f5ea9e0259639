"""One trial, in a process of Ray Tune: a training that is measured at each rung. It writes its run's record and checkpoints alone; the
driver keeps the sweep's record and MLflow. What it finds on disk it does not do again."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sightline.methods.errors import CallError, SightlineError
from sightline.methods.settings import nearest
from sightline.platform import config
from sightline.platform.checkpoints import local as checkpoint
from sightline.platform.cluster.code_wheel import verify
from sightline.platform.cluster.shared_fs import sees
from sightline.platform.core.files import append_lines
from sightline.platform.runs.events import EVENTS, Event, write_down
from sightline.platform.training.loop import Job, train

STOP = "stop"
"""A file of this name in a run's folder asks for an early end of a trial."""


class RecordedError(SightlineError):
    """An error that the training has put into the record."""


@dataclass
class TrialRun:
    """`report(step, objective, seconds)` ends the process's part by `SystemExit` where the scheduler stops the trial. `seconds`: what was
    spent on measuring, by step."""

    job: Job
    objective: str
    rungs: tuple[int, ...]
    known: frozenset[int]
    """Rungs whose objective is on record."""
    report: Callable[[int, float, dict[str, float]], None]
    share: float = 1.0
    """Of the cluster, for trials whose workers are processes of Ray Train."""

    def __post_init__(self) -> None:
        self.folder = Path(self.job.folder)
        self.validation: dict[str, float] = {}
        self.ended: Event = {}
        self.measuring: dict[str, float] = {}

    def run(self) -> None:
        found = checkpoint.newest(self.job.checkpoints)
        if found and found.state.step in self.rungs and found.state.step not in self.known:
            self._measure(found.state.step)
            if found.state.step == self.rungs[-1]:
                return
        self._train()
        if self.ended.get("step") == self.rungs[-1]:
            self._measure(self.rungs[-1])

    def _train(self) -> None:
        """One worker trains here, without a second set of processes; several by Ray Train."""
        experiment = self.job.experiment
        if experiment.train.workers == 1:
            train(self.job, self._post, self._asked_to_stop)
            return
        import ray

        from sightline.platform.cluster.resources import plan_on
        from sightline.platform.cluster.workers import fit

        total = ray.cluster_resources()  # type: ignore[no-untyped-call]
        plan = plan_on(experiment, total.get("CPU", 0) * self.share, int(total.get("GPU", 0) * self.share))
        job = {**asdict(self.job), "stream": asdict(plan.data), "threads": plan.threads}
        error = fit(job, plan, self.folder.name, experiment.train.max_failures, self._see_all, self._asked_to_stop)
        if not self.ended:
            raise SightlineError(f"training ended without a result: {error}", f"see {self.folder / 'ray'}")

    def _asked_to_stop(self) -> bool:
        return (self.folder / STOP).exists()

    def _see_all(self, events: list[Event]) -> None:
        write_down(self.folder, events)
        for event in events:
            self._see(event)

    def _post(self, event: Event) -> None:
        append_lines(self.folder / EVENTS, [event])
        self._see(event)

    def _see(self, event: Event) -> None:
        if event["kind"] == "validation":
            self.validation = event["losses"]
        elif event["kind"] == "end":
            self.ended = event
        elif event["kind"] == "failed":
            raise RecordedError(event["what"], event["hint"])
        elif event["kind"] == "nonfinite":
            raise SightlineError(f"the loss of step {event['step']} is not finite", f"samples of the group: {', '.join(event['ids'][:8])}")
        elif event["kind"] == "checkpoint" and event["step"] in self.rungs[:-1] and event["step"] not in self.known:
            self._measure(event["step"])

    def _measure(self, step: int) -> None:
        """The last rung is measured after the training has ended, so that its record is whole."""
        start = time.perf_counter()
        if self.objective.startswith("val/"):
            value = self._loss(self.objective.removeprefix("val/"), step)
        else:
            value = measure_probe(self.job.experiment, self.job.checkpoints, step, self.objective)
        self.measuring[str(step)] = time.perf_counter() - start
        self.report(step, value, self.measuring)

    def _last_validation(self, step: int) -> dict[str, float]:
        from sightline.platform.core.files import parse_lines

        if not self.validation:
            with (self.folder / EVENTS).open("rb") as file:
                found = [event for event in parse_lines(file) if event["kind"] == "validation" and event["step"] == step]
            self.validation = found[-1]["losses"]
        return self.validation

    def _loss(self, name: str, step: int) -> float:
        losses = self._last_validation(step)
        if name not in losses:
            raise CallError(f"--objective val/{name}: the validation has no such loss: {nearest(name, list(losses))}")
        return losses[name]


def measure_probe(experiment: config.Experiment, checkpoints: Path, step: int, objective: str) -> float:
    """A probe's metric for the encoder of the checkpoint at `step`. Raises `SightlineError` where the checkpoint is not there any more."""
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
    """What Ray Tune runs. An error of ours is kept in the run's record, since a repetition would bring it again."""
    from ray import tune

    def report(step: int, objective: float, seconds: dict[str, float]) -> None:
        tune.report({"step": step, "objective": objective, "seconds": seconds})

    verify()
    job = Job(**settings["job"])
    if not sees(Path(job.folder), job.token):
        raise SightlineError(
            f"the node {socket.gethostname()} does not see the run's folder {job.folder}",
            "put $SIGHTLINE_HOME on a folder that all nodes share",
        )
    try:
        TrialRun(job, settings["objective"], tuple(settings["rungs"]), frozenset(settings["known"]), report, settings["share"]).run()
    except RecordedError:
        return
    except SightlineError as error:
        append_lines(Path(job.folder) / EVENTS, [{"kind": "failed", "what": str(error), "hint": error.hint}])
