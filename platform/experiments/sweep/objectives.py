"""What trials are compared by: a metric of a probe, a figure of the validation curve, or what a run costs; one or several."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Literal

from sightline.methods.catalog import find_method
from sightline.methods.contract import MetricInfo
from sightline.methods.errors import CallError
from sightline.methods.settings import nearest
from sightline.platform import config
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.kinds import find_kind
from sightline.platform.evaluation.findings import show
from sightline.platform.evaluation.probes.catalog import find_probe, ranked
from sightline.platform.evaluation.probes.spec import ProbeSpec
from sightline.platform.runs.events import RunEvent, StepsDone, TrainingStarted

from .record import Objective, SweepPlan, Trial
from .space import Space

TASK = ("model", "pretext", "loss", "augment")
"""Sections that decide what the pretext loss measures, so that losses of different settings do not compare."""
VALIDATION = "val/"
"""An objective with this prefix is a validation loss."""
TESTS = "test/"
"""An objective with this prefix is a test metric of a fine-tuned model on `data.val`."""
SPEED, SIZE = "speed/samples_per_second", "model/parameters"
COSTS = {
    SPEED: MetricInfo(means="median speed of training", label="samples per second", unit="samples/s"),
    SIZE: MetricInfo(means="parameters of the whole network that is trained", label="parameters", better="lower"),
}
"""Of a run, known from its events."""
WAYS: dict[str, Literal["higher", "lower"]] = {"max": "higher", "min": "lower"}


def parse_objectives(experiment: config.Experiment, asked: Sequence[str], space: Space, insist: bool) -> tuple[Objective, ...]:
    """Those of `--objective`, in this order; by default the first probe that the data allow. Raises `CallError`."""
    found = tuple(_parse(experiment, text, space, insist) for text in asked) or (_by_probe(experiment, ""),)
    names = [objective.name for objective in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise CallError(f"--objective names {twice} twice", "name each once; the first decides which trial is registered")
    if found[0].name in COSTS:
        raise CallError(
            f"--objective {asked[0]}: the first objective says what an encoder is worth, and {found[0].name} does not",
            "name a probe or a validation loss first, and then this one",
        )
    return found


def _parse(experiment: config.Experiment, text: str, space: Space, insist: bool) -> Objective:
    name, colon, way = text.partition(":")
    if colon and way not in WAYS:
        raise CallError(f"--objective {text}: {way!r} is no direction", f"write {name}:max or {name}:min, or leave it out")
    if name in COSTS:
        found = Objective(name=name, better=COSTS[name].better)
    elif name.startswith(TESTS):
        found = _by_test(experiment, name)
    elif "/" in name and not name.startswith(VALIDATION):
        raise CallError(f"--objective {text}: {nearest(name, [*COSTS, 'val/loss'])}", "or a probe: PROBE.METRIC")
    elif name.startswith(VALIDATION):
        found = _by_loss(experiment, name, space, insist)
        return found.model_copy(update={"better": WAYS[way]}) if colon else found
    else:
        found = _by_probe(experiment, name)
    if colon and WAYS[way] != found.better:
        raise CallError(f"--objective {text}: of {found.name} {found.better} is better", f"write {found.name}")
    return found


def _by_loss(experiment: config.Experiment, name: str, space: Space, insist: bool) -> Objective:
    if experiment.data.val is None:
        raise CallError(f"--objective {name} needs data.val", "give data.val=FOLDER")
    if (changing := [key for key in space if key.partition(".")[0] in TASK]) and not insist:
        raise CallError(
            f"--objective {name}: losses with different {', '.join(changing)} do not compare, because they measure different tasks; "
            "a mask ratio of 0 would win",
            "leave --objective out to compare by a probe, or add --insist",
        )
    return Objective(name=name, better="lower")


def _by_test(experiment: config.Experiment, name: str) -> Objective:
    from sightline.platform.evaluation.test_metrics import METRICS

    if experiment.data.val is None:
        raise CallError(f"--objective {name} needs data.val", "give data.val=FOLDER")
    if (metric := name.removeprefix(TESTS)) not in METRICS:
        raise CallError(f"--objective {name}: there is no test metric {metric!r}: {nearest(metric, list(METRICS))}")
    return Objective(name=name, better=METRICS[metric].better)


def _by_probe(experiment: config.Experiment, asked: str) -> Objective:
    """Of `PROBE.METRIC`, `PROBE` or, where nothing is asked for, of the first probe that the data allow."""
    kind = find_kind(find_method(experiment.method).kind).modality
    fitting = {probe.name: probe for probe in ranked() if probe.modality == kind}
    name, _, metric = asked.partition(".")
    if not asked:
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
    return Objective(name=f"{name}.{metric}", better=spec.metrics[metric].better)


def _has_data(experiment: config.Experiment, spec: ProbeSpec) -> bool:
    pairs = [(Dataset.open(train), Dataset.open(test)) for train, test in experiment.probe_data]
    return any(not spec.lacks(test) and (not spec.fits_head or not spec.lacks(train)) for train, test in pairs)


def cost(name: str, events: Sequence[RunEvent]) -> float:
    """`SPEED` or `SIZE` of a run with these events. NaN where they do not say."""
    if name == SIZE:
        return next((float(event.parameters) for event in events if isinstance(event, TrainingStarted)), float("nan"))
    speeds = [event.samples_per_second for event in events if isinstance(event, StepsDone)]
    return statistics.median(speeds) if speeds else float("nan")


def info_of(name: str) -> MetricInfo | None:
    """What the metric of an objective means; None of a validation loss."""
    if name in COSTS:
        return COSTS[name]
    if name.startswith(TESTS):
        from sightline.platform.evaluation.test_metrics import METRICS

        return METRICS.get(name.removeprefix(TESTS))
    probe, _, metric = name.partition(".")
    return None if name.startswith(VALIDATION) else find_probe(probe).metrics.get(metric)


def words(name: str) -> str:
    """The objective in words."""
    return COSTS[name].label if name in COSTS else name.replace(".", " ").replace("_", " ")


def shown(value: float, name: str) -> str:
    """A value in its metric's unit."""
    info = info_of(name)
    if name in COSTS:
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:.4g}" if info is None else show(value, info)


def front(plan: SweepPlan, trials: Sequence[Trial]) -> list[Trial]:
    """The Pareto front of the finished trials: those that no other equals or beats in every objective, and beats in one.

    The best in the first objective comes first.
    """
    scored = [(trial, trial.scores(plan)) for trial in trials]
    whole = [(trial, scores) for trial, scores in scored if scores is not None]
    best = [
        (trial, mine)
        for trial, mine in whole
        if not any(all(a >= b for a, b in zip(theirs, mine, strict=True)) and theirs != mine for _, theirs in whole)
    ]
    return [trial for trial, _ in sorted(best, key=lambda pair: (tuple(-score for score in pair[1]), pair[0].number))]
