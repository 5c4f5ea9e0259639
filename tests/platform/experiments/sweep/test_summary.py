"""The page of a sweep: what was searched, what each trial reached, and which setting mattered."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from sightline.pipelines.__main__ import main
from sightline.platform.data.dataset import Dataset
from sightline.platform.experiments.create import create_run
from sightline.platform.experiments.sweep import optuna_study, summary
from sightline.platform.experiments.sweep.plan import Asked, make_plan
from sightline.platform.experiments.sweep.record import Decision, Sweep, TrialEnded, TrialMeasured, TrialProposed, TrialStatus
from sightline.platform.reports.page import render
from sightline.platform.runs.events import StepsDone
from sightline.platform.runs.record import Run

RATES = (None, 1e-3, 2e-3, 4e-3, 6e-3, 8e-3, 1e-4, 3e-4, 5e-4)
"""Of each trial; the first has the recipe's own."""


@pytest.fixture
def sweep(toy_run: Callable[..., Run]) -> Sweep:
    """Nine trials whose losses grow with their learning rate; the last one failed."""
    experiment = toy_run("pattern", **{"train.length": "18 steps"}).experiment
    dataset = Dataset.open(str(experiment.data.train))
    plan = make_plan(experiment, dataset, Asked(space=("optim.lr=log:1e-4..1e-2",), trials=9, objective=["val/loss"], scheduler="none"))
    sweep = Sweep.create("rates", experiment, dataset.fingerprint, plan, "sightline sweep toy", "sqlite:///none")
    for number, rate in enumerate(RATES):
        settings: dict[str, Any] = {} if rate is None else {"optim.lr": rate}
        run = create_run(sweep.run_name(number), experiment, dataset.fingerprint, "a test", "")
        run.append([StepsDone(0, {"loss": [2.0, 1.0]}, [1e-3, 1e-3], [1.0, 1.0], 1.0, {}, 200)])
        sweep.note(TrialProposed(number, settings))
        if number == len(RATES) - 1:
            sweep.note(TrialEnded(number, TrialStatus.FAILED, "no <room>"))
            continue
        for step in plan.rungs:
            sweep.note(TrialMeasured(number, Decision.CONTINUE, step, 1.0 + 100 * (rate or 5e-3)))
        seconds = {"whole": 9.0, "training": 6.0, "measuring": 1.0}
        sweep.note(TrialEnded(number, TrialStatus.FINISHED, seconds=seconds))
    return sweep


def test_the_page_of_a_sweep_holds_its_charts_its_trials_and_what_mattered(sweep: Sweep) -> None:
    page = summary.page(sweep, None)
    searched, importance, trials = page.sections
    assert [chart.title.partition(",")[0] for chart in searched.drawn] == ["Settings and objective", "Training loss"]
    assert [chart.title for chart in importance.drawn] == [
        "Share of the importance"
    ] and "of all trials at step 18. A random forest of them has an out-of-bag R²" in importance.notes[0]
    (table,) = trials.tables
    assert [column.label for column in table.columns] == ["status", "optim.lr", *(f"step {n}" for n in sweep.plan.rungs), "seconds"]
    assert (table.rows[0].name, table.rows[0].weight, table.rows[0].cells[1].text) == ("rates-006", "main", "0.0001"), "the best first"
    assert (table.rows[-1].name, table.rows[-1].cells[0].text, table.rows[-1].cells[-1].text) == ("rates-008", "failed", "")
    assert page.warnings == ["trial 008 failed: no <room>"] and page.settings["optim.lr"] == sweep.settings["optim"]["lr"]
    assert ("overhead of a trial", "2.0 s (median), besides its training and the measuring at its rungs") in page.facts
    raw = render(page)
    assert raw.startswith("<!doctype html>") and "rates-000 (own settings)" in raw and "no &lt;room&gt;" in raw


def test_a_sweep_with_few_trials_says_nothing_of_importance(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    few = sweep.trials()[: summary.LEAST - 1]
    monkeypatch.setattr(Sweep, "trials", lambda self: few)
    assert [section.heading for section in summary.page(sweep, None).sections] == ["What was searched", "Trials"]


def test_a_sweep_whose_trials_are_all_alike_says_nothing_of_importance(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    alike = sweep.trials()
    for trial in alike:
        trial.results = {18: 1.0} if trial.results else {}
    monkeypatch.setattr(Sweep, "trials", lambda self: alike)
    assert [section.heading for section in summary.page(sweep, None).sections] == ["What was searched", "Trials"]
    known = [({"optim.lr": 1e-3 * (index + 1)}, 1.0) for index in range(9)]
    assert optuna_study.fanova(sweep.plan, known) == {"optim.lr": 0.0}


@pytest.mark.slow
def test_a_sweep_is_exported_as_a_study_of_optuna(sweep: Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep.note(TrialProposed(9, {"optim.lr": 7e-4}))
    sweep.note(TrialMeasured(9, Decision.CONTINUE, 18, math.nan))
    sweep.note(TrialEnded(9, TrialStatus.FINISHED))
    sweep.note(TrialProposed(10, {"optim.lr": 8e-4}))
    path = tmp_path / "a?b%20c" / "rates.db"
    assert main(["export", "rates", "--format", "optuna", "--out", str(path)]) == 0
    assert "11 trials" in capsys.readouterr().out
    (tmp_path / "copy.db").write_bytes(path.read_bytes())
    study = optuna.load_study(study_name="rates", storage=f"sqlite:///{tmp_path / 'copy.db'}")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 8 + ["FAIL", "FAIL", "RUNNING"]
    assert study.best_trial.number == 6 and study.best_trial.params == {"optim.lr": 1e-4} and study.metric_names == ["val/loss"]
    assert study.trials[0].params == {"optim.lr": sweep.plan.own["optim.lr"]} and study.trials[0].intermediate_values == {18: 1.5}
    assert study.trials[8].user_attrs == {"runs": ["rates-008"], "status": "failed", "error": "no <room>"}
    assert study.trials[1].datetime_start and study.trials[1].datetime_start <= study.trials[1].datetime_complete
    assert main(["export", "rates", "--format", "optuna", "--out", str(path)]) == 2 and "exists" in capsys.readouterr().err
    assert main(["export", "ratess", "--format", "optuna", "--out", str(path)]) == 2 and "did you mean 'rates'" in capsys.readouterr().err
