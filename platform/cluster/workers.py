"""The workers of one attempt on Ray Train, and what they exchange with the driver: events, and the request for an early end."""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sightline.methods.errors import MachineError, SightlineError
from sightline.platform.config.schema import TrainConfig
from sightline.platform.core.event_log import append_events
from sightline.platform.core.files import trouble
from sightline.platform.core.scratch import scratch_folder
from sightline.platform.runs.events import (
    EVENTS,
    NOTICES,
    ClusterNote,
    NonFiniteLoss,
    RunEvent,
    TrainingEnded,
    TrainingFailed,
    WorkerStarted,
)
from sightline.platform.training.job import TrainJob

from . import watchdog
from .resources import ResourcePlan
from .shared_fs import folder_here

if TYPE_CHECKING:
    import ray.data
    from ray.actor import ActorHandle
    from ray.util.placement_group import PlacementGroup

    from sightline.platform.training.saving import Publication

MEETING = "group"
"""Purpose of the temporary folder where workers of this machine meet."""
POLL_SECONDS = 0.5
LAST_CHECKPOINT_SECONDS = 60.0
"""For the workers to write the checkpoint that is under way and their last one, where the driver has failed."""


class Posted(NamedTuple):
    """An event on its way to the driver."""

    event: RunEvent
    file: str | None
    """The file of the run's folder that the driver writes it to; None where the worker has written it."""


@dataclass(frozen=True)
class _Unshown:
    """Values for the workers that the dashboard does not show: addresses of data may hold a password."""

    values: dict[str, Any]

    def __repr__(self) -> str:
        return "as in run.json"


def run_workers(
    job: TrainJob, plan: ResourcePlan, name: str, max_failures: int, on_event: Callable[[RunEvent], None], stop: Callable[[], bool]
) -> BaseException | None:
    """Train on the workers of Ray Train until they end, early where `stop` says so. Returns what Ray Train raised, if anything.

    `on_event` gets each event once, after it is on disk. `name`: of this attempt, for Ray Train.
    """
    import ray

    from sightline.platform.training.inputs import ray_datasets

    try:
        datasets = ray_datasets(job, plan.data)
    except SightlineError as error:  # another attempt would only repeat it
        failed = TrainingFailed(str(error), error.hint)
        append_events(job.folder / NOTICES, [failed])
        on_event(failed)
        return error
    # On the driver's node, like Ray Train's own controller: the end of another node must not end it.
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    actor: Any = ray.remote(num_cpus=0, label_selector=here)(_Recorder)
    recorder: ActorHandle[_Recorder] = actor.options(name=f"{name}-events-{uuid.uuid4().hex[:8]}").remote()
    job = replace(job, stream=plan.data, threads=plan.threads)
    train = job.experiment.train
    timeout = train.stall_timeout
    config = {"settings": job.experiment.flat(), "job": _Unshown(job.to_values()), "recorder": recorder}
    trainer = _Trainer(name, job.folder / "ray", plan, train, config, datasets, max_failures)

    def drain() -> None:
        posted: list[Posted] = ray.get(recorder.drain.remote())
        for file in (EVENTS, NOTICES):
            append_events(job.folder / file, [one.event for one in posted if one.file == file])
        for one in posted:
            on_event(one.event)

    def look_for_stalled() -> None:
        stalled: list[watchdog.Sign] = ray.get(recorder.stalled.remote(timeout))
        if stalled:
            note = ClusterNote(watchdog.describe(stalled, timeout))
            append_events(job.folder / NOTICES, [note])
            on_event(note)
            watchdog.end(stalled)

    asked = False
    trainer.start()
    try:
        while trainer.is_alive():
            trainer.join(POLL_SECONDS)
            if not asked and stop():
                recorder.ask_stop.remote()
                asked = True
            drain()
            look_for_stalled()
        drain()
    except (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError) as error:
        trainer.join()  # without the recorder, workers end at their next step
        return error
    except BaseException:
        recorder.ask_stop.remote()
        trainer.join(LAST_CHECKPOINT_SECONDS)
        raise
    finally:
        _remove_placement_groups(recorder)
        ray.kill(recorder)
    return trainer.error


def _remove_placement_groups(recorder: ActorHandle[_Recorder]) -> None:
    """Free the workers' resources. After the death of its controller Ray Train frees them only where there is a dashboard to ask."""
    import ray

    with contextlib.suppress(ray.exceptions.RayError):
        groups: list[PlacementGroup] = ray.get(recorder.placed.remote())
        for group in groups:
            ray.util.remove_placement_group(group)


class _Trainer(threading.Thread):
    """`TorchTrainer.fit` in its own thread: the main thread keeps the signals and the screen."""

    def __init__(
        self,
        run: str,
        storage: Path,
        plan: ResourcePlan,
        train: TrainConfig,
        config: dict[str, Any],
        datasets: dict[str, ray.data.Dataset],
        max_failures: int,
    ) -> None:
        super().__init__(name="sightline-fit", daemon=True)
        self.run_name, self.storage, self.plan, self.train, self.config = run, storage, plan, train, config
        self.datasets, self.max_failures = datasets, max_failures
        self.collective_timeout = max(1800, int(train.stall_timeout) + 60)  # seconds; the watchdog is to come first
        self.error: BaseException | None = None

    def run(self) -> None:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        from .deaths import Deaths
        from .local_group import LocalTorchConfig, LocalTorchTrainer, on_this_machine

        plan, train = self.plan, self.train
        resources: dict[str, float] = {"CPU": plan.worker_cpus, **train.resources}
        if plan.worker_gpus:
            resources["GPU"] = plan.worker_gpus
        group: dict[str, Any] = {"backend": "nccl" if plan.worker_gpus else "gloo", "timeout_s": self.collective_timeout}
        local = on_this_machine()
        try:
            self.storage.mkdir(parents=True, exist_ok=True)
            with scratch_folder(MEETING) as meeting:
                (LocalTorchTrainer if local else TorchTrainer)(
                    _worker,
                    train_loop_config=self.config,
                    datasets=self.datasets,  # type: ignore[arg-type]  # a dict is invariant
                    torch_config=LocalTorchConfig(**group, folder=str(meeting)) if local else TorchConfig(**group),
                    scaling_config=ScalingConfig(
                        num_workers=plan.workers,
                        use_gpu=bool(plan.worker_gpus),
                        resources_per_worker=resources,
                        accelerator_type=train.accelerator_type,
                        label_selector=dict(train.labels) or None,  # type: ignore[call-arg]  # of Train V2
                        # Fractions of CPUs would all be packed on one node; GPUs of one node communicate faster.
                        placement_strategy="PACK" if plan.worker_gpus else "SPREAD",
                    ),
                    run_config=RunConfig(
                        name=f"{self.run_name}-{uuid.uuid4().hex[:8]}",  # Ray silently continues a run of the same name
                        storage_path=str(self.storage),
                        callbacks=[Deaths(self.config["recorder"])],  # type: ignore[list-item]  # of Train V2
                        # Ray Train would ask for workers that find no place again and again.
                        failure_config=FailureConfig(
                            max_failures=self.max_failures,
                            controller_failure_limit=-1 if self.max_failures else 0,  # type: ignore[call-arg]  # of Train V2
                        ),
                    ),
                ).fit()
        except BaseException as error:
            self.error = error


class _Recorder:
    """An actor between workers and driver: takes events, and tells workers to stop. It holds nothing that must outlive the driver."""

    def __init__(self) -> None:
        self.events: list[Posted] = []
        self.stop = False
        self.failed = False
        self.groups: list[PlacementGroup] = []
        self.signs = watchdog.Signs()

    def sign(self, rank: int, pid: int, host: str, node: str, where: str, moved: bool) -> None:
        self.signs.take(rank, pid, host, node, where, moved)

    def forget(self, rank: int, pid: int) -> None:
        self.signs.forget(rank, pid)

    def stalled(self, timeout: float) -> list[watchdog.Sign]:
        return self.signs.stalled(timeout)

    def place(self, group: PlacementGroup) -> None:
        self.groups.append(group)

    def placed(self) -> list[PlacementGroup]:
        """The placement groups that workers have run in."""
        return self.groups

    def post(self, event: RunEvent, file: str | None) -> None:
        self.events.append(Posted(event, file))
        self.failed = self.failed or isinstance(event, TrainingFailed | NonFiniteLoss)

    def drain(self) -> list[Posted]:
        events, self.events = self.events, []
        return events

    def ask_stop(self) -> None:
        self.stop = True

    def stopping(self) -> bool:
        return self.stop

    def has_failed(self) -> bool:
        return self.failed


def _worker(config: dict[str, Any]) -> None:
    """The function that Ray Train runs on each worker. Errors that another attempt would repeat are posted, and end the run."""
    import ray

    from sightline.methods import collective
    from sightline.platform.core import rare_collections
    from sightline.platform.training.loop import train

    from .code_wheel import verify
    from .placement import fitting
    from .train_report import report

    verify()
    rare_collections.loaded()

    recorder: ActorHandle[_Recorder] = config["recorder"]
    try:
        if ray.get(recorder.has_failed.remote()):
            return  # Ray Train's next attempt after an error that another attempt would repeat
    except ray.exceptions.RayActorError:
        return  # nobody takes events any more: the driver makes another attempt
    lead = collective.rank() == 0
    if lead:
        recorder.place.remote(ray.util.get_current_placement_group())
    job = TrainJob.from_values(config["job"].values)
    node = ray.get_runtime_context().get_node_id()
    pulse = watchdog.Pulse(collective.rank(), recorder, node)
    pulse.start()
    shared = job.folder
    asked: list[ray.ObjectRef[bool]] = []

    def post(event: RunEvent) -> None:
        if isinstance(event, WorkerStarted):
            event = WorkerStarted(event.rank, event.pid, event.host, node)
        if isinstance(event, TrainingEnded):
            pulse.end()  # an upload of the last checkpoint may take its time
        # Rank 0 writes its events where it sees the folder: a driver that is killed must not lose what a checkpoint already holds.
        written = lead and job.folder == shared
        if written:
            append_events(job.folder / EVENTS, [event])
        recorder.post.remote(event, None if written else EVENTS if lead else NOTICES)

    def stop() -> bool:
        if not asked:
            asked.append(recorder.stopping.remote())
        done, _ = ray.wait(asked, timeout=0)
        return bool(ray.get(asked.pop())) if done else False

    def publish(publication: Publication) -> None:
        report(publication, job.folder == shared)

    try:
        job = replace(job, folder=folder_here(shared, job.token, job.experiment.train.storage), stream=job.stream and fitting(job.stream))
        train(job, post, stop, publish)
    except Exception as error:
        if failure := _permanent_failure(error):
            ray.get(recorder.post.remote(TrainingFailed(str(failure), failure.hint), NOTICES))
        raise
    finally:
        pulse.end()


def _permanent_failure(error: BaseException) -> SightlineError | None:
    """The error as one for a person, where another attempt would only repeat it; else None.

    The death of another worker reaches this one as a RuntimeError of the collective or of Ray: another attempt can succeed. So it can where
    memory was short.
    """
    import ray

    if isinstance(error, SightlineError):
        return error
    if isinstance(error, (RuntimeError, ConnectionError, MemoryError, ray.exceptions.RayError)):
        return None
    if problem := trouble(error):
        return MachineError(f"{problem[0]}: {error}", f"{problem[1]}, then continue with `sightline resume RUN`")
    return SightlineError(f"{type(error).__name__}: {error}", "this is a fault of the code; please report it")
