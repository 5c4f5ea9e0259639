"""When a health metric is told: after the warm-up, twice in a row, and against what the run itself began with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import nan
from pathlib import Path
from typing import Any

import pytest

from sightline.methods.catalog import find_method
from sightline.methods.contract import Alarm
from sightline.platform.runs.events import HealthMeasured, RunEvent, ValidationDone
from sightline.platform.training import collapse
from sightline.platform.training.alarms import LOSS, HealthJudge

RANK = Alarm("rank", cause="lower the rate", below=0.1, after_steps=20)
DEEP = Alarm("rank", cause="lower the rate", below=0.1, fall=0.5, after_steps=20)


def told(alarm: Alarm, values: Mapping[int, float], warmup: float = 10, steps: int = 1000) -> dict[int, list[str]]:
    """Step -> what is told at it, of a metric with these values by step."""
    judge = HealthJudge([alarm], warmup, steps)
    found = {step: judge.judge(step, {alarm.metric: value, "other": 0.0}) for step, value in values.items()}
    return {step: texts for step, texts in found.items() if texts}


def test_an_alarm_is_told_at_the_second_validation_in_a_row_that_is_beyond_the_limit() -> None:
    assert told(RANK, {0: 0.5, 40: 0.05, 50: 0.04, 60: 0.03, 70: 0.5, 80: 0.05, 90: 0.5, 100: 0.05}) == {
        50: ["rank = 0.04 (below 0.1): lower the rate"],
        60: ["rank = 0.03 (below 0.1): lower the rate"],
    }
    high = Alarm("rank", cause="x", above=3.0, after_steps=0)
    assert told(high, {0: 9.0, 40: 3.0, 50: 9.0, 60: 9.0}) == {60: ["rank = 9 (above 3): x"]}


def test_the_last_step_and_what_is_not_a_number_need_no_second() -> None:
    assert told(RANK, {0: 0.5, 90: 0.5, 100: 0.05}, steps=100) == {100: ["rank = 0.05 (below 0.1): lower the rate"]}
    assert told(RANK, {0: 0.5, 5: nan, 40: 0.5}) == {5: ["rank = nan (not a number): lower the rate"]}


def test_sound_runs_are_low_at_first_so_nothing_is_judged_before_its_steps_after_the_warm_up() -> None:
    low = dict.fromkeys(range(0, 61, 10), 0.05)
    assert list(told(RANK, low)) == [40, 50, 60]  # judged from 10 + 20 on
    assert list(told(RANK, low, warmup=25)) == [60]
    assert told(RANK, low, warmup=60, steps=60) == {}, "a run that ends before is not judged"


def test_what_was_as_low_with_random_weights_has_not_collapsed() -> None:
    assert told(DEEP, {0: 0.09, 40: 0.05, 50: 0.05}) == {}
    assert told(DEEP, {0: 0.2, 40: 0.09, 50: 0.09}) == {50: ["rank = 0.09 (below 0.1; 0.2 at first): lower the rate"]}
    assert told(DEEP, {0: 0.9, 40: 0.11, 50: 0.11}) == {}, "a fall that ends above the limit is learning"
    assert list(told(DEEP, {0: 0.0, 40: 0.0, 50: 0.0})) == [50], "features that are the same from the first step on"
    assert list(told(RANK, {0: 0.05, 40: 0.05, 50: 0.05})) == [50], "without `fall` the limit alone counts"


def test_a_validation_loss_above_that_of_the_first_weights_is_told() -> None:
    judge = HealthJudge([], 10, 1000)
    found = [judge.judge(step, {LOSS: loss}) for step, loss in ((0, 1.26), (20, 29.5), (220, 3.2), (230, 1.3), (240, 1.25))]
    assert [len(texts) for texts in found] == [0, 0, 0, 1, 0] and found[3][0].startswith("val/loss = 1.3 (above 1.26): no better than")
    assert HealthJudge([], 0, 1).judge(0, {}) == []


def events(values: Mapping[int, float]) -> list[RunEvent]:
    return [
        event
        for step, value in values.items()
        for event in (ValidationDone(step, {"loss": value}), HealthMeasured(step, {"rank": value}, []))
    ]


def test_a_resume_judges_as_if_the_run_had_not_stopped() -> None:
    """What lost attempts measured beyond the checkpoint does not count. A run whose record is elsewhere compares with its own first."""
    record = events({0: 0.2, 30: 0.2, 40: 0.05, 50: 0.5})
    resumed = HealthJudge([DEEP], 10, 1000)
    resumed.repeat(record, until=40)
    assert len(resumed.judge(50, {"rank": 0.05})) == 1
    losses = HealthJudge([], 10, 1000)
    losses.repeat(record, until=40)
    assert [len(losses.judge(step, {LOSS: 0.3})) for step in (220, 240)] == [0, 1]
    alone = HealthJudge([DEEP], 10, 1000)
    assert [len(alone.judge(step, {"rank": 0.05})) for step in (50, 60, 70)] == [0, 0, 0]


MEASURED = json.loads((Path(__file__).parents[2] / "data" / "health_of_tiny_recipes.json").read_text())
"""What each run measured on real data (CIFAR-10, kitchen or fox pairs, shapes20): the tiny recipes, 300 steps with a validation every 20,
and the toys of these tests, 480 or 520 steps with one every 40; `told`: the step of the first alarm, 240 where it is not there."""


@pytest.mark.parametrize("run", MEASURED, ids=lambda run: f"{run['method']} {run['what']}")
def test_sound_short_runs_of_the_tiny_recipes_are_told_of_nothing_and_collapsed_ones_in_time(run: dict[str, Any]) -> None:
    """Every validation is judged as if the run were longer, too: what would be told if it went on."""
    for steps in (max(map(int, run["values"])), 10_000):
        judge = HealthJudge((*find_method(run["method"]).alarms, *collapse.ALARMS), run["warmup"], steps)
        found = {int(step): judge.judge(int(step), values) for step, values in run["values"].items()}
        told = {step: [text.partition(" ")[0] for text in texts] for step, texts in found.items() if texts}
        assert (not told) if "sound" in run["what"] else next(iter(told)) == run.get("told", 240)
