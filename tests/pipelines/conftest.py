"""What tests of the commands share: a home of their own, and a way to ask."""

from __future__ import annotations

from pathlib import Path

import pytest
from asking import Answer, Ask

from sightline.pipelines.__main__ import main
from sightline.platform.experiments import execution, train_run
from sightline.platform.runs.events import Post
from sightline.platform.runs.record import Run, RunStatus
from sightline.platform.training.job import TrainJob
from sightline.platform.training.loop import train


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SIGHTLINE_HOME", str(tmp_path / "home"))
    for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home"


@pytest.fixture
def ask(home: Path, capfd: pytest.CaptureFixture[str]) -> Ask:
    """(exit code, standard output, standard error) of the words, in this process."""

    def call(*words: str | Path) -> Answer:
        try:
            code = main([str(word) for word in words])
        except SystemExit as leaving:
            code = int(leaving.code or 0)
        out, err = capfd.readouterr()
        return code, out, err

    return call


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are trained in this process: for what comes after the training. Ray takes half of a short run's time."""

    def train_here(run: Run, on_event: Post) -> None:
        train(TrainJob(run.experiment, run.folder, run.fingerprint), lambda event: (run.append([event]), on_event(event)), lambda: False)
        run.status = RunStatus.TRAINED
        run.save()

    monkeypatch.setattr(train_run, "start_ray", lambda **named: None)
    monkeypatch.setattr(train_run, "train_on_ray", train_here)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """Runs are made and checked, and not carried out."""
    runs: list[Run] = []
    monkeypatch.setattr(execution, "execute", lambda run, console: runs.append(run) or {})
    return runs
