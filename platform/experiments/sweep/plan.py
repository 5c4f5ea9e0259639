"""From what a person asks to a plan that is checked whole before anything starts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sightline.methods.catalog import find_method
from sightline.methods.errors import CallError
from sightline.methods.settings import nearest
from sightline.platform import config
from sightline.platform.cluster.resources import local_gpus
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.kinds import find_kind
from sightline.platform.evaluation.probes.catalog import ranked
from sightline.platform.evaluation.probes.spec import ProbeSpec

from .record import MOST_TRIALS, Sweep, SweepPlan, Trial
from .search import grid_of, most_trials, propose
from .space import Choice, Space, choice_of, parse_space

TASK = ("model", "pretext", "loss", "augment")
"""Sections that decide what the pretext loss measures, so that losses of different settings do not compare."""
OF_THE_SWEEP = ("data", "probe", "log", "teacher_cache")
"""Sections that all trials share."""
OF_EVERY_TRIAL = (
    "train.length",
    "train.seed",
    "train.checkpoint_every",
    "train.validate_every",
    "train.keep",
    "train.keep_every",
    "train.keep_best",
)
"""Settings that the sweep itself decides."""
KEPT = 3
"""Checkpoints of a trial: with several workers training goes on while one is measured."""


@dataclass(frozen=True)
class Asked:
    """The options of `sightline sweep`."""

    space: Sequence[str] = ()
    trials: int | None = None
    search: Literal["random", "grid", "optuna"] = "random"
    scheduler: Literal["asha", "none"] = "asha"
    objective: str | None = None
    rungs: int = 3
    reduction: int = 3
    concurrent: int | None = None
    seed: int = 0
    insist: bool = False


def make_plan(experiment: config.Experiment, dataset: Dataset, asked: Asked) -> SweepPlan:
    """Raises `CallError` naming the option and the hint."""
    method = find_method(experiment.method)
    space = parse_space(asked.space) or parse_space(f"{key}={text}" for key, text in method.search_space.items())
    if not space:
        raise CallError(f"method {method.id} declares no search space", "name one: --space section.key=RANGE")
    space = _checked(experiment, space, dataset.rows)
    objective, better = _objective(experiment, asked.objective, space, asked.insist)
    count = 16 if asked.trials is None else asked.trials
    if not 1 <= count <= MOST_TRIALS:
        raise CallError(f"{count} trials: 1 to {MOST_TRIALS} are allowed", "use fewer values, or --search random with --trials N")
    if asked.rungs < 1 or asked.reduction < 2 or asked.concurrent == 0 or asked.seed < 0:
        raise CallError("--rungs and --concurrent must be at least 1, --reduction at least 2, --seed at least 0")
    steps = experiment.clock(dataset.rows).steps
    cores = len(os.sched_getaffinity(0))
    workers = experiment.train.workers
    concurrent = asked.concurrent or max(1, local_gpus() // workers if workers > 1 else cores // (experiment.train.threads or 1))
    plan = SweepPlan(
        space={key: str(domain) for key, domain in space.items()},
        own={key: experiment.flat().get(key) for key in space},
        trials=count,
        search=asked.search,
        scheduler=asked.scheduler,
        objective=objective,
        better=better,
        concurrent=concurrent,
        threads=experiment.train.threads or max(1, cores // concurrent),
        steps=steps,
        rungs=rungs(steps, asked.reduction, asked.rungs) if asked.scheduler == "asha" else (steps,),
        reduction=asked.reduction,
        seed=asked.seed,
    )
    if plan.search == "grid":
        whole = 1 + len(grid_of(plan))
        if asked.trials not in (None, whole):
            raise CallError(f"--trials {asked.trials}: the grid and the recipe's own settings make {whole}", "leave --trials out")
        return plan.model_copy(update={"trials": whole})
    return plan.model_copy(update={"trials": min(count, most_trials(plan) or count)})


def add_trials(sweep: Sweep, count: int) -> str:
    """Let a sweep go on to so many trials. Returns what to tell where its space holds fewer; raises `CallError` where it gets none."""
    plan = sweep.plan
    most = plan.trials if plan.search == "grid" else min(MOST_TRIALS, most_trials(plan) or MOST_TRIALS)
    if not plan.trials <= count <= MOST_TRIALS:
        raise CallError(f"--trials {count}: {sweep.name} has {plan.trials} trials", f"name how many it shall have in all: at most {most}")
    if count > plan.trials == most:
        raise CallError(f"--trials {count}: {sweep.name} has all {most} trials of its space", "start a new sweep with a wider one")
    sweep.plan = plan.model_copy(update={"trials": min(count, most)})
    return f"{sweep.name} gets {most} trials, all that its space holds, in place of {count}" if count > most else ""


def rungs(steps: int, reduction: int, count: int) -> tuple[int, ...]:
    """Steps at which trials are measured: `count` of them, each `reduction` times the one before; the last is the end."""
    first = max(1, steps // reduction ** (count - 1))
    return tuple(dict.fromkeys([*(min(steps, first * reduction**i) for i in range(count - 1)), steps]))


def trial_settings(experiment: config.Experiment, plan: SweepPlan) -> config.Experiment:
    """What all trials have: a checkpoint at every rung, and no reading of the validation data but at them."""
    every = f"{plan.rungs[0]} steps"
    changed = {"train.checkpoint_every": every, "train.validate_every": every, "train.keep": KEPT}
    return config.load(experiment.recipe, changed, settings=experiment.sections())


def _checked(experiment: config.Experiment, space: Space, rows: int) -> Space:
    """The space with its values as the settings have them, `[64, 64]` as 64. Raises `CallError` where a setting is unknown, cannot have
    the ends of its range, or changes the number of steps."""
    checked: Space = {}
    problems, steps = [], experiment.clock(rows).steps
    for key, domain in space.items():
        if key.partition(".")[0] in OF_THE_SWEEP or key in OF_EVERY_TRIAL:
            problems.append(f"{key} is the same in all trials of a sweep")
            continue
        allowed = []
        for value in domain.edges():
            try:
                tried = config.load(experiment.recipe, {key: value}, settings=experiment.sections())
                if tried.clock(rows).steps != steps:
                    raise CallError("trials would have different numbers of steps; give train.length='N steps'")
                allowed.append(tried.flat().get(key, value))
            except CallError as error:
                problems.append(f"--space {key}={domain}: {error}")
                break
        else:
            checked[key] = choice_of(allowed, f"--space {key}") if isinstance(domain, Choice) else domain
    if problems:
        raise CallError("\n".join(problems))
    return checked


def _objective(experiment: config.Experiment, asked: str | None, space: Space, insist: bool) -> tuple[str, Literal["higher", "lower"]]:
    """(PROBE.METRIC or val/NAME, which way is better)."""
    if asked is not None and asked.startswith("val/"):
        if experiment.data.val is None:
            raise CallError(f"--objective {asked} needs data.val", "give data.val=FOLDER")
        if (changing := [key for key in space if key.partition(".")[0] in TASK]) and not insist:
            raise CallError(
                f"--objective {asked}: losses with different {', '.join(changing)} do not compare, because they measure different tasks; "
                "a mask ratio of 0 would win",
                "leave --objective out to compare by a probe, or add --insist",
            )
        return asked, "lower"
    kind = find_kind(find_method(experiment.method).kind).modality
    fitting = {probe.name: probe for probe in ranked() if probe.modality == kind}
    name, _, metric = (asked or "").partition(".")
    if asked is None:
        allowed = [one for one in fitting if one in experiment.probe.names and _has_data(experiment, fitting[one])]
        if not allowed:
            raise CallError(
                "no probe can be measured on these data, and a sweep needs one to compare trials",
                f"give labelled data by probe.train and probe.test (or data.train and data.val); probes of {kind}: {', '.join(fitting)}",
            )
        name = allowed[0]
    elif name not in fitting:
        raise CallError(f"--objective {asked}: no probe of {kind} is named {name!r}: {nearest(name, list(fitting))}")
    elif not _has_data(experiment, fitting[name]):
        raise CallError(f"--objective {asked}: the data do not allow probe {name}", "give data by probe.train and probe.test")
    spec = fitting[name]
    metric = metric or next(iter(spec.metrics))
    if metric not in spec.metrics:
        raise CallError(f"--objective {asked}: probe {name} has no metric {metric!r}: {nearest(metric, list(spec.metrics))}")
    return f"{name}.{metric}", spec.metrics[metric].better


def _has_data(experiment: config.Experiment, spec: ProbeSpec) -> bool:
    pairs = [(Dataset.open(train), Dataset.open(test)) for train, test in experiment.probe_data]
    return any(not spec.lacks(test) and (not spec.fits_head or not spec.lacks(train)) for train, test in pairs)


def first_trials(plan: SweepPlan, count: int = 5) -> list[dict[str, Any]]:
    """Settings of the first trials; of Optuna only the recipe's own, because the others follow from results."""
    trials: list[Trial] = []
    for number in range(min(plan.trials, 1 if plan.search == "optuna" else count)):
        trials.append(Trial(number, propose(plan, number, trials)))
    return [trial.settings for trial in trials]


def describe(plan: SweepPlan, first: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [f"space        {key}={text}" for key, text in plan.space.items()]
    at = ", ".join(map(str, plan.rungs))
    whole = " (all settings of the space)" if plan.trials == most_trials(plan) else ""
    halving = f"one of {plan.reduction} goes on from a rung" if plan.scheduler == "asha" else "no trial is stopped early"
    lines += [
        f"trials       {plan.trials}{whole}, {plan.search}; {plan.concurrent} at the same time with {plan.threads} torch thread(s) each",
        f"objective    {plan.objective}, {plan.better} is better",
        f"measured at  step {at} of {plan.steps}; {halving}",
    ]
    for number, settings in enumerate(first):
        lines.append(f"trial {number:03d}    " + (", ".join(f"{k}={v}" for k, v in settings.items()) or "the recipe's own settings"))
    return lines
