"""The settings of each trial: a function of the plan and the recorded trials, so a resumed sweep proposes the same ones."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sightline.methods.errors import CallError, SightlineError, first_line
from sightline.methods.random import keyed_rng

from .catalog import SearcherSpec, find_searcher
from .record import MOST_TRIALS, SweepPlan, Trial
from .space import Space, identity, settings_in

LISTED = 10_000
"""Most settings of a space that are listed."""


def grid(space: Space) -> list[dict[str, Any]]:
    """All combinations of values. Raises `CallError` for a domain that cannot be listed, and for too many."""
    for name, domain in space.items():
        if domain.size is None:
            raise CallError(f"--search grid needs values for {name}, and {domain} has no steps", f"write for example {domain}/STEP")
    if (count := settings_in(space) or 0) > MOST_TRIALS:
        raise CallError(f"the grid has {count:,} settings: 1 to {MOST_TRIALS} trials are allowed", "use fewer values, or --search random")
    return list(_every(space))


def grid_of(plan: SweepPlan) -> list[dict[str, Any]]:
    """The trials of a grid after trial 0, which has the recipe's own settings."""
    own = identity(plan.own)
    return [settings for settings in grid(plan.domains) if identity(settings) != own]


def most_trials(plan: SweepPlan) -> int | None:
    """How many trials have different settings, the recipe's own included; None where they are not counted."""
    count = settings_in(plan.domains)
    return None if count is None else count + (not plan.holds(plan.own))


def propose(plan: SweepPlan, number: int, trials: Sequence[Trial]) -> dict[str, Any]:
    """The settings of trial `number`, which no trial before it had as long as there are others. Trial 0 has the recipe's own.

    Raises `SightlineError` where the searcher fails.
    """
    if number == 0:
        return {}
    space, spec = plan.domains, find_searcher(plan.search)
    before = [trial for trial in trials if trial.number < number]
    tried = {identity({**plan.own, **trial.settings}) for trial in before} | {identity(plan.own)}
    for attempt in range(spec.redraws):
        if identity(found := _proposal(spec, plan, number, before, attempt)) not in tried:
            return found
    if (settings_in(space) or LISTED + 1) > LISTED:  # far more than trials: by chance
        return next((found for attempt in range(LISTED) if identity(found := _random(plan, number, before, attempt)) not in tried), found)
    left = [settings for settings in _every(space) if identity(settings) not in tried]
    return left[int(keyed_rng("sweep", plan.seed, number, "left").integers(len(left)))] if left else found


def _proposal(spec: SearcherSpec, plan: SweepPlan, number: int, before: Sequence[Trial], attempt: int) -> dict[str, Any]:
    """The searcher's, checked: it may be another package's."""
    try:
        found = spec.propose(plan, number, before, attempt)
    except (SightlineError, MemoryError):
        raise
    except Exception as error:
        raise SightlineError(
            f"searcher {plan.search} gave no settings for trial {number}: {type(error).__name__}: {first_line(error)}",
            "the error is its package's; another --search may do",
        ) from error
    if not isinstance(found, Mapping) or found.keys() != plan.space.keys() or not plan.holds(found):
        raise SightlineError(
            f"searcher {plan.search} gave {found} for trial {number}, not values of the space for {', '.join(plan.space)}",
            "the error is its package's; another --search may do",
        )
    return dict(found)


def _every(space: Space) -> Iterator[dict[str, Any]]:
    """All settings of a space whose domains are counted."""
    listed = ([domain.value(index) for index in range(domain.size or 0)] for domain in space.values())
    return (dict(zip(space, values, strict=True)) for values in itertools.product(*listed))


def _random(plan: SweepPlan, number: int, trials: Sequence[Trial], attempt: int) -> dict[str, Any]:
    again = (attempt,) if attempt else ()
    draws = ((name, domain, keyed_rng("sweep", plan.seed, number, name, *again).random()) for name, domain in plan.domains.items())
    return {name: domain.at(float(draw)) for name, domain, draw in draws}


def _grid(plan: SweepPlan, number: int, trials: Sequence[Trial], attempt: int) -> dict[str, Any]:
    return grid_of(plan)[number - 1]


random = SearcherSpec(_random, several=True, learns=False, redraws=100)
listed = SearcherSpec(_grid, several=True, learns=False, redraws=1)
