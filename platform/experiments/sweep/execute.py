"""A sweep from its first trial to its report: what `sweep` and `resume` share."""

from __future__ import annotations

import shlex
from typing import Any

from sightline.platform import config
from sightline.platform.core.locks import by_one_driver
from sightline.platform.core.ray_init import end_ray, start_ray
from sightline.platform.core.screen import Screen
from sightline.platform.experiments import execution
from sightline.platform.reports.page import write_report
from sightline.platform.reports.summary import longer
from sightline.platform.runs.record import Run
from sightline.platform.tracking import parent_run
from sightline.platform.tracking.client import connect, place_of
from sightline.platform.tracking.promotion import CHAMPION, find_version, give_winner_alias

from . import summary
from .objectives import front
from .record import Sweep, SweepStatus, Trial


@by_one_driver
def execute(sweep: Sweep, console: Screen) -> dict[str, Any]:
    """Run what is missing of `sweep` up to its report. Returns a JSON-able result; raises `SightlineError`.

    Stopped by Ctrl-C it returns with status `stopped`; a resume continues from the record.
    """
    from .run_trials import metric_name, run_trials

    def say(text: str) -> None:
        console.print(text)

    names = ", ".join(one.name for one in sweep.plan.objectives)
    say(f"sweep {sweep.name}: recipe {sweep.recipe}, {sweep.plan.trials} trials, {names}")
    experiment = config.load(sweep.recipe, settings=sweep.settings)
    parent_run.check(sweep, experiment, console.warn)
    if sweep.mlflow_run_id is None:
        texts = {**sweep.plan.space, "objective": names, "search": sweep.plan.search}
        sweep.mlflow_run_id = parent_run.begin(sweep, "sweep", [experiment], texts, say)
        sweep.save()
        parent_run.nest((name for trial in sweep.trials() for name in sweep.run_names(trial.number)), sweep.mlflow_run_id)
    start_ray(hint=f"when the machine is less busy: sightline resume {shlex.quote(sweep.name)}")
    run_trials(sweep, say)
    end_ray()
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
    values = winner.values(sweep.plan) if winner else None
    metrics = {metric_name(one.name): value for one, value in zip(sweep.plan.objectives, values or (), strict=False)}
    parent_run.end(sweep, report, summary.verdict(sweep), metrics, {"sightline.winner": sweep.run_name(winner.number)} if winner else {})
    say("")
    lines = [
        ("found", summary.verdict(sweep)),
        ("", summary.numbers(sweep)),
        ("report", str(report)),
        (registered.rpartition("@")[2] if registered and "@" in registered else "winner", registered or "not registered"),
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
        **({"front": [trial.number for trial in front(sweep.plan, sweep.trials())]} if sweep.plan.others else {}),
        "winner": None if winner is None else {"trial": winner.number, "run": sweep.run_name(winner.number), "settings": winner.settings},
        "trials": summary.rows(sweep),
    }


def _promote(sweep: Sweep, winner: Trial, console: Screen) -> str | None:
    """Measure, register and report the winner's run, and give it its alias (`give_winner_alias`). None where it was not registered."""
    run = Run.open(sweep.run_name(winner.number))
    try:
        version = execution.execute(run, console)["version"]
    except execution.UnrecordedError as error:
        console.warn(f"{error}\n  hint: {error.hint}")
        return None
    if version is None:
        return None
    client = connect(place_of(run))
    found = find_version(client, version, CHAMPION)
    tags = {"sightline.sweep": sweep.name, "sightline.trial": str(winner.number)}
    alias = give_winner_alias(client, found, tags, f"trial {winner.number} is the best of sweep {sweep.name}")
    return f"models:/{found.name}@{alias}" if alias else found.uri
