"""A run from its first step to its report: train, measure, register, report. What `pretrain`, `resume` and `quickstart` share."""

from __future__ import annotations

import shlex
import time
from typing import TYPE_CHECKING, Any

from sightline.platform.core.locks import by_one_driver
from sightline.platform.core.redaction import redact
from sightline.platform.core.screen import Screen
from sightline.platform.runs.pinned import read_record
from sightline.platform.runs.record import Run, RunStatus
from sightline.platform.tracking.client import undelivered
from sightline.platform.tracking.mlflow_run import Tracking
from sightline.platform.training.memory import MemoryMeter

from .progress import duration
from .train_run import is_trained, train_tracked

if TYPE_CHECKING:
    from .finish import Findings


@by_one_driver
def execute(run: Run, console: Screen) -> dict[str, Any]:
    """Run what is missing of `run` up to its report. Returns a JSON-able result; raises `SightlineError`.

    An early end by Ctrl-C or SIGTERM returns with status `stopped` and a checkpoint to continue from.
    """
    tracking = Tracking(run)
    memory = MemoryMeter()
    memory.start()
    began = time.monotonic()
    try:
        if not is_trained(run.experiment, run.folder):
            _train(run, tracking, console)
        else:
            run.status = RunStatus.TRAINED
            run.save()
            tracking.start()
            console.print(f"run {run.name} has its last step; measuring, registering and reporting again")
        if run.status == RunStatus.STOPPED:
            tracking.close("KILLED")
            return _stopped(run, tracking, console)
        from .finish import finish

        findings = finish(run, tracking, console, memory)
        run.status = RunStatus.FINISHED
        run.save()
        tracking.close("FINISHED", artifacts=findings.artifacts, metrics=findings.metrics)
    except Exception:
        tracking.close("FAILED")
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
    if (begins := read_record(run.folder)) and not run.attempts:
        console.print(f"begins with {begins['says']}")
    console.print("starting Ray and the workers (half a minute)")
    train_tracked(run, tracking, console)
    if run.status == RunStatus.TRAINED:
        import ray

        ray.shutdown()  # what follows needs the workers' memory


def _stopped(run: Run, tracking: Tracking, console: Screen) -> dict[str, Any]:
    steps = max(run.history(), default=-1) + 1
    console.print(
        f"stopped after step {steps}, with a checkpoint; go on with: sightline resume {shlex.quote(run.name)}",
    )
    _show_undelivered(run, tracking.problem, console)
    return {"run": run.name, "status": "stopped", "step": steps, "folder": str(run.folder), "undelivered": tracking.problem}


def _show_undelivered(run: Run, problem: str | None, console: Screen) -> None:
    if problem:
        console.warn(undelivered(problem, run.name))


def _show(run: Run, findings: Findings, tracking: Tracking, console: Screen, seconds: float) -> dict[str, Any]:
    uri = redact(tracking.uri)
    lines = [
        ("found", findings.verdict),
        ("", findings.numbers),
        ("report", str(findings.report)),
        ("encoder", f"{findings.registered}  (MLflow run {run.mlflow_run_id})" if findings.registered else "not registered"),
        ("look", f"mlflow ui --backend-store-uri {shlex.quote(uri)}" if uri.startswith("sqlite") else uri),
        ("next", findings.next_steps[0]),
        ("took", f"{duration(seconds)}, {findings.peak}"),
    ]
    console.print()
    console.fields(lines)
    undelivered = tracking.problem or (None if findings.registered else "when the encoder was to be registered")
    _show_undelivered(run, undelivered, console)
    return {
        "run": run.name,
        "status": run.status,
        "folder": str(run.folder),
        "report": str(findings.report),
        "registered": findings.registered,
        "undelivered": undelivered,
        "mlflow_run_id": run.mlflow_run_id,
        "tracking_uri": uri,
        "verdict": findings.verdict,
        "headline": f"{findings.verdict} {findings.numbers}".strip(),
        "metrics": findings.metrics,
        "seconds": seconds,
        "peak_bytes": findings.peak_bytes,
    }
