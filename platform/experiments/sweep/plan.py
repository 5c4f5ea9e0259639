"""From what a person asks to a plan that is checked whole before anything starts."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sightline.methods.catalog import find_method
from sightline.methods.errors import CallError
from sightline.platform import config
from sightline.platform.cluster.placement import suitable_nodes
from sightline.platform.cluster.resources import local_gpus, runs_at_once
from sightline.platform.core.ray_checks import names_cluster
from sightline.platform.core.ray_init import start_ray
from sightline.platform.data.training_data import TrainingData

from .catalog import find_scheduler, find_searcher
from .objectives import parse_objectives, words
from .record import MOST_TRIALS, Sweep, SweepPlan, Trial, TrialStatus
from .search import grid_of, most_trials, propose
from .space import Choice, Space, choice_of, parse_space

OF_THE_SWEEP = ("data", "probe", "log", "teacher_cache")
"""Sections that all trials share, but for `SHARES` and `LEARNED_FROM`."""
FRACTION = "data.fraction"
LEARNED_FROM = "data.train"
SHARES = (FRACTION, "data.fraction_seed")
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
MOST_SEEDS = 20
KEPT = 3
"""Checkpoints of a trial: with several workers training goes on while one is measured."""


@dataclass(frozen=True)
class Asked:
    """The options of `sightline sweep`."""

    space: Sequence[str] = ()
    trials: int | None = None
    search: str = "random"
    scheduler: str | None = None
    objective: Sequence[str] = ()
    seeds: int = 1
    rungs: int = 3
    reduction: int = 3
    concurrent: int | None = None
    seed: int = 0
    insist: bool = False


Ready = Callable[[Mapping[str, Any]], tuple[config.Experiment, TrainingData]]
"""From changed settings to a checked experiment and its training data, which are prepared where they are a folder of photos."""


def make_plan(experiment: config.Experiment, dataset: TrainingData, asked: Asked, ready: Ready | None = None) -> SweepPlan:
    """`ready`: for spaces with `data.train`. Raises `CallError` naming the option and the hint."""
    method = find_method(experiment.method)
    space = parse_space(asked.space) or parse_space(f"{key}={text}" for key, text in method.search_space.items())
    if not space:
        raise CallError(f"method {method.id} declares no search space", "name one: --space section.key=RANGE")
    space = _checked(experiment, space, dataset.rows, ready)
    searcher, objectives = find_searcher(asked.search), parse_objectives(experiment, asked.objective, space, asked.insist)
    scheduler = asked.scheduler or ("asha" if len(objectives) == 1 else "none")
    if len(objectives) > 1:
        _check_several(asked.search, scheduler)
    count = 16 if asked.trials is None else asked.trials
    if not 1 <= count <= MOST_TRIALS:
        raise CallError(f"{count} trials: 1 to {MOST_TRIALS} are allowed", "use fewer values, or --search random with --trials N")
    if asked.rungs < 1 or asked.reduction < 2 or asked.concurrent == 0 or asked.seed < 0:
        raise CallError("--rungs and --concurrent must be at least 1, --reduction at least 2, --seed at least 0")
    if not 1 <= asked.seeds <= MOST_SEEDS:
        raise CallError(f"--seeds {asked.seeds}: 1 to {MOST_SEEDS} are allowed", "each is a training of its own")
    steps = experiment.clock(dataset.rows).steps
    nodes = nodes_of(experiment)
    concurrent = asked.concurrent or runs_at_once(experiment.train, nodes)
    cores = int(min(node["CPU"] for node in nodes))
    plan = SweepPlan(
        space={key: str(domain) for key, domain in space.items()},
        own={key: experiment.flat().get(key) for key in space},
        trials=count,
        search=asked.search,
        scheduler=scheduler,
        objective=objectives[0].name,
        better=objectives[0].better,
        others=objectives[1:],
        seeds=asked.seeds,
        concurrent=concurrent,
        threads=experiment.train.threads or max(1, cores // math.ceil(concurrent / len(nodes))),
        steps=steps,
        rungs=rungs(steps, asked.reduction, asked.rungs) if find_scheduler(scheduler).rungs else (steps,),
        reduction=asked.reduction,
        seed=asked.seed,
    )
    if plan.search == "grid":
        whole = 1 + len(grid_of(plan))
        if asked.trials not in (None, whole):
            raise CallError(f"--trials {asked.trials}: the grid and the recipe's own settings make {whole}", "leave --trials out")
        return plan.model_copy(update={"trials": whole})
    plan = plan.model_copy(update={"trials": min(count, most_trials(plan) or count)})
    if searcher.learns:  # what it needs and does not take is told now, not after the first trial
        propose(plan, 1, [Trial(0, {}, {steps: 0.0}, {steps: {one.name: 0.0 for one in plan.others}}, status=TrialStatus.FINISHED)])
    return plan


def nodes_of(experiment: config.Experiment) -> list[Mapping[str, float]]:
    """`CPU` and `GPU` of each node that trials may run on: of the cluster that `RAY_ADDRESS` names, which is joined, or this machine."""
    if not names_cluster():
        return [{"CPU": float(len(os.sched_getaffinity(0))), "GPU": float(local_gpus())}]
    start_ray()
    return [node for node in suitable_nodes(experiment) if node["CPU"] >= 1] or [{"CPU": 1.0, "GPU": 0.0}]


def _check_several(search: str, scheduler: str) -> None:
    """Raise `CallError` where searcher or scheduler would take the first of several objectives for the only one."""
    if not find_searcher(search).takes_several(search.partition(":")[2]):
        raise CallError(
            f"--search {search} takes one objective", "use --search random, optuna, optuna:gp or optuna:nsga2, or one --objective"
        )
    if find_scheduler(scheduler).rungs:
        raise CallError(
            f"--scheduler {scheduler} would stop trials by the first of several objectives", "leave it out: all trials train to their end"
        )


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
    """What all trials have: a checkpoint at every rung, and no reading of the validation data but at them. Where they learn from different
    data, probes are measured on the recipe's own."""
    every = f"{plan.rungs[0]} steps"
    changed = {"train.checkpoint_every": every, "train.validate_every": every, "train.keep": KEPT, "probe.every": None}
    if LEARNED_FROM in plan.space and (measured := experiment.probe_data):
        changed |= {f"probe.{name}": list(places) for name, places in zip(("train", "test"), zip(*measured, strict=True), strict=True)}
    return config.load(experiment.recipe, changed, settings=experiment.sections())


def _checked(experiment: config.Experiment, space: Space, rows: int, ready: Ready | None) -> Space:
    """The space with its values as the settings have them, `[64, 64]` as 64. Raises `CallError` where a setting is unknown, cannot have
    the ends of its range, or changes the number of steps."""

    def tried(key: str, value: Any) -> tuple[config.Experiment, int]:
        if key == LEARNED_FROM and ready:
            return _with_data(experiment, value, ready)
        return config.load(experiment.recipe, {key: value}, settings=experiment.sections()), rows

    checked: Space = {}
    problems, steps = [], experiment.clock(rows).steps
    for key, domain in space.items():
        searched = key == LEARNED_FROM and ready is not None and isinstance(domain, Choice)
        shared = key.partition(".")[0] in OF_THE_SWEEP and key not in SHARES and not searched
        if shared or key in OF_EVERY_TRIAL:
            weights = f"; mixtures are tried one by one: {LEARNED_FROM}='[./a: 3, ./b: 1],[./a: 1, ./b: 1]'"
            problems.append(f"{key} is the same in all trials of a sweep{weights if key.startswith(LEARNED_FROM) else ''}")
            continue
        allowed = []
        for value in domain.edges():
            try:
                other, its_rows = tried(key, value)
                learned = round(its_rows * float(value) / experiment.data.fraction) if key == FRACTION else its_rows
                if other.clock(learned).steps != steps:
                    raise CallError("trials would have different numbers of steps; give train.length='N steps'")
                allowed.append(other.flat().get(key, value))
            except CallError as error:
                problems.append(f"--space {key}={domain}: {error}")
                break
        else:
            checked[key] = choice_of(allowed, f"--space {key}") if isinstance(domain, Choice) else domain
    if problems:
        raise CallError("\n".join(problems))
    return checked


def first_trials(plan: SweepPlan, count: int = 5) -> list[dict[str, Any]]:
    """Settings of the first trials; of a searcher that learns only the recipe's own, because the others follow from results."""
    trials: list[Trial] = []
    for number in range(min(plan.trials, 1 if find_searcher(plan.search).learns else count)):
        trials.append(Trial(number, propose(plan, number, trials)))
    return [trial.settings for trial in trials]


def describe(plan: SweepPlan, first: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [f"space        {key}={text}" for key, text in plan.space.items()]
    at = ", ".join(map(str, plan.rungs))
    whole = " (all settings of the space)" if plan.trials == most_trials(plan) else ""
    stopping = find_scheduler(plan.scheduler).sentence.format(reduction=plan.reduction)
    seeds = f", {plan.seeds} training seeds each" if plan.seeds > 1 else ""
    lines += [
        f"trials       {plan.trials}{whole}, {plan.search}{seeds}; "
        f"{plan.concurrent} at the same time with {plan.threads} torch thread(s) each",
        *(f"objective    {one.name}, {one.better} is better" for one in plan.objectives),
        f"measured at  step {at} of {plan.steps}; {stopping}",
    ]
    if plan.others:
        lines.append(f"registered   the best of the Pareto front in {words(plan.objective)}")
    for number, settings in enumerate(first):
        lines.append(f"trial {number:03d}    " + (", ".join(f"{k}={v}" for k, v in settings.items()) or "the recipe's own settings"))
    return lines


def _with_data(experiment: config.Experiment, value: Any, ready: Ready) -> tuple[config.Experiment, int]:
    """(the experiment that learns from `value`, its rows). Raises `CallError` where it would be validated on other data."""
    other, dataset = ready({LEARNED_FROM: value})
    if other.data.val != experiment.data.val:
        raise CallError("trials would be validated on different rows, held out of what each learns from; name data.val")
    return other, dataset.rows
