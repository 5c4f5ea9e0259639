"""A sweep's record as a study of Optuna: its samplers propose trials, its evaluators weigh settings, and others open it."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sightline.methods.errors import CallError, SightlineError
from sightline.methods.random import key
from sightline.platform.core.files import make_folder, replacing
from sightline.platform.core.scratch import scratch_folder

from .catalog import SearcherSpec
from .record import Sweep, SweepPlan, Trial, TrialEnded, TrialProposed, TrialStatus
from .space import Choice, Range, Space, index_of

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial, TrialState

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


def distributions(space: Space, named: bool = False) -> dict[str, BaseDistribution]:
    """As Optuna has them: a value of a list by its index or, for people, `named`."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found: dict[str, BaseDistribution] = {}
    for name, domain in space.items():
        if isinstance(domain, Choice):
            found[name] = CategoricalDistribution(list(map(_name, domain.options)) if named else range(len(domain.options)))
        elif domain.whole:
            found[name] = IntDistribution(round(domain.low), _last(domain), log=domain.log, step=round(domain.step or 1))
        else:
            found[name] = FloatDistribution(domain.low, _last(domain), log=domain.log, step=domain.step)
    return found


def _last(domain: Range) -> Any:
    """The largest value: Optuna warns of a range whose end is no step."""
    return domain.high if domain.size is None else domain.value(domain.size - 1)


def _name(option: Any) -> Any:
    """Optuna's lists hold no lists."""
    return option if option is None or isinstance(option, (bool, int, float, str)) else json.dumps(option, default=str)


def params(space: Space, settings: dict[str, Any], named: bool = False) -> dict[str, Any]:
    def value(domain: Choice | Range, given: Any) -> Any:
        if not isinstance(domain, Choice):
            return given
        index = index_of(domain, given)
        return _name(domain.options[index]) if named else index

    return {name: value(domain, settings[name]) for name, domain in space.items()}


def settings_of(space: Space, found: dict[str, Any]) -> dict[str, Any]:
    def value(domain: Choice | Range, given: Any) -> Any:
        return domain.options[given] if isinstance(domain, Choice) else domain.rounded(given)

    return {name: value(domain, found[name]) for name, domain in space.items()}


def empty_study(plan: SweepPlan, sampler: BaseSampler | None = None, **options: Any) -> Study:
    import optuna
    from optuna.study import StudyDirection

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    directions = [StudyDirection.MAXIMIZE if one.better == "higher" else StudyDirection.MINIMIZE for one in plan.objectives]
    return optuna.create_study(directions=directions, sampler=sampler, **options)


@contextlib.contextmanager
def _experimental() -> Iterator[None]:
    """Without Optuna's warning that a part of it may change."""
    from optuna.exceptions import ExperimentalWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield


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

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study, space = optuna.create_study(), plan.domains
    for settings, value in known:
        study.add_trial(create_trial(params=params(space, settings), distributions=distributions(space), value=value))
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    try:
        found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    except RuntimeError:  # no tree of the forest splits
        found = {}
    return {name: float(found.get(name, 0.0)) for name in space}


def _propose(plan: SweepPlan, number: int, trials: Sequence[Trial], attempt: int) -> dict[str, Any]:
    variant = plan.variant or "tpe"
    replayed = variant in REPLAYED
    again = (attempt,) if attempt and not replayed else ()
    seed = key("optuna", plan.seed, *(() if variant == "qmc" else (number,)), *again) % 2**32  # a sequence has one seed
    with _experimental():
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


def export(sweep: Sweep, path: Path) -> None:
    """Write the sweep as a study in a new SQLite file, as `optuna.load_study` and optuna-dashboard open it.

    Raises `CallError` where the file exists, `SightlineError` where it cannot be written.
    """
    from optuna.storages import RDBStorage

    if path.exists():
        raise CallError(f"{path} exists", "name another file with --out")
    plan, times = sweep.plan, _times(sweep)
    try:
        make_folder(path.parent)
        with scratch_folder("study") as folder, replacing(path) as part:
            storage = RDBStorage(f"sqlite:///{folder / 'study.db'}")
            study = empty_study(plan, storage=storage, study_name=sweep.name)
            with _experimental():
                study.set_metric_names([one.name for one in plan.objectives])
            for key_, value in {
                "recipe": sweep.recipe,
                "command": sweep.command,
                "search": plan.search,
                "scheduler": plan.scheduler,
            }.items():
                study.set_user_attr(key_, value)
            for trial in sweep.trials():
                study.add_trial(_frozen(sweep, trial, times.get(trial.number, (None, None))))
            storage.remove_session()
            storage.engine.dispose()
            shutil.copyfile(folder / "study.db", part)
    except OSError as error:
        raise SightlineError(f"{path} cannot be written: {error.strerror or error}", "make room or choose another place") from error


def _frozen(sweep: Sweep, trial: Trial, times: tuple[float | None, float | None]) -> FrozenTrial:
    from optuna.trial import FrozenTrial, TrialState

    plan, space = sweep.plan, sweep.plan.domains
    state, settings = state_of(trial), {**plan.own, **trial.settings}
    values = trial.values(plan) if state in (TrialState.COMPLETE, TrialState.PRUNED) else None
    if values is not None and not all(map(math.isfinite, values)):
        state, values = TrialState.FAIL, None
    inside = plan.holds(settings)
    began, ended = (None if time is None else datetime.fromtimestamp(time) for time in times)
    began = began or datetime.fromisoformat(sweep.created).astimezone().replace(tzinfo=None)
    return FrozenTrial(
        number=-1,
        trial_id=-1,
        state=state,
        value=None,
        values=values,
        params=params(space, settings, named=True) if inside else {},
        distributions=distributions(space, named=True) if inside else {},
        user_attrs={
            "runs": sweep.run_names(trial.number),
            "status": str(trial.status),
            **({} if inside else {"settings": settings}),
            **({"error": trial.error} if trial.error else {}),
            **({"seeds": trial.seeds} if plan.seeds > 1 else {}),
        },
        system_attrs={},
        intermediate_values={} if plan.others else {step: value for step, value in trial.results.items() if math.isfinite(value)},
        datetime_start=began,
        datetime_complete=None if state is TrialState.RUNNING else ended or began,
    )


def _times(sweep: Sweep) -> dict[int, tuple[float | None, float | None]]:
    """Trial -> when it was proposed and when it ended, in seconds since 1970."""
    found: dict[int, tuple[float | None, float | None]] = {}
    for event in sweep.events():
        if isinstance(event, TrialProposed):
            found[event.trial] = (event.time, None)
        elif isinstance(event, TrialEnded):
            found[event.trial] = (found.get(event.trial, (None, None))[0], event.time)
    return found


searcher = SearcherSpec(
    _propose,
    variants=("tpe", "gp", "random", "qmc", "cmaes", "nsga2", "nsga3"),
    several=("", "tpe", "gp", "random", "qmc", "nsga2", "nsga3"),
)
