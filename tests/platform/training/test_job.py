"""A job travels between processes as plain values, and each process validates its settings once."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from sightline.platform import config
from sightline.platform.data.loader.stream import StreamResources
from sightline.platform.runs.record import Run
from sightline.platform.training.job import TrainJob


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The recipes whose settings were validated."""
    load, seen = config.load, list[str]()

    def counted(recipe: str, *rest: Any, **more: Any) -> config.Experiment:
        seen.append(recipe)
        return load(recipe, *rest, **more)

    monkeypatch.setattr(config, "load", counted)
    return seen


def test_a_job_comes_back_from_its_values_whole(toy_run: Callable[..., Run]) -> None:
    run = toy_run("travels", **{"train.storage": "/there"})
    for stream in (None, StreamResources(0.5, 1.0, 2, 0.25, 0.5)):
        job = TrainJob(run.experiment, run.folder, run.fingerprint, stream, threads=3, teacher_cache="there", token="a b")
        assert TrainJob.from_values(json.loads(json.dumps(job.to_values()))) == job


@pytest.mark.slow
def test_a_process_validates_the_settings_of_its_job_once(
    toy_run: Callable[..., Run], train_here: Callable[..., Any], loads: list[str]
) -> None:
    run = toy_run("once", **{"train.length": "2 steps"})
    loads.clear()
    job = TrainJob.from_values(TrainJob(run.experiment, run.folder, run.fingerprint).to_values())
    assert replace(job, folder=run.folder / "other").experiment is job.experiment and len(loads) == 1, "as a worker does"
    loads.clear()
    train_here(run)
    assert loads == [], "a run that was made in this process is valid"
    reopened = Run.open("once")
    assert reopened.experiment == reopened.experiment == run.experiment and len(loads) == 1
