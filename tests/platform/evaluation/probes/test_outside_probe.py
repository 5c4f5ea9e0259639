"""A probe that another package publishes is as good as ours: one file and an entry point, found by its name."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from toy import TOY

from sightline.methods.catalog import find_method
from sightline.methods.contract import BuildContext
from sightline.methods.errors import CallError, SightlineError
from sightline.methods.random import keyed_rng
from sightline.pipelines.__main__ import main
from sightline.platform import config
from sightline.platform.core.plugins import plugins
from sightline.platform.data.images import encode_image
from sightline.platform.data.writer import ShardWriter
from sightline.platform.evaluation.probes.catalog import find_probe, ranked
from sightline.platform.weights.format import Weights, write_folder

FILE = Path(__file__).resolve().parents[3] / "support" / "outside_probe" / "outside_age.py"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder as pip would fill it, on `sys.path`: the module, and the metadata that name its entry points."""
    folder = tmp_path / "site"
    (folder / "outside_age-0.1.dist-info").mkdir(parents=True)
    shutil.copy(FILE, folder)
    (folder / "outside_age-0.1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: outside-age\nVersion: 0.1\n")
    names = {"outside_age": "outside_age:probe", "outside_gone": "outside_gone:probe", "outside_else": "outside_age:rmse"}
    points = "".join(f"{name} = {place}\n" for name, place in names.items())
    (folder / "outside_age-0.1.dist-info" / "entry_points.txt").write_text(f"[sightline.probes]\n{points}")
    monkeypatch.syspath_prepend(str(folder))
    plugins.cache_clear()
    yield folder
    monkeypatch.undo()
    plugins.cache_clear()
    sys.modules.pop("outside_age", None)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An encoder `one`, and images `ages` whose brightness is their class."""
    monkeypatch.setenv("SIGHTLINE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    settings = config.load("toy", settings=TOY).method_config
    encoder = find_method("croco").build(settings, BuildContext(seed=5)).encoder()
    write_folder(Weights.of("croco", settings.model_dump(mode="json"), "encoder", encoder.state_dict(), "a test", "one"), tmp_path / "one")
    for side, rows in (("train", 24), ("val", 12)):
        rng = keyed_rng("ages", side)
        with ShardWriter(tmp_path / "ages" / side, "images", classes=["young", "middle", "old"]) as writer:
            for index in range(rows):
                image = rng.normal(60 + 60 * (index % 3), 10, (64, 64, 3)).clip(0, 255).astype(np.uint8)
                writer.write({"id": str(index), "image": encode_image(image), "label": index % 3})
    return tmp_path


def test_a_probe_is_one_file_of_at_most_forty_lines() -> None:
    lines = [line for line in FILE.read_text().splitlines() if line.strip()]
    assert len(lines) <= 40


@pytest.mark.slow
def test_it_is_run_by_evaluate_and_told_in_its_own_unit(site: Path, place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", "./one", "--probe", "outside_age", "--data", "./ages", "--controls", "2", "--out", "page.html", "--json"]
    assert main(words) == 0
    out, err = capfd.readouterr()
    result = json.loads(out)["probes"]["outside_age"]
    rows = {row["name"]: row["metrics"]["rmse"]["value"] for row in result["rows"]}
    assert rows["raw pixels"] == 0 and result["protocol"]["name"] == "outside_age"
    assert "Age by the nearest neighbour: RMSE in years" in err and "%" not in result["finding"]
    assert f"is {rows['one']:.3f} years off, against" in result["finding"]
    assert f"one: outside_age RMSE {rows['one']:.3f} years" in (place / "page.html").read_text()


def test_settings_know_its_name_and_it_comes_after_ours(site: Path) -> None:
    assert config.load("croco-tiny", {"probe.names": ["outside_age"]}).probe.names == ("outside_age",)
    with pytest.raises(CallError, match="did you mean 'outside_age'"):
        config.load("croco-tiny", {"probe.names": ["outside_agee"]})
    assert [probe.name for probe in ranked(["outside_age", "part_segmentation", "knn"])] == ["knn", "part_segmentation", "outside_age"]


def test_a_broken_one_is_named_with_its_place(site: Path) -> None:
    with pytest.raises(SightlineError, match="probe outside_gone cannot be loaded from outside_gone:probe"):
        find_probe("outside_gone")
    with pytest.raises(SightlineError, match="outside_age:rmse is no ProbeSpec whose protocol is named 'outside_else'"):
        find_probe("outside_else")


def test_without_its_package_there_is_no_such_probe() -> None:
    with pytest.raises(CallError, match="unknown probe 'outside_age'"):
        find_probe("outside_age")
