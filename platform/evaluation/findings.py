"""What was found, in words and as flat metrics: sentences for a section, a few words for the head of a page, lines for a terminal."""

from __future__ import annotations

from typing import Any

from sightline.methods.contract import MetricInfo

from .intervals import Interval
from .result_table import MeasuredTable, ResultTable
from .results import (
    MethodResult,
    ProbeOutcome,
    ProbeOutcomes,
    ProbeResult,
    Row,
    RowKind,
    SkippedProbe,
    Verdict,
)


def show(value: float, info: MetricInfo, sign: str = "") -> str:
    """A value with its unit: `61.2%`, `0.213 m`, `0.213`. `sign` is a format's sign option, such as `+`."""
    return show_number(value, info, sign) + (info.unit if info.unit == "%" else f" {info.unit}".rstrip())


def show_difference(value: float, info: MetricInfo) -> str:
    """A difference with its sign and unit: `+19.0 points` of a percentage, `-0.021 m`."""
    return f"{show_number(value, info, '+')} points" if info.unit == "%" else show(value, info, "+")


def show_number(value: float, info: MetricInfo, sign: str = "") -> str:
    """A value without its unit, for columns whose heading has it. A hundredth of a decibel is more than anyone can see."""
    if info.unit == "%":
        return f"{value * 100:{sign}.1f}"
    return f"{value:{sign}.{2 if info.unit == 'dB' else 3}f}"


def show_span(value: Interval, info: MetricInfo, sign: str = "") -> str:
    """A value without its unit, and the ends of its interval where it has them: `61.2 (58.9 to 63.5)`."""
    ends = f" ({show_number(value.low, info, sign)} to {show_number(value.high, info, sign)})" if value.has_ends else ""
    return f"{show_number(value.value, info, sign)}{ends}"


def label_of(key: str, info: MetricInfo) -> str:
    """The metric's short name; its key in words where it has none."""
    return info.label or key.replace("_", " ")


def finding_of(measured: MeasuredTable, table: ResultTable, sentence: str) -> str:
    """For each encoder a sentence: its first metric beside random weights and each baseline, and what may be called a difference.

    `sentence` has `{value}` in place of the first metric.
    """
    metric, info = next(iter(measured.metrics.items()))
    values = {row.name: row.values[metric].value for row in measured.rows}
    differences = {(one.first, one.second): one for one in measured.differences}
    sentences = []
    for name, against in table.encoders.items():
        parts = []
        for other in against:
            difference = differences[name, other]
            controls = [values[control] for control in table.controls.get(other, ())]
            apart = f", which lie between {show(min(controls), info)} and {show(max(controls), info)}" if len(controls) > 1 else ""
            alone = other if table.baselines.get(other) == "pixels" else f"the {other} alone"
            named, short = (f"the {other}-weights networks", "random weights") if other in table.controls else (alone, alone)
            verdict = difference.verdicts[metric]
            said = "no difference is shown" if verdict == Verdict.NO_DIFFERENCE else f"{verdict} than {short}"
            parts.append(f"against {show(values[other], info)} for {named}{apart} ({_with_ends(difference.values[metric], info)}): {said}")
        whose = f"{name}: " if len(table.encoders) > 1 else ""
        sentences.append(f"{whose}{sentence.format(value=show(values[name], info))}{', ' if parts else ''}{'; '.join(parts)}.")
    return " ".join(sentences)


def brief(outcome: ProbeOutcome) -> str:
    """The first encoder's first metric in a few words; empty for a probe that was skipped."""
    if isinstance(outcome, SkippedProbe):
        return ""
    metric, info = outcome.first_metric, outcome.metrics[outcome.first_metric]
    encoder = outcome.rows[0]
    others = []
    for difference in outcome.differences:
        other = outcome.row(difference.second)
        if difference.first == encoder.name and (short := _short(other)):
            word = "no difference" if difference.verdicts[metric] == Verdict.NO_DIFFERENCE else difference.verdicts[metric]
            others.append(f"{short} {show(other.values[metric].value, info)}, {word}")
    if outcome.guessing is not None:
        others.append(f"guessing {show(outcome.guessing, info)}")
    told = f"{title_of(outcome)} {show(encoder.values[metric].value, info)}"
    return told + (f" ({'; '.join(others)})" if others else "")


def title_of(result: ProbeResult) -> str:
    """The probe and its first metric."""
    return f"{result.name} {label_of(result.first_metric, result.metrics[result.first_metric])}"


def flat_metrics(probes: ProbeOutcomes, encoder: str | None = None) -> dict[str, float]:
    """`flat_intervals` without the ends."""
    return {name: one.value for name, one in flat_intervals(probes, encoder).items()}


def flat_intervals(probes: ProbeOutcomes, encoder: str | None = None) -> dict[str, Interval]:
    """`probe/<probe>/<metric>` of an encoder (the first where none is named), `random_<metric>` of the mean of its controls,
    `pixels_<metric>` and the like."""
    out: dict[str, Interval] = {}
    for name, outcome in probes.items():
        if isinstance(outcome, SkippedProbe):
            continue
        own = next((row for row in outcome.rows_of(RowKind.ENCODER) if encoder in (None, row.name)), None)
        if own is None:
            continue
        first = {"": own}
        for other in (outcome.row(one.second) for one in outcome.differences if one.first == own.name):
            if other.kind in (RowKind.CONTROL_MEAN, RowKind.BASELINE):
                first.setdefault("random_" if other.kind is RowKind.CONTROL_MEAN else f"{other.baseline}_", other)
        for prefix, row in first.items():
            out |= {f"probe/{name}/{prefix}{key}": row.values[key] for key in outcome.main_metrics}
    return out


def probe_tables(probes: ProbeOutcomes) -> dict[str, dict[str, list[Any]]]:
    """Tables for MLflow, by artifact: every row of every probe with its intervals, and the differences. Columns by name, None for NaN."""
    values: list[dict[str, Any]] = []
    differences: list[dict[str, Any]] = []
    for name, outcome in probes.items():
        if isinstance(outcome, SkippedProbe):
            continue
        about = {"resampled": outcome.unit_kind, "test data": outcome.data.get("test"), "protocol": outcome.protocol_hash}
        for key, info in outcome.main_metrics.items():
            head = {"probe": name, "metric": key, "unit": info.unit, "better": info.better}
            values += [{**head, "network": row.name, "kind": str(row.kind), **row.values[key].as_dict(), **about} for row in outcome.rows]
            for one in outcome.differences:
                names = {"first": one.first, "second": one.second}
                differences.append({**head, **names, **one.values[key].as_dict(), "verdict": str(one.verdicts[key]), **about})
    tables = {"probe_values.json": values, "probe_differences.json": differences}
    return {name: {key: [row[key] for row in rows] for key in rows[0]} for name, rows in tables.items() if rows}


def table(result: ProbeResult) -> list[tuple[str, str, list[str]]]:
    """(row name, its first metric with the interval, its differences) for a terminal; controls are left out. `unit_of` goes above it."""
    metric, info = result.first_metric, result.metrics[result.first_metric]
    lines = []
    for row in result.rows:
        if row.kind not in (RowKind.CONTROL, RowKind.SEED):
            mine = [one for one in result.differences if one.first == row.name]
            said = [f"{show_span(one.values[metric], info, '+')} against {one.second}: {one.verdicts[metric]}" for one in mine]
            lines.append((row.name, show_span(row.values[metric], info), said))
    return lines


def heading_of(result: ProbeResult) -> str:
    """The title and what the numbers of `table` are: `Monocular depth: RMSE in m`."""
    info = result.metrics[result.first_metric]
    return f"{result.title}: {label_of(result.first_metric, info)}{f' in {info.unit}' if info.unit else ''}"


def contrast_of(result: MethodResult) -> str:
    """The first contrast of control metrics in a sentence; empty where there is none."""
    if not result.contrasts:
        return ""
    first, second = result.contrasts[0].first, result.contrasts[0].second
    one, other = (f"{show(result.values[key].value, result.metrics[key])}" for key in (first, second))
    labels = [label_of(key, result.metrics[key]) for key in (first, second)]
    return f"{labels[0]}: {one}; {labels[1]}: {other}."


def _short(row: Row) -> str:
    if row.kind == RowKind.CONTROL_MEAN:
        return "random weights" + next((one for one in (", partly calibrated", ", calibrated") if row.name.endswith(one)), "")
    return {"pixels": "raw pixels"}.get(row.baseline, row.name) if row.kind == RowKind.BASELINE else ""


def _with_ends(difference: Interval, info: MetricInfo) -> str:
    ends = (
        f", interval {show_number(difference.low, info, '+')} to {show_number(difference.high, info, '+')}" if difference.has_ends else ""
    )
    return f"{show_difference(difference.value, info)}{ends}"
