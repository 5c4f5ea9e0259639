"""A report is one page that stands alone, escapes what it shows and says what is not known."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from sightline.methods.contract import MetricInfo, Visualisation
from sightline.methods.errors import SightlineError
from sightline.platform.evaluation.findings import show_number
from sightline.platform.evaluation.intervals import Interval
from sightline.platform.evaluation.results import Contrast, Difference, MethodResult, ProbeResult, Row, RowKind, SkippedProbe, Verdict
from sightline.platform.reports.charts import (
    Axis,
    Course,
    Dot,
    Mark,
    front_chart,
    interval_chart,
    line_chart,
    nice_ticks,
    number,
    parallel_chart,
    seconds,
    shares,
)
from sightline.platform.reports.evaluation import method_section
from sightline.platform.reports.page import ReportPage, render, write_report
from sightline.platform.reports.sections import Cell, Column, Section, Table, TableRow, text_table
from sightline.platform.tracking.parent_run import pages_of

VOID = {"meta", "img", "br", "line"}


def interval(value: float, low: float = math.nan, high: float = math.nan) -> Interval:
    return Interval(value, low, high, 9)


class Evil:
    """Makes texts that do harm where they are not escaped, each of them another."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self) -> str:
        self.texts.append(f"<script>alert({len(self.texts)})</script>&'\" onload=x")
        return self.texts[-1]


def probe(evil: Evil, verdict: Verdict = Verdict.BETTER) -> ProbeResult:
    metrics = {
        "delta1": MetricInfo(evil(), "delta1", "%"),
        "iou": MetricInfo("", evil(), "%", group=evil()),
        evil(): MetricInfo(unit=evil()),
    }
    values = dict.fromkeys(metrics, interval(0.612, 0.55, 0.67))
    first, second = evil(), evil()
    return ProbeResult(
        name=evil(),
        title=evil(),
        metrics=metrics,
        rows=(Row(evil(), RowKind.ENCODER, values),),
        unit_kind="scene",
        unit_count=9,
        covers=evil(),
        counts={evil(): 1200},
        seconds=3.0,
        finding=evil(),
        differences=(Difference(first, second, dict.fromkeys(metrics, interval(0.15, 0.1, 0.2)), dict.fromkeys(metrics, verdict)),),
        protocol={"version": 1},
        protocol_hash=evil(),
    )


def control(evil: Evil) -> MethodResult:
    """Metrics of two families and a detail that the data do not define."""
    metrics = {
        "psnr_true_view": MetricInfo(evil(), "with the true view", "dB", family="PSNR"),
        "psnr_other": MetricInfo(evil(), "with the other view", "dB", family="PSNR"),
        "accuracy": MetricInfo(evil(), evil(), family=""),
        "loss": MetricInfo(evil(), family=evil()),
        evil(): MetricInfo(evil(), unit=evil()),
        "iou_cat": MetricInfo("", evil(), "%", group=evil()),
    }
    values = dict(zip(metrics, (interval(21.0, 20.0, 22.0), *map(interval, (17.0, 0.5, 1.0, 1.0, math.nan))), strict=True))
    return MethodResult(
        name="control",
        title=evil(),
        metrics=metrics,
        rows=(Row(evil(), RowKind.ENCODER, values),),
        unit_kind="scene",
        unit_count=9,
        covers=evil(),
        counts={"samples": 96},
        seconds=3.0,
        contrasts=(Contrast("psnr_true_view", "psnr_other", interval(4.0, 3.0, 5.0)),),
    )


def section(evil: Evil) -> Section:
    row = TableRow(evil(), [Cell(evil(), evil(), evil(), address=f"http://mlflow/{evil()}")])
    return Section(
        evil(),
        evil(),
        [
            interval_chart(evil(), [Dot(evil(), 1.0)], evil()),
            front_chart(evil(), [Mark(evil(), 1, 2, True), Mark(evil(), 0, 3)], evil()),
            parallel_chart(evil(), [Axis(evil(), [(0.0, evil()), (1.0, evil())])] * 2, [Course(evil(), (0, 1), 0.5)]),
            line_chart(evil(), {evil(): [(0, 1.0)], evil(): [(0, 1.0)]}, evil(), evil()),
        ],
        [evil()],
        [Table(evil(), [Column(evil(), evil(), evil())], [row])],
        [evil()],
    )


def full(evil: Evil) -> ReportPage:
    return ReportPage(
        title=evil(),
        kind=evil(),
        headline=evil(),
        detail=evil(),
        warnings=[evil()],
        facts=[(evil(), evil())],
        control=control(evil),
        visualisations=[Visualisation(evil(), evil(), np.zeros((8, 12, 3), np.uint8))],
        sections=[section(evil)],
        probes=[probe(evil), SkippedProbe(evil(), "Depth", evil())],
        curves={
            "train loss": [(i, 1 / (i + 1)) for i in range(200)],
            "validation loss": [(0, 1.0), (99, 0.5)],
            evil(): [(0, 1.0), (1, 2.0)],
        },
        time={"forward": 3.0, evil(): 1.0},
        next_steps=[evil()],
        commands=[evil()],
        provenance=[evil()],
        settings={evil(): evil()},
        identities=[(evil(), evil())],
    )


class Page(HTMLParser):
    """Every tag with its attributes; complains of tags that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another tag"

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def page(tmp_path: Path) -> Page:
    return Page(write_report(tmp_path / "deep" / "report.html", full(Evil())).read_text())


def test_the_page_asks_nothing_of_the_network_and_runs_nothing(page: Page, tmp_path: Path) -> None:
    raw = (tmp_path / "deep" / "report.html").read_text()
    fetched = [v for _, attrs in page.tags for k, v in attrs.items() if k in ("src", "srcset", "action", "data", "poster")]
    assert fetched and all(link and link.startswith("data:image/png;base64,") for link in fetched)
    assert [tag for tag, attrs in page.tags if "href" in attrs] == ["a"]
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in page.tags}
    assert not re.search(r"url\(|@import", raw)
    assert any(attrs.get("content", "") == "default-src 'none'; img-src data:; style-src 'unsafe-inline'" for _, attrs in page.tags)


def test_every_text_is_escaped_and_shown() -> None:
    evil = Evil()
    raw = render(full(evil))
    page = Page(raw)
    assert "<script" not in raw and len(evil.texts) >= 60
    assert not [attrs for _, attrs in page.tags if any(name.startswith("on") for name in attrs)]
    shown = page.text + "\n".join(value or "" for _, attrs in page.tags for value in attrs.values())
    assert [text for text in evil.texts if text not in shown] == []


def test_the_verdict_of_the_probe_stands_beside_its_difference() -> None:
    for verdict, tone in (("better", "verdict good"), ("worse", "verdict bad"), ("no difference shown", "verdict")):
        page = Page(render(ReportPage("t", probes=[probe(Evil(), Verdict(verdict))])))
        assert f"+10.0 to +20.0{verdict}" in page.text
        assert ("span", {"class": tone}) in page.tags


def test_values_are_shown_in_the_unit_of_their_metric() -> None:
    share, decibel, metre = MetricInfo(unit="%"), MetricInfo(unit="dB"), MetricInfo(unit="m")
    assert [show_number(0.1234, info) for info in (share, decibel, metre)] == ["12.3", "0.12", "0.123"]
    assert [show_number(0.1, share, "+"), show_number(-0.1, metre, "+")] == ["+10.0", "-0.100"]


def test_a_probe_that_leads_with_an_error_in_metres_is_not_shown_as_a_percentage() -> None:
    led = replace(probe(Evil()), metrics={"delta1": MetricInfo(label="RMSE", unit="m", better="lower")})
    text = Page(render(ReportPage("t", probes=[led]))).text
    assert "0.6120.550 to 0.670" in text and "RMSE, mlower is better" in text and "m, lower is better" in text
    assert "61.2" not in text and "points" not in text


def test_metrics_of_one_family_share_a_chart_and_are_named_by_what_differs() -> None:
    keys = {"psnr_true_view": "PSNR", "psnr_other": "PSNR", "loss_true_view": "loss", "accuracy": ""}
    infos = {key: MetricInfo(unit="dB" if family == "PSNR" else "", family=family) for key, family in keys.items()}
    row = Row("network", RowKind.ENCODER, dict.fromkeys(infos, interval(1.0)))
    section = method_section(replace(control(Evil()), metrics=infos, rows=(row,)))
    assert [chart.title for chart in section.drawn] == ["PSNR", "Loss", "Accuracy"]
    names = [">true view<", ">other<", ">accuracy<"]
    assert [[name in chart.svg for name in names] for chart in section.drawn] == [
        [True, True, False],
        [True, False, False],
        [False, False, True],
    ]
    values, differences, *_ = section.tables
    assert [row.name for row in values.rows] == ["PSNR true view, dB", "PSNR other, dB", "loss true view", "accuracy"]
    (contrast,) = differences.rows
    assert contrast.name == "PSNR true view minus other, dB"
    assert [(cell.text, cell.span) for cell in contrast.cells] == [("+4.00", "+3.00 to +5.00"), ("the interval leaves out zero", "")]


def test_a_page_of_a_run_that_has_little_to_show_has_no_empty_sections() -> None:
    page = Page(render(ReportPage("only a title", sections=[Section("nothing under it", tables=[Table("none", [], [])])])))
    assert "only a title" in page.text and not [tag for tag, _ in page.tags if tag in ("h2", "section", "table", "ul", "dl")]


def test_a_skipped_probe_says_why() -> None:
    skipped = SkippedProbe("depth", "Depth", "no depth column")
    assert "probe depth skipped: no depth column" in Page(render(ReportPage("t", probes=[skipped]))).text


def test_charts_name_themselves_to_those_who_cannot_see_them(page: Page) -> None:
    charts = [attrs for tag, attrs in page.tags if tag == "svg"]
    assert len(charts) >= 4 and all(attrs["role"] == "img" and attrs["aria-label"] for attrs in charts)
    assert all(attrs.get("alt") for tag, attrs in page.tags if tag == "img")


def test_losses_share_a_chart_and_gaps_are_left_out() -> None:
    drawn = line_chart("Loss", {"train loss": [(0, 1.0), (1, math.nan), (2, 0.5)], "empty": []}, "step")
    assert drawn and "nan" not in drawn.svg and drawn.svg.count("<polyline") == 1 and "from 1 to 0.5" in drawn.svg
    assert line_chart("Loss", {"a": []}, "step") is None
    both = {"train loss": [(0, 1.0), (1, 0.5)], "validation loss": [(0, 1.0)], "learning rate": [(0, 1.0)]}
    page = Page(render(ReportPage("t", curves=both)))
    assert len([tag for tag, _ in page.tags if tag == "svg"]) == 2 and "train lossvalidation loss" in page.text


def test_numbers_and_ticks_read_well() -> None:
    assert nice_ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0] and nice_ticks(3, 3) == [3]
    assert [number(v) for v in (0, 0.00025, 1e-3, 0.5, 1234.5, 2.5e6)] == ["0", "2.5e-4", "0.001", "0.5", "1,234", "2.5e6"]
    assert [seconds(v) for v in (3.14, 135, 7260)] == ["3.1 s", "2 min 15 s", "2 h 1 min"]


def test_time_is_shown_in_shares_the_longest_first() -> None:
    parts = shares({"b": 1.0, "a": 3.0, "nothing": 0.0})
    assert [(part.name, part.percent, part.duration) for part in parts] == [("a", 75.0, "3.0 s"), ("b", 25.0, "1.0 s")]
    page = Page(render(ReportPage("t", time={"forward": 3.0, "data_wait": 1.0})))
    assert "(4.0 s in all)" in page.text and "75.0 %3.0 s" in page.text and "25.0 %1.0 s" in page.text
    bars = [attrs["style"] for tag, attrs in page.tags if tag == "span" and "style" in attrs]
    assert bars == ["width:75.00%;background:var(--c1)", "width:25.00%;background:var(--c0)"], "a phase has one colour on every page"
    other = Page(render(ReportPage("t", time={"forward": 1.0, "data_wait": 3.0})))
    bars = [attrs["style"] for tag, attrs in other.tags if tag == "span" and "style" in attrs]
    assert bars == ["width:75.00%;background:var(--c0)", "width:25.00%;background:var(--c1)"]
    assert "Where the time went" not in render(ReportPage("t", time={"a": 0.0}))


def test_a_line_keeps_its_colour_where_another_is_left_out() -> None:
    both = line_chart("Loss", {"train loss": [(0, 1.0), (1, 2.0)], "validation loss": [(0, 1.0)]}, "step")
    alone = line_chart("Loss", {"validation loss": [(0, 1.0)]}, "step")
    trials = line_chart("Objective", {"000": [], "001": [(0, 1.0)], "002": [(0, 2.0)]}, "step")
    assert both and alone and trials
    assert (both.colours, alone.colours, trials.colours) == ((0, 1), (1,), (1, 2)) and "var(--c1)" in alone.svg


def test_a_report_that_cannot_be_written_names_its_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SightlineError, match="cannot write the report"):
        write_report(tmp_path / "file" / "r.html", ReportPage("t"))


def test_a_cell_may_lead_somewhere() -> None:
    cells = [["one", Cell("a<b", address='http://mlflow/#/runs/a"b')], ["two", Cell("c<d")]]
    raw = render(ReportPage("t", sections=[Section("runs", tables=[text_table("runs", ["run"], cells)])]))
    assert '<a href="http://mlflow/#/runs/a&#34;b">a&lt;b</a>' in raw
    assert "<td>c&lt;d</td>" in raw


def test_only_a_server_has_pages_of_runs() -> None:
    assert pages_of("sqlite:////tmp/mlflow.db", ["a1"]) == {} and pages_of("http://127.0.0.1:9", [None]) == {}


def test_a_chart_rounds_a_value_once_as_the_table_beside_it() -> None:
    chart = interval_chart("PSNR", [Dot("true view", 19.7247, 19.0, 20.5)], "dB")
    assert chart is not None and ">19.72<" in chart.svg and "19.73" not in chart.svg
