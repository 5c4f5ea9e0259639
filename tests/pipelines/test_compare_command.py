"""`sightline compare`: the same budget, the same seeds, the same probes; stopped and gone on with; wrong calls."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import yaml
from commands import finish, start
from heads import until
from toy import TOY_IMAGES, write_images

from sightline.methods.contract import MetricInfo
from sightline.methods.errors import CallError
from sightline.pipelines.__main__ import main
from sightline.pipelines.compare import make_entries
from sightline.platform import config
from sightline.platform.checkpoints import local as checkpoint
from sightline.platform.core.screen import Screen
from sightline.platform.evaluation.intervals import Interval
from sightline.platform.evaluation.results import ProbeResult, Row, RowKind, SkippedProbe
from sightline.platform.experiments.compare.budget import gflops, measure_speed, parse_budget
from sightline.platform.experiments.compare.page import numbers, verdict
from sightline.platform.experiments.compare.record import Comparison
from sightline.platform.runs.record import Run

QUIET = Screen(quiet=True)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SIGHTLINE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "data/train", 40, 1)
    write_images(tmp_path / "data/val", 30, 2)
    for name, settings in TOY_IMAGES.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("20000 samples", (20000, "samples")),
        ("1 sample", (1, "samples")),
        ("2e4 samples", (20000, "samples")),
        ("10 minutes", (600, "seconds")),
        ("1.5 hours", (5400, "seconds")),
        ("30 seconds", (30, "seconds")),
        ("1e15 FLOP", (1e15, "flop")),
        ("1e15 flops", (1e15, "flop")),
    ],
)
def test_a_budget_is_read(text: str, budget: tuple[float, str]) -> None:
    assert parse_budget(text) == budget


@pytest.mark.parametrize("text", ["", "10", "ten minutes", "0 samples", "-5 samples", "10 epochs", "5 parsecs"])
def test_a_text_that_is_no_budget_is_told(text: str) -> None:
    with pytest.raises(CallError, match="is no budget"):
        parse_budget(text)


@pytest.mark.slow
def test_each_entry_gets_what_the_budget_pays_for(place: Path) -> None:
    words = ["conmim.yaml", "loca.yaml", "data.train=data/train"]
    same = make_entries(words, "120 samples", QUIET)
    assert [entry.label for entry in same] == ["conmim", "loca"] and {entry.samples for entry in same} == {120}
    assert all(config.load(e.recipe, settings=e.settings).clock(40).steps == 10 for e in same)
    costs = [gflops(config.load(entry.recipe, settings=entry.settings)) for entry in same]
    assert costs[0] and costs[1] and costs[0] != costs[1]
    paid = make_entries(words, f"{costs[0] * 240 * 1e9:.9g} flop", QUIET)
    assert paid[0].samples == pytest.approx(240, abs=1) and paid[1].samples == pytest.approx(240 * costs[0] / costs[1], abs=1)


def test_a_file_names_entries_with_settings_of_their_own(place: Path) -> None:
    entries = {"high": {"recipe": "conmim.yaml"}, "low": {"recipe": "conmim.yaml", "pretext.mask_ratio": 0.25}}
    (place / "two.yaml").write_text(yaml.safe_dump({"entries": entries}, sort_keys=False))
    high, low = make_entries(["two.yaml", "data.train=data/train"], "24 samples", QUIET)
    assert (low.settings["pretext"]["mask_ratio"], high.settings["pretext"]["mask_ratio"]) == (0.25, 0.5)
    assert low.label == "low" and low.settings["data"]["train"].endswith("data/train")


@pytest.mark.slow
def test_speed_is_that_of_training(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sightline.platform.experiments.compare import budget

    monkeypatch.setattr(budget, "SPEED_SECONDS", 0.3)
    experiment = config.load("conmim.yaml", {"data.train": str(place / "data/train")})
    assert 1 < measure_speed(experiment) < 20_000


def test_wrong_calls_are_answered_before_anything_is_made(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["data.train=data/train", "--data", "data"]
    for words, message in (
        ([*data, "conmim.yaml", "--budget", "ten"], "is no budget"),
        ([*data, "conmim.yaml", "conmim.yaml", "--budget", "9 samples"], "named twice"),
        ([*data, "--budget", "9 samples"], "no recipe is named"),
        ([*data, "conmin", "--budget", "9 samples"], "no recipe 'conmin'"),
        ([*data, "conmim.yaml", "--budget", "9 samples", "--probe", "knnn"], "did you mean 'knn'"),
        (["conmim.yaml", "--budget", "9 samples"], "no data to evaluate on"),
        ([*data, "conmim.yaml", "--budget", "9 samples", "--seeds", "0"], "at least 1 seed"),
    ):
        assert main(["compare", *words]) == 2, words
        assert message in capsys.readouterr().err
    assert not (place / "home" / "comparisons").exists()


def test_the_headline_names_each_probes_own_encoders() -> None:
    def result(probe: str, better: Literal["higher", "lower"], unit: str = "%", **values: float) -> ProbeResult:
        kinds = {"random": RowKind.CONTROL_MEAN, "pixels": RowKind.BASELINE, "seed 1": RowKind.SEED}
        rows = [Row(name, kinds.get(name, RowKind.ENCODER), {"first": Interval(value, 0, 1, 9)}) for name, value in values.items()]
        metrics = {"first": MetricInfo(label="metric", unit=unit, better=better)}
        return ProbeResult(probe, probe, metrics, tuple(rows), "image", 9, "", {}, 1.0)

    one = result("knn", "higher", loca=0.25, croco=0.5, random=0.125, pixels=0.75)
    two = result("depth", "lower", unit="m", croco=0.5, loca=0.25)
    three = result("shape", "higher", i2p=0.375)
    skipped = SkippedProbe("d", "D", "no")
    comparison: Any = SimpleNamespace(
        entries=[SimpleNamespace(label=name) for name in ("croco", "loca", "i2p")], budget="9 minutes", seeds=(0,)
    )
    assert numbers(comparison, {"a": one, "b": two, "c": three, "d": skipped}) == (
        "croco, loca, i2p on 9 minutes each, 1 training seed. knn metric: croco 50.0%, loca 25.0% (random weights 12.5%). "
        "depth metric: loca 0.250 m, croco 0.500 m. shape metric: i2p 37.5%."
    )
    assert verdict(comparison, {"d": skipped}) == "Nothing to tell apart: no probe measured two of them."


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seeds", [1, pytest.param(2, marks=pytest.mark.long)])
def test_a_comparison_that_was_stopped_goes_on_to_a_page_with_means_over_seeds(seeds: int, place: Path) -> None:
    words = ["conmim.yaml", "loca.yaml", "data.train=data/train", "train.checkpoint_every=5 steps", "--data", "data"]
    options = ["--budget", "600 samples", "--seeds", str(seeds), "--controls", "2", "--probe", "knn", "--name", "both"]
    process = start(Path.cwd() / "home", "compare", *words, *options)
    until(Path("home/runs/both-loca-s0/checkpoints").exists, 0.1)
    os.killpg(process.pid, signal.SIGINT)
    stopped = finish(process)
    assert stopped["status"] == "stopped"
    result = finish(start(Path.cwd() / "home", "resume", "both"))
    assert result["status"] == "finished" and Run.open("both-conmim-s0").attempts == 1, "what was trained is not trained again"
    comparison = Comparison.open("both")
    for entry in comparison.entries:
        for seed in range(seeds):
            run = Run.open(comparison.run_name(entry, seed))
            found = checkpoint.newest(run.folder / "checkpoints")
            assert found is not None and found.state.step == 50 and found.state.seed == seed and run.parent == result["mlflow_run_id"]
    rows = {row["name"]: row for row in result["probes"]["knn"]["rows"]}
    for label in ("conmim", "loca"):
        names = [f"{label}, seed {seed}" for seed in range(seeds)] if seeds > 1 else [label]
        each = [rows[name]["metrics"]["accuracy"]["value"] for name in names]
        assert rows[label]["metrics"]["accuracy"]["value"] == pytest.approx(sum(each) / seeds) and rows[label]["kind"] == "encoder"
    assert {tuple(d["of"]) for d in result["probes"]["knn"]["differences"]} >= {("conmim", "loca")}
    assert [row["label"] for row in result["costs"]] == ["conmim", "loca"] and all(row["peak_gib"] > 0 for row in result["costs"])
    page = Path(result["report"]).read_text()
    assert "What it cost" in page and f"{seeds} training seed" in page and str(result["costs"][0]["mlflow_run_ids"][0]) in page
