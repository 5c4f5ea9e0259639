"""Sections of a page about what was measured: probes, control metrics and test metrics."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from sightline.methods.contract import MetricInfo
from sightline.platform.evaluation.findings import label_of, show_number
from sightline.platform.evaluation.intervals import Interval
from sightline.platform.evaluation.results import (
    TEST,
    Confusion,
    Contrast,
    Difference,
    EvaluationResult,
    MethodResult,
    ProbeResult,
    Row,
    RowKind,
    SkippedProbe,
    Verdict,
)

from .charts import Chart, Dot, interval_chart, number
from .sections import Cell, Column, Section, Table, TableRow

CAPTION = "Metrics, each with its interval"
MOST_CLASSES = 30
"""Of a confusion matrix that is shown whole."""
TONES: Mapping[Verdict | None, Literal["good", "bad"]] = {Verdict.BETTER: "good", Verdict.WORSE: "bad"}


def method_section(result: MethodResult) -> Section:
    """The control metrics or the test metrics of a method."""
    columns = [Column("value"), Column("")]
    rows = [
        TableRow(_with_unit(_row_name(key, info), info), [_value_cell(result.values[key], info), Cell(info.means, prose=True)])
        for key, info in result.main_metrics.items()
    ]
    return Section(
        result.title,
        charts=_family_charts(result),
        tables=[
            Table(CAPTION, columns, rows),
            Table("Differences of the same samples", columns, [_contrast(one, result.metrics) for one in result.contrasts]),
            *([_class_table(result)] if result.name == TEST and result.groups else _details(result, result.rows)),
            *([_confusion_table(result.confusion)] if result.confusion else []),
        ],
        notes=[f"{result.covers} {number(result.counts['samples'])} {'test' if result.name == TEST else 'validation'} samples."],
    )


def _class_table(result: MethodResult) -> Table:
    """A row for each class, a column for each metric of classes."""
    groups = list(result.groups.items())
    rows = []
    for keys in zip(*(keys for _, keys in groups), strict=True):
        cells = [_value_cell(result.values[key], result.metrics[key]) for key in keys]
        rows.append(TableRow(result.metrics[keys[0]].label, cells))
    return Table("Each class", [Column(_with_unit(group, result.metrics[keys[0]])) for group, keys in groups], rows)


def _confusion_table(confusion: Confusion) -> Table:
    """The whole matrix of few classes, as counts; of many the mistakes that are made most often."""
    if len(confusion.classes) <= MOST_CLASSES:
        rows = [
            TableRow(name, [Cell(number(count), tone="good" if one == other else "") for other, count in enumerate(counts)])
            for one, (name, counts) in enumerate(zip(confusion.classes, confusion.counts, strict=True))
        ]
        return Table(
            "Confusion matrix: true classes in rows, predicted ones in columns", [Column(name) for name in confusion.classes], rows
        )
    mistakes = sorted(
        ((count, one, other) for one, row in enumerate(confusion.counts) for other, count in enumerate(row) if count and one != other),
        reverse=True,
    )[:MOST_CLASSES]
    rows = [TableRow(confusion.classes[one], [Cell(confusion.classes[other]), Cell(number(count))]) for count, one, other in mistakes]
    return Table("The most frequent mistakes", [Column("taken for"), Column("samples")], rows)


def _family_charts(result: MethodResult) -> list[Chart | None]:
    """A chart for each family of metrics; the first metric of a family, with which the others are compared, is emphasised."""
    families: dict[str, dict[str, MetricInfo]] = {}
    for key, info in result.main_metrics.items():
        families.setdefault(info.family or label_of(key, info), {})[key] = info
    charts = []
    for family, metrics in families.items():
        first = next(iter(metrics))
        dots = [_dot(_in_family(key, info), result.values[key], info, key == first) for key, info in metrics.items()]
        charts.append(interval_chart(f"{family[:1].upper()}{family[1:]}", dots, metrics[first].unit))
    return charts


def _contrast(contrast: Contrast, metrics: Mapping[str, MetricInfo]) -> TableRow:
    first, second = metrics[contrast.first], metrics[contrast.second]
    name = f"{_row_name(contrast.first, first)} minus {_in_family(contrast.second, second)}"
    return TableRow(_with_unit(name, first, points=True), [_value_cell(contrast.value, first, "+"), Cell(contrast.verdict, prose=True)])


def probe_sections(probes: Iterable[ProbeResult | SkippedProbe]) -> list[Section]:
    """A section for each probe, and one for those that the data did not allow."""
    probes = list(probes)
    skipped = [probe.sentence for probe in probes if isinstance(probe, SkippedProbe)]
    measured = [_probe_section(probe) for probe in probes if isinstance(probe, ProbeResult)]
    return [*measured, *([Section("Probes that the data did not allow", items=skipped)] if skipped else [])]


def _probe_section(probe: ProbeResult) -> Section:
    metrics = probe.main_metrics
    means = "; ".join(f"{label_of(key, info)}: {info.means}" for key, info in metrics.items())
    counts = ", ".join(f"{count:,} {key.replace('_', ' ')}" for key, count in probe.counts.items() if count)
    protocol = f"Protocol {probe.name} version {probe.protocol['version']}; {probe.seconds:.0f} s."
    shown = [row for row in probe.rows if row.kind not in (RowKind.CONTROL, RowKind.SEED)]
    return Section(
        f"Probe: {probe.title[:1].lower()}{probe.title[1:]}",
        text=probe.finding,
        charts=[_first_metric_chart(probe)],
        tables=[
            Table(CAPTION, _columns(metrics), [_row(row, metrics) for row in probe.rows]),
            Table(
                "Differences on the same resamples",
                _columns(metrics, points=True),
                [_difference(difference, metrics) for difference in probe.differences],
            ),
            *_details(probe, shown),
        ],
        notes=[f"{means}.", probe.covers, f"{counts}. {protocol}"],
    )


def _first_metric_chart(probe: ProbeResult) -> Chart | None:
    key, info = next(iter(probe.main_metrics.items()))
    dots = [_dot(row.name, row.values[key], info, row.kind == RowKind.ENCODER) for row in probe.rows]
    return interval_chart(label_of(key, info), dots, f"{info.unit}, {_direction(info)}".removeprefix(", "))


def _details(result: EvaluationResult, rows: Sequence[Row]) -> list[Table]:
    """Metrics of detail, such as the IoU of each class: a table for each group, turned, with one column for each row of the result."""
    metrics = result.metrics
    return [
        Table(
            _with_unit(group, metrics[keys[0]]),
            [Column(row.name) for row in rows],
            [TableRow(label_of(key, metrics[key]), [_value_cell(row.values[key], metrics[key]) for row in rows]) for key in keys],
        )
        for group, keys in result.groups.items()
    ]


def _columns(metrics: Mapping[str, MetricInfo], *, points: bool = False) -> list[Column]:
    return [Column(_with_unit(label_of(key, info), info, points=points), _direction(info), info.means) for key, info in metrics.items()]


def _row(row: Row, metrics: Mapping[str, MetricInfo]) -> TableRow:
    cells = [_value_cell(row.values[key], info) for key, info in metrics.items()]
    minor = row.kind in (RowKind.CONTROL, RowKind.SEED)
    return TableRow(row.name, cells, "main" if row.kind == RowKind.ENCODER else "minor" if minor else "")


def _difference(difference: Difference, metrics: Mapping[str, MetricInfo]) -> TableRow:
    cells = [_value_cell(difference.values[key], info, "+", difference.verdicts[key]) for key, info in metrics.items()]
    return TableRow(difference.name, cells)


def _value_cell(value: Interval, info: MetricInfo, sign: str = "", verdict: Verdict | None = None) -> Cell:
    if not math.isfinite(value.value):
        return Cell("not defined")
    span = f"{show_number(value.low, info, sign)} to {show_number(value.high, info, sign)}" if value.has_ends else ""
    return Cell(show_number(value.value, info, sign), span, verdict or "", TONES.get(verdict, ""))


def _dot(name: str, value: Interval, info: MetricInfo, emphasised: bool) -> Dot:
    scale = 100 if info.unit == "%" else 1
    low, high = (value.low * scale, value.high * scale) if value.has_ends else (None, None)
    return Dot(name, value.value * scale, low, high, emphasised)


def _in_family(key: str, info: MetricInfo) -> str:
    """What tells a metric from the others of its family: `true view` for `psnr_true_view` of the family PSNR."""
    rest = key[len(info.family) :] if key.lower().startswith(info.family.lower()) else key
    return rest.replace("_", " ").strip() if info.family else label_of(key, info)


def _row_name(key: str, info: MetricInfo) -> str:
    """`PSNR true view`: labels are made for sentences, and two of them are too long for a row."""
    return f"{info.family} {_in_family(key, info)}".strip()


def _with_unit(text: str, info: MetricInfo, *, points: bool = False) -> str:
    """Differences of percentages are in percentage points."""
    unit = "points" if points and info.unit == "%" else info.unit
    return f"{text}, {unit}" if unit else text


def _direction(info: MetricInfo) -> str:
    return f"{info.better} is better"
