"""What a comparison found, as lines for a terminal, metrics and a page."""

from __future__ import annotations

import statistics
from typing import Any

from sightline.platform.evaluation.findings import heading_of, show, table, title_of
from sightline.platform.evaluation.results import ProbeOutcomes, ProbeResult, RowKind, SkippedProbe
from sightline.platform.reports.charts import line_chart
from sightline.platform.reports.page import ReportPage
from sightline.platform.reports.sections import Cell, Section, text_table
from sightline.platform.runs.record import Run
from sightline.platform.tracking.parent_run import pages_of

from .record import Comparison


def costs(comparison: Comparison) -> list[dict[str, Any]]:
    """Of each entry, medians over its seeds: training seconds, samples a second, TFLOP, peak memory, data wait; and its MLflow runs."""
    rows = []
    names = [comparison.run_name(entry, seed) for entry in comparison.entries for seed in comparison.seeds]
    pages = pages_of(comparison.tracking_uri, [Run.open(name).mlflow_run_id for name in names])
    for entry in comparison.entries:
        runs = [Run.open(comparison.run_name(entry, seed)) for seed in comparison.seeds]
        steps = [[event for event in run.events() if event["kind"] == "steps"] for run in runs]
        seconds = [sum(event["seconds"] for event in events) for events in steps]
        samples = [sum(event["samples"] for event in events) for events in steps]
        waits = [sum(event["phases"].get("data_wait", 0.0) for event in events) for events in steps]
        rows.append(
            {
                "label": entry.label,
                "recipe": entry.recipe,
                "samples": entry.samples,
                "seconds": statistics.median(seconds),
                "samples_per_second": statistics.median(a / b for a, b in zip(samples, seconds, strict=True)),
                "tflop": entry.gflops_per_sample and entry.gflops_per_sample * entry.samples / 1000,
                "peak_gib": statistics.median(comparison.peaks.get(run.name, 0) for run in runs) / 2**30,
                "data_wait": statistics.median(a / b for a, b in zip(waits, seconds, strict=True)),
                "mlflow_run_ids": [run.mlflow_run_id for run in runs],
                "mlflow_pages": [pages.get(str(run.mlflow_run_id)) for run in runs],
            }
        )
    return rows


def headline(comparison: Comparison, probes: ProbeOutcomes) -> str:
    found = [_ranking(outcome) for outcome in probes.values() if isinstance(outcome, ProbeResult)]
    names = ", ".join(entry.label for entry in comparison.entries)
    head = f"{names} on {comparison.budget} each, {len(comparison.seeds)} training seed{'s' * (len(comparison.seeds) > 1)}."
    return f"{head} {' '.join(found)} Which of these differ is told below." if found else f"{head} No probe could be measured."


def _ranking(result: ProbeResult) -> str:
    """A probe's first metric of all entries, the best first, beside those of random weights."""
    metric, info = result.first_metric, result.metrics[result.first_metric]

    def shown(kind: RowKind, best_first: bool) -> dict[str, str]:
        rows = sorted(result.rows_of(kind), key=lambda row: row.values[metric].value, reverse=best_first)
        return {row.name: show(row.values[metric].value, info) for row in rows}

    random = list(shown(RowKind.CONTROL_MEAN, best_first=False).values())
    beside = f" (random weights {' to '.join(dict.fromkeys((random[0], random[-1])))})" if random else ""
    entries = shown(RowKind.ENCODER, best_first=info.better == "higher")
    return f"{title_of(result)}: {', '.join(f'{name} {value}' for name, value in entries.items())}{beside}."


def metrics(comparison: Comparison, probes: ProbeOutcomes) -> dict[str, float]:
    """`LABEL/PROBE/METRIC`: means over the seeds."""
    labels = {entry.label for entry in comparison.entries}
    return {
        f"{row.name}/{name}/{key}": row.values[key].value
        for name, outcome in probes.items()
        if isinstance(outcome, ProbeResult)
        for row in outcome.rows
        if row.name in labels
        for key in outcome.main_metrics
    }


def lines(comparison: Comparison, probes: ProbeOutcomes, rows: list[dict[str, Any]]) -> list[str]:
    """For a terminal: each probe with its intervals, then the costs."""
    out = [""]
    for outcome in probes.values():
        if isinstance(outcome, SkippedProbe):
            out += [outcome.sentence, ""]
            continue
        found = table(outcome)
        width = max(len(name) for name, _, _ in found)
        out.append(heading_of(outcome))
        for name, value, differences in found:
            out += [f"  {name:<{width}}  {value}", *(f"    {text}" for text in differences)]
        out.append("")
    width = max(len(row["label"]) for row in rows)
    out += [f"{row['label']:<{width}}  {', '.join(f'{key} {value}' for key, value in _told(row).items())}" for row in rows]
    return out


def page(comparison: Comparison, probes: ProbeOutcomes, rows: list[dict[str, Any]]) -> ReportPage:
    skipped = [outcome.sentence for outcome in probes.values() if isinstance(outcome, SkippedProbe)]
    facts = [
        ("budget", comparison.budget),
        ("training seeds", ", ".join(map(str, comparison.seeds))),
        ("random-weights networks", str(comparison.controls)),
    ]
    return ReportPage(
        title=f"{comparison.name}: a comparison",
        kind="comparison",
        headline=headline(comparison, probes),
        warnings=[*([] if len(comparison.seeds) > 1 else ["One training seed: differences may be luck."]), *skipped],
        facts=facts,
        sections=[_costs_section(comparison, rows), _losses_section(comparison)],
        probes=[outcome for outcome in probes.values() if isinstance(outcome, ProbeResult)],
        commands=[comparison.command, f"sightline resume {comparison.name}"],
    )


def _costs_section(comparison: Comparison, rows: list[dict[str, Any]]) -> Section:
    columns = ["recipe", *_told(rows[0]), *(f"MLflow run, seed {seed}" for seed in comparison.seeds)]
    cells = [[row["label"], row["recipe"], *_told(row).values(), *_links(row)] for row in rows]
    return Section("What it cost", tables=[text_table("Medians over the seeds", columns, cells)])


def _losses_section(comparison: Comparison) -> Section:
    charts = [
        line_chart(f"{entry.label}: loss", {f"seed {seed}": _losses(comparison, entry, seed) for seed in comparison.seeds}, "sample")
        for entry in comparison.entries
    ]
    return Section("Losses", charts=charts, notes=["Losses of different methods do not compare."])


def _links(row: dict[str, Any]) -> list[Cell]:
    """The MLflow runs, each with a link to its page where there is a server."""
    return [Cell(run_id or "not recorded", address=page) for run_id, page in zip(row["mlflow_run_ids"], row["mlflow_pages"], strict=True)]


def _told(row: dict[str, Any]) -> dict[str, str]:
    return {
        "samples": f"{row['samples']:,}",
        "training": f"{row['seconds']:.0f} s",
        "samples/s": f"{row['samples_per_second']:.1f}",
        "TFLOP": f"{row['tflop']:.3g}" if row["tflop"] else "not countable",
        "peak memory": f"{row['peak_gib']:.1f} GiB",
        "data wait": f"{row['data_wait']:.0%}",
    }


def _losses(comparison: Comparison, entry: Any, seed: int) -> list[tuple[float, float]]:
    history = Run.open(comparison.run_name(entry, seed)).history()
    batch = entry.settings["batch"]["size"]
    return [((step + 1) * batch, figures["loss"]) for step, figures in history.items()]
