"""A sweep from its first trial to its report: what `sweep` and `resume` share."""

from __future__ import annotations

import shlex
from typing import Any

from sightline.platform.core.locks import by_one_driver
from sightline.platform.core.ray_init import start_ray
from sightline.platform.core.screen import Screen
from sightline.platform.experiments import execution
from sightline.platform.reports.page import write_report
from sightline.platform.reports.summary import longer
from sightline.platform.runs.record import Run
from sightline.platform.tracking import parent_run
from sightline.platform.tracking.client import quiet_mlflow

from . import summary
from .record import Sweep, SweepStatus, Trial

CHAMPION = "champion"


@by_one_driver
def execute(sweep: Sweep, console: Screen) -> dict[str, Any]:
    """Run what is missing of `sweep` up to its report. Returns a JSON-able result; raises `SightlineError`.

    Stopped by Ctrl-C it returns with status `stopped`; a resume continues from the record.
    """
    from .run_trials import run_trials

    def say(text: str) -> None:
        console.print(text)

    say(f"sweep {sweep.name}: recipe {sweep.recipe}, {sweep.plan.trials} trials, {sweep.plan.objective}")
    if sweep.mlflow_run_id is None:
        texts = {**sweep.plan.space, "objective": sweep.plan.objective, "search": sweep.plan.search}
        sweep.mlflow_run_id = parent_run.begin(sweep, "sweep", sweep.settings["log"]["experiment"], texts, say)
        sweep.save()
    start_ray(hint=f"when the machine is less busy: sightline resume {shlex.quote(sweep.name)}")
    run_trials(sweep, say)
    import ray

    ray.shutdown()
    if sweep.status is SweepStatus.STOPPED:
        say(f"stopped; go on with: sightline resume {shlex.quote(sweep.name)}")
        return {"sweep": sweep.name, "status": "stopped", "folder": str(sweep.folder)}
    winner, registered = sweep.best(), None
    if winner is not None:
        sweep.winner = winner.number
        registered = _promote(sweep, winner, console)
    report = write_report(sweep.folder / "report.html", summary.page(sweep, registered))
    sweep.status = SweepStatus.FINISHED
    sweep.save()
    metrics = {f"objective/{sweep.plan.objective.replace('.', '/')}": winner.last} if winner and winner.last is not None else {}
    parent_run.end(sweep, report, metrics, {"sightline.winner": sweep.run_name(winner.number)} if winner else {})
    say("")
    lines = [
        ("found", summary.verdict(sweep)),
        ("", summary.numbers(sweep)),
        ("report", str(report)),
        ("champion", registered or "none"),
        ("next", longer(Run.open(sweep.run_name(winner.number))) if winner else ""),
    ]
    console.fields(lines)
    return {
        "sweep": sweep.name,
        "status": sweep.status,
        "folder": str(sweep.folder),
        "report": str(report),
        "verdict": summary.verdict(sweep),
        "registered": registered,
        "mlflow_run_id": sweep.mlflow_run_id,
        "winner": None if winner is None else {"trial": winner.number, "run": sweep.run_name(winner.number), "settings": winner.settings},
        "trials": summary.rows(sweep),
    }


def _promote(sweep: Sweep, winner: Trial, console: Screen) -> str | None:
    """Measure, register and report the winner's run, and point the alias `champion` at it. None where the registry is unreachable."""
    run = Run.open(sweep.run_name(winner.number))
    result = execution.execute(run, console)
    if not (address := result["registered"]):
        return None
    quiet_mlflow()
    from mlflow import MlflowClient

    client, name = MlflowClient(tracking_uri=run.tracking_uri), address.removeprefix("models:/").partition("@")[0]
    version = client.get_model_version_by_alias(name, "candidate").version
    for key, value in {"sweep": sweep.name, "trial": str(winner.number)}.items():
        client.set_model_version_tag(name, version, f"sightline.{key}", value)
    client.set_registered_model_alias(name, CHAMPION, version)
    return f"models:/{name}@{CHAMPION}"
