"""What a registered model is, in Markdown: the verdict, what was trained on which data under which licence, and what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from sightline.methods.contract import MetricInfo
from sightline.platform.core.printable import markdown
from sightline.platform.core.redaction import redact
from sightline.platform.data.manifest import Source
from sightline.platform.data.ray_source import RaySource
from sightline.platform.data.training_data import TrainingData, sets_of
from sightline.platform.evaluation.findings import label_of, show_span
from sightline.platform.evaluation.intervals import counted
from sightline.platform.evaluation.results import MethodResult, ProbeOutcomes, ProbeResult, RowKind

LONGEST = 160
"""Characters of a cell, so that one long path does not fill the card."""
OF_THE_MACHINE = ("Training time", "Speed", "Data wait", "Attempts", "Peak memory")
"""Facts of a run that do not describe what came of it."""
MOST = 8
"""Sources of a data set that are named."""


def model_card(
    verdict: str,
    numbers: str,
    facts: Sequence[tuple[str, str]],
    data: Sequence[tuple[str, TrainingData]],
    of_method: MethodResult | None,
    probes: ProbeOutcomes,
) -> str:
    """The card of one trained network; how it is used is not part of it.

    `facts`: (name, value). `data`: (what for, data set). Every text of others is escaped.
    """
    parts = [markdown(verdict)]
    if numbers:
        parts.append(markdown(numbers))
    if rows := _results(of_method, probes):
        table = _table(("measured", "this model", "random weights", "on"), rows)
        parts.append(f"## Results\n\n{table}\n\n{markdown(_covers(of_method, probes))}")
    parts.append(f"## Data and licences\n\n{_table(('for', 'data', 'source', 'licence'), _sources(data))}")
    parts.append(f"## What it is\n\n{_table(('', ''), [fact for fact in facts if fact[0] not in OF_THE_MACHINE])}")
    return "\n\n".join(parts)


def _results(of_method: MethodResult | None, probes: ProbeOutcomes) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    if of_method is not None:
        on = f"{of_method.counts['samples']:,} samples of the validation data"
        rows += [(_metric("", key, info), show_span(of_method.values[key], info), "", on) for key, info in of_method.main_metrics.items()]
    for outcome in probes.values():
        if not isinstance(outcome, ProbeResult):
            continue
        control = next(outcome.rows_of(RowKind.CONTROL_MEAN), None)
        on = f"{_name(str(outcome.data.get('test') or ''))}, {counted(outcome.unit_count, outcome.unit_kind)}"
        for key, info in outcome.main_metrics.items():
            beside = show_span(control.values[key], info) if control else ""
            rows.append((_metric(f"{outcome.name}: ", key, info), show_span(outcome.rows[0].values[key], info), beside, on))
    return rows


def _covers(of_method: MethodResult | None, probes: ProbeOutcomes) -> str:
    """What was resampled, each text once; the run's report says what the intervals cover and what they do not."""
    measured = [*([of_method] if of_method else []), *(one for one in probes.values() if isinstance(one, ProbeResult))]
    return "In brackets: " + "; ".join(dict.fromkeys(one.covers.partition(":")[0].rstrip(".") for one in measured)) + "."


def _metric(prefix: str, key: str, info: MetricInfo) -> str:
    return f"{prefix}{label_of(key, info)}{f' in {info.unit}' if info.unit else ''}"


def _sources(data: Sequence[tuple[str, TrainingData]]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for purpose, dataset in data:
        if isinstance(dataset, RaySource):
            rows.append((purpose, f"{dataset.described}, no fingerprint", "read by Ray Data", "unknown"))
            continue
        for one in sets_of(dataset).values():
            sources = one.manifest.provenance.sources
            what = f"{_name(one.uri)}: {one.rows:,} {one.kind}, fingerprint {one.fingerprint[:16]}"
            for source in sources[:MOST] or [Source(where="unstated")]:
                rows.append((purpose, what, redact(source.where), source.licence))
                purpose = what = ""
            if (more := len(sources) - MOST) > 0:
                rows.append(("", "", f"and {more} more, in the run's report", ""))
    return rows


def _name(uri: str) -> str:
    """The last two parts of an address: `pairs/train`."""
    return "/".join(PurePosixPath(redact(uri)).parts[-2:])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([_cell(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    line = " ".join(text.split())
    return markdown(f"x{line if len(line) <= LONGEST else f'{line[:LONGEST]}...'}")[1:]  # a cell begins no line, where more marks count
