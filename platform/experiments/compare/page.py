"""What a comparison found, as lines for a terminal, metrics and a page."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sightline.platform.evaluation.findings import heading_of, show, table, title_of
from sightline.platform.evaluation.results import ProbeOutcomes, ProbeResult, RowKind, SkippedProbe
from sightline.platform.evaluation.verdict import verdict_between
from sightline.platform.reports.charts import line_chart
from sightline.platform.reports.page import ReportPage
from sightline.platform.reports.sections import Cell, Section, text_table
from sightline.platform.reports.summary import LONGER
from sightline.platform.runs.events import StepsDone
from sightline.platform.runs.record import Run
from sightline.platform.tracking.client import place_of
from sightline.platform.tracking.parent_run import pages_of

from .record import Comparison, Entry


@dataclass(frozen=True)
class Cost:
    """What one entry cost: medians over its seeds."""

    label: str
    recipe: str
    samples: int
    seconds: float
    """Of training."""
    samples_per_second: float
    tflop: float | None
    """None where the operations of a sample cannot be counted."""
    peak_gib: float
    """Of memory, all processes."""
    data_wait: float
    """Share of the training time."""
    mlflow_run_ids: list[str | None]
    """One a seed."""
    mlflow_pages: list[str | None]

    @property
    def cells(self) -> dict[str, str]:
        return {
            "samples": f"{self.samples:,}",
            "training": f"{self.seconds:.0f} s",
            "samples/s": f"{self.samples_per_second:.1f}",
            "TFLOP": f"{self.tflop:.3g}" if self.tflop else "not countable",
            "peak memory": f"{self.peak_gib:.1f} GiB",
            "data wait": f"{self.data_wait:.0%}",
        }


def costs(comparison: Comparison) -> list[Cost]:
    """One for each entry."""
    names = [comparison.run_name(entry, seed) for entry in comparison.entries for seed in comparison.seeds]
    pages = pages_of(place_of(comparison), [Run.open(name).mlflow_run_id for name in names])
    return [_cost(comparison, entry, pages) for entry in comparison.entries]


def _cost(comparison: Comparison, entry: Entry, pages: Mapping[str, str]) -> Cost:
    runs = [Run.open(comparison.run_name(entry, seed)) for seed in comparison.seeds]
    steps = [[event for event in run.events() if isinstance(event, StepsDone)] for run in runs]
    seconds = [sum(event.seconds for event in events) for events in steps]
    samples = [sum(event.samples for event in events) for events in steps]
    waits = [sum(event.phases.get("data_wait", 0.0) for event in events) for events in steps]
    return Cost(
        label=entry.label,
        recipe=entry.recipe,
        samples=entry.samples,
        seconds=statistics.median(seconds),
        samples_per_second=statistics.median(a / b for a, b in zip(samples, seconds, strict=True)),
        tflop=entry.gflops_per_sample and entry.gflops_per_sample * entry.samples / 1000,
        peak_gib=statistics.median(comparison.peaks.get(run.name, 0) for run in runs) / 2**30,
        data_wait=statistics.median(a / b for a, b in zip(waits, seconds, strict=True)),
        mlflow_run_ids=[run.mlflow_run_id for run in runs],
        mlflow_pages=[pages.get(str(run.mlflow_run_id)) for run in runs],
    )


def verdict(comparison: Comparison, probes: ProbeOutcomes) -> str:
    """One plain sentence: which entries differ, in what."""
    return verdict_between(probes, [entry.label for entry in comparison.entries])


def numbers(comparison: Comparison, probes: ProbeOutcomes) -> str:
    """What stands below the verdict."""
    found = [_ranking(outcome) for outcome in probes.values() if isinstance(outcome, ProbeResult)]
    names = ", ".join(entry.label for entry in comparison.entries)
    head = f"{names} on {comparison.budget} each, {len(comparison.seeds)} training seed{'s' * (len(comparison.seeds) > 1)}."
    return " ".join([head, *found])


def longer(comparison: Comparison) -> str:
    """The command of the same comparison on a longer budget."""
    amount, _, unit = comparison.budget.strip().partition(" ")
    budget = f"{float(amount) * LONGER:g} {unit}"
    words = iter(shlex.split(comparison.command))
    kept: list[str] = []
    for word in words:
        option, equals, _ = word.partition("=")
        if option not in ("--budget", "--name"):
            kept.append(word)
            continue
        if not equals:
            next(words)
        if option == "--budget":
            kept += ["--budget", budget]
    return shlex.join(kept)


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


def lines(comparison: Comparison, probes: ProbeOutcomes, costs: Sequence[Cost]) -> list[str]:
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
    width = max(len(cost.label) for cost in costs)
    out += [f"{cost.label:<{width}}  {', '.join(f'{key} {value}' for key, value in cost.cells.items())}" for cost in costs]
    return out


def page(comparison: Comparison, probes: ProbeOutcomes, costs: Sequence[Cost]) -> ReportPage:
    skipped = [outcome.sentence for outcome in probes.values() if isinstance(outcome, SkippedProbe)]
    facts = [
        ("budget", comparison.budget),
        ("training seeds", ", ".join(map(str, comparison.seeds))),
        ("random-weights networks", str(comparison.controls)),
    ]
    return ReportPage(
        title=f"{comparison.name}: a comparison",
        kind="comparison",
        headline=verdict(comparison, probes),
        detail=numbers(comparison, probes),
        warnings=[*([] if len(comparison.seeds) > 1 else ["One training seed: differences may be luck."]), *skipped],
        facts=facts,
        sections=[_costs_section(comparison, costs), _losses_section(comparison)],
        probes=[outcome for outcome in probes.values() if isinstance(outcome, ProbeResult)],
        commands=[comparison.command, f"sightline resume {comparison.name}"],
    )


def _costs_section(comparison: Comparison, costs: Sequence[Cost]) -> Section:
    columns = ["recipe", *costs[0].cells, *(f"MLflow run, seed {seed}" for seed in comparison.seeds)]
    rows: list[list[str | Cell]] = [[cost.label, cost.recipe, *cost.cells.values(), *_links(cost)] for cost in costs]
    return Section("What it cost", tables=[text_table("Medians over the seeds", columns, rows)])


def _losses_section(comparison: Comparison) -> Section:
    charts = [
        line_chart(f"{entry.label}: loss", {f"seed {seed}": _losses(comparison, entry, seed) for seed in comparison.seeds}, "sample")
        for entry in comparison.entries
    ]
    return Section("Losses", charts=charts, notes=["Losses of different methods do not compare."])


def _links(cost: Cost) -> list[Cell]:
    """The MLflow runs, each with a link to its page where there is a server."""
    return [Cell(run_id or "not recorded", address=page) for run_id, page in zip(cost.mlflow_run_ids, cost.mlflow_pages, strict=True)]


def _losses(comparison: Comparison, entry: Entry, seed: int) -> list[tuple[float, float]]:
    history = Run.open(comparison.run_name(entry, seed)).history()
    batch = entry.settings["batch"]["size"]
    return [((step + 1) * batch, metrics["loss"]) for step, metrics in history.items()]
