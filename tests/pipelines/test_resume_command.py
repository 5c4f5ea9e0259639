"""`resume` and `quickstart` before anything starts: what may differ from the record, and what this machine has room for."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from toy import TOY, write_pairs

from sightline.methods.errors import CallError
from sightline.pipelines import quickstart
from sightline.pipelines.__main__ import main
from sightline.platform import config
from sightline.platform.cluster import resources
from sightline.platform.cluster.resources import plan_resources
from sightline.platform.data.dataset import Dataset
from sightline.platform.experiments import execution
from sightline.platform.experiments.create import create_run
from sightline.platform.runs.record import Run
from sightline.platform.tracking.client import tracking_uri


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run that was made; carrying it out is stood in for by saving its record."""
    monkeypatch.setenv("SIGHTLINE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)

    def execute(run: Run, console: Any) -> dict[str, Any]:
        run.save()
        return {}

    monkeypatch.setattr(execution, "execute", execute)
    data = write_pairs(tmp_path / "train", 24, 1)
    experiment = config.load("toy", {"data.train": str(data)}, settings=TOY)
    return create_run("begun", experiment, Dataset.open(str(data)).fingerprint, "test", tracking_uri(experiment))


def test_data_that_moved_are_found_by_their_fingerprint(begun: Run, tmp_path: Path) -> None:
    shutil.move(tmp_path / "train", tmp_path / "elsewhere")
    assert main(["resume", "begun", "data.train=elsewhere", "train.workers=2"]) == 0
    settings = Run.open("begun").settings
    assert settings["data"]["train"] == str(tmp_path / "elsewhere"), "workers run in other directories"
    assert settings["train"]["workers"] == 2


def test_other_data_are_refused_by_both_fingerprints(begun: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = Dataset.open(str(write_pairs(tmp_path / "other", 24, 2)))
    assert main(["resume", "begun", "data.train=other"]) == 2
    said = capsys.readouterr().err
    assert other.fingerprint[:16] in said and begun.fingerprint[:16] in said
    assert Run.open("begun") == begun


@pytest.mark.parametrize("setting", ["pretext.mask_ratio=0.5", "data.block=12", "train.length=40 steps"])
def test_what_is_learned_cannot_change(setting: str, begun: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["resume", "begun", setting]) == 2
    assert "cannot change what is learned" in capsys.readouterr().err


def test_the_tracking_server_can_change_until_something_is_recorded(begun: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["resume", "begun", "log.tracking_uri=http://ann:old@host:5000"]) == 0
    run = Run.open("begun")
    assert run.tracking_uri == "http://ann:old@host:5000"
    assert run.settings["log"]["tracking_uri"] == "http://***@host:5000"
    run.mlflow_run_id = "abc"
    run.save()
    assert main(["resume", "begun", "log.tracking_uri=http://ann:new@host:5000"]) == 0
    assert Run.open("begun").tracking_uri == "http://ann:new@host:5000", "the same server with another password"
    assert main(["resume", "begun", "log.tracking_uri=http://ann:new@other:5000"]) == 2
    said = capsys.readouterr().err
    assert "MLflow run abc" in said and "http://***@other:5000" in said and "ann:" not in said
    assert main(["resume", "begun"]) == 0
    assert Run.open("begun").tracking_uri == "http://ann:new@host:5000"


@pytest.mark.parametrize(("gpus", "workers"), [(0, 2), (1, 1), (2, 2)])
def test_quickstart_takes_as_many_workers_as_the_machine_has_room_for(gpus: int, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def plan(experiment: config.Experiment) -> Any:
        return plan_resources(experiment.train.workers, 4, gpus, device=experiment.train.device)

    monkeypatch.setattr(resources, "local_plan", plan)
    assert quickstart.quick_settings({})["train.workers"] == workers
    assert quickstart.quick_settings({"train.workers": 2})["train.workers"] == 2, "a person's own number is checked, not changed"
    with pytest.raises(CallError, match="did you mean"):
        quickstart.quick_settings({"train.worker": 1})


def test_a_dry_run_shows_no_password(begun: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", "croco-tiny", "log.tracking_uri=http://ann:secret@host:5000", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "http://***@host:5000" in shown and "secret" not in shown
