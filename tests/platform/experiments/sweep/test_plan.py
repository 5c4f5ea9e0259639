"""A sweep's search space, plan and proposals: text in, checked values out, the same ones after every restart."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from toy import TOY_IMAGES, write_images

from sightline.methods.catalog import find_method
from sightline.methods.contract import BuildContext, HasPredictor
from sightline.methods.errors import CallError
from sightline.methods.random import keyed_rng
from sightline.platform import config
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.mixed_data import MixedData
from sightline.platform.data.training_data import TrainingData, open_training_data
from sightline.platform.experiments.preflight import check
from sightline.platform.experiments.sweep import plan as planning
from sightline.platform.experiments.sweep import run_trials, summary
from sightline.platform.experiments.sweep.plan import Asked, add_trials, make_plan, rungs, trial_settings
from sightline.platform.experiments.sweep.record import (
    Decision,
    Sweep,
    SweepPlan,
    Trial,
    TrialEnded,
    TrialMeasured,
    TrialProposed,
    TrialStatus,
)
from sightline.platform.experiments.sweep.schedule import Recorded
from sightline.platform.experiments.sweep.search import grid, most_trials, propose
from sightline.platform.experiments.sweep.space import Choice, Range, identity, parse_domain, parse_space, settings_in
from sightline.platform.experiments.sweep.trial import measure_test
from sightline.platform.runs.events import StepsDone, TrainingStarted, WorkerStarted


@pytest.fixture
def toy(tmp_path: Path) -> tuple[config.Experiment, Dataset]:
    data = {"train": str(write_images(tmp_path / "train", 40, 1)), "val": str(write_images(tmp_path / "val", 20, 2))}
    experiment = config.load("toy", settings={**TOY_IMAGES["conmim"], "data": data})
    return experiment, Dataset.open(data["train"])


def plan_of(search: str = "random", **changes: Any) -> SweepPlan:
    values = {"space": {"pretext.mask_ratio": "0.2..0.8", "model.depth": "1..3", "pretext.mask": "cells,random"}, "trials": 20}
    values |= {"search": search, "objective": "knn.accuracy", "better": "higher", "concurrent": 1, "threads": 1, "steps": 18}
    return SweepPlan.model_validate({**values, "rungs": (2, 6, 18), **changes})


@pytest.mark.parametrize(
    ("text", "domain"),
    [
        ("0.5..0.95", Range(0.5, 0.95)),
        ("0.5..0.95/0.05", Range(0.5, 0.95, step=0.05)),
        ("log:0.1..10", Range(0.1, 10, log=True)),
        ("log:1e-4..1e-2", Range(1e-4, 1e-2, log=True)),
        ("2..8", Range(2, 8, whole=True)),
        ("2..8/2", Range(2, 8, whole=True, step=2)),
        ("-1..1", Range(-1, 1, whole=True)),
        ("cosine,rope", Choice(("cosine", "rope"))),
        ("true,false", Choice((True, False))),
        ("0.05,0.1,1", Choice((0.05, 0.1, 1))),
        ("1e-3,1e-05", Choice((0.001, 0.00001))),
        ("[64, 64],[64, 96]", Choice(([64, 64], [64, 96]))),
        ("'a, b',null,c d", Choice(("a, b", None, "c d"))),
        ("{a: 1},{a: 2}", Choice(({"a": 1}, {"a": 2}))),
    ],
)
def test_a_domain_is_read_and_written_back(text: str, domain: Any) -> None:
    assert parse_domain(text, "a.b") == domain
    assert parse_domain(str(domain), "a.b") == domain


ODD = ["[1,2", "[1,2],[1,2.0]", ".nan", "1,.inf", "0..1e999", "a,]", "*a", "2026-02-30", "[" * 200, "1,1.0", "0b_", "a,\x00"]


@pytest.mark.parametrize(
    "text", ["0.9..0.5", "1..1", "log:0..1", "log:-1..1", "0.5..", "a..b", "", "a,,b", "a,a", "0..1/2", "log:1..10/2", *ODD]
)
def test_a_text_that_is_no_domain_is_told_with_examples(text: str) -> None:
    with pytest.raises(CallError, match=r"pretext\.x") as caught:
        parse_domain(text, "pretext.x")
    assert caught.value.hint


def test_values_of_a_domain() -> None:
    def values(text: str) -> list[Any]:
        domain = parse_domain(text, "k")
        return [domain.value(index) for index in range(domain.size or 0)]

    assert values("0.5..0.95/0.15") == [0.5, 0.65, 0.8, 0.95]
    assert values("0..1/0.1") == [round(i / 10, 10) for i in range(11)], "no step is lost to rounding"
    assert values("0.5..0.6/0.1") == [0.5, 0.6] and values("2..8/3") == [2, 5, 8] and values("2..4") == values("log:2..4") == [2, 3, 4]
    assert parse_domain("0.5..0.95", "k").size is None and parse_domain("log:0.1..10", "k").size is None
    assert parse_domain("0..1000000000", "k").at(0.5) == 500000000, "nothing is listed"
    assert math.isclose(parse_domain("log:0.01..100", "k").at(0.5), 1.0)
    whole = parse_domain("1..4", "k")
    assert Counter(whole.at(i / 400) for i in range(400)) == {1: 100, 2: 100, 3: 100, 4: 100}


def test_a_space_comes_from_texts_and_files(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text("pretext.mask_ratio: 0.5..0.9\nmodel.position: [cosine, rope]\n")
    assert parse_space([str(tmp_path / "space.yaml"), "optim.lr=log:1e-4..1e-2"]) == {
        "pretext.mask_ratio": Range(0.5, 0.9),
        "model.position": Choice(("cosine", "rope")),
        "optim.lr": Range(1e-4, 1e-2, log=True),
    }
    for parts in (["pretext.mask_ratio"], ["=1,2"]):
        with pytest.raises(CallError, match="names no setting and range"):
            parse_space(parts)
    with pytest.raises(CallError, match=r"names optim\.lr twice"):
        parse_space(["optim.lr=1,2", "optim.lr=3,4"])
    for text in ("a.b: []", "a.b:", "a.b: [.nan]", "[a]", "a.b: [1, 1.0]", "a.b: {c: 1, c: 2}"):
        (tmp_path / "odd.yaml").write_text(text)
        with pytest.raises(CallError):
            parse_space([str(tmp_path / "odd.yaml")])
    with pytest.raises(CallError, match="No such file"):
        parse_space([str(tmp_path / "gone.yaml")])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["croco", "conmim", "loca", "i2p_mae"])
def test_the_space_that_a_method_declares_is_allowed_by_its_settings(method: str) -> None:
    declared = find_method(method).search_space
    recipe = {"croco": "croco-v2-base", "conmim": "conmim-base", "loca": "loca-base", "i2p_mae": "i2p-mae-base"}[method]
    assert declared
    for key, domain in parse_space(f"{key}={text}" for key, text in declared.items()).items():
        for value in domain.edges():
            assert config.load(recipe, {key: value}).flat()[key] == value


@pytest.mark.parametrize("search", ["random", "optuna"])
def test_a_proposal_depends_on_plan_and_record_alone(search: str) -> None:
    plan = plan_of(search)
    trials = [Trial(0, {})]
    for number in range(1, 8):
        trials.append(Trial(number, propose(plan, number, trials), {18: 0.1 * number}, status="finished"))
    assert [propose(plan, trial.number, trials[: trial.number]) for trial in trials] == [trial.settings for trial in trials]
    for trial in trials[1:]:
        assert all(trial.settings[key] in domain for key, domain in plan.domains.items())
    assert len({str(trial.settings) for trial in trials}) == 8
    assert propose(plan_of(search, seed=1), 3, trials[:3]) != trials[3].settings
    if search == "random":
        assert propose(plan, 5, []) == trials[5].settings, "whatever came before"


def test_optuna_learns_from_what_was_measured() -> None:
    plan = plan_of("optuna", space={"pretext.mask_ratio": "0.0..1.0"})

    def proposed(best: float) -> float:
        known = [Trial(n, {"pretext.mask_ratio": n / 20}, {18: -abs(n / 20 - best)}, status="finished") for n in range(1, 20)]
        found = [propose(plan, 20 + i, known)["pretext.mask_ratio"] for i in range(9)]
        return sorted(found)[4]

    assert proposed(0.2) < 0.4 and proposed(0.8) > 0.6


SPACES = [{"a.b": "true,false"}, {"a.b": "1..3", "a.c": "x,y"}, {"a.b": "log:1..4"}, {"a.b": "0.2..0.8/0.2", "a.c": "[1, 2],[3, 4]"}]


@pytest.mark.parametrize("search", ["random", "optuna", "grid"])
@pytest.mark.parametrize("space", SPACES)
def test_no_setting_is_tried_twice_while_others_are_left(search: str, space: dict[str, str]) -> None:
    """Trial 0 has the recipe's own, which count as tried."""
    plan = plan_of(search, space=space)
    domains = plan.domains
    whole = settings_in(domains) or 0
    for own in ({name: domain.value(1) for name, domain in domains.items()}, {name: "elsewhere" for name in domains}):
        of = plan.model_copy(update={"own": own})
        most = most_trials(of)
        assert most == whole + ("elsewhere" in own.values())
        trials = [Trial(0, {}, {18: 0.1}, status="finished")]
        for number in range(1, most or 0):
            trials.append(Trial(number, propose(of, number, trials), {18: 0.1 * number}, status="finished"))
        tried = {identity({**own, **trial.settings}) for trial in trials}
        assert len(tried) == most
        if search == "random":
            again = propose(of, len(trials), trials)
            assert all(again[name] in domain for name, domain in domains.items()), "a repeat only when all were tried"


def test_a_space_too_large_to_list_is_drawn_from_by_chance() -> None:
    plan = plan_of(space={"a.b": "1..1000000000"}, own={"a.b": 5})
    trials = [Trial(0, {})]
    for number in range(1, 30):
        trials.append(Trial(number, propose(plan, number, trials)))
    assert len({trial.settings.get("a.b", 5) for trial in trials}) == 30


def test_optuna_learns_from_the_recipes_own_settings_where_the_space_holds_them() -> None:
    plan = plan_of("optuna", space={"pretext.mask_ratio": "0.0..1.0"})
    known = [Trial(n, {"pretext.mask_ratio": n / 20}, {18: -abs(n / 20 - 0.2)}, status="finished") for n in range(1, 20)]
    own = plan.model_copy(update={"own": {"pretext.mask_ratio": 0.21}})
    first = Trial(0, {}, {18: 1.0}, status="finished")
    assert propose(own, 20, [first, *known]) != propose(own, 20, known)
    assert propose(plan, 20, [first, *known]) == propose(plan, 20, known), "a sweep of an older version"
    broken = Trial(19, {"pretext.mask_ratio": 0.5}, {18: math.nan}, status="finished")
    assert propose(own, 20, [*known[:-1], broken]) == propose(own, 20, known[:-1]), "no number, nothing to learn"


def test_a_grid_is_whole() -> None:
    plan = plan_of("grid", space={"pretext.mask": "cells,random", "model.depth": "1..3"}, trials=7)
    assert [propose(plan, n, []) for n in range(1, 7)] == grid(plan.domains) and len({str(s) for s in grid(plan.domains)}) == 6
    own = plan.model_copy(update={"own": {"pretext.mask": "cells", "model.depth": 2.0}})
    assert {"pretext.mask": "cells", "model.depth": 2} not in [propose(own, n, []) for n in range(1, 6)]
    with pytest.raises(CallError, match="has 1,000,000 settings"):
        grid(parse_space(["a.b=1..1000", "a.c=1..1000"]))
    assert propose(plan, 0, []) == {}
    with pytest.raises(CallError, match="needs values for"):
        grid(parse_space(["pretext.mask_ratio=0.2..0.8"]))


@pytest.mark.parametrize(("steps", "count"), [(600, 3), (18, 3), (900, 3), (5, 3), (1, 4), (1000, 1), (10_000, 5)])
def test_rungs_are_those_at_which_ray_decides(steps: int, count: int) -> None:
    found = rungs(steps, 3, count)
    assert found[-1] == steps and list(found) == sorted(set(found)) and len(found) <= count
    assert all(step % found[0] == 0 for step in found[:-1]), "a checkpoint lies at each"

    class Nothing:
        plan = plan_of(steps=steps, rungs=found)

        def results(self) -> list[Any]:
            return []

    decided = {int(milestone) for milestone, _ in Recorded(Nothing()).inner._brackets[0]._rungs}  # type: ignore[arg-type, attr-defined]
    assert set(found[:-1]) <= decided


@pytest.mark.slow
def test_the_plan_is_checked_before_anything_starts(toy: tuple[config.Experiment, Dataset]) -> None:
    experiment, dataset = toy
    plan = make_plan(experiment, dataset, Asked(space=["pretext.mask_ratio=0.3..0.7"], trials=5, concurrent=1))
    assert (plan.objective, plan.better, plan.steps, plan.rungs) == ("knn.accuracy", "higher", 18, (2, 6, 18))
    shared = trial_settings(experiment, plan)
    assert str(shared.train.checkpoint_every) == "2 steps" and shared.probe.names == experiment.probe.names
    own = make_plan(experiment, dataset, Asked())
    assert set(own.space) == set(find_method("conmim").search_space)
    for asked, message in [
        (Asked(space=["pretext.mask_ration=0.3..0.7"]), "did you mean 'pretext.mask_ratio'"),
        (Asked(space=["pretext.mask_ratio=0.3..1.7"]), "pretext.mask_ratio=0.3..1.7"),
        (Asked(space=["train.length=10..20"]), "the same in all trials"),
        (Asked(space=["data.block=10..20"]), "the same in all trials"),
        (Asked(space=["pretext.mask_ratio=0.3..0.7"], search="grid"), "needs values"),
        (Asked(space=["pretext.mask_ratio=0.3,0.7"], search="grid", trials=9), "make 3"),
        (Asked(objective=["segmentation"]), "do not allow"),
        (Asked(objective=["knnn"]), "did you mean 'knn'"),
        (Asked(objective=["knn.mean"]), "no metric 'mean'"),
        (Asked(trials=0), "0 trials"),
        (Asked(concurrent=0), "--concurrent must be at least 1"),
        (Asked(trials=10**6), "1 to 1000"),
    ]:
        with pytest.raises(CallError, match=message):
            make_plan(experiment, dataset, asked)


def test_pretext_losses_are_compared_only_where_they_measure_the_same(toy: tuple[config.Experiment, Dataset]) -> None:
    experiment, dataset = toy
    with pytest.raises(CallError, match=r"different pretext\.mask_ratio do not compare"):
        make_plan(experiment, dataset, Asked(space=["pretext.mask_ratio=0.3..0.7"], objective=["val/loss"]))
    plan = make_plan(experiment, dataset, Asked(space=["pretext.mask_ratio=0.3..0.7"], objective=["val/loss"], insist=True))
    assert (plan.objective, plan.better) == ("val/loss", "lower")
    assert make_plan(experiment, dataset, Asked(space=["optim.lr=log:1e-4..1e-2"], objective=["val/loss"])).better == "lower"


class _Asked:
    """A trial of Ray Tune as far as the rungs look at it."""

    def __init__(self, number: int) -> None:
        self.trial_id, self.config = f"ray-{number}", {"trial": number}


def decide(sweep: Sweep, results: list[tuple[int, int, float]]) -> list[str]:
    """The decisions of a scheduler that is made anew from the record, as a driver makes it."""
    rungs, known = Recorded(sweep), set[int]()
    decisions = []
    for number, step, objective in results:
        if number not in known:
            rungs.on_trial_add(None, _Asked(number))  # type: ignore[arg-type]
            known.add(number)
        decisions.append(rungs.on_trial_result(None, _Asked(number), {"step": step, "objective": objective}))  # type: ignore[arg-type]
    return decisions


@pytest.mark.slow
@pytest.mark.parametrize("better", ["higher", "lower"])
def test_rungs_that_are_filled_from_the_record_decide_as_if_nothing_had_happened(
    toy: tuple[config.Experiment, Dataset], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, better: str
) -> None:
    monkeypatch.setenv("SIGHTLINE_HOME", str(tmp_path / "home"))
    experiment, dataset = toy
    rng = keyed_rng("rungs")
    results = [(number, step, float(rng.random())) for number in range(12) for step in (2, 6, 18)]
    plan = plan_of(better=better)

    def made(name: str) -> Sweep:
        found = Sweep.create(name, experiment, dataset.fingerprint, plan, "a test", "sqlite:///none")
        for number in range(12):
            found.note(TrialProposed(number, {}))
        return found

    whole = decide(made("whole"), results)
    assert {"CONTINUE", "STOP"} == set(whole) and whole[2] == "STOP", "the end of a trial is a stop, too"
    for cut in range(len(results)):
        harmed = made(f"harmed-{cut}")
        assert decide(harmed, results[:cut]) + decide(Sweep.open(harmed.name), results[cut:]) == whole
    assert [(event.trial, event.step, event.objective) for event in Sweep.open("whole").results()] == results
    assert [trial.stopped for trial in Sweep.open("whole").trials()] == [whole[3 * n + 2] == "STOP" for n in range(12)]


def test_rungs_that_were_measured_between_steps_are_no_training() -> None:
    """Steps 0 to 6 in 4 s, 3 s of a rung, steps 6 to 9 in 2 s, then the last rung."""
    from sightline.platform.experiments.sweep.run_trials import _training

    steps = [StepsDone(first, {}, [0.0] * n, [0.0] * n, 1.0, {}, 0, time=time) for first, n, time in ((0, 6, 13.0), (6, 3, 19.0))]
    events = [WorkerStarted(0, 1, "here", time=9.0), TrainingStarted("cpu", "fp32", 1, 0, 9, 1, time=10.0), *steps]
    run: Any = SimpleNamespace(events=lambda: iter(events))
    assert _training(run, {6: 3.0, 9: 5.0}) == 6.0
    events.pop()
    assert _training(run, {6: 3.0}) == 3.0, "stopped at the rung"
    assert _training(SimpleNamespace(events=lambda: iter(())), {}) == 0.0  # type: ignore[arg-type]


def test_a_sweep_gets_more_trials(toy: tuple[config.Experiment, Dataset], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SIGHTLINE_HOME", str(tmp_path / "home"))
    experiment, dataset = toy

    def made(name: str, **changes: Any) -> Sweep:
        return Sweep.create(name, experiment, dataset.fingerprint, plan_of(**changes), "a test", "sqlite:///none")

    sweep = made("more", trials=3)
    assert add_trials(sweep, 6) == ""
    sweep.save()
    assert Sweep.open("more").plan == plan_of(trials=6)
    for count in (5, 1001, -1):
        with pytest.raises(CallError, match="has 6 trials"):
            add_trials(sweep, count)
    small = made("small", space={"a.b": "true,false"}, own={"a.b": True}, trials=1)
    assert add_trials(small, 9) == "small gets 2 trials, all that its space holds, in place of 9"
    assert small.plan.trials == 2
    for whole in (small, made("whole", search="grid", trials=7)):
        with pytest.raises(CallError, match=r"all \d trials of its space"):
            add_trials(whole, 9)


def test_what_is_no_number_never_wins(toy: tuple[config.Experiment, Dataset], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SIGHTLINE_HOME", str(tmp_path / "home"))
    experiment, dataset = toy
    for better, winner in (("higher", 3), ("lower", 1)):
        sweep = Sweep.create(f"nan-{better}", experiment, dataset.fingerprint, plan_of(better=better), "a test", "sqlite:///none")
        for number, value in enumerate((math.nan, 0.1, math.inf, 0.3, math.nan, -math.inf)):
            sweep.note(TrialProposed(number, {}))
            sweep.note(TrialMeasured(number, Decision.STOP, 18, value))
            sweep.note(TrialEnded(number, TrialStatus.FINISHED))
        best = sweep.best()
        assert best is not None and best.number == winner
        assert not any(math.isnan(value) for _, rung in Recorded(sweep).inner._brackets[0]._rungs for value in rung.values())


def test_a_space_has_the_values_that_the_settings_have(toy: tuple[config.Experiment, Dataset]) -> None:
    """And a plan knows the recipe's own, so that a grid does not train them twice."""
    experiment, dataset = toy
    size = experiment.flat()["model.image_size"]
    space = [f"model.image_size=[{size}, {size}],{2 * size}", "optim.weight_decay=1e-3,0.05"]
    plan = make_plan(experiment, dataset, Asked(space=space, search="grid", objective=["val/loss"], insist=True))
    assert plan.space["model.image_size"] == f"{size},{2 * size}" and plan.own["model.image_size"] == size
    inside = plan.own["optim.weight_decay"] in (0.001, 0.05)
    assert plan.trials == 5 - inside
    with pytest.raises(CallError, match="names a value twice"):
        make_plan(experiment, dataset, Asked(space=[f"model.image_size=[{size}, {size}],{size}"]))


def test_trials_at_the_same_time_are_those_that_the_cluster_carries(
    toy: tuple[config.Experiment, Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the machine that the command runs on; and each takes its threads, and its share of a GPU."""
    experiment, dataset = toy
    free = experiment.model_copy(update={"train": experiment.train.model_copy(update={"threads": None, "gpus_per_worker": 0.5})})
    monkeypatch.setattr(planning, "names_cluster", lambda: True)
    monkeypatch.setattr(planning, "start_ray", lambda: None)
    nodes = [{"CPU": 0.0, "GPU": 0.0}, {"CPU": 16.0, "GPU": 0.0}, {"CPU": 24.0, "GPU": 0.0}]  # the first is a head that carries none
    monkeypatch.setattr(planning, "suitable_nodes", lambda experiment: nodes)
    asked = Asked(space=["optim.lr=log:1e-4..1e-2"], objective=["val/loss"])
    assert [(plan.concurrent, plan.threads) for plan in (make_plan(free, dataset, asked),)] == [(40, 1)]
    one = make_plan(free, dataset, replace(asked, concurrent=1))
    assert (one.concurrent, one.threads) == (1, 16), "at most what its node has"
    nodes[:] = [{"CPU": 16.0, "GPU": 2.0}, {"CPU": 16.0, "GPU": 2.0}]
    two = make_plan(free, dataset, asked)
    assert (two.concurrent, two.threads) == (8, 4)
    sweep: Any = SimpleNamespace(recipe="toy", settings=free.sections(), plan=two)
    monkeypatch.setattr(run_trials, "up", lambda: dict(enumerate(nodes)))
    assert run_trials._resources(sweep).bundles == [{"CPU": 4.0, "GPU": 0.5}]
    sweep.settings = {**sweep.settings, "train": {**sweep.settings["train"], "accelerator_type": "A100", "labels": {"zone": "a"}}}
    assert run_trials._resources(sweep).bundles == [{"CPU": 4.0, "GPU": 0.5, "accelerator_type:A100": 0.001}]
    nodes.clear()
    assert make_plan(free, dataset, asked).concurrent == 1


def test_the_share_of_the_data_is_swept_with_a_share_of_its_own_for_each_seed(
    toy: tuple[config.Experiment, Dataset], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    experiment, dataset = toy
    monkeypatch.setenv("SIGHTLINE_HOME", str(tmp_path))
    asked = Asked(space=["data.fraction=0.25,0.5"], search="grid", scheduler="none", seeds=2)
    with pytest.raises(CallError, match="different numbers of steps"):  # epochs of a share are shorter
        make_plan(config.load("toy", {"train.length": "2 epochs"}, settings=experiment.sections()), dataset, asked)
    experiment = config.load("toy", {"train.length": "6 steps"}, settings=experiment.sections())
    plan = make_plan(experiment, dataset, asked)
    assert plan.space == {"data.fraction": "0.25,0.5"}
    sweep = Sweep.create("low", experiment, dataset.fingerprint, plan, "sightline sweep", "")
    data = [sweep.experiment_of(Trial(1, {"data.fraction": 0.25}), seed).data for seed in (0, 1)]
    assert [(one.fraction, one.fraction_seed) for one in data] == [(0.25, 0), (0.25, 1)]
    assert sweep.experiment_of(Trial(0, {}), 1).data.fraction_seed == 0  # all data have no share to draw
    run = run_trials.runs_of(sweep, Trial(1, {"data.fraction": 0.25}))[1]
    assert run.fingerprint == open_training_data(run.experiment.data, "images").fingerprint != dataset.fingerprint


def test_fine_tuned_models_are_compared_by_their_test_metrics(toy: tuple[config.Experiment, Dataset]) -> None:
    experiment, dataset = toy
    plan = make_plan(experiment, dataset, Asked(space=["optim.lr=1e-3,1e-4"], objective=["test/miou"]))
    assert (plan.objective, plan.better) == ("test/miou", "higher")
    with pytest.raises(CallError, match=r"no test metric 'mio'.*miou"):
        make_plan(experiment, dataset, Asked(space=["optim.lr=1e-3,1e-4"], objective=["test/mio"]))
    pretext = find_method(experiment.method).build(experiment.method_config, BuildContext(seed=0))
    assert not isinstance(pretext, HasPredictor)
    with pytest.raises(CallError, match="conmim has no test metrics"):
        measure_test(experiment, Path("nowhere"), 1, "miou")


def test_mixtures_are_tried_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`data.train` is searched as a list of its own values; each trial has the fingerprint of what it learns from, and all one probe."""
    monkeypatch.setenv("SIGHTLINE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate("abc"):
        write_images(tmp_path / name, 20, seed)
    settings = {**TOY_IMAGES["conmim"], "data": {"train": "[./a: 3, ./b: 1]", "val": "./c"}}

    def ready(changed: Mapping[str, Any]) -> tuple[config.Experiment, TrainingData]:
        return check(config.load("toy", changed, settings=settings), look=False)

    experiment, dataset = ready({})
    space = ["data.train=[./a: 3, ./b: 1],[./a: 1, ./b: 1],./a"]
    plan = make_plan(experiment, dataset, Asked(space=space, search="grid"), ready)
    assert plan.trials == 3 and plan.own["data.train"] == f"[{tmp_path}/a: 3, {tmp_path}/b: 1]"
    shared = trial_settings(experiment, plan)
    assert shared.probe.train == (f"{tmp_path}/a", f"{tmp_path}/b") and shared.probe.test == (f"{tmp_path}/c", f"{tmp_path}/c")
    sweep = Sweep.create("mixed", shared, dataset.fingerprint, plan, "a test", "sqlite:///none")
    runs = [run_trials.runs_of(sweep, Trial(number, propose(plan, number, [])))[0] for number in range(3)]
    data = [open_training_data(run.experiment.data, "images") for run in runs]
    assert [run.fingerprint for run in runs] == [one.fingerprint for one in data] and len({run.fingerprint for run in runs}) == 3
    assert isinstance(data[1], MixedData) and data[1].weights == (1, 1) and isinstance(data[2], Dataset)
    for space, message in (
        (["data.train=1..4"], "mixtures are tried one by one"),
        (["data.train.a=1..4"], "mixtures are tried one by one"),
        (["data.train=./a,./nowhere"], "there is no data set"),
        (["data.val=./a,./b"], "the same in all trials of a sweep$"),
    ):
        with pytest.raises(CallError, match=message):
            make_plan(experiment, dataset, Asked(space=space), ready)
    held = experiment.model_copy(update={"data": experiment.data.model_copy(update={"val": "./held"})})
    with pytest.raises(CallError, match=r"validated on different rows.*name data\.val"):
        make_plan(held, dataset, Asked(space=["data.train=./a,./b"], objective=["val/loss"]), ready)


def test_mixtures_are_named_in_a_few_letters() -> None:
    assert summary._named("[/long/way/habitat: 3, /long/way/kitchen: 1]") == "3:1 habitat, kitchen"
    assert summary._named("[/long/way/habitat, /long/way/kitchen]") == "habitat, kitchen"
    assert summary._named("/long/way/kitchen") == "kitchen" and summary._named("rope") == "rope"
    assert parse_domain("../a,../b", "data.train") == Choice(("../a", "../b"))
