"""How an attempt on Ray ended, and what a person is told."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sightline.methods.errors import SightlineError
from sightline.platform.core.screen import Screen
from sightline.platform.experiments import train_run
from sightline.platform.experiments.train_run import NextAttempt, _Attempt
from sightline.platform.runs.events import Post, StepsDone


def attempt(max_failures: int, least_workers: int | None = None) -> _Attempt:
    experiment: Any = SimpleNamespace(train=SimpleNamespace(max_failures=max_failures, least_workers=least_workers))
    return _Attempt(experiment, plan=SimpleNamespace(), lease=SimpleNamespace(), on_event=lambda event: None)  # type: ignore[arg-type]


def test_a_run_without_further_attempts_says_what_killed_its_workers() -> None:
    import ray
    from ray.train.v2.api.exceptions import WorkerGroupError

    failures = {0: RuntimeError("Connection closed by peer"), 1: ray.exceptions.OutOfMemoryError("the node is running low on memory.")}
    with pytest.raises(SightlineError) as raised:
        attempt(2).outcome(WorkerGroupError("[Rank 0 Error Snippet]:\nTraceback", failures), Path("runs/first"), may_die=True)
    assert str(raised.value).startswith(
        "no attempt is left (train.max_failures=2): worker 1 was killed by Ray because the machine ran out of"
    )
    assert "Traceback" not in str(raised.value) and raised.value.hint == "go on from the newest checkpoint with `sightline resume first`"


def test_a_process_beside_the_workers_may_die_as_often_as_a_worker() -> None:
    import ray
    from ray.train.v2.api.exceptions import ControllerError

    short = ray.exceptions.OutOfMemoryError("7 worker(s) were killed due to the node running low on memory.\nObject store memory usage: [")
    for error in (ray.exceptions.ActorDiedError(), ControllerError(ray.exceptions.ActorDiedError()), ControllerError(short), short):
        assert attempt(1).outcome(error, Path("first"), may_die=True) == NextAttempt.DIED
    with pytest.raises(SightlineError, match="ended without a result"):
        attempt(1).outcome(ray.exceptions.ActorDiedError(), Path("first"), may_die=False)
    with pytest.raises(SightlineError, match="ended without a result"):
        attempt(1).outcome(ControllerError(ValueError("no")), Path("first"), may_die=True)
    with pytest.raises(SightlineError) as raised:
        attempt(1).outcome(ControllerError(short), Path("first"), may_die=False)
    assert "ran out of memory; train with fewer" in str(raised.value) and "Object store" not in str(raised.value)


def test_what_is_needed_after_the_training_is_imported_while_the_workers_train(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "needed_at_the_end.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    seen: list[tuple[bool, int]] = []
    started: list[bool] = []

    def look() -> None:
        seen.append(("needed_at_the_end" in sys.modules, len(started)))

    def train(run: Any, on_event: Post) -> None:
        look()
        for first in (0, 5):
            on_event(StepsDone(first, {"loss": [1.0] * 5}, [1e-3] * 5, [0.1] * 5, 1.0, {"data_wait": 0.0}, 40))
        for thread in threading.enumerate():
            if thread.name == "sightline-imports":
                thread.join(10)
        look()

    monkeypatch.setattr(train_run, "start_ray", lambda **given: None)
    monkeypatch.setattr(train_run, "train_on_ray", train)
    run: Any = SimpleNamespace(name="first", folder=tmp_path)
    tracking: Any = SimpleNamespace(start=lambda: started.append(True))
    train_run.train_tracked(run, tracking, Screen(quiet=True), then=("needed_at_the_end",))
    assert seen == [(False, 1), (True, 1)], "MLflow is opened before, so that a run which waits is seen there"
    sys.modules.pop("needed_at_the_end")
