"""The workers of one attempt on Ray Train, and what goes between them and the driver: events, and the wish for an early end."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from sightline.methods.errors import SightlineError
from sightline.platform.core.files import append_lines
from sightline.platform.data.loader.stream import StreamResources
from sightline.platform.runs.events import EVENTS, NOTICES, Event

from .resources import ResourcePlan
from .shared_fs import folder_here

POLL_SECONDS = 0.5
LAST_SECONDS = 30.0
"""That workers have for their last checkpoint, where what watches them has failed."""


def fit(
    job: dict[str, Any], plan: ResourcePlan, name: str, restarts: int, see: Callable[[list[Event]], None], stop: Callable[[], bool]
) -> BaseException | None:
    """Train on the workers of Ray Train until they end, early where `stop` says so. `see` gets the events as they come in, for
    `write_down`. Returns what Ray Train raised, if anything."""
    import ray

    # On the driver's node, as Ray Train's own controller: the end of another node must not take it along.
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    recorder: Any = ray.remote(num_cpus=0, label_selector=here)(_Recorder).remote()
    running, asked = _Fit(name, Path(job["folder"]) / "ray", plan, {"job": job, "recorder": recorder}, restarts), False
    running.start()
    try:
        while running.is_alive():
            running.join(POLL_SECONDS)
            if not asked and stop():
                recorder.ask_stop.remote()
                asked = True
            see(ray.get(recorder.drain.remote()))
        see(ray.get(recorder.drain.remote()))
    except BaseException:
        recorder.ask_stop.remote()
        running.join(LAST_SECONDS)
        raise
    finally:
        _give_back(recorder)
        ray.kill(recorder)
    return running.error


def _give_back(recorder: Any) -> None:
    """The workers' places, which a dead controller leaves taken: what Ray Train has to clean up after it asks a dashboard, and there may
    be none."""
    import ray

    with contextlib.suppress(ray.exceptions.RayError):
        for group in ray.get(recorder.placed.remote()):
            ray.util.remove_placement_group(group)


class _Fit(threading.Thread):
    """`TorchTrainer.fit` in a thread of its own: the main thread keeps the signals and the screen."""

    def __init__(self, run: str, storage: Path, plan: ResourcePlan, config: dict[str, Any], restarts: int) -> None:
        super().__init__(name="sightline-fit", daemon=True)
        self.run_name, self.storage, self.plan, self.config, self.restarts = run, storage, plan, config, restarts
        self.error: BaseException | None = None

    def run(self) -> None:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        plan = self.plan
        resources: dict[str, float] = {"CPU": plan.worker_cpus}
        if plan.worker_gpus:
            resources["GPU"] = plan.worker_gpus
        try:
            TorchTrainer(
                _worker,
                train_loop_config=self.config,
                torch_config=TorchConfig(backend="nccl" if plan.worker_gpus else "gloo", timeout_s=1800),
                scaling_config=ScalingConfig(
                    num_workers=plan.workers,
                    use_gpu=bool(plan.worker_gpus),
                    resources_per_worker=resources,
                    # Fractions of CPUs would all be packed on one node; GPUs of one node talk faster to each other.
                    placement_strategy="PACK" if plan.worker_gpus else "SPREAD",
                ),
                run_config=RunConfig(
                    name=f"{self.run_name}-{int(time.time())}",  # Ray silently continues a run of the same name
                    storage_path=str(self.storage),
                    # Ray Train would ask for workers that find no place again and again.
                    failure_config=FailureConfig(
                        max_failures=self.restarts,
                        controller_failure_limit=-1 if self.restarts else 0,  # type: ignore[call-arg]  # of Train V2
                    ),
                ),
            ).fit()
        except BaseException as error:
            self.error = error


class _Recorder:
    """An actor between workers and driver: takes events, tells workers to stop. Holds nothing that must outlive the driver."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.stop = False
        self.failed = False
        self.groups: list[Any] = []

    def place(self, group: Any) -> None:
        self.groups.append(group)

    def placed(self) -> list[Any]:
        """Placement groups in which workers have stood."""
        return self.groups

    def post(self, event: Event) -> None:
        self.events.append(event)
        self.failed = self.failed or event["kind"] in ("failed", "nonfinite")

    def drain(self) -> list[Event]:
        events, self.events = self.events, []
        return events

    def ask_stop(self) -> None:
        self.stop = True

    def stopping(self) -> bool:
        return self.stop

    def has_failed(self) -> bool:
        return self.failed


def _worker(config: dict[str, Any]) -> None:
    """The Ray Train function: `train` with a line to the recorder. An error that a restart cannot fix ends the run."""
    import ray

    from sightline.methods import collective
    from sightline.platform.training.loop import Job, train

    from .code_wheel import verify

    verify()

    recorder = config["recorder"]
    if ray.get(recorder.has_failed.remote()):
        return  # the attempt after a failure that no restart mends
    if collective.rank() == 0:
        recorder.place.remote(ray.util.get_current_placement_group())
    job = Job(**{**config["job"], "stream": StreamResources(**config["job"]["stream"])})
    lead, shared = collective.rank() == 0, Path(job.folder)
    asked: list[Any] = []

    def post(event: Event) -> None:
        if event["kind"] == "worker":
            event = {**event, "node": ray.get_runtime_context().get_node_id()}
        # Rank 0 writes its own record where it can: a driver that is killed must not take along what a checkpoint already holds.
        here = lead and folder == shared
        if here:
            append_lines(folder / EVENTS, [event])
        recorder.post.remote({**event, "record": None if here else EVENTS if lead else NOTICES})

    def stop() -> bool:
        if not asked:
            asked.append(recorder.stopping.remote())
        done, _ = ray.wait(asked, timeout=0)
        return bool(ray.get(asked.pop())) if done else False

    try:
        folder = folder_here(shared, job.token, job.experiment)
        train(replace(job, folder=str(folder)), post, stop)
    except Exception as error:
        if failure := _no_restart_mends(error):
            ray.get(recorder.post.remote({"kind": "failed", "what": str(failure), "hint": failure.hint}))
        raise


def _no_restart_mends(error: BaseException) -> SightlineError | None:
    """The error as one for a person, where another attempt would only repeat it.

    The death of another worker reaches this one as a RuntimeError of the collective or of Ray: a restart mends that.
    """
    import ray

    if isinstance(error, SightlineError):
        return error
    if isinstance(error, (RuntimeError, ConnectionError, ray.exceptions.RayError)):
        return None
    return SightlineError(f"{type(error).__name__}: {error}", "this is a fault of the code; please report it")
