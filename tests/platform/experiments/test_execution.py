"""A run from its first step to its report: what is on disk decides whether it trains again; every end is told to MLflow."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sightline.platform.checkpoints import local as checkpoint
from sightline.platform.core.screen import Screen
from sightline.platform.experiments import execution, finish
from sightline.platform.runs.record import Run
from sightline.platform.tracking.models import Results


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What `execute` does, with training, measuring and MLflow stood in for."""
    words: list[str] = []

    def train(run: Run, *rest: Any) -> None:
        words.append("train")
        run.status = "trained"

    def measure(run: Run, *rest: Any) -> finish.Findings:
        words.append("measure")
        return finish.Findings(Results({}, verdict="fine"), run.folder / "report.html", None, None, ["next"], 0, "")

    monkeypatch.setattr(execution, "_train", train)
    monkeypatch.setattr(finish, "finish", measure)
    monkeypatch.setattr(execution.Tracking, "start", lambda self: None)
    monkeypatch.setattr(execution.Tracking, "close", lambda self, status, *rest, **more: words.append(status))
    return words


def reach(run: Run, step: int) -> Path:
    """A checkpoint of `step`, as training leaves it."""
    state = checkpoint.TrainState(step, 12 * step, 0, 1, run.fingerprint, "", "fp32", "")
    return checkpoint.write(run.folder / "checkpoints", state, {"model": {"w": torch.ones(2)}})


def go(run: Run) -> None:
    execution.execute(run, Screen(quiet=True))


def test_a_run_is_trained_where_its_last_step_is_not_on_disk(toy_run: Callable[..., Run], told: list[str]) -> None:
    run = toy_run("whole")
    reach(run, 12)
    last = reach(run, 18)
    run.status = "running"  # a driver that was killed after the last checkpoint
    half = run.folder / "checkpoints/.part-0123abcd"  # and while an old one was deleted
    half.mkdir()
    go(run)
    assert not half.exists()
    assert told == ["measure", "FINISHED"] and run.status == "finished"

    shutil.rmtree(last)
    told.clear()
    go(run)
    assert told == ["train", "measure", "FINISHED"], "a finished run whose last weights are gone"


def test_any_error_ends_the_mlflow_run_as_failed(toy_run: Callable[..., Run], told: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*rest: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(execution, "_train", broken)
    with pytest.raises(ZeroDivisionError):
        go(toy_run("broken"))
    assert told == ["FAILED"]


def test_the_result_shows_no_password(
    toy_run: Callable[..., Run], told: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = toy_run("secret")
    run.tracking_uri = "http://ann:secret@host:5000"
    with (tmp_path / "screen").open("w") as screen:
        result = execution.execute(run, Screen(file=screen))
    assert result["tracking_uri"] == "http://***@host:5000"
    assert "http://***@host:5000" in (shown := (tmp_path / "screen").read_text()) and "ann" not in shown
