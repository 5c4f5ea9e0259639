"""Probes of checkpoints while a run trains (`probe.every`): a Ray task beside it, on the CPU that the resource plan keeps for probes.

Training never waits for one: at most one runs, and a checkpoint that is due meanwhile is passed over and counted. Ray Train's own
validation (`ValidationConfig`) queues every checkpoint, waits for all of them at the end, keeps its state in files that are never read
back here, and goes with one attempt; these probes outlive an attempt, and what they found is a record of the run.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sightline.methods.catalog import find_method
from sightline.methods.contract import HasControlMetrics, HasPredictor
from sightline.methods.errors import first_line
from sightline.platform import config
from sightline.platform.checkpoints import local as checkpoint
from sightline.platform.checkpoints.links import LINKS, clear, link_checkpoint
from sightline.platform.checkpoints.remote import Storage
from sightline.platform.checkpoints.retention import Retention, prune
from sightline.platform.cluster.resources import ResourcePlan
from sightline.platform.config import Experiment
from sightline.platform.core.event_log import append_events
from sightline.platform.core.files import read_record
from sightline.platform.core.screen import Screen
from sightline.platform.data.training_data import recorded_training_data
from sightline.platform.runs.events import (
    PROBES,
    CheckpointWritten,
    ClusterNote,
    Post,
    ProbesMeasured,
    ProbesMissed,
    RunEvent,
    TrainingEnded,
)
from sightline.platform.runs.record import Run

LAST_PROBES_SECONDS = 300.0
"""For the probes that are running when the training has ended."""
UPLOAD_SECONDS = 60.0
"""For a checkpoint to come to `train.storage`."""
STOP_SECONDS = 30.0
"""For Ray to stop them."""
NICE = 19
"""The lowest; Ray starts its processes at 15."""
CORES_A_THREAD = 8
"""Of the machine's: probes compute with one thread for so many."""


@dataclass(frozen=True)
class ProbeTask:
    """What a task measures. It travels between processes as `to_values`."""

    experiment: Experiment
    folder: Path
    """The run's."""
    metric_names: int
    """See `runs.record.METRIC_NAMES`."""
    step: int
    random: bool
    """Whether networks with random weights are measured, too."""

    def to_values(self) -> dict[str, Any]:
        values = {"recipe": self.experiment.recipe, "settings": self.experiment.sections(), "folder": str(self.folder)}
        return {**values, "metric_names": self.metric_names, "step": self.step, "random": self.random}

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> ProbeTask:
        """The task that `to_values` gave."""
        experiment = config.load(values["recipe"], settings=values["settings"])
        return cls(experiment, Path(values["folder"]), values["metric_names"], values["step"], values["random"])


def measure(task: ProbeTask, device: str = "cpu") -> ProbesMeasured:
    """What the weights in `LINKS` of the run's folder are worth. Raises `SightlineError`."""
    import torch

    from sightline.platform.evaluation.findings import flat_intervals
    from sightline.platform.evaluation.results import ProbeResult, SkippedProbe
    from sightline.platform.training.stage import make_stage, stage_maker

    from .finish import CONTROLS, TrainedModel, measure_method, measure_probes, method_intervals

    began, quiet = time.perf_counter(), Screen(quiet=True)
    found = checkpoint.newest(task.folder / LINKS)
    if found is None or found.state.step != task.step:
        raise FileNotFoundError(f"{socket.gethostname()} does not see the weights of step {task.step} in {task.folder}")
    model = TrainedModel.of(task.experiment, found, torch.device(device), None)
    if isinstance(model.pretext, HasPredictor | HasControlMetrics) and stage_maker(task.experiment, task.folder):
        model = replace(model, stage=make_stage(task.experiment, task.folder))
    probes = measure_probes(model, quiet, task.experiment.probe.during, CONTROLS if task.random else ())
    metrics = {**method_intervals(measure_method(model, quiet), task.metric_names), **flat_intervals(probes)}
    measured = {name: one for name, one in probes.items() if isinstance(one, ProbeResult)}
    encoders = {f"probe/{name}/{key}" for name, one in measured.items() for key in one.main_metrics}
    own = {name: one for name, one in metrics.items() if name in encoders or not name.startswith("probe/")}
    return ProbesMeasured(
        step=task.step,
        values={name: one.value for name, one in own.items()},
        low={name: one.low for name, one in own.items() if one.has_ends},
        high={name: one.high for name, one in own.items() if one.has_ends},
        baselines={name: one.value for name, one in metrics.items() if name not in own},
        skipped={name: one.reason for name, one in probes.items() if isinstance(one, SkippedProbe)},
        seconds=time.perf_counter() - began,
    )


def give_way() -> None:
    """Let this thread, and those that it starts, use only the CPU and disk that others leave.

    Between two niced processes of Ray's niceness is hardly a difference: at 19 beside 15 a probe had 29 % of a shared core. Idle
    scheduling (Linux) leaves it 8 %. The threads by which Ray hears of this process were there before and stay as they are.
    """
    import psutil

    os.nice(NICE)  # no more than 19 counts
    with contextlib.suppress(AttributeError, OSError):  # another system, or one that forbids it
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    with contextlib.suppress(AttributeError, OSError, psutil.Error):
        psutil.Process().ionice(psutil.IOPRIO_CLASS_IDLE)


def _task(values: dict[str, Any], threads: int) -> ProbesMeasured:
    """The function that Ray runs, in a process that ends with it."""
    import ray
    import torch

    from sightline.platform.cluster.code_wheel import verify

    verify()
    give_way()
    torch.set_num_threads(threads)
    return measure(ProbeTask.from_values(values), "cuda" if ray.get_gpu_ids() else "cpu")


class TrainingProbes:
    """Probes the checkpoints of a run from `begin` to `end`. `see` is called with each event of the training."""

    def __init__(self, run: Run, on_event: Post) -> None:
        self.run, self.on_event = run, on_event
        self.plan: ResourcePlan | None = None
        self.every = 0
        """Steps; 0 for never."""
        self._thread = threading.Thread()
        self._step = 0
        """Of the checkpoint that is being measured."""
        self._task: Any = None
        """Reference of the task, when it is submitted."""
        self._trained = self._ending = False
        clear(run.folder)  # of a driver that was killed
        if run.experiment.probe.every is None:
            return
        clock = run.experiment.clock(recorded_training_data(run.experiment.data, find_method(run.experiment.method).kind).rows)
        self.every, self.last_step = max(1, round(clock.in_steps(run.experiment.probe.every))), clock.steps
        measured = [event for event in run.events() if isinstance(event, ProbesMeasured)]
        self.seen = max((event.step for event in measured), default=0)
        """The newest checkpoint that was measured, or passed over in this process."""
        self.random = not any("/random_" in name for event in measured for name in event.baselines)
        """Whether random weights are still to be measured."""

    def begin(self, plan: ResourcePlan) -> None:
        """Use the resources that the next attempt leaves, and measure the newest checkpoint where that is missing."""
        first, self.plan = self.plan is None, plan
        if self.every and first and (found := next(checkpoint.checkpoints(self.run.folder / "checkpoints"), None)):
            self._consider(found.state.step, found.path)

    def see(self, event: RunEvent) -> None:
        match event:
            case CheckpointWritten(step=step, path=path) if self.every:
                self._consider(step, Path(path))
            case TrainingEnded(stopped=stopped):
                self._trained = not stopped

    def end(self) -> None:
        """However the training ended. Wait for the probes that are running where it reached its last step; else stop them."""
        if self._trained and self._thread.is_alive():
            self.on_event(ClusterNote(f"waiting for the probes of step {self._step}"))
            self._thread.join(LAST_PROBES_SECONDS)
        self._ending = True
        if self._thread.is_alive():
            import ray

            if self._task is not None:
                ray.cancel(self._task, force=True)
            self._thread.join(STOP_SECONDS)

    def _consider(self, step: int, path: Path) -> None:
        """The last step is measured after the training, with everything else."""
        if step // self.every <= self.seen // self.every or step >= self.last_step:
            return
        self.seen = step
        if self._thread.is_alive():
            self._record(ProbesMissed(step=step, reason=f"the probes of step {self._step} were still running", late=True))
            return
        self._step = step
        self._thread = threading.Thread(target=self._measure, args=(step, path), name="sightline-probes", daemon=True)
        self._thread.start()

    def _measure(self, step: int, path: Path) -> None:
        import ray

        event: RunEvent
        try:
            here = self.run.folder / "checkpoints" / path.name
            fetched = not here.exists() and self._fetch(here)
            linked = link_checkpoint(here, self.run.folder / LINKS)
            if fetched:
                shutil.rmtree(here)
            task = ProbeTask(self.run.experiment, self.run.folder, self.run.metric_names, step, self.random)
            self._task = self._submit(task)
            event = found = ray.get(self._task)
            self.random = False
            self.every = self.every if found.values else 0  # the data allow nothing, and will not
            self._keep(here, linked, found.values)
        except Exception as error:  # whatever it is, training goes on
            event = ProbesMissed(step=step, reason=reason_of(error), late=False)
        clear(self.run.folder)
        if not self._ending:
            self._record(event)
        self._task = None

    def _fetch(self, path: Path) -> bool:
        """Download the checkpoint from `train.storage` to `path`, where nodes share no folder. Whether it came there."""
        storage = Storage.of(self.run.experiment, self.run.folder)
        limit = time.monotonic() + UPLOAD_SECONDS
        while storage and not self._ending and time.monotonic() < limit:
            storage.fetch(f"checkpoints/{path.name}/{checkpoint.COMPLETE}")  # is uploaded last
            if (path / checkpoint.COMPLETE).exists():
                for file in read_record(path / checkpoint.COMPLETE)["files"]:
                    storage.fetch(f"checkpoints/{path.name}/{file}")
                return True
            time.sleep(1)
        return False

    def _keep(self, path: Path, linked: Path, metrics: Mapping[str, float]) -> None:
        """Note the metrics at the checkpoint. By `train.keep_best` it stays; where it is not there (any more), it is put back."""
        retention = Retention.of(self.run.experiment)
        best = retention.is_best(metrics, path.parent)
        try:
            checkpoint.annotate(path, metrics)
        except FileNotFoundError:
            if best:
                checkpoint.annotate(linked, metrics)
                linked.rename(path)
                prune(path.parent, retention)

    def _submit(self, task: ProbeTask) -> Any:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        assert self.plan is not None
        cores = len(os.sched_getaffinity(0))
        here = ray.get_runtime_context().get_node_id()
        # On the driver's node, which has the folder; where that has no room, on any that sees it.
        place = NodeAffinitySchedulingStrategy(here, soft=True, _spill_on_unavailable=True)
        needs: dict[str, Any] = {"num_cpus": self.plan.reserve, "num_gpus": self.plan.probe_gpus, "scheduling_strategy": place}
        remote: Any = ray.remote(max_retries=0, max_calls=1, **needs)
        return remote(_task).remote(task.to_values(), max(1, cores // CORES_A_THREAD))

    def _record(self, event: RunEvent) -> None:
        append_events(self.run.folder / PROBES, [event])
        self.on_event(event)


def reason_of(error: Exception) -> str:
    """Why probes failed, in one line."""
    import ray

    if isinstance(error, ray.exceptions.RayTaskError):
        error = error.cause if isinstance(error.cause, Exception) else error
    if isinstance(error, FileNotFoundError):
        return f"the checkpoint is not there, or not on this node: {error}"
    if isinstance(error, ray.exceptions.OutOfMemoryError):
        return "the node ran out of memory"
    if isinstance(error, ray.exceptions.WorkerCrashedError):
        return "its process died, perhaps because memory ran out"
    return f"{type(error).__name__}: {first_line(error)}"
