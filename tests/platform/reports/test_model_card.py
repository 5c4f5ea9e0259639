"""The card of a registered model: what it is, on which data under which licence, and what was measured; every text of others as text."""

from __future__ import annotations

from pathlib import Path

import pytest

from sightline.methods.contract import MetricInfo
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.manifest import Manifest, Provenance, Shard, Source
from sightline.platform.evaluation.intervals import Interval
from sightline.platform.evaluation.results import MethodResult, ProbeResult, Row, RowKind, SkippedProbe
from sightline.platform.reports.model_card import MOST, model_card


def rows(*values: float) -> tuple[Row, ...]:
    kinds = (RowKind.ENCODER, RowKind.CONTROL_MEAN)
    return tuple(
        Row(str(kind), kind, {"accuracy": Interval(value, value - 0.05, value + 0.05, 9)})
        for kind, value in zip(kinds, values, strict=False)
    )


@pytest.fixture
def card() -> str:
    metrics = {"accuracy": MetricInfo(label="accuracy", unit="%")}
    common = {
        "title": "",
        "metrics": metrics,
        "unit_kind": "scene",
        "unit_count": 9,
        "covers": "95% percentile interval: how far it would move.",
        "seconds": 1.0,
    }
    probe = ProbeResult(name="knn", rows=rows(0.8, 0.4), counts={}, data={"test": "s3://key:secret@bucket/photos/val"}, **common)
    of_method = MethodResult(name="test", rows=rows(0.75), counts={"samples": 1234}, **common)
    shard = Shard(name="a.parquet", rows=10, bytes=1, sha256="0" * 64, row_groups=(10,))
    sources = [Source(where=f"/data/<b>{number}|*.jpg", licence="CC BY 4.0") for number in range(MOST + 3)]
    manifest = Manifest.model_construct(
        kind="images", rows=10, columns=("id",), shards=(shard,), fingerprint="f00", provenance=Provenance(sources=tuple(sources))
    )
    skipped = SkippedProbe("linear", "Linear", "no labels")
    facts = [("Method", "conmim"), ("Speed", "9 samples/s"), ("Run", "<script>x</script>, /folder\nof two lines")]
    data = [("training", Dataset("/somewhere/deep/photos/train", manifest))]
    return model_card("It has [learned].", "80% | more", facts, data, of_method, {"knn": probe, "linear": skipped})


def test_it_begins_with_the_verdict_and_tells_results_with_intervals(card: str) -> None:
    assert card.startswith("It has \\[learned\\].\n\n80% \\| more\n\n## Results\n")
    assert "| accuracy in % | 75.0 (70.0 to 80.0) |  | 1,234 samples of the validation data |" in card
    assert "| knn: accuracy in % | 80.0 (75.0 to 85.0) | 40.0 (35.0 to 45.0) | photos/val, 9 scenes |" in card
    assert card.count("In brackets: 95% percentile interval.") == 1 and "secret" not in card and "linear" not in card


def test_it_tells_what_it_is_and_the_licence_of_each_source(card: str) -> None:
    assert "| Method | conmim |" in card and "Speed" not in card
    assert "| training | photos/train: 10 images, fingerprint f00 | /data/&lt;b&gt;0\\|\\*.jpg | CC BY 4.0 |" in card
    assert card.count("CC BY 4.0") == MOST and "and 3 more, in the run's report" in card


def test_no_text_breaks_a_table_or_is_html(card: str) -> None:
    assert "<" not in card and "&lt;script&gt;x&lt;/script&gt;, /folder of two lines" in card
    tables = [line for line in card.splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in tables} == {3, 5}


def test_without_measures_and_sources_it_says_so(tmp_path: Path) -> None:
    shard = Shard(name="a.parquet", rows=1, bytes=1, sha256="0" * 64, row_groups=(1,))
    manifest = Manifest.model_construct(kind="images", rows=1, columns=("id",), shards=(shard,), fingerprint="f")
    card = model_card("Trained.", "", [], [("training", Dataset(str(tmp_path), manifest))], None, {})
    assert "## Results" not in card and "| unstated | unstated |" in card
