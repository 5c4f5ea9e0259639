"""Fixtures of the platform's tests: toy runs, and one Ray head with two logical CPUs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from toy import TOY, write_pairs

from sightline.platform import config
from sightline.platform.data.dataset import Dataset
from sightline.platform.experiments.create import create_run
from sightline.platform.runs.events import RunEvent
from sightline.platform.runs.record import Run
from sightline.platform.training.job import TrainJob


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("toy")
    return {"data.train": str(write_pairs(root / "train", 90, 1)), "data.val": str(write_pairs(root / "val", 20, 2))}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SIGHTLINE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path / "home"


@pytest.fixture
def toy_recipe(tmp_path: Path) -> str:
    path = tmp_path / "toy.yaml"
    path.write_text(yaml.safe_dump(TOY))
    return str(path)


@pytest.fixture
def toy_run(home: Path, toy_data: dict[str, str]) -> Callable[..., Run]:
    """`toy_run("name", **{"train.workers": 2})`: a run on the toy data, made but not started."""

    def make(name: str, **overrides: Any) -> Run:
        experiment = config.load("toy", {**toy_data, **overrides}, settings=TOY)
        return create_run(name, experiment, Dataset.open(str(experiment.data.train)).fingerprint, "test", "")

    return make


def job_of(run: Run) -> TrainJob:
    """The in-process job of a run: one worker, no Ray."""
    return TrainJob(run.experiment, run.folder, run.fingerprint)


@pytest.fixture(scope="module")
def ray_head() -> None:
    """A head with two logical CPUs: the one that is up, because starting one takes seconds, or a new one where a test has ended it."""
    from sightline.platform.core.ray_init import start_ray

    start_ray(cpus=2)


@pytest.fixture
def train_here() -> Callable[..., list[RunEvent]]:
    """`train_here(run, stop_after=17)`: trains in this process; the events. `stop_after`: an early end after that step."""
    from sightline.platform.training.loop import train

    def go(run: Run, stop_after: int | None = None) -> list[RunEvent]:
        events: list[RunEvent] = []
        asked = [0]

        def stop() -> bool:
            asked[0] += 1
            return stop_after is not None and asked[0] >= stop_after

        train(job_of(run), events.append, stop)
        run.append(events)
        return events

    return go
