"""A sweep's record as a study of Optuna: its samplers propose trials, its evaluators weigh settings, and others open it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from sightline.methods.errors import CallError
from sightline.methods.random import key

from .catalog import SearcherSpec
from .record import SweepPlan, Trial, TrialStatus
from .space import Choice, Range, Space, index_of

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import TrialState

START = 5
"""Trials before a model is fitted; until then samplers draw by chance."""
GENERATION = 10
"""Trials of a generation of the genetic algorithms."""


def _samplers() -> dict[str, Callable[[int], BaseSampler]]:
    """Variant -> sampler of a seed."""
    from optuna import samplers

    return {
        "tpe": lambda seed: samplers.TPESampler(seed=seed, n_startup_trials=START, constant_liar=True),
        "gp": lambda seed: samplers.GPSampler(seed=seed, n_startup_trials=START),
        "random": lambda seed: samplers.RandomSampler(seed=seed),
        "qmc": lambda seed: samplers.QMCSampler(seed=seed, scramble=True, warn_independent_sampling=False),
        "cmaes": lambda seed: samplers.CmaEsSampler(seed=seed, consider_pruned_trials=True, warn_independent_sampling=False),
        "nsga2": lambda seed: samplers.NSGAIISampler(seed=seed, population_size=GENERATION),
        "nsga3": lambda seed: samplers.NSGAIIISampler(seed=seed, population_size=GENERATION),
    }


REPLAYED = ("qmc", "cmaes", "nsga2", "nsga3")
"""Samplers that keep a state of their own in the trials that they propose. It is made anew by proposing the recorded trials again."""
NEEDS = {"cmaes": "cmaes", "gp": "torch"}
"""Variant -> package beyond those of Optuna itself."""


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """As Optuna has them: a value of a list by its index."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found: dict[str, BaseDistribution] = {}
    for name, domain in space.items():
        if isinstance(domain, Choice):
            found[name] = CategoricalDistribution(range(len(domain.options)))
        elif domain.whole:
            found[name] = IntDistribution(round(domain.low), round(domain.high), log=domain.log, step=round(domain.step or 1))
        else:
            found[name] = FloatDistribution(domain.low, domain.high, log=domain.log, step=domain.step)
    return found


def params(space: Space, settings: dict[str, Any]) -> dict[str, Any]:
    return {name: index_of(domain, settings[name]) if isinstance(domain, Choice) else settings[name] for name, domain in space.items()}


def settings_of(space: Space, found: dict[str, Any]) -> dict[str, Any]:
    def value(domain: Choice | Range, given: Any) -> Any:
        return domain.options[given] if isinstance(domain, Choice) else domain.nearest(given)

    return {name: value(domain, found[name]) for name, domain in space.items()}


def empty_study(plan: SweepPlan, sampler: BaseSampler | None = None, **options: Any) -> Study:
    import optuna
    from optuna.study import StudyDirection

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    directions = [StudyDirection.MAXIMIZE if one.better == "higher" else StudyDirection.MINIMIZE for one in plan.objectives]
    return optuna.create_study(directions=directions, sampler=sampler, **options)


def state_of(trial: Trial) -> TrialState:
    from optuna.trial import TrialState

    ended = {TrialStatus.FINISHED: TrialState.COMPLETE, TrialStatus.PRUNED: TrialState.PRUNED, TrialStatus.OPEN: TrialState.RUNNING}
    return ended.get(trial.status, TrialState.FAIL)


def finite(plan: SweepPlan, trial: Trial) -> bool:
    """Whether all that was measured of a trial are numbers."""
    return all(math.isfinite(value) for step in trial.results for value in trial.values(plan, step) or ())


def fanova(plan: SweepPlan, known: Sequence[tuple[dict[str, Any], float]]) -> dict[str, float]:
    """Each setting's share of what the settings explain of a value, by functional ANOVA; zeros where the values are all the same."""
    import optuna
    from optuna.trial import create_trial

    study, space = optuna.create_study(), plan.domains
    for settings, value in known:
        study.add_trial(create_trial(params=params(space, settings), distributions=distributions(space), value=value))
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: float(found.get(name, 0.0)) for name in space}


def _propose(plan: SweepPlan, number: int, trials: Sequence[Trial], attempt: int) -> dict[str, Any]:
    from optuna.exceptions import ExperimentalWarning

    variant = plan.variant or "tpe"
    replayed = variant in REPLAYED
    again = (attempt,) if attempt and not replayed else ()
    seed = key("optuna", plan.seed, *(() if variant == "qmc" else (number,)), *again) % 2**32  # a sequence has one seed
    with warnings.catch_warnings():  # QMC is called experimental
        warnings.simplefilter("ignore", ExperimentalWarning)
        study = empty_study(plan, _samplers()[variant](seed))
    known = [trial for trial in trials if plan.holds({**plan.own, **trial.settings}) and finite(plan, trial)]
    try:
        (_ask_again if replayed else _add)(study, plan, known)
        for _ in range(attempt if replayed else 0):
            study.ask(distributions(plan.domains))
        return settings_of(plan.domains, study.ask(distributions(plan.domains)).params)
    except ImportError as error:
        raise CallError(f"--search optuna:{variant}: {error}", f"pip install {NEEDS.get(variant, 'optuna')}") from error


def _add(study: Study, plan: SweepPlan, known: Sequence[Trial]) -> None:
    from optuna.trial import TrialState, create_trial

    space = plan.domains
    for trial in known:
        state = state_of(trial)
        if state is TrialState.FAIL:
            continue
        running = state is TrialState.RUNNING
        study.add_trial(
            create_trial(
                state=state,
                params=params(space, {**plan.own, **trial.settings}),
                distributions=distributions(space),
                values=None if running else trial.values(plan),
                intermediate_values={} if running or plan.others else trial.results,
            )
        )


def _ask_again(study: Study, plan: SweepPlan, known: Sequence[Trial]) -> None:
    """Let the sampler propose what is recorded, in place of what it would have, and tell it what came of that."""
    from optuna.trial import TrialState

    space = plan.domains
    for trial in known:
        study.enqueue_trial(params(space, {**plan.own, **trial.settings}))
        asked = study.ask(distributions(space))
        _ = asked.relative_params  # lets the sampler write its state into the trial, which Optuna does only when it needs the values
        state = state_of(trial)
        if state is TrialState.PRUNED:
            for step, value in trial.results.items():
                asked.report(value, step)
        if state is not TrialState.RUNNING:
            study.tell(asked, trial.values(plan) if state is TrialState.COMPLETE else None, state=state)


searcher = SearcherSpec(
    _propose,
    variants=("tpe", "gp", "random", "qmc", "cmaes", "nsga2", "nsga3"),
    several=("", "tpe", "gp", "random", "qmc", "nsga2", "nsga3"),
)
