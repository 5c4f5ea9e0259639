"""Trials of several training seeds: they take turns, and each is trained as it would be alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from sightline.methods.errors import CallError
from sightline.platform.data.dataset import Dataset
from sightline.platform.experiments.create import create_run
from sightline.platform.experiments.sweep import summary
from sightline.platform.experiments.sweep.objectives import SIZE, SPEED
from sightline.platform.experiments.sweep.plan import Asked, make_plan, trial_settings
from sightline.platform.experiments.sweep.record import Decision, Sweep, TrialEnded, TrialMeasured, TrialProposed, TrialStatus
from sightline.platform.experiments.sweep.run_trials import _results
from sightline.platform.experiments.sweep.trial import TrialTask, run_trial
from sightline.platform.runs.events import TrainingStarted
from sightline.platform.runs.record import Run
from sightline.platform.training.job import TrainJob

ToyRun = Callable[..., Run]


@pytest.fixture
def sweep(toy_run: ToyRun) -> Sweep:
    """Of two training seeds and three objectives, measured at steps 2 and 18."""
    experiment = toy_run("pattern", **{"train.length": "18 steps"}).experiment
    dataset = Dataset.open(str(experiment.data.train))
    asked = Asked(space=("optim.lr=log:1e-4..1e-2",), trials=4, objective=("val/loss",), seeds=2, rungs=2, reduction=9)
    plan = make_plan(experiment, dataset, asked)
    return Sweep.create("seeds", trial_settings(experiment, plan), dataset.fingerprint, plan, "a test", "sqlite:///none")


def job(sweep: Sweep, name: str, seed: int) -> TrainJob:
    experiment = sweep.experiment_of(sweep.trials()[0], seed)
    run = create_run(name, experiment, sweep.fingerprint, "a test", "")
    return TrainJob(experiment, run.folder, sweep.fingerprint)


class Killed(BaseException): ...


@pytest.mark.slow
def test_each_seed_is_trained_as_it_would_be_alone_also_after_a_kill(sweep: Sweep) -> None:
    sweep.note(TrialProposed(0, {}))
    names, alone, told = ("val/loss", SIZE, SPEED), [], list[dict[str, Any]]()
    for seed in (0, 1):
        results = list[dict[str, Any]]()
        run_trial(TrialTask(0, (job(sweep, f"alone-{seed}", seed),), names, sweep.plan.rungs), results.append)
        alone.append([result["objective"] for result in results])
        assert [result["step"] for result in results] == [2, 18] and not results[0]["seeds"]

    jobs = tuple(job(sweep, name, seed) for seed, name in enumerate(sweep.run_names(0)))
    assert sweep.run_names(0) == ["seeds-000", "seeds-000-s1"] and [one.experiment.train.seed for one in jobs] == [0, 1]

    def killed_at_2(result: dict[str, Any]) -> None:
        if result["step"] == 2:
            raise Killed
        told.append(result)

    with pytest.raises(Killed):
        run_trial(TrialTask(0, jobs, names, sweep.plan.rungs), killed_at_2)
    run_trial(TrialTask(0, jobs, names, sweep.plan.rungs), told.append)
    assert [result["step"] for result in told] == [2, 18]
    assert [result["seeds"][0] for result in told] == [list(values) for values in zip(*alone, strict=True)]
    assert told[-1]["objective"] == sum(told[-1]["seeds"][0]) / 2 and told[-1]["seconds"]["18"] > 0
    size, speed = told[-1]["others"]
    assert size == next(event.parameters for event in Run.open("seeds-000").events() if isinstance(event, TrainingStarted)) and speed > 0


def test_the_page_shows_means_and_what_the_seeds_differ_by(sweep: Sweep) -> None:
    for number, (settings, values) in enumerate([({}, [1.0, 1.2]), ({"optim.lr": 1e-3}, [0.8, 0.9]), ({"optim.lr": 2e-3}, [1.1, 1.5])]):
        sweep.note(TrialProposed(number, settings))
        create_run(sweep.run_name(number), sweep.experiment_of(sweep.trials()[number]), sweep.fingerprint, "a test", "")
        sweep.note(TrialMeasured(number, Decision.STOP, 18, sum(values) / 2, seeds={"val/loss": values}))
        sweep.note(TrialEnded(number, TrialStatus.FINISHED))
    trial = sweep.trials()[1]
    assert [_results(sweep, trial, seed).metrics for seed in (0, 1)] == [{"objective/val/loss": 0.8}, {"objective/val/loss": 0.9}]
    assert _results(sweep, trial).step == 18
    said = summary.verdict(sweep)
    assert (
        "optim.lr=0.001 did best: val/loss 0.85 (0.8 to 0.9 with 2 training seeds); the recipe's own settings reach 1.1 (1 to 1.2" in said
    )
    assert "All 2 training seeds of it did better than all of those" in said
    table = summary.page(sweep, None).sections[-1].tables[0]
    assert (table.rows[0].cells[3].text, table.rows[0].cells[3].span) == ("0.85", "0.8 to 0.9")
    assert summary.rows(sweep)[1]["runs"] == ["seeds-001", "seeds-001-s1"] and summary.rows(sweep)[1]["seeds"] == {
        18: {"val/loss": [0.8, 0.9]}
    }
    sweep.note(TrialMeasured(0, Decision.STOP, 18, 1.0, seeds={"val/loss": [0.85, 1.15]}))
    assert "overlap: the lead may be luck" in summary.verdict(sweep)


def test_the_page_of_several_objectives_shows_the_front_and_says_which_trial_is_registered(toy_run: ToyRun) -> None:
    experiment = toy_run("pattern", **{"train.length": "18 steps"}).experiment
    dataset = Dataset.open(str(experiment.data.train))
    asked = Asked(space=("optim.lr=log:1e-4..1e-2",), trials=5, objective=("val/loss", SPEED, f"{SIZE}:min"))
    plan = make_plan(experiment, dataset, asked)
    assert plan.scheduler == "none" and [one.better for one in plan.objectives] == ["lower", "higher", "lower"]
    sweep = Sweep.create("front", trial_settings(experiment, plan), dataset.fingerprint, plan, "a test", "sqlite:///none")
    for number, (loss, speed) in enumerate([(1.0, 100.0), (0.5, 1200.0), (0.4, 800.0), (0.6, 1100.0), (math.nan, 9000.0)]):
        sweep.note(TrialProposed(number, {"optim.lr": 1e-3 * number} if number else {}))
        create_run(sweep.run_name(number), experiment, sweep.fingerprint, "a test", "")
        sweep.note(TrialMeasured(number, Decision.CONTINUE, 18, loss, {SPEED: speed, SIZE: 5e4}))
        sweep.note(TrialEnded(number, TrialStatus.FINISHED))
    best = sweep.best()
    assert best and best.number == 2, "the best in the first objective, and NaN never"
    assert summary.verdict(sweep) == (
        "2 of 4 finished trials are on the Pareto front of val/loss, samples per second and parameters. Best in val/loss trial 002 "
        "(optim.lr=0.002) with 0.4; in samples per second trial 001 with 1,200; in parameters trial 002 with 50,000. "
        "The recipe's own settings are not on it. One training seed each: small differences may be luck."
    )
    assert "Trial 002 is the one that is registered: the best of the front in val/loss." in summary.numbers(sweep)
    page = summary.page(sweep, None)
    assert [chart.title for chart in page.sections[0].drawn][1:3] == [
        "val/loss, lower is better, and samples per second",
        "val/loss, lower is better, and parameters",
    ]
    table = page.sections[-1].tables[0]
    assert [(row.name, row.cells[0].text) for row in table.rows][:2] == [("front-002", "finished, front"), ("front-001", "finished, front")]
    assert [column.label for column in table.columns] == ["status", "optim.lr", "step 18", SPEED, SIZE, "seconds"]


def test_what_does_not_go_together_is_told_before_anything_starts(toy_run: ToyRun) -> None:
    experiment = toy_run("pattern", **{"train.length": "18 steps"}).experiment
    dataset = Dataset.open(str(experiment.data.train))
    cases: list[tuple[dict[str, Any], str]] = [
        ({"objective": (SPEED,)}, "says what an encoder is worth"),
        ({"objective": ("val/loss", "val/loss")}, "names val/loss twice"),
        ({"objective": ("val/loss:up",)}, "'up' is no direction"),
        ({"objective": ("val/loss", f"{SPEED}:min")}, "of speed/samples_per_second higher is better"),
        ({"objective": ("val/loss", "speed/samples")}, "did you mean 'speed/samples_per_second'"),
        ({"objective": ("val/loss", SIZE), "scheduler": "asha"}, "would stop trials by the first"),
        ({"objective": ("val/loss", SIZE), "search": "optuna:cmaes"}, "takes one objective"),
        ({"seeds": 0}, "1 to 20 are allowed"),
        ({"scheduler": "ashaa"}, "did you mean 'asha'"),
    ]
    for asked, says in cases:
        with pytest.raises(CallError, match=says):
            make_plan(
                experiment, dataset, Asked(**{"space": ("optim.lr=log:1e-4..1e-2",), "trials": 2, "objective": ("val/loss",), **asked})
            )
