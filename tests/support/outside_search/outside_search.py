"""A package with searchers and a scheduler of its own: one that is a function of the record, Ray's HyperOpt with options, one that is not
allowed, and a rule that stops trials."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.search.hyperopt import HyperOptSearch

from sightline.platform.experiments.sweep.catalog import SchedulerSpec, SearcherSpec
from sightline.platform.experiments.sweep.ray_search import from_ray
from sightline.platform.experiments.sweep.record import SweepPlan, Trial


def _near(plan: SweepPlan, number: int, trials: Sequence[Trial], attempt: int) -> dict[str, Any]:
    """The best so far, each setting moved by a share of its domain that shrinks with the trials."""
    sign = plan.objectives[0].sign
    best = max((trial for trial in trials if trial.last is not None), key=lambda trial: sign * (trial.last or 0.0))
    settings, step = {**plan.own, **best.settings}, (-1) ** (number + attempt) / (2 + number + attempt)
    moved = {}
    for name, domain in plan.domains.items():
        low, high = domain.edges()[0], domain.edges()[-1]
        moved[name] = domain.nearest(settings[name] + step * (high - low))  # type: ignore[union-attr]
    return moved


near = SearcherSpec(_near)
hyperopt = SearcherSpec(from_ray(HyperOptSearch, n_initial_points=5))


class Deaf(Searcher):
    """Takes no points_to_evaluate, so what is on record cannot be told to it."""

    def suggest(self, trial_id: str) -> dict[str, Any]:
        return {}


deaf = SearcherSpec(from_ray(Deaf))
broken = SearcherSpec(lambda plan, number, trials, attempt: {"no.such": 1})


class Halfway(FIFOScheduler):
    """Stops a trial whose first result is below 0.5."""

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        return TrialScheduler.STOP if result["objective"] < 0.5 else TrialScheduler.CONTINUE


class Pausing(FIFOScheduler):
    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        return TrialScheduler.PAUSE


halfway = SchedulerSpec(lambda plan: Halfway(), "a trial below 0.5 stops")  # type: ignore[no-untyped-call]
pausing = SchedulerSpec(lambda plan: Pausing())  # type: ignore[no-untyped-call]
