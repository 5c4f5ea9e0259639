"""From sums over units to the figures of a probe: rows, intervals and paired differences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from sightline.platform.evaluation.intervals import Interval, average_over_seeds, coverage, interval, resample_counts, unit_sums

from .protocol import Resampling
from .splits import Units

Metrics = Mapping[str, Mapping[str, str]]
"""Key -> label, unit, better ('higher' or 'lower'), means; with `group`, a figure of detail that has a table of its own."""
MetricsOf = Callable[[Float[np.ndarray, "*shape k"]], Mapping[str, Float[np.ndarray, "*shape"]]]
"""Sums over images -> figures, for one sum or for a stack of resamples."""


@dataclass(frozen=True)
class ResultTable:
    """The rows of a result and what each encoder is compared with, by name."""

    encoders: Mapping[str, tuple[str, ...]]
    """Encoder -> its mean of controls and its baselines."""
    controls: Mapping[str, tuple[str, ...]]
    """Mean of controls -> the controls."""
    baselines: Mapping[str, str]
    """Baseline -> its short name, such as `pixels`."""
    scope: Mapping[str, str]
    """Encoders of different scopes are not comparable and get no difference."""
    seeds: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Of encoders that were trained with several seeds: the rows of which theirs is the mean."""


@dataclass(frozen=True)
class Measurement:
    """What a probe measured, of which `run_probes` makes the result."""

    table: ResultTable
    sums: Mapping[str, np.ndarray]
    """Encoder, control or baseline -> n x k sums by image."""
    units: Units
    """Of the images, in the order of the sums."""
    metrics_of: MetricsOf
    counts: Mapping[str, int]
    caution: str = ""
    """What could not be kept apart, for the reader."""
    penalties: Mapping[str, float] = field(default_factory=dict)
    """Of the heads."""
    details: Metrics = field(default_factory=dict)
    """Metrics beyond the probe's own, such as the IoU of each class."""


def measure_table(
    table: ResultTable,
    sums: Mapping[str, Float[np.ndarray, "n k"]],
    units: Units,
    metrics: Metrics,
    metrics_of: MetricsOf,
    resampling: Resampling,
) -> dict[str, Any]:
    """Rows and paired differences, every figure on the same resamples of units. `sums`: encoder, control or baseline -> sums by image.

    A metric that the test data do not define (no pair at such an angle) is left out.
    """
    by_unit = {name: unit_sums(values, units.names)[1] for name, values in sums.items()}
    count = units.count
    drawn = resample_counts(count, resampling.draws, resampling.seed)
    with np.errstate(invalid="ignore", divide="ignore"):  # a resample without a counted patch has no figure
        value = {name: dict(metrics_of(total.sum(axis=0))) for name, total in by_unit.items()}
        draws = {name: dict(metrics_of(drawn @ total)) for name, total in by_unit.items()}
    metrics = {m: about for m, about in metrics.items() if all(np.isfinite(figures[m]) for figures in value.values())}
    kinds = dict.fromkeys(table.encoders, "encoder")
    for members in table.seeds.values():
        kinds |= dict.fromkeys(members, "seed")
    for mean, members in table.controls.items():
        kinds |= {mean: "control mean", **dict.fromkeys(members, "control")}
    for mean, members in {**table.seeds, **table.controls}.items():
        value[mean] = {m: np.asarray(np.mean([value[name][m] for name in members])) for m in metrics}
        draws[mean] = {m: average_over_seeds(np.stack([draws[name][m] for name in members]), resampling.seed) for m in metrics}
    kinds |= dict.fromkeys(table.baselines, "baseline")

    def figure(values: Mapping[str, Any], many: Mapping[str, Any]) -> dict[str, Any]:
        return {m: interval(float(values[m]), many[m], resampling.level, count).as_dict() for m in metrics}

    rows = [{"name": name, "kind": kind, "metrics": figure(value[name], draws[name])} for name, kind in kinds.items()]
    for row in rows:
        if row["name"] in table.baselines:
            row["baseline"] = table.baselines[str(row["name"])]
    differences = []
    for one, other in _pairs(table):
        found = figure({m: value[one][m] - value[other][m] for m in metrics}, {m: draws[one][m] - draws[other][m] for m in metrics})
        for m in metrics:
            spread = [float(value[name][m]) for name in table.controls.get(other, ())]
            found[m]["verdict"] = verdict_of(Interval.from_dict(found[m]), float(value[one][m]), spread, metrics[m]["better"])
        differences.append({"name": f"{one} minus {other}", "of": [one, other], "metrics": found})
    networks = sum(map(len, table.controls.values()))
    also = f" and of the {networks} random-weights networks" if networks else ""
    if table.seeds:
        also += f" and of the {' and '.join(sorted({str(len(rows)) for rows in table.seeds.values()}))} training seeds"
    return {
        "metrics": dict(metrics),
        "rows": rows,
        "differences": differences,
        "units": {"kind": units.kind, "count": count},
        "covers": coverage(resampling.level, resampling.draws, count, units.kind, also),
    }


def _pairs(table: ResultTable) -> list[tuple[str, str]]:
    """Each encoder with its controls and baselines, then the first encoder of each scope with the others of it."""
    pairs = [(name, other) for name, against in table.encoders.items() for other in against]
    first: dict[str, str] = {}
    for name in table.encoders:
        leader = first.setdefault(table.scope[name], name)
        if leader != name:
            pairs.append((leader, name))
    return pairs


def verdict_of(difference: Interval, value: float, spread: Sequence[float], better: str) -> str:
    """'better', 'worse' or 'no difference shown'.

    The interval must leave out zero. Against random networks (`spread`: their figures) the value must also lie farther beyond the
    nearest of them than they lie apart: on one data set, random networks differ from each other by more than chance of scenes.
    """
    if not difference.excludes_zero:
        return "no difference shown"
    if spread and max(min(spread) - value, value - max(spread)) <= max(spread) - min(spread):
        return "no difference shown"
    return "better" if (difference.value > 0) == (better == "higher") else "worse"
