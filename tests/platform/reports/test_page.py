"""A report is one page that stands alone, escapes what it shows and says what is not known."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sightline.methods.contract import Visualisation
from sightline.methods.errors import SightlineError
from sightline.platform.reports.charts import line_chart, nice_ticks, number, seconds, stacked_bar
from sightline.platform.reports.page import Link, text_table, write_report
from sightline.platform.tracking.parent_run import pages_of

EVIL = '<script>alert("x")</script>&\'" onload=x'
VOID = {"meta", "img", "br", "line", "circle", "polyline"}


def figure(value: float, low: float | None, high: float | None) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "units": 9}


def probe(verdict: str) -> dict[str, Any]:
    return {
        "probe": "depth",
        "title": f"Depth {EVIL}",
        "protocol": {"version": 1},
        "protocol_hash": "abc",
        "metrics": {"delta1": {"label": "delta1", "unit": "%", "better": "higher", "means": EVIL}},
        "rows": [{"name": EVIL, "kind": "encoder", "metrics": {"delta1": figure(0.612, 0.55, 0.67)}}],
        "differences": [{"name": EVIL, "of": ["a", "b"], "metrics": {"delta1": figure(0.15, 0.1, 0.2) | {"verdict": verdict}}}],
        "finding": EVIL,
        "covers": EVIL,
        "counts": {"train_images": 1200},
        "seconds": 3.0,
    }


def full(verdict: str = "better") -> dict[str, Any]:
    claims = {
        "figures": {"psnr_true": figure(21.0, 20.0, 22.0), "psnr_other": figure(17.0, None, None), EVIL: figure(1.0, None, None)},
        "differences": [{"name": "x", "of": ["psnr_true", "psnr_other"], **figure(4.0, 3.0, 5.0)}],
        "covers": EVIL,
        "counts": {"samples": 96},
    }
    return {
        "title": EVIL,
        "headline": EVIL,
        "kind": EVIL,
        "facts": [(EVIL, EVIL)],
        "curves": {
            "train loss": [(i, 1 / (i + 1)) for i in range(200)],
            "validation loss": [(0, 1.0), (99, 0.5)],
            EVIL: [(0, 1.0), (1, 2.0)],
        },
        "pictures": [Visualisation(EVIL, EVIL, np.zeros((8, 12, 3), np.uint8))],
        "probes": [probe(verdict)],
        "claims": claims,
        "meanings": {"psnr_true": EVIL},
        "time": {"forward": 3.0, EVIL: 1.0},
        "config": {EVIL: EVIL},
        "provenance": [EVIL],
        "commands": [EVIL],
        "next": [EVIL],
        "warnings": [EVIL],
    }


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
    return Page(write_report(tmp_path / "deep" / "report.html", full()).read_text())


def test_the_page_asks_nothing_of_the_network_and_runs_nothing(page: Page, tmp_path: Path) -> None:
    raw = (tmp_path / "deep" / "report.html").read_text()
    links = [v for _, attrs in page.tags for k, v in attrs.items() if k in ("src", "href", "srcset", "action", "data", "poster")]
    assert links and all(link and link.startswith("data:image/png;base64,") for link in links)
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in page.tags}
    assert not re.search(r"url\(|@import", raw)
    assert any(attrs.get("content", "") == "default-src 'none'; img-src data:; style-src 'unsafe-inline'" for _, attrs in page.tags)


def test_every_text_is_escaped_and_shown(page: Page) -> None:
    assert not [attrs for _, attrs in page.tags if any(name.startswith("on") for name in attrs)]
    assert page.text.count("<script>alert") >= 18  # shown as text, wherever it was given


def test_the_verdict_of_the_probe_stands_beside_its_difference(tmp_path: Path) -> None:
    for verdict in ("better", "worse", "no difference shown"):
        assert f"+10.0 to +20.0{verdict}" in Page(write_report(tmp_path / "r.html", full(verdict)).read_text()).text


def test_a_page_of_a_run_that_has_little_to_show_has_no_empty_sections(tmp_path: Path) -> None:
    page = Page(write_report(tmp_path / "r.html", {"title": "only a title"}).read_text())
    assert "only a title" in page.text and not [tag for tag, _ in page.tags if tag == "h2"]


def test_a_skipped_probe_says_why(tmp_path: Path) -> None:
    run = {"title": "t", "probes": [{"title": "Depth", "skipped": "probe depth skipped: no depth column"}]}
    assert "no depth column" in Page(write_report(tmp_path / "r.html", run).read_text()).text


def test_charts_name_themselves_to_those_who_cannot_see_them(page: Page) -> None:
    charts = [attrs for tag, attrs in page.tags if tag == "svg"]
    assert len(charts) >= 4 and all(attrs["role"] == "img" and attrs["aria-label"] for attrs in charts)
    assert all(attrs.get("alt") for tag, attrs in page.tags if tag == "img")


def test_losses_share_a_chart_and_gaps_are_left_out() -> None:
    drawn = line_chart("Loss", {"train loss": [(0, 1.0), (1, float("nan")), (2, 0.5)], "empty": []}, "step", "")
    assert "nan" not in drawn and drawn.count("<polyline") == 1 and "from 1 to 0.5" in drawn
    assert line_chart("Loss", {"a": []}, "step", "") == ""


def test_numbers_and_ticks_read_well() -> None:
    assert nice_ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0] and nice_ticks(3, 3) == [3]
    assert [number(v) for v in (0, 0.00025, 1e-3, 0.5, 1234.5, 2.5e6)] == ["0", "2.5e-4", "0.001", "0.5", "1,234", "2.5e6"]
    assert [seconds(v) for v in (3.14, 135, 7260)] == ["3.1 s", "2 min 15 s", "2 h 1 min"]
    assert "75.0 %" in stacked_bar("t", {"a": 3.0, "b": 1.0, "nothing": 0.0})


def test_a_report_that_cannot_be_written_names_its_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SightlineError, match="cannot write the report"):
        write_report(tmp_path / "file" / "r.html", {"title": "t"})


def test_a_cell_may_lead_somewhere() -> None:
    there = text_table("runs", ["", "run"], [["one", Link("a<b", 'http://mlflow/#/runs/a"b')]])
    assert '<a href="http://mlflow/#/runs/a&quot;b">a&lt;b</a>' in there
    assert "<td>a&lt;b</td>" in text_table("runs", ["", "run"], [["one", Link("a<b", None)]])


def test_only_a_server_has_pages_of_runs() -> None:
    assert pages_of("sqlite:////tmp/mlflow.db", ["a1"]) == {} and pages_of("http://127.0.0.1:9", [None]) == {}
