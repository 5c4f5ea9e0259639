"""Searchers of Ray Tune. Each proposal is made by a fresh one that is told the recorded trials first, so that none of its own files is
needed, which Ray would write as pickles."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ray import tune
from ray.tune.search import SEARCH_ALG_IMPORT, Searcher

from sightline.methods.errors import CallError, first_line
from sightline.methods.random import key

from .catalog import Propose, SearcherSpec
from .record import SweepPlan, Trial, TrialStatus
from .space import Choice, Domain, index_of

SEEDS = ("seed", "random_state_seed", "random_state", "random_seed")
"""What searchers call the seed among their arguments."""
NAMES = sorted(set(SEARCH_ALG_IMPORT) - {"random", "variant_generator"})


def from_ray(kind: Callable[..., Searcher], **options: Any) -> Propose:
    """Proposals of a searcher of Ray Tune: its class, and arguments beyond `metric`, `mode`, `points_to_evaluate` and the seed.

    It must take a seed, `points_to_evaluate`, which it then proposes first, and its space by `set_search_properties`.
    """

    def propose(plan: SweepPlan, number: int, trials: Sequence[Trial], attempt: int) -> dict[str, Any]:
        seed = key("ray", plan.seed, number, *((attempt,) if attempt else ())) % 2**32
        known = [
            trial for trial in trials if plan.holds({**plan.own, **trial.settings}) and all(map(math.isfinite, trial.results.values()))
        ]
        searcher = _made(kind, plan, seed, known, options)
        for trial in known:
            _tell(searcher, plan, trial)
        found = searcher.suggest(f"{number:03d}-{attempt}")
        if not isinstance(found, dict):
            raise CallError(f"--search {plan.search} proposes nothing for trial {number}", "use another searcher")
        return {name: _value(domain, found[name]) for name, domain in plan.domains.items()}

    return propose


def _made(kind: Callable[..., Searcher], plan: SweepPlan, seed: int, known: Sequence[Trial], options: dict[str, Any]) -> Searcher:
    takes = inspect.signature(kind).parameters
    if "points_to_evaluate" not in takes:
        raise CallError(f"--search {plan.search}: {kind.__name__} takes no points_to_evaluate, so it cannot be told what is recorded")
    given = {name: seed for name in SEEDS if name in takes}
    if not given:
        raise CallError(
            f"--search {plan.search}: {kind.__name__} takes no seed ({', '.join(SEEDS)}), so a resume would search on otherwise",
            "use another searcher",
        )
    points = [_point(plan, trial) for trial in known]
    try:
        searcher = kind(metric="objective", mode=plan.mode, points_to_evaluate=points, **{**given, **options})
    except (AssertionError, ImportError) as error:  # Ray asserts that the package is there
        raise CallError(f"--search {plan.search}: {first_line(error)}", "install the package that it needs") from error
    try:
        searcher.set_search_properties("objective", plan.mode, {name: _domain(domain) for name, domain in plan.domains.items()})
    except (TypeError, ValueError) as error:
        raise CallError(
            f"--search {plan.search} cannot search this space: {first_line(error)}", "use another searcher or domain"
        ) from error
    return searcher


def _tell(searcher: Searcher, plan: SweepPlan, trial: Trial) -> None:
    name, point = f"{trial.number:03d}", _point(plan, trial)
    proposed = searcher.suggest(name)
    if not isinstance(proposed, dict) or any(not _same(proposed.get(each), value) for each, value in point.items()):
        raise CallError(
            f"--search {plan.search} proposed {proposed} for trial {trial.number}, whose settings are {point}",
            "it does not propose its points_to_evaluate first, so it cannot be told what is recorded; use another searcher",
        )
    if trial.status in (TrialStatus.FAILED, TrialStatus.CANCELLED):
        searcher.on_trial_complete(name, error=True)
    elif trial.status is not TrialStatus.OPEN:
        steps = max(trial.results)
        searcher.on_trial_complete(name, {"objective": trial.results[steps], "step": steps, "training_iteration": len(trial.results)})


def _point(plan: SweepPlan, trial: Trial) -> dict[str, Any]:
    """A recorded trial's settings as the searcher has them."""
    settings = {**plan.own, **trial.settings}
    return {name: _index(domain, settings[name]) for name, domain in plan.domains.items()}


def _domain(domain: Domain) -> Any:
    """Lists, and whole numbers and steps on an even scale, are searched by their index: Ray counts its steps from 0, not from `low`."""
    if isinstance(domain, Choice):
        return tune.choice(list(range(len(domain.options))))
    if domain.whole and domain.log:
        return tune.lograndint(round(domain.low), round(domain.high) + 1)
    if domain.size is not None:
        return tune.randint(0, domain.size)
    return (tune.loguniform if domain.log else tune.uniform)(domain.low, domain.high)


def _by_index(domain: Domain) -> bool:
    return isinstance(domain, Choice) or (domain.size is not None and not domain.log)


def _index(domain: Domain, value: Any) -> Any:
    if isinstance(domain, Choice):
        return index_of(domain, value)
    return round((value - domain.low) / (domain.step or 1)) if _by_index(domain) else value


def _value(domain: Domain, found: Any) -> Any:
    return domain.value(int(found)) if isinstance(domain, Choice) or _by_index(domain) else domain.rounded(float(found))


def _same(proposed: Any, known: Any) -> bool:
    return isinstance(proposed, (int, float, np.number)) and math.isclose(float(proposed), known, rel_tol=1e-6, abs_tol=1e-12)


def _by_name(plan: SweepPlan, number: int, trials: Sequence[Trial], attempt: int) -> dict[str, Any]:
    if not plan.variant:
        raise CallError(f"--search ray names no searcher: ray:{', ray:'.join(NAMES)}", "for example --search ray:hyperopt")
    kind = SEARCH_ALG_IMPORT[plan.variant]()  # type: ignore[no-untyped-call]
    return from_ray(kind)(plan, number, trials, attempt)


searcher = SearcherSpec(_by_name, variants=NAMES)
