"""A sweep from its first trial to its report: what `sweep` and `resume` share."""

from __future__ import annotations

import shlex
from contextlib import suppress
from typing import Any

from rich.console import Console

from .. import jobs
from ..launch import start_ray
from ..report import write_report
from ..runs import Run, redact
from ..tracking import experiment_of, quiet_mlflow
from . import summary
from .record import Sweep, Trial

CHAMPION = "champion"


def execute(sweep: Sweep, console: Console) -> dict[str, Any]:
    """Carries `sweep` out from wherever it stands. Returns a JSON-able result; raises `SightlineError`.

    Stopped by Ctrl-C it returns with status `stopped`; a resume goes on from the record.
    """
    from .carry_out import carry_out

    def say(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True, markup=False)

    say(f"sweep {sweep.name}: recipe {sweep.recipe}, {sweep.plan.trials} trials, {sweep.plan.objective}")
    _begin_parent(sweep, say)
    start_ray()
    carry_out(sweep, say)
    import ray

    ray.shutdown()
    if sweep.status == "stopped":
        say(f"stopped; go on with: sightline resume {shlex.quote(sweep.name)}")
        return {"sweep": sweep.name, "status": "stopped", "folder": str(sweep.folder)}
    winner, registered = sweep.best(), None
    if winner is not None:
        sweep.winner = winner.number
        registered = _crown(sweep, winner, console)
    report = write_report(sweep.folder / "report.html", summary.page(sweep, registered))
    sweep.status = "finished"
    sweep.save()
    _end_parent(sweep, report, winner, say)
    say("")
    for label, text in (
        ("found", summary.headline(sweep)),
        ("report", str(report)),
        ("champion", registered or "none"),
        ("next", f"sightline evaluate {sweep.run_name(winner.number)} {sweep.run_name(0)} --data DATA" if winner else ""),
    ):
        if text:
            console.print(f"[bold]{label:<8}[/] {text}", highlight=False, soft_wrap=True)
    return {
        "sweep": sweep.name,
        "status": sweep.status,
        "folder": str(sweep.folder),
        "report": str(report),
        "registered": registered,
        "mlflow_run_id": sweep.mlflow_run_id,
        "winner": None if winner is None else {"trial": winner.number, "run": sweep.run_name(winner.number), "settings": winner.settings},
        "trials": summary.rows(sweep),
    }


def _crown(sweep: Sweep, winner: Trial, console: Console) -> str | None:
    """Measures, registers and reports the winner's run, and points the alias `champion` at it. None where the registry is away."""
    run = Run.open(sweep.run_name(winner.number))
    result = jobs.execute(run, console)
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


def _begin_parent(sweep: Sweep, say: Any) -> None:
    """The MLflow run that the trials are nested in. Without it they stand alone."""
    if sweep.mlflow_run_id is not None:
        return
    try:
        quiet_mlflow()
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=sweep.tracking_uri)
        experiment = experiment_of(client, sweep.settings["log"]["experiment"], sweep.tracking_uri)
        tags = {"sightline.sweep": sweep.name, "sightline.recipe": sweep.recipe, "sightline.command": sweep.command}
        tags |= {"sightline.fingerprint": sweep.fingerprint, "mlflow.source.name": "sightline"}
        sweep.mlflow_run_id = str(client.create_run(experiment, run_name=sweep.name, tags=tags).info.run_id)
        for key, text in {**sweep.plan.space, "objective": sweep.plan.objective, "search": sweep.plan.search}.items():
            client.log_param(sweep.mlflow_run_id, key, text)
        sweep.save()
    except Exception as error:
        say(f"MLflow is not reachable ({redact(str(error).partition(chr(10))[0])}); the trials will not be nested in a run of the sweep")


def _end_parent(sweep: Sweep, report: Any, winner: Trial | None, say: Any) -> None:
    if sweep.mlflow_run_id is None:
        return
    with suppress(Exception):
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=sweep.tracking_uri)
        if winner is not None and winner.last is not None:
            client.log_metric(sweep.mlflow_run_id, f"objective/{sweep.plan.objective.replace('.', '/')}", winner.last)
            client.set_tag(sweep.mlflow_run_id, "sightline.winner", sweep.run_name(winner.number))
        client.log_artifact(sweep.mlflow_run_id, str(report))
        client.set_terminated(sweep.mlflow_run_id, status="FINISHED")
