"""The settings of each trial: a function of the plan and the recorded trials, so a resumed sweep proposes the same ones."""

from __future__ import annotations

import itertools
from typing import Any

from sightline.methods.errors import CallError
from sightline.methods.random import key, keyed_rng

from .record import SweepPlan, Trial, TrialStatus
from .space import Choice, Space


def grid(space: Space) -> list[dict[str, Any]]:
    """All combinations of values. Raises `CallError` for a domain that cannot be listed."""
    for name, domain in space.items():
        if domain.values() is None:
            raise CallError(f"--search grid needs values for {name}, and {domain} has no steps", f"write for example {domain}/STEP")
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*(domain.values() or [] for domain in space.values()))]


def propose(plan: SweepPlan, number: int, trials: list[Trial]) -> dict[str, Any]:
    """The settings of trial `number`. Trial 0 has the recipe's own."""
    if number == 0:
        return {}
    space = plan.domains
    if plan.search == "grid":
        return grid(space)[number - 1]
    if plan.search == "random":
        return {name: domain.at(float(keyed_rng("sweep", plan.seed, number, name).random())) for name, domain in space.items()}
    return _optuna(plan, number, space, trials)


def _optuna(plan: SweepPlan, number: int, space: Space, trials: list[Trial]) -> dict[str, Any]:
    """Proposed by Optuna's tree-structured Parzen estimator from the recorded trials; it keeps no state that a kill could lose."""
    import optuna
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
    from optuna.trial import TrialState, create_trial

    def distribution(name: str) -> BaseDistribution:
        domain = space[name]
        if isinstance(domain, Choice):
            return CategoricalDistribution(domain.options)
        if domain.whole:
            return IntDistribution(round(domain.low), round(domain.high), log=domain.log, step=round(domain.step or 1))
        return FloatDistribution(domain.low, domain.high, log=domain.log, step=domain.step)

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    distributions = {name: distribution(name) for name in space}
    study = optuna.create_study(
        direction="maximize" if plan.better == "higher" else "minimize",
        sampler=optuna.samplers.TPESampler(seed=key("optuna", plan.seed, number) % 2**32, n_startup_trials=5, constant_liar=True),
    )
    for trial in trials:
        inside = trial.settings.keys() == space.keys() and all(trial.settings[name] in space[name] for name in space)
        if trial.number >= number or not inside or trial.status in (TrialStatus.FAILED, TrialStatus.CANCELLED):
            continue
        ended = {TrialStatus.FINISHED: TrialState.COMPLETE, TrialStatus.PRUNED: TrialState.PRUNED}
        state = ended.get(trial.status, TrialState.RUNNING)
        study.add_trial(
            create_trial(
                state=state,
                params=trial.settings,
                distributions=distributions,
                value=trial.last if state != TrialState.RUNNING else None,
                intermediate_values=trial.results if state != TrialState.RUNNING else {},
            )
        )
    return dict(study.ask(distributions).params)
