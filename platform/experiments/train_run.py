"""Trains a run on Ray: waits for room on the cluster, and makes attempts until the run ends or somebody stops it."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from importlib import import_module
from pathlib import Path

from sightline.methods.catalog import find_method
from sightline.methods.errors import SightlineError
from sightline.platform.checkpoints import local as checkpoint
from sightline.platform.checkpoints.remote import Storage
from sightline.platform.cluster.placement import ClusterLease, await_room, can_grow, leaving
from sightline.platform.cluster.resources import ResourcePlan, stage_resources
from sightline.platform.cluster.workers import run_workers
from sightline.platform.config import Experiment
from sightline.platform.core.ray_init import start_ray
from sightline.platform.core.screen import Screen
from sightline.platform.data.training_data import recorded_training_data
from sightline.platform.runs.events import (
    ClusterNote,
    NonFiniteLoss,
    Post,
    RunEvent,
    StepsDone,
    StorageNote,
    TeacherCacheNote,
    TeacherCacheProgress,
    TrainingEnded,
    TrainingFailed,
    WorkerStarted,
)
from sightline.platform.runs.identity import identity, mark
from sightline.platform.runs.record import Run, RunStatus
from sightline.platform.tracking.mlflow_run import Tracking
from sightline.platform.training.job import TrainJob

from .progress import RunProgress
from .training_probes import TrainingProbes

GROW_SECONDS = 5.0
"""Between two looks for room for more workers."""


class NextAttempt(StrEnum):
    """Why a run needs another attempt, as a person reads it."""

    MOVED = "a node with workers was told to end: going on elsewhere, from a checkpoint of the last step"
    GROWN = "there is room for more workers: going on with them, from a checkpoint of the last step"
    FEWER = "a worker died: going on from the newest checkpoint with as many as there is room for"
    DIED = "a process that the training needs beside its workers died: going on from the newest checkpoint"


def train_on_ray(run: Run, on_event: Post) -> None:
    """Train `run` to its end, or to an early end by SIGINT or SIGTERM, which leaves a checkpoint. Raises `SightlineError`.

    `on_event` gets every event once, after it is on disk.
    """
    experiment, deaths = run.experiment, 0

    def record(event: RunEvent) -> None:
        run.note([event])
        on_event(event)

    def say(text: str) -> None:
        record(ClusterNote(text))

    storage = Storage.of(experiment, run.folder)
    if storage:
        storage.claim(identity(run.folder))
    if experiment.teacher_cache.variants:
        await_room(experiment, say)[1].release()
    cache = _teacher_cache(experiment, run.folder, on_event, record)
    probes = TrainingProbes(run, on_event)

    def see(event: RunEvent) -> None:
        on_event(event)
        probes.see(event)

    try:
        while True:
            plan, lease = await_room(experiment, say)
            probes.begin(plan)
            run.attempts += 1
            _set_status(run, RunStatus.RUNNING)
            attempt = _Attempt(experiment, plan, lease, see)
            try:
                job = TrainJob(experiment, run.folder, run.fingerprint, teacher_cache=cache, token=mark(run.folder))
                with _stop_on_signal(attempt.stop_asked.set):
                    error = attempt.run(job, f"{run.name}-{run.attempts}")
            finally:
                lease.release()
            newest = _pull(storage, record) if storage else None
            _set_status(run, RunStatus.FAILED)
            ended = attempt.outcome(error, run.folder, may_die=deaths < experiment.train.max_failures)
            if isinstance(ended, TrainingEnded):
                if storage:
                    _check_last(storage, newest, ended.step, run.name)
                _set_status(run, RunStatus.STOPPED if ended.stopped else RunStatus.TRAINED)
            again = attempt.next_attempt(ended)
            if again is None:
                return
            deaths += again in (NextAttempt.DIED, NextAttempt.FEWER)
            say(again)
    finally:
        probes.end()


def is_trained(experiment: Experiment, folder: Path) -> bool:
    """Whether the weights of the last step are in the run's `folder`, whatever its status says."""
    found = checkpoint.newest(folder / "checkpoints")
    data = recorded_training_data(experiment.data, find_method(experiment.method).kind)
    return found is not None and found.state.step >= experiment.clock(data.rows).steps


def train_tracked(run: Run, tracking: Tracking, console: Screen, then: Sequence[str] = ()) -> None:
    """`train_on_ray` on a Ray that is started first, with its progress on the console and its metrics in MLflow.

    `then`: modules that are needed after it; they are imported while the workers train.
    """
    start_ray(hint=f"when the machine is less busy: sightline resume {shlex.quote(run.name)}", beside=_import_trainer)
    tracking.start()
    importer = threading.Thread(target=_import, args=(then,), name="sightline-imports", daemon=True)

    def see(event: RunEvent) -> None:
        if isinstance(event, StepsDone) and importer.ident is None:  # until then the workers need the processors
            importer.start()
        progress.show(event)

    with RunProgress(console) as progress:
        train_on_ray(run, see)


def _import_trainer() -> None:
    """What `run_workers` needs, while the processes of Ray start."""
    _import(("ray.data", "sightline.platform.cluster.deaths", "sightline.platform.cluster.local_group"))


def _import(names: Sequence[str]) -> None:
    for name in names:
        import_module(name)


def _set_status(run: Run, status: RunStatus) -> None:
    run.status = status
    run.save()


class _Attempt:
    """One start of the workers: what the driver learns from them, and why it asks them to end early."""

    def __init__(self, experiment: Experiment, plan: ResourcePlan, lease: ClusterLease, on_event: Post) -> None:
        self.experiment, self.plan, self.lease, self.on_event = experiment, plan, lease, on_event
        self.elastic = experiment.train.least_workers is not None
        self.stop_asked = threading.Event()
        """By a person."""
        self._nodes: dict[int, str] = {}
        """Rank -> node."""
        self._failed: TrainingFailed | None = None
        self._nonfinite: NonFiniteLoss | None = None
        self._ended: TrainingEnded | None = None
        self._reason: NextAttempt | None = None
        """Why the driver asked for an early end."""
        self._looked = time.monotonic()

    def run(self, job: TrainJob, name: str) -> BaseException | None:
        """Train until the workers end. Returns what Ray Train raised, if anything.

        An elastic run has no restarts within Ray Train, which would wait for as many workers as before.
        """
        return run_workers(job, self.plan, name, 0 if self.elastic else self.experiment.train.max_failures, self._see, self._stop)

    def _see(self, event: RunEvent) -> None:
        match event:
            case WorkerStarted(rank=rank, node=node):
                self._nodes[rank] = str(node)
                self.lease.release()
            case TrainingFailed():
                self._failed = self._failed or event
            case NonFiniteLoss():
                self._nonfinite = self._nonfinite or event
            case TrainingEnded():
                self._ended = self._ended or event
        self.on_event(event)

    def _stop(self) -> bool:
        if not leaving().isdisjoint(self._nodes.values()):
            self._reason = NextAttempt.MOVED
        elif self.elastic and len(self._nodes) == self.plan.workers and time.monotonic() - self._looked > GROW_SECONDS:
            self._looked = time.monotonic()
            self._reason = NextAttempt.GROWN if can_grow(self.experiment, self.plan, self._nodes.values()) else None
        return self.stop_asked.is_set() or self._reason is not None

    def outcome(self, error: BaseException | None, folder: Path, may_die: bool) -> TrainingEnded | NextAttempt:
        """How the attempt ended; where workers died and `may_die`, why the next one is needed. Raises `SightlineError`."""
        from sightline.platform.cluster.deaths import describe_end, is_death

        if self._failed:
            raise SightlineError(self._failed.what, self._failed.hint)
        if self._nonfinite:
            raise nonfinite_error(self._nonfinite)
        if self._ended:
            return self._ended
        if may_die and is_death(error):
            return NextAttempt.DIED
        if may_die and self.elastic and not self.stop_asked.is_set():
            return NextAttempt.FEWER
        again = f"go on from the newest checkpoint with `sightline resume {folder.name}`"
        if killed := describe_end(error):
            raise SightlineError(f"no attempt is left (train.max_failures={self.experiment.train.max_failures}): {killed}", again)
        raise SightlineError(f"training ended without a result: {error}", f"see {folder / 'ray'}; {again}")

    def next_attempt(self, outcome: TrainingEnded | NextAttempt) -> NextAttempt | None:
        """Why the run goes on after this attempt; None at its end, or where a person stopped it."""
        if isinstance(outcome, NextAttempt):
            return outcome
        return self._reason if outcome.stopped and not self.stop_asked.is_set() else None


def nonfinite_error(event: NonFiniteLoss) -> SightlineError:
    return SightlineError(
        f"the loss of step {event.step} is not finite; the update was not applied. Samples of the microbatch: {', '.join(event.ids[:8])}",
        "look at these samples with `sightline inspect`, lower optim.base_lr, or use train.precision=fp32",
    )


def _pull(storage: Storage, record: Post) -> checkpoint.Checkpoint | None:
    """The newest checkpoint, which is then on this node; None where the storage does not answer and there is none here."""
    try:
        return storage.pull(lambda text: record(StorageNote(text)))
    except SightlineError as problem:
        record(StorageNote(str(problem)))
        return None


def _check_last(storage: Storage, newest: checkpoint.Checkpoint | None, step: int, name: str) -> None:
    """Raises `SightlineError` where the last checkpoint of the training is not on this node."""
    if newest is None or newest.state.step < step:
        raise SightlineError(
            f"the checkpoint of step {step} is neither in {storage} nor on this node, only on that which trained",
            f"when the storage answers again: `sightline resume {name}`",
        )


def _teacher_cache(experiment: Experiment, folder: Path, on_event: Post, record: Post) -> str | None:
    """Where the finished cache of the run's samples lies; None where its settings ask for none. Ctrl-C keeps the samples that are done."""
    if not experiment.teacher_cache.variants:
        return None
    import ray

    from .teacher_cache import cache_of_run

    total = ray.cluster_resources()  # type: ignore[no-untyped-call]
    try:
        return cache_of_run(
            experiment,
            folder,
            stage_resources(total.get("CPU", 0), int(total.get("GPU", 0)) if experiment.train.device != "cpu" else 0),
            lambda done, total: on_event(TeacherCacheProgress(done, total)),
            lambda text: record(TeacherCacheNote(text)),
        ).uri
    except KeyboardInterrupt:
        record(TeacherCacheNote(f"stopped; what is in the teacher cache is kept; go on with: sightline resume {folder.name}"))
        raise


@contextlib.contextmanager
def _stop_on_signal(ask: Callable[[], None]) -> Iterator[None]:
    """The first SIGINT or SIGTERM calls `ask`, for an early end with a checkpoint; a second one acts as it always does."""
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def on_signal(number: int, frame: object) -> None:
        restore()
        os.write(2, b"\nstopping after this step, with a checkpoint; once more stops at once\n")
        ask()

    if threading.current_thread() is threading.main_thread():
        for number in previous:
            signal.signal(number, on_signal)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            restore()
