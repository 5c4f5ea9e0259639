"""The whole job as a person runs it, killed in every phase, to encoder and report: the short form of `benchmarks/chaos.py`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from asking import Ask
from listening import open_to_others

from sightline.platform.checkpoints import local as checkpoint
from sightline.platform.runs.events import TrainingStarted
from sightline.platform.runs.record import Run

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from chaos import MLFLOW, STEPS, Chaos, Kill, Point, differences

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
STEPPER = "sightline.platform.training.step"
KILLS = (
    Kill(Point("MLflow create", MLFLOW, "MlflowClient.create_run", "after"), 1, "driver"),
    Kill(Point("stepping", STEPPER, "Stepper.step"), 5, "worker"),
    Kill(Point("stepping", STEPPER, "Stepper.step"), 2, "Ctrl-C"),
    Kill(Point("checkpoint", "safetensors.torch", "save_file", "after"), 1, "everything"),
    Kill(Point("MLflow register", MLFLOW, "MlflowClient.create_model_version", "after"), 1, "driver"),
    Kill(Point("MLflow alias", MLFLOW, "MlflowClient.set_registered_model_alias"), 1, "everything"),
    Kill(Point("report", "sightline.platform.reports.page", "write_report"), 1, "driver"),
)


@pytest.fixture
def chaos(tmp_path: Path) -> Iterator[Chaos]:
    made = Chaos(tmp_path)
    yield made
    for process in made.ours():
        process.kill()


def test_six_kills_and_a_ctrl_c_leave_the_run_that_nothing_happened_to(chaos: Chaos, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    listeners: list[str] = []

    def watch() -> None:
        processes = list(chaos.ours())
        listeners.extend(open_to_others(processes))

    chaos.watch = watch
    chaos.prepare("rooms")
    whole = chaos.run("whole")
    result = chaos.run("harmed", KILLS)
    assert [kill.outcome for kill in KILLS] == ["resumed", "went on by itself", "stopped", *["resumed"] * 4]
    assert differences(chaos, "harmed", "whole") == []
    assert listeners == [], "open to other machines"
    monkeypatch.setenv("SIGHTLINE_HOME", str(chaos.home))
    run = Run.open("harmed")
    starts = [event.first_step for event in run.events() if isinstance(event, TrainingStarted)]
    assert starts[0] == 0 and len(starts) == 4 and starts == sorted(starts) and 3 <= starts[-1] < STEPS
    assert {int(path.parent.name[5:]) for path in run.folder.glob("checkpoints/*/complete.json")} == {9, STEPS}
    assert checkpoint.corrupt(run.folder / "checkpoints") == []
    assert result["status"] == "finished" and result["registered"] == "models:/croco-encoder@candidate"
    assert result["metrics"] == whole["metrics"] and result["mlflow_run_id"] == run.mlflow_run_id != whole["mlflow_run_id"]
    assert Path(result["report"]).read_text().startswith("<!doctype html>")

    from mlflow import MlflowClient

    version = MlflowClient(result["tracking_uri"]).get_model_version_by_alias("croco-encoder", "candidate")
    assert version.tags["sightline.run"] == "harmed"
    code, _, err = ask("pretrain", str(chaos.folder / "toy.yaml"), f"data.train={chaos.folder / 'rooms/train'}", "--name", "harmed")
    assert code == 2 and "exists" in err and "sightline resume harmed" in err
