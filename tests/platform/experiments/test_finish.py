"""What follows the last step: which metrics are measured, under which names they are kept, and that a method's stage has run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sightline.methods.contract import MetricInfo
from sightline.methods.random import MicrobatchRng
from sightline.platform.core.screen import Screen
from sightline.platform.data.dataset import Dataset
from sightline.platform.evaluation.intervals import Interval
from sightline.platform.evaluation.results import MethodResult, Row, RowKind
from sightline.platform.experiments.finish import TrainedModel, measure_method, method_metrics, register
from sightline.platform.runs.record import METRIC_NAMES, RUN_FILE, Run

QUIET = Screen(quiet=True)


def result(name: str) -> MethodResult:
    values = {"accuracy": Interval(0.75, 0.5, 1.0, 9), "iou_sky": Interval(0.5, float("nan"), float("nan"), 9)}
    metrics = {"accuracy": MetricInfo(unit="%"), "iou_sky": MetricInfo(unit="%", group="IoU")}
    return MethodResult(name, name, metrics, (Row("trained network", RowKind.ENCODER, values),), "image", 9, "", {}, 1.0)


@pytest.mark.parametrize(
    ("name", "metric_names", "logged"),
    [("test", 2, "test/accuracy"), ("test", 1, "claim/accuracy"), ("control", 2, "claim/accuracy"), ("control", 1, "claim/accuracy")],
)
def test_test_metrics_have_a_name_of_their_own_and_older_runs_keep_theirs(name: str, metric_names: int, logged: str) -> None:
    assert method_metrics(result(name), metric_names) == {logged: 0.75}
    assert method_metrics(None, metric_names) == {}


def test_a_new_run_has_the_new_names_and_a_record_without_a_version_the_old_ones(toy_run: Callable[..., Run]) -> None:
    run = toy_run("new")
    assert Run.open("new").metric_names == METRIC_NAMES == 2
    path = run.folder / RUN_FILE
    stored = json.loads(path.read_text())
    del stored["metric_names"]
    path.write_text(json.dumps(stored))
    older = Run.open("new")
    assert older.metric_names == 1
    older.save()  # as a resume does
    assert method_metrics(result("test"), Run.open("new").metric_names) == {"claim/accuracy": 0.75}


class Voter(torch.nn.Module):
    """Takes what the stage makes, and nothing else."""

    task, classes, input = "classification", 2, "staged"

    def logits(self, numbers: torch.Tensor) -> torch.Tensor:
        return torch.stack([-numbers, numbers], dim=1)


class Staged(torch.nn.Module):
    """A method with a stage: `to_device` needs what it makes. With a predictor or with control metrics."""

    def __init__(self, predictor: bool) -> None:
        super().__init__()
        if predictor:
            self.predictor = Voter()
        else:
            self.control_metrics = self._control_metrics

    def to_device(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {**batch, "staged": batch["staged"].float()}

    def _control_metrics(self, batch: dict, other: dict, noise: MicrobatchRng) -> dict[str, torch.Tensor]:
        return {"own": batch["staged"], "other": other["staged"]}


def trained_model(run: Run, predictor: bool) -> TrainedModel:
    def views(sample: dict[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
        return {"mean": np.asarray(sample["image1"].mean()), "label": np.asarray(1)}

    data = Dataset.open(str(run.experiment.data.val))
    return TrainedModel(
        experiment=run.experiment,
        found=None,  # type: ignore[arg-type]
        pretext=Staged(predictor),
        encoder=torch.nn.Identity(),
        views=views,
        stage=lambda columns: {"staged": columns["mean"] + 1000},
        train=data,
        val=data,
        device=torch.device("cpu"),
    )


@pytest.mark.parametrize("predictor", [False, True])
def test_a_method_with_a_stage_is_measured_after_training(toy_run: Callable[..., Run], predictor: bool) -> None:
    model = trained_model(toy_run("staged"), predictor)
    found = measure_method(model, QUIET)
    assert found is not None and found.counts["samples"] == 20
    if predictor:
        assert found.name == "test" and found.values["accuracy"].value == 1
    else:
        assert found.name == "control" and found.values["own"].value > 1000 and found.values["other"].value > 1000


def test_the_registered_version_has_the_metrics_as_tags(toy_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    kept: dict[str, str] = {}

    def register_encoder(encoder: Any, *, tags: dict[str, str], **rest: Any) -> Any:
        kept.update(tags)
        return type("Filed", (), {"uri": "models:/it@candidate"})

    monkeypatch.setattr("sightline.platform.tracking.registry.register_encoder", register_encoder)
    run = toy_run("tagged")
    tracking: Any = type("Tracking", (), {"client": None, "uri": ""})
    found: Any = type("Found", (), {"state": type("State", (), {"history": "h", "step": 9})})
    model = trained_model(run, predictor=True)
    model = type(model)(**{**vars(model), "found": found})
    for version, key in ((2, "sightline.test/accuracy"), (1, "sightline.claim/accuracy")):
        kept.clear()
        filed: Any = register(run, tracking, model, Path(), method_metrics(result("test"), version), "headline")
        assert filed.uri == "models:/it@candidate" and kept[key] == "0.75"
        assert sum("accuracy" in name for name in kept) == 1
