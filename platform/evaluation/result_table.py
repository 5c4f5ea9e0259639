"""From sums over units to the metrics of a probe: rows, intervals and paired differences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Float

from sightline.methods.contract import MetricInfo

from .intervals import Interval, Resampling, average_over_seeds, coverage, interval, resample_counts, unit_sums
from .results import Difference, Row, RowKind, Verdict
from .units import Units

Metrics = Mapping[str, MetricInfo]
"""By key; those with a `group` are details that have a table of their own."""
MetricsOf = Callable[[Float[np.ndarray, "*shape k"]], Mapping[str, Float[np.ndarray, "*shape"]]]
"""Sums over images -> metrics, for one sum or for a stack of resamples."""


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

    @property
    def kinds(self) -> dict[str, RowKind]:
        """Every row by name, in the order in which a result holds them."""
        kinds = dict.fromkeys(self.encoders, RowKind.ENCODER)
        for members in self.seeds.values():
            kinds |= dict.fromkeys(members, RowKind.SEED)
        for mean, members in self.controls.items():
            kinds |= {mean: RowKind.CONTROL_MEAN, **dict.fromkeys(members, RowKind.CONTROL)}
        return kinds | dict.fromkeys(self.baselines, RowKind.BASELINE)


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


@dataclass(frozen=True)
class MeasuredTable:
    """The part of a `ProbeResult` that follows from the sums. `metrics` are those that the test data define."""

    metrics: Metrics
    rows: tuple[Row, ...]
    differences: tuple[Difference, ...]
    covers: str
    draws: Mapping[str, np.ndarray]
    """Encoder -> its first metric on each resample."""


def measure_table(found: Measurement, metrics: Metrics, resampling: Resampling) -> MeasuredTable:
    """Rows and paired differences, every metric on the same resamples of units.

    A metric that the test data do not define (no pair at such an angle) is left out.
    """
    table, count = found.table, found.units.count
    by_unit = {name: unit_sums(values, found.units.names)[1] for name, values in found.sums.items()}
    drawn = resample_counts(count, resampling.draws, resampling.seed)
    with np.errstate(invalid="ignore", divide="ignore"):  # a resample without a counted patch has no value
        value = {name: dict(found.metrics_of(total.sum(axis=0))) for name, total in by_unit.items()}
        draws = {name: dict(found.metrics_of(drawn @ total)) for name, total in by_unit.items()}
    metrics = {m: info for m, info in metrics.items() if all(np.isfinite(values[m]) for values in value.values())}
    for mean, members in {**table.seeds, **table.controls}.items():
        value[mean] = {m: np.asarray(np.mean([value[name][m] for name in members])) for m in metrics}
        draws[mean] = {m: average_over_seeds(np.stack([draws[name][m] for name in members]), resampling.seed) for m in metrics}

    def intervals(values: Mapping[str, np.ndarray], many: Mapping[str, np.ndarray]) -> dict[str, Interval]:
        return {m: interval(float(values[m]), many[m], resampling.level, count) for m in metrics}

    rows = [
        Row(name, kind, intervals(value[name], draws[name]), table.baselines.get(name, ""), found.penalties.get(name))
        for name, kind in table.kinds.items()
    ]
    differences = []
    for one, other in _pairs(table):
        apart = intervals({m: value[one][m] - value[other][m] for m in metrics}, {m: draws[one][m] - draws[other][m] for m in metrics})
        controls = table.controls.get(other, ())
        verdicts = {
            m: verdict_of(apart[m], float(value[one][m]), [float(value[name][m]) for name in controls], info.better)
            for m, info in metrics.items()
        }
        differences.append(Difference(one, other, apart, verdicts))
    networks = sum(map(len, table.controls.values()))
    also = f" and of the {networks} random-weights networks" if networks else ""
    if table.seeds:
        also += f" and of the {' and '.join(sorted({str(len(members)) for members in table.seeds.values()}))} training seeds"
    covers = coverage(resampling.level, resampling.draws, count, found.units.kind, also)
    first = next(iter(metrics), None)
    kept = {name: draws[name][first] for name in table.encoders} if first else {}
    return MeasuredTable(metrics, tuple(rows), tuple(differences), f"{covers} {found.caution}".rstrip(), kept)


def _pairs(table: ResultTable) -> list[tuple[str, str]]:
    """Each encoder with its controls and baselines, then the first encoder of each scope with the others of it."""
    pairs = [(name, other) for name, against in table.encoders.items() for other in against]
    first: dict[str, str] = {}
    for name in table.encoders:
        leader = first.setdefault(table.scope[name], name)
        if leader != name:
            pairs.append((leader, name))
    return pairs


def verdict_of(difference: Interval, value: float, spread: Sequence[float], better: Literal["higher", "lower"]) -> Verdict:
    """Whether the first row of `difference`, whose metric is `value`, is better or worse than the second, or neither is shown.

    The interval must leave out zero. Against random networks (`spread`: their metrics) the value must also lie farther beyond the
    nearest of them than they lie apart: on one data set, random networks differ from each other by more than chance of scenes.
    """
    if not difference.excludes_zero:
        return Verdict.NO_DIFFERENCE
    if spread and max(min(spread) - value, value - max(spread)) <= max(spread) - min(spread):
        return Verdict.NO_DIFFERENCE
    return Verdict.BETTER if (difference.value > 0) == (better == "higher") else Verdict.WORSE
