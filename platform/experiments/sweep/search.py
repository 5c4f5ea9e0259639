"""The settings of each trial: a function of the plan and the recorded trials, so a resumed sweep proposes the same ones."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

from sightline.methods.errors import CallError
from sightline.methods.random import key, keyed_rng

from .record import MOST_TRIALS, SweepPlan, Trial, TrialStatus
from .space import Choice, Domain, Space, identity, settings_in

REDRAWS = {"random": 100, "optuna": 5}
"""How often another proposal is drawn in place of one that was tried, before one of those that are left is taken."""
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
    inside = plan.own.keys() == plan.space.keys() and all(_holds(domain, plan.own[name]) for name, domain in plan.domains.items())
    return None if count is None else count + (not inside)


def propose(plan: SweepPlan, number: int, trials: list[Trial]) -> dict[str, Any]:
    """The settings of trial `number`, which no trial before it had as long as there are others. Trial 0 has the recipe's own."""
    if number == 0:
        return {}
    space = plan.domains
    if plan.search == "grid":
        return grid_of(plan)[number - 1]
    tried = {identity({**plan.own, **trial.settings}) for trial in trials if trial.number < number} | {identity(plan.own)}
    draw = _random(plan, number, space) if plan.search == "random" else _optuna(plan, number, space, trials)
    for attempt in range(REDRAWS[plan.search]):
        if identity(found := draw(attempt)) not in tried:
            return found
    if (settings_in(space) or LISTED + 1) > LISTED:  # far more than trials: by chance
        return next((found for attempt in range(LISTED) if identity(found := _random(plan, number, space)(attempt)) not in tried), found)
    left = [settings for settings in _every(space) if identity(settings) not in tried]
    return left[int(keyed_rng("sweep", plan.seed, number, "left").integers(len(left)))] if left else found


def _every(space: Space) -> Iterator[dict[str, Any]]:
    """All settings of a space whose domains are counted."""
    listed = ([domain.value(index) for index in range(domain.size or 0)] for domain in space.values())
    return (dict(zip(space, values, strict=True)) for values in itertools.product(*listed))


def _holds(domain: Domain, value: Any) -> bool:
    """Whether the domain can propose this value."""
    if isinstance(domain, Choice):
        return any(identity(value) == identity(option) for option in domain.options)
    if value not in domain:
        return False
    if domain.size is None:
        return not domain.whole or float(value).is_integer()
    return identity(domain.value(round((value - domain.low) / (domain.step or 1.0)))) == identity(value)


def _random(plan: SweepPlan, number: int, space: Space) -> Callable[[int], dict[str, Any]]:
    def draw(attempt: int) -> dict[str, Any]:
        again = (attempt,) if attempt else ()
        return {name: domain.at(float(keyed_rng("sweep", plan.seed, number, name, *again).random())) for name, domain in space.items()}

    return draw


def _optuna(plan: SweepPlan, number: int, space: Space, trials: list[Trial]) -> Callable[[int], dict[str, Any]]:
    """Draws by Optuna's tree-structured Parzen estimator from the recorded trials; it keeps no state that a kill could lose."""
    import optuna
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
    from optuna.trial import TrialState, create_trial

    def distribution(name: str) -> BaseDistribution:
        domain = space[name]
        if isinstance(domain, Choice):
            return CategoricalDistribution(range(len(domain.options)))
        if domain.whole:
            return IntDistribution(round(domain.low), round(domain.high), log=domain.log, step=round(domain.step or 1))
        return FloatDistribution(domain.low, domain.high, log=domain.log, step=domain.step)

    def params(settings: dict[str, Any]) -> dict[str, Any]:
        """As Optuna has them: a value of a list by its index."""
        return {name: _index(domain, settings[name]) if isinstance(domain, Choice) else settings[name] for name, domain in space.items()}

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    distributions = {name: distribution(name) for name in space}
    known = []
    for trial in trials:
        settings = {**plan.own, **trial.settings}
        inside = settings.keys() == space.keys() and all(_holds(domain, settings[name]) for name, domain in space.items())
        finite = all(map(math.isfinite, trial.results.values()))
        if trial.number >= number or not inside or not finite or trial.status in (TrialStatus.FAILED, TrialStatus.CANCELLED):
            continue
        ended = {TrialStatus.FINISHED: TrialState.COMPLETE, TrialStatus.PRUNED: TrialState.PRUNED}
        state = ended.get(trial.status, TrialState.RUNNING)
        known.append(
            create_trial(
                state=state,
                params=params(settings),
                distributions=distributions,
                value=trial.last if state != TrialState.RUNNING else None,
                intermediate_values=trial.results if state != TrialState.RUNNING else {},
            )
        )

    def draw(attempt: int) -> dict[str, Any]:
        seed = key("optuna", plan.seed, number, *((attempt,) if attempt else ())) % 2**32
        study = optuna.create_study(
            direction="maximize" if plan.better == "higher" else "minimize",
            sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=5, constant_liar=True),
        )
        study.add_trials(known)
        found = study.ask(distributions).params
        return {name: domain.options[found[name]] if isinstance(domain, Choice) else found[name] for name, domain in space.items()}

    return draw


def _index(choice: Choice, value: Any) -> int:
    return next(index for index, option in enumerate(choice.options) if identity(option) == identity(value))
