"""Carries a run out on Ray: room on the cluster, attempts until it ends, early ends."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

from sightline.methods.errors import SightlineError
from sightline.platform.checkpoints.remote import Storage
from sightline.platform.cluster.placement import ClusterLease, await_room, can_grow, leaving
from sightline.platform.cluster.resources import ResourcePlan, stage_resources
from sightline.platform.cluster.shared_fs import identity, mark
from sightline.platform.cluster.workers import fit
from sightline.platform.runs.events import Event, write_down
from sightline.platform.runs.record import Run, RunStatus

MOVED = "a node with workers was told to end: going on elsewhere, from a checkpoint of the last step"
GROWN = "there is room for more workers: going on with them, from a checkpoint of the last step"
FEWER = "a worker died: going on from the newest checkpoint with as many as there is room for"
DIED = "Ray Train's controller died: going on from the newest checkpoint"
GROW_SECONDS = 5.0
"""Between two looks for more room."""


def carry_out(run: Run, on_event: Callable[[Event], None]) -> None:
    """Train `run` to its end, or to an early end by SIGINT or SIGTERM, which leaves a checkpoint. Raises `SightlineError`.

    `on_event` sees every event once, after it is on disk.
    """

    def say(text: str, kind: str = "cluster") -> None:
        event = {"kind": kind, "text": text}
        run.note([event])
        on_event(event)

    if storage := Storage.of(run.experiment, run.folder):
        storage.claim(identity(run.folder))
    if run.experiment.teacher_cache.variants:
        await_room(run.experiment, say)[1].give()
    cache, again, deaths = _teacher_cache(run, on_event, say), "", 0
    while True:
        plan, lease = await_room(run.experiment, say)
        try:
            again = _attempt(run, plan, lease, cache, on_event, say, deaths < run.experiment.train.max_failures)
        finally:
            lease.give()
        if not again:
            return
        deaths += again in (DIED, FEWER)
        say(again)


def _attempt(
    run: Run,
    plan: ResourcePlan,
    lease: ClusterLease,
    cache: str | None,
    on_event: Callable[[Event], None],
    say: Callable[..., None],
    may_die: bool,
) -> str:
    """Train until the end or until somebody stops the run: empty. Else why it goes on: one of the sentences above.

    An elastic run has no restarts within Ray Train, which would wait for as many workers as before.
    """
    import ray

    elastic, experiment = run.experiment.train.least_workers is not None, run.experiment
    run.attempts += 1
    run.status = RunStatus.RUNNING
    run.save()
    job = {
        "recipe": run.recipe,
        "settings": run.settings,
        "folder": str(run.folder),
        "fingerprint": run.fingerprint,
        "stream": asdict(plan.data),
        "threads": plan.threads,
        "teacher_cache": cache,
        "token": mark(run.folder),
    }
    outcome: dict[str, Any] = {}
    where: dict[int, str] = {}

    def see(events: list[Event]) -> None:
        write_down(run.folder, events)
        for event in events:
            outcome.setdefault(event["kind"], event)
            if event["kind"] == "worker":
                where[event["rank"]] = event["node"]
                lease.give()
            on_event(event)

    asked, why, looked = threading.Event(), "", time.monotonic()

    def stops() -> bool:
        nonlocal why, looked
        if not leaving().isdisjoint(where.values()):
            why = MOVED
        elif elastic and len(where) == plan.workers and time.monotonic() - looked > GROW_SECONDS:
            looked = time.monotonic()
            why = GROWN if can_grow(experiment, plan, where.values()) else ""
        return asked.is_set() or bool(why)

    with _asking_to_stop(asked.set):
        error = fit(job, plan, f"{run.name}-{run.attempts}", 0 if elastic else experiment.train.max_failures, see, stops)
    if storage := Storage.of(run.experiment, run.folder):
        here = None
        try:
            here = storage.pull(lambda text: say(text, "storage"))
        except SightlineError as problem:
            say(str(problem), "storage")
    run.status = RunStatus.FAILED
    run.save()
    if failed := outcome.get("failed"):
        raise SightlineError(failed["what"], failed["hint"])
    if bad := outcome.get("nonfinite"):
        raise SightlineError(
            f"the loss of step {bad['step']} is not finite; the update was not applied. Samples of the group: {', '.join(bad['ids'][:8])}",
            "look at these samples with `sightline inspect`, lower optim.base_lr, or use train.precision=fp32",
        )
    if "end" not in outcome:
        if may_die and isinstance(error, ray.exceptions.RayActorError):
            return DIED
        if may_die and elastic and not asked.is_set():
            return FEWER
        raise SightlineError(
            f"training ended without a result: {error}", f"see {run.folder / 'ray'}; go on with `sightline resume {run.name}`"
        )
    if storage and (here is None or here.state.step < outcome["end"]["step"]):
        raise SightlineError(
            f"the checkpoint of step {outcome['end']['step']} is neither in {storage} nor on this node, only on that which trained",
            f"when the storage answers again: `sightline resume {run.name}`",
        )
    run.status = RunStatus.STOPPED if outcome["end"]["stopped"] else RunStatus.TRAINED
    run.save()
    return why if run.status == RunStatus.STOPPED and not asked.is_set() else ""


def _teacher_cache(run: Run, on_event: Callable[[Event], None], say: Callable[..., None]) -> str | None:
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
