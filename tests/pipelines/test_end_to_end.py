"""The whole job as a person runs it: train, Ctrl-C, resume, kill the driver, resume, to a registered encoder and a report."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import finish, start
from heads import until
from toy import TOY, write_pairs

from sightline.platform.checkpoints import local as checkpoint
from sightline.platform.experiments.create import create_run
from sightline.platform.runs.events import RunEvent, TrainingStarted
from sightline.platform.runs.record import Run
from sightline.platform.training.job import TrainJob
from sightline.platform.training.loop import train

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def wait_for_step(folder: Path, step: int) -> None:
    """Until the run has a checkpoint of `step` or later."""
    until(lambda: (found := checkpoint.newest(folder / "checkpoints")) and found.state.step >= step, 0.25)


def test_a_run_survives_ctrl_c_and_a_killed_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    settings = {**TOY, "train": {**TOY["train"], "length": "300 steps", "checkpoint_every": "20 steps", "validate_every": "100 steps"}}
    data = [f"data.train={write_pairs(tmp_path / 'train', 90, 1)}", f"data.val={write_pairs(tmp_path / 'val', 20, 2)}"]
    recipe = tmp_path / "toy.yaml"
    recipe.write_text(yaml.safe_dump(settings))
    folder = home / "runs" / "first"

    process = start(home, "pretrain", str(recipe), *data, "train.workers=2", "--name", "first")
    wait_for_step(folder, 20)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all processes of the job
    stopped = finish(process)
    assert stopped["status"] == "stopped"
    assert 0 < stopped["step"] < 300
    found = checkpoint.newest(folder / "checkpoints")
    assert found is not None and found.state.step == stopped["step"]

    process = start(home, "resume", "first", "train.workers=1")
    wait_for_step(folder, stopped["step"] + 20)
    process.kill()
    process.communicate()

    result = finish(start(home, "resume", "first"))
    assert result["status"] == "finished"
    assert Path(result["report"]).read_text().startswith("<!doctype html>")
    run = Run.open(str(folder))
    assert run.attempts == 3
    steps = [e.first_step for e in run.events() if isinstance(e, TrainingStarted)]
    assert len(steps) == 3 and 0 == steps[0] < steps[1] < steps[2] < 300, "a stop came too late to matter"
    _check_history(run, home, monkeypatch)
    _check_mlflow(run, result)

    again = start(home, "pretrain", str(recipe), *data, "--name", "first")
    out, err = again.communicate(timeout=60)
    assert again.returncode == 2 and "sightline resume first" in err and "exists" in json.loads(out)["error"]


def _check_history(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same samples in the same steps as one undisturbed worker in this process; losses to 1e-4 over 20 steps."""
    monkeypatch.setenv("SIGHTLINE_HOME", str(home))
    alone = create_run("alone", run.experiment, run.fingerprint, "test", "")
    events: list[RunEvent] = []
    train(TrainJob(alone.experiment, alone.folder, alone.fingerprint), events.append, lambda: False)
    alone.append(events)
    ours, theirs = checkpoint.newest(run.folder / "checkpoints"), checkpoint.newest(alone.folder / "checkpoints")
    assert ours is not None and theirs is not None
    assert ours.state.history == theirs.state.history
    one, two = run.history(), alone.history()
    assert one.keys() == two.keys() == set(range(300))
    assert max(abs(one[step]["loss"] - two[step]["loss"]) for step in range(20)) < 1e-4


def _check_mlflow(run: Run, result: dict[str, Any]) -> None:
    """One MLflow run, every step's loss once, the encoder under its alias."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=result["tracking_uri"])
    experiment = client.get_experiment_by_name("sightline")
    assert experiment is not None
    assert (
        [found.info.run_id for found in client.search_runs([experiment.experiment_id])] == [run.mlflow_run_id] == [result["mlflow_run_id"]]
    )
    losses = client.get_metric_history(str(run.mlflow_run_id), "train/loss")
    assert sorted(metric.step for metric in losses) == list(range(1, 301))
    assert client.get_run(str(run.mlflow_run_id)).info.status == "FINISHED"
    version = client.get_model_version_by_alias("croco-encoder", "candidate")
    assert version.tags["sightline.run"] == "first"
    assert result["registered"] == "models:/croco-encoder@candidate"
