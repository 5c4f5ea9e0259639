"""A run from its first step to its report: train, measure, register, report. What `pretrain`, `resume` and `quickstart` share."""

from __future__ import annotations

import shlex
import threading
import time
from typing import TYPE_CHECKING, Any

from sightline.methods.catalog import find_method
from sightline.methods.errors import SightlineError
from sightline.platform.checkpoints import links
from sightline.platform.checkpoints import local as checkpoint
from sightline.platform.cluster.workers import MEETING
from sightline.platform.config.location import parse
from sightline.platform.core.locks import by_one_driver
from sightline.platform.core.ray_checks import names_cluster
from sightline.platform.core.redaction import redact
from sightline.platform.core.scratch import clear_left
from sightline.platform.core.screen import Screen
from sightline.platform.data.kinds import find_kind
from sightline.platform.runs.pinned import read_record
from sightline.platform.runs.record import Run, RunStatus
from sightline.platform.tracking.client import undelivered
from sightline.platform.tracking.mlflow_run import Tracking
from sightline.platform.tracking.problems import TrackingProblem
from sightline.platform.training.memory import MemoryMeter

from .progress import duration
from .train_run import is_trained, train_tracked

if TYPE_CHECKING:
    from .finish import Findings


AT_THE_END = (
    "sightline.platform.experiments.finish",
    "sightline.platform.evaluation.control_metrics",
    "sightline.platform.evaluation.probes.run",
    "sightline.platform.tracking.registry",
    "torch._dynamo",
)
"""Modules that measuring and registering need. Tracing a network needs the last one, which takes longest."""


class UnrecordedError(SightlineError):
    """The work is done and lies in the run's folder, but MLflow refused the record for good."""

    def __init__(self, problem: TrackingProblem, name: str, result: dict[str, Any]) -> None:
        resume = f"sightline resume {shlex.quote(name)}"
        super().__init__(f"MLflow did not take the record: {problem.what}", f"{problem.hint}; nothing is lost: then `{resume}` delivers it")
        self.result = result


@by_one_driver
def execute(run: Run, console: Screen) -> dict[str, Any]:
    """Run what is missing of `run` up to its report. Returns a JSON-able result; raises `SightlineError`.

    An early end by Ctrl-C or SIGTERM returns with status `stopped` and a checkpoint to continue from.
    """
    tracking = Tracking(run)
    tracking.check(console.warn)
    memory = MemoryMeter()
    memory.start()
    began = time.monotonic()
    try:
        if not is_trained(run.experiment, run.folder):
            _train(run, tracking, console)
        else:
            clear_left(MEETING)  # of a driver that was killed after the last step
            checkpoint.clear(run.folder / "checkpoints")  # no other checkpoint will be written that would do it
            links.clear(run.folder)
            run.status = RunStatus.TRAINED
            run.save()
            tracking.start()
            console.print(f"run {run.name} has its last step; measuring, registering and reporting again")
        if run.status == RunStatus.STOPPED:
            tracking.close("KILLED", note=f"Stopped early, with a checkpoint; `sightline resume {shlex.quote(run.name)}` goes on.")
            return _stopped(run, tracking, console)
        from .finish import finish

        findings = finish(run, tracking, console, memory)
        run.status = RunStatus.FINISHED
        run.save()
        tracking.close("FINISHED", findings.artifacts, findings.results)
    except Exception as error:
        tracking.close("FAILED", note=f"Failed: {error}")
        raise
    except KeyboardInterrupt:
        tracking.close("KILLED")
        raise
    finally:
        memory.stop()
    return _show(run, findings, tracking, console, time.monotonic() - began)


def _train(run: Run, tracking: Tracking, console: Screen) -> None:
    data = redact(run.settings["data"]["train"])
    console.print(f"run {run.name}: recipe {run.recipe}, data {data}")
    if not parse(run.settings["data"]["train"]).prepared and not run.experiment.probe_data:
        labelled = find_kind(find_method(run.experiment.method).kind).column("label") is not None
        named = "name the column of labels in data.train and data.val (label=NAME), or " if labelled else ""
        console.print(f"no probes: {named}give labelled data of their own: probe.train=DATA probe.test=DATA")
    if (begins := read_record(run.folder)) and not run.attempts:
        console.print(f"begins with {begins['says']}")
    console.print(f"{'joining the Ray cluster and starting' if names_cluster() else 'starting Ray and'} the workers (about 20 seconds)")
    train_tracked(run, tracking, console, then=AT_THE_END)
    if run.status == RunStatus.TRAINED:
        from sightline.platform.core.ray_init import end_ray

        # What follows needs the workers' memory. Ray waits for the ends of its processes, which nothing here does.
        threading.Thread(target=end_ray, name="sightline-ray-ends").start()


def _stopped(run: Run, tracking: Tracking, console: Screen) -> dict[str, Any]:
    steps = max(run.history(), default=-1) + 1
    console.print(
        f"stopped after step {steps}, with a checkpoint; go on with: sightline resume {shlex.quote(run.name)}",
    )
    _show_undelivered(run, tracking.problem, console)
    undelivered = tracking.problem and tracking.problem.what
    return {"run": run.name, "status": "stopped", "step": steps, "folder": str(run.folder), "undelivered": undelivered}


def _show_undelivered(run: Run, problem: TrackingProblem | None, console: Screen) -> None:
    if problem:
        console.warn(undelivered(problem, run.name))


def _show(run: Run, findings: Findings, tracking: Tracking, console: Screen, seconds: float) -> dict[str, Any]:
    uri, filed = redact(tracking.uri), findings.registered
    lines = [
        ("found", findings.results.verdict),
        ("", findings.results.numbers),
        ("report", str(findings.report)),
        ("encoder", f"{filed.address}  (version {filed.version}, MLflow run {run.mlflow_run_id})" if filed else "not registered"),
        ("look", f"mlflow ui --backend-store-uri {shlex.quote(uri)}" if uri.startswith("sqlite") else uri),
        ("next", findings.next_steps[0]),
        ("took", duration(seconds)),
        ("memory", findings.peak),
    ]
    console.print()
    console.fields(lines)
    problem = tracking.problem or findings.unregistered
    result: dict[str, Any] = {
        "run": run.name,
        "status": run.status,
        "folder": str(run.folder),
        "report": str(findings.report),
        "registered": filed and filed.address,
        "version": filed and filed.version_uri,
        "undelivered": problem and problem.what,
        "mlflow_run_id": run.mlflow_run_id,
        "tracking_uri": uri,
        "verdict": findings.results.verdict,
        "headline": f"{findings.results.verdict} {findings.results.numbers}".strip(),
        "metrics": dict(findings.results.metrics),
        "seconds": seconds,
        "peak_bytes": findings.peak_bytes,
    }
    if problem is None or problem.away or run.experiment.log.on_tracking_error == "continue":
        _show_undelivered(run, problem, console)
        return result
    raise UnrecordedError(problem, run.name, result)
