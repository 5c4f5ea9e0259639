"""Carries a run out on Ray: resources, Ray Train, restarts, and the line between the workers and the driver."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sightline.methods.errors import SightlineError

from .cluster import Turn, await_room, leaving
from .data.stream import StreamResources
from .events import Event
from .resources import ResourcePlan, stage_resources
from .runs import EVENTS, Run, append_lines

POLL_SECONDS = 0.5
LAST_SECONDS = 30.0
"""That workers have for their last checkpoint, where what watches them has failed."""
MOVED = "a node with workers was told to end: going on elsewhere, from a checkpoint of the last step"
DIED = "Ray Train's controller died: going on from the newest checkpoint"
OBJECT_STORE_SHARE = 0.2
MOST_OBJECT_STORE = 8 << 30


def start_ray(cpus: int | None = None) -> None:
    """Join the cluster that the environment names (`RAY_ADDRESS`, a Ray job), else start one on this machine, on loopback alone."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")  # a busy machine needs more than the default 30 s
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    if ray.is_initialized():
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if os.environ.get("RAY_ADDRESS"):
        ray.init(**quiet)
        return
    import psutil

    store = int(min(psutil.virtual_memory().total * OBJECT_STORE_SHARE, MOST_OBJECT_STORE))
    with contextlib.suppress(OSError):
        store = min(store, int(os.statvfs("/dev/shm").f_bavail * os.statvfs("/dev/shm").f_frsize * 0.9))
    ray.init(
        num_cpus=cpus or len(os.sched_getaffinity(0)),
        include_dashboard=False,
        object_store_memory=max(store, 256 << 20),
        _node_ip_address="127.0.0.1",
        **quiet,
    )


class _Recorder:
    """An actor between workers and driver: takes events, tells workers to stop. Holds nothing that must outlive the driver."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.stop = False
        self.failed = False

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
    """The Ray Train function: `train` with a line to the recorder. An error that a restart cannot mend ends the run."""
    import ray

    from sightline.methods import collective

    from .shipment import verify
    from .train import Job, train

    verify()

    recorder = config["recorder"]
    if ray.get(recorder.has_failed.remote()):
        return  # the attempt after a failure that no restart mends
    job = Job(**{**config["job"], "stream": StreamResources(**config["job"]["stream"])})
    lead = collective.rank() == 0
    asked: list[Any] = []

    def post(event: Event) -> None:
        if event["kind"] == "worker":
            event = {**event, "node": ray.get_runtime_context().get_node_id()}
        # Rank 0 writes its own record: a driver that is killed must not take along what a checkpoint already holds.
        if lead:
            append_lines(Path(job.folder) / EVENTS, [event])
        recorder.post.remote({**event, "recorded": lead})

    def stop() -> bool:
        if not asked:
            asked.append(recorder.stopping.remote())
        done, _ = ray.wait(asked, timeout=0)
        return bool(ray.get(asked.pop())) if done else False

    try:
        train(job, post, stop)
    except Exception as error:
        if failure := _no_restart_mends(error):
            ray.get(recorder.post.remote({"kind": "failed", "what": str(failure), "mend": failure.mend}))
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


def carry_out(run: Run, on_event: Callable[[Event], None]) -> None:
    """Train `run` to its end, or to an early end by SIGINT or SIGTERM, which leaves a checkpoint. Raises `SightlineError`.

    `on_event` sees every event once, after it is on disk.
    """

    def say(text: str, kind: str = "cluster") -> None:
        event = {"kind": kind, "text": text}
        run.note([event])
        on_event(event)

    if run.experiment.teacher_cache.variants:
        await_room(run.experiment, say)[1].give()
    cache, again, deaths = _teacher_cache(run, on_event, say), "", 0
    while True:
        plan, turn = await_room(run.experiment, say)
        try:
            again = _attempt(run, plan, turn, cache, on_event, deaths < run.experiment.train.max_failures)
        finally:
            turn.give()
        if not again:
            return
        deaths += again == DIED
        say(again)


def _attempt(run: Run, plan: ResourcePlan, turn: Turn, cache: str | None, on_event: Callable[[Event], None], may_die: bool) -> str:
    """Train until the end or until somebody stops the run: empty. Else why the run goes on: `MOVED`, or `DIED` where that may be."""
    import ray

    run.attempts += 1
    run.status = "running"
    run.save()
    job = {
        "recipe": run.recipe,
        "settings": run.settings,
        "folder": str(run.folder),
        "fingerprint": run.fingerprint,
        "stream": asdict(plan.data),
        "threads": plan.threads,
        "teacher_cache": cache,
    }
    outcome: dict[str, Any] = {}
    where: dict[int, str] = {}

    def see(events: list[Event]) -> None:
        run.note([event for event in events if not event.pop("recorded", False)])
        for event in events:
            outcome.setdefault(event["kind"], event)
            if event["kind"] == "worker":
                where[event["rank"]] = event["node"]
                turn.give()
            on_event(event)

    asked = threading.Event()
    with _asking_to_stop(asked.set):
        name, restarts = f"{run.name}-{run.attempts}", run.experiment.train.max_failures
        error = fit(job, plan, name, restarts, see, lambda: asked.is_set() or not leaving().isdisjoint(where.values()))
    run.status = "failed"
    run.save()
    if failed := outcome.get("failed"):
        raise SightlineError(failed["what"], failed["mend"])
    if bad := outcome.get("nonfinite"):
        raise SightlineError(
            f"the loss of step {bad['step']} is not finite; the update was not applied. Samples of the group: {', '.join(bad['ids'][:8])}",
            "look at these samples with `sightline inspect`, lower optim.base_lr, or use train.precision=fp32",
        )
    if "end" not in outcome:
        if may_die and isinstance(error, ray.exceptions.RayActorError):
            return DIED
        raise SightlineError(
            f"training ended without a result: {error}", f"see {run.folder / 'ray'}; go on with `sightline resume {run.name}`"
        )
    run.status = "stopped" if outcome["end"]["stopped"] else "trained"
    run.save()
    return MOVED if run.status == "stopped" and not asked.is_set() else ""


def fit(
    job: dict[str, Any], plan: ResourcePlan, name: str, restarts: int, see: Callable[[list[Event]], None], stop: Callable[[], bool]
) -> BaseException | None:
    """Train on the workers of Ray Train until they end, early where `stop` says so. `see` gets the events as they come in, those that
    rank 0 has written down with `recorded`. Returns what Ray Train raised, if anything."""
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
        ray.kill(recorder)
    return running.error


def _teacher_cache(run: Run, on_event: Callable[[Event], None], say: Callable[[str, str], None]) -> str | None:
    """The finished cache of the run's samples, where its settings ask for one. Ctrl-C keeps what is done."""
    if not run.experiment.teacher_cache.variants:
        return None
    import ray

    from .teacher_cache import cache_of_run

    total = ray.cluster_resources()  # type: ignore[no-untyped-call]
    try:
        return cache_of_run(
            run.experiment,
            run.folder,
            stage_resources(total.get("CPU", 0), int(total.get("GPU", 0)) if run.experiment.train.device != "cpu" else 0),
            lambda done, total: on_event({"kind": "cache", "done": done, "total": total}),
            lambda text: say(text, "cache"),
        ).uri
    except KeyboardInterrupt:
        say(f"stopped; what is in the teacher cache is kept; go on with: sightline resume {run.name}", "cache")
        raise


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
                torch_config=TorchConfig(backend="nccl" if plan.worker_gpus else "gloo", timeout_s=600),
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
                    failure_config=FailureConfig(max_failures=self.restarts),
                ),
            ).fit()
        except BaseException as error:
            self.error = error


@contextlib.contextmanager
def _asking_to_stop(ask: Callable[[], Any]) -> Iterator[None]:
    """The first SIGINT or SIGTERM asks for an early end with a checkpoint; a second one acts as it always does."""
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
