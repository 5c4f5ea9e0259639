"""The page of a comparison: what it cost, with links to the runs, the losses, and what was measured."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sightline.methods.contract import MetricInfo
from sightline.platform.core.files import append_lines
from sightline.platform.data.dataset import Dataset
from sightline.platform.evaluation.intervals import Interval
from sightline.platform.evaluation.results import ProbeResult, Row, RowKind, SkippedProbe
from sightline.platform.experiments.compare import page
from sightline.platform.experiments.compare.record import Comparison, Entry
from sightline.platform.reports.page import render
from sightline.platform.runs.record import Run

SKIPPED = SkippedProbe("depth", "Depth", "no <depth> column")


def probe(info: MetricInfo) -> ProbeResult:
    rows = [Row(name, RowKind.ENCODER, {"m": Interval(value, value, value, 3)}) for name, value in (("one", 0.25), ("two", 0.5))]
    rows.append(Row("random", RowKind.CONTROL_MEAN, {"m": Interval(0.125, 0.1, 0.2, 3)}))
    return ProbeResult("knn", "Neighbours", {"m": info}, tuple(rows), "scene", 3, "", {}, 1.0, protocol={"version": 1})


@pytest.fixture
def comparison(toy_run: Callable[..., Run]) -> Comparison:
    """Two entries, one seed, each with a step on record."""
    experiment = toy_run("pattern", **{"train.length": "18 steps"}).experiment
    fingerprint = Dataset.open(str(experiment.data.train)).fingerprint
    entries = [Entry(label, "toy", experiment.sections(), fingerprint, 800, gflops) for label, gflops in (("one", 2.0), ("two", None))]
    made = Comparison.create(
        "both",
        budget="800 samples",
        seeds=(0,),
        entries=entries,
        probes=None,
        data={"folders": [], "train": [], "test": []},
        controls=1,
        command="sightline compare toy toy",
        tracking_uri="sqlite:///none",
    )
    step = {"kind": "steps", "first": 0, "lr": [1e-3], "grad_norm": [1.0], "losses": {"loss": [2.0]}}
    for entry in entries:
        run = made.run(entry, 0)
        append_lines(run.folder / "events.jsonl", [{**step, "seconds": 2.0, "samples": 100, "phases": {"data_wait": 0.5}}])
        made.peaks[run.name] = 2**30
    return made


def test_the_page_of_a_comparison_holds_costs_links_losses_and_probes(comparison: Comparison, monkeypatch: pytest.MonkeyPatch) -> None:
    Run.open("both-one-s0").mlflow_run_id = None
    monkeypatch.setattr(page, "pages_of", lambda uri, ids: {"None": "http://mlflow/#/1"})
    outcomes = {"knn": probe(MetricInfo(label="accuracy", unit="%")), "depth": SKIPPED}
    found = page.page(comparison, outcomes, page.costs(comparison))
    costs, losses = found.sections
    (table,) = costs.tables
    assert [column.label for column in table.columns] == [
        "recipe",
        "samples",
        "training",
        "samples/s",
        "TFLOP",
        "peak memory",
        "data wait",
        "MLflow run, seed 0",
    ]
    assert [[cell.text for cell in row.cells[1:-1]] for row in table.rows] == [
        ["800", "2 s", "50.0", "1.6", "1.0 GiB", "25%"],
        ["800", "2 s", "50.0", "not countable", "1.0 GiB", "25%"],
    ]
    assert table.rows[0].cells[-1].text == "not recorded" and table.rows[0].cells[-1].address == "http://mlflow/#/1"
    assert [chart.title for chart in losses.drawn] == ["one: loss", "two: loss"]
    assert found.warnings == ["One training seed: differences may be luck.", "probe depth skipped: no <depth> column"]
    assert list(found.probes) == [outcomes["knn"]], "what was skipped stands among the warnings"
    assert '<a href="http://mlflow/#/1">not recorded</a>' in render(found)


def test_a_probe_that_leads_with_metres_is_not_told_in_percent(comparison: Comparison) -> None:
    in_metres = page.numbers(comparison, {"depth": probe(MetricInfo(label="RMSE", unit="m", better="lower"))})
    assert "knn RMSE: one 0.250 m, two 0.500 m (random weights 0.125 m)." in in_metres
    in_percent = page.numbers(comparison, {"knn": probe(MetricInfo(label="accuracy", unit="%"))})
    assert "knn accuracy: two 50.0%, one 25.0% (random weights 12.5%)." in in_percent
