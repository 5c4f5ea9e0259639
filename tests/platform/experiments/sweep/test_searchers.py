"""Searchers and schedulers by name: Optuna's, Ray Tune's and those of other packages; each from the record alone."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from outside import publish
from toy import TOY

from sightline.methods.errors import CallError, SightlineError
from sightline.platform import config
from sightline.platform.core.plugins import plugins
from sightline.platform.experiments.sweep import objectives, optuna_study
from sightline.platform.experiments.sweep.catalog import SCHEDULERS, SEARCHERS, find_scheduler, find_searcher
from sightline.platform.experiments.sweep.record import Objective, Sweep, SweepPlan, Trial, TrialMeasured, TrialStatus
from sightline.platform.experiments.sweep.schedule import Recorded
from sightline.platform.experiments.sweep.search import most_trials, propose

SUPPORT = Path(__file__).parents[3] / "support" / "outside_search" / "outside_search.py"
SPEED = Objective(name=objectives.SPEED, better="higher")


def plan_of(search: str, **changes: Any) -> SweepPlan:
    values = {"space": {"a.x": "0.0..1.0", "a.y": "log:0.01..10"}, "own": {"a.x": 0.9, "a.y": 5.0}, "trials": 40, "search": search}
    values |= {"objective": "knn.accuracy", "better": "higher", "concurrent": 1, "threads": 1, "steps": 18, "rungs": (2, 6, 18)}
    return SweepPlan.model_validate({**values, **changes})


def worth(settings: dict[str, Any]) -> float:
    return -abs(settings["a.x"] - 0.2) - abs(math.log(settings["a.y"] / 0.1)) / 5


def searched(plan: SweepPlan, count: int) -> list[Trial]:
    trials: list[Trial] = []
    for number in range(count):
        settings = propose(plan, number, trials)
        others = {one.name: 100 * settings.get("a.x", 0.9) for one in plan.others}
        trials.append(Trial(number, settings, {18: worth({**plan.own, **settings})}, {18: others}, status=TrialStatus.FINISHED))
    return trials


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    names = {name: f"outside_search:{name}" for name in ("near", "hyperopt", "deaf", "broken")}
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("outside")
        publish(folder, SEARCHERS, names, {"outside_search": SUPPORT.read_text()}, patch)
        rules = {name: f"outside_search:{name}" for name in ("halfway", "pausing", "gone")}
        publish(folder, SCHEDULERS, rules, {}, patch)
        yield
    plugins.cache_clear()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("search", "lead"),
    [("optuna", 0.3), ("optuna:cmaes", 0.3), ("ray:optuna", 0.1), ("ray:hyperopt", 0.1), ("hyperopt", 0.1), ("near", 0.3)],
)
def test_a_searcher_learns_from_the_record_and_needs_nothing_else(search: str, lead: float, outside: None) -> None:
    """The last proposals of CMA-ES are as random as the first where its state is lost between two trials."""
    plan = plan_of(search)
    trials = searched(plan, 36)
    early, late = (sum(trial.last or 0.0 for trial in some) / 8 for some in (trials[1:9], trials[-8:]))
    assert late > early + lead
    assert [propose(plan, n, trials[:n]) for n in (3, 17, 35)] == [trials[n].settings for n in (3, 17, 35)]
    trials[10].results = {2: math.nan}
    trials[11].status, trials[12].status = TrialStatus.FAILED, TrialStatus.OPEN
    trials[13].status, trials[13].results = TrialStatus.PRUNED, {2: -0.4}
    assert plan.holds(propose(plan, 36, trials)), "whatever became of the others"


@pytest.mark.slow
@pytest.mark.parametrize("search", ["optuna:nsga2", "optuna:nsga3", "optuna:qmc"])
def test_a_searcher_with_a_state_takes_it_from_the_record(search: str) -> None:
    """Its proposals depend on more than the last trials: children have the settings of their parents, points their place in a sequence."""
    plan = plan_of(search)
    trials = searched(plan, 34)
    values = [trial.settings["a.x"] for trial in trials[1:]]
    shared = sum(value in values[:index] for index, value in enumerate(values))
    if search == "optuna:qmc":
        assert max(abs((index + 1) / 34 - value) for index, value in enumerate(sorted(values))) < 0.12, "evenly spread"
    else:
        assert shared > 6, "crossover takes values of both parents"
    assert propose(plan, 20, trials[:20]) == trials[20].settings


@pytest.mark.long
@pytest.mark.parametrize("search", ["optuna:cmaes", "ray:hyperopt"])
def test_a_driver_that_is_killed_is_followed_by_one_that_proposes_the_same(
    search: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL in the middle of a trial; each driver is a process of its own, and all that passes between them is the record."""
    monkeypatch.setenv("SIGHTLINE_HOME", str(tmp_path))
    experiment = config.load("toy", settings=TOY)

    def drive(name: str, *words: str) -> int:
        return subprocess.run([sys.executable, str(SUPPORT.parents[1] / "sweep_driver.py"), name, *words], check=False).returncode

    for name in ("whole", "killed"):
        Sweep.create(name, experiment, "", plan_of(search, trials=16), "a test", "sqlite:///none")
    assert drive("whole") == 0
    assert drive("killed", "9") == -signal.SIGKILL
    left = Sweep.open("killed").trials()
    assert len(left) == 10 and left[-1].status is TrialStatus.OPEN and left[-1].results
    assert drive("killed") == 0
    whole, killed = (
        [(trial.number, trial.settings, trial.results, trial.status) for trial in Sweep.open(name).trials()] for name in ("whole", "killed")
    )
    assert killed == whole and len(whole) == 16 and {status for *_, status in whole} == {TrialStatus.FINISHED, TrialStatus.PRUNED}


FEW = [{"a.b": "1..3", "a.c": "x,y"}, {"a.b": "log:1..4"}, {"a.b": "0.2..0.8/0.2", "a.c": "[1, 2],[3, 4]"}]
"""Spaces of a few settings."""
LISTS = [(search, space) for search in ("optuna:cmaes", "optuna:nsga2", "optuna:qmc", "ray:hyperopt") for space in FEW]


@pytest.mark.slow
@pytest.mark.parametrize(("search", "space"), [*LISTS, ("optuna:gp", FEW[1])])
def test_no_searcher_tries_a_setting_twice_while_others_are_left(search: str, space: dict[str, str]) -> None:
    plan = plan_of(search, space=space, own={name: "elsewhere" for name in space})
    trials = [Trial(0, {}, {18: 0.1}, status=TrialStatus.FINISHED)]
    for number in range(1, most_trials(plan) or 0):
        trials.append(Trial(number, propose(plan, number, trials), {18: 0.1 * number}, status=TrialStatus.FINISHED))
    assert len({str(trial.settings) for trial in trials}) == most_trials(plan)


@pytest.mark.parametrize(
    "search", ["random", pytest.param("optuna", marks=pytest.mark.slow), pytest.param("optuna:nsga2", marks=pytest.mark.slow)]
)
def test_several_objectives_are_searched_and_have_a_front(search: str) -> None:
    plan = plan_of(search, others=(SPEED,), rungs=(18,), scheduler="none")
    trials = searched(plan, 24)
    members = objectives.front(plan, trials)
    assert members and max(trials, key=lambda trial: trial.last or -9).number == members[0].number
    for one in members:
        mine = one.scores(plan)
        assert mine and not any(all(a > b for a, b in zip(trial.scores(plan) or (), mine, strict=True)) for trial in trials)
    assert propose(plan, 12, trials[:12]) == trials[12].settings


def test_the_front_leaves_out_what_is_beaten_or_no_number() -> None:
    plan = plan_of("random", others=(Objective(name=objectives.SIZE, better="lower"),), rungs=(18,), scheduler="none")

    def trial(number: int, worth: float, size: float, status: TrialStatus = TrialStatus.FINISHED, step: int = 18) -> Trial:
        return Trial(number, {}, {step: worth}, {step: {objectives.SIZE: size}}, status=status)

    found = [trial(0, 0.5, 10), trial(1, 0.6, 12), trial(2, 0.5, 11), trial(3, 0.6, 12), trial(4, math.nan, 1), trial(5, 0.9, math.nan)]
    found += [trial(6, 0.9, 1, TrialStatus.FAILED), trial(7, 0.9, 1, step=6), trial(8, 0.4, 9)]
    assert [one.number for one in objectives.front(plan, found)] == [1, 3, 0, 8]


@pytest.mark.slow
def test_what_cannot_be_searched_is_told(outside: None) -> None:
    trials = [Trial(0, {}, {18: 0.1}, status=TrialStatus.FINISHED)]
    for search, message in (
        ("bayes", "unknown searcher 'bayes'"),
        ("optuna:cma", "did you mean 'cmaes'"),
        ("random:x", "has no variants"),
        ("ray", "ray:hyperopt"),
        ("ray:hebo", "HEBO must be installed"),
        ("ray:nevergrad", "takes no seed"),
        ("deaf", "takes no points_to_evaluate"),
        ("broken", "not values of the space"),
    ):
        with pytest.raises(SightlineError, match=message):
            propose(plan_of(search), 1, trials)
    for name, message in (("ashaa", "did you mean 'asha'"), ("gone", "cannot be loaded")):
        with pytest.raises(SightlineError, match=message):
            find_scheduler(name)
    assert find_searcher("near").takes_several("") is False


def results(rule: str, given: list[tuple[int, int, float]], known: list[Any] = []) -> list[TrialMeasured]:  # noqa: B006
    """What a scheduler that has `known` on record notes for these results; of a trial that it stopped there are no more."""
    noted: list[TrialMeasured] = []
    sweep: Any = SimpleNamespace(plan=plan_of("random", scheduler=rule), results=lambda: known, note=noted.append)
    scheduler = Recorded(sweep)
    for number in {number for number, _, _ in given}:
        scheduler.on_trial_add(None, SimpleNamespace(config={"trial": number}))  # type: ignore[arg-type]
    for number, step, value in given:
        if not any(event.trial == number and event.decision == "STOP" for event in (*known, *noted)):
            tuned: Any = SimpleNamespace(config={"trial": number})
            scheduler.on_trial_result(None, tuned, {"step": step, "objective": value})  # type: ignore[arg-type]
    return noted


GIVEN = [(number, step, (number * 7 % 12) / 12 + step / 100) for number in range(12) for step in (2, 6, 18)]


@pytest.mark.parametrize("rule", ["asha", "median", "hyperband", "none", pytest.param("halfway", marks=pytest.mark.slow)])
def test_a_scheduler_that_is_made_from_the_record_decides_as_if_nothing_had_happened(rule: str, request: pytest.FixtureRequest) -> None:
    if rule == "halfway":
        request.getfixturevalue("outside")
    whole = results(rule, GIVEN)
    assert ({"STOP", "CONTINUE"} == {event.decision for event in whole if event.step < 18}) or rule == "none"
    for cut in range(0, len(GIVEN), 5):
        before = results(rule, GIVEN[:cut])
        assert before + results(rule, GIVEN[cut:], before) == whole


@pytest.mark.slow
def test_a_scheduler_that_pauses_is_refused(outside: None) -> None:
    with pytest.raises(SightlineError, match="pausing answers PAUSE"):
        results("pausing", [(0, 2, 0.1)])


def test_median_stops_what_is_worse_than_half_of_the_others() -> None:
    noted = results("median", [(0, 2, 0.7), (1, 2, 0.5), (2, 2, 0.6), (3, 2, 0.59), (4, 2, 0.65)])  # the second has one other
    assert [event.decision for event in noted] == ["CONTINUE"] * 3 + ["STOP", "CONTINUE"]


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*args: Any) -> None:
        raise ModuleNotFoundError("No module named 'cmaes'")

    monkeypatch.setattr(optuna_study, "_ask_again", missing)
    with pytest.raises(CallError, match="No module named 'cmaes'") as caught:
        propose(plan_of("optuna:cmaes"), 1, [])
    assert caught.value.hint == "pip install cmaes"
