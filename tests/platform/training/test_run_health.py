"""A collapse raises a warning that names the figure and the likely cause; it travels to the screen, the report and MLflow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cosine_similarity
from toy import TOY

from sightline.methods.contract import Alarm
from sightline.methods.croco.pretext import CrocoPretext
from sightline.platform import config
from sightline.platform.core.screen import Screen
from sightline.platform.data.dataset import Dataset
from sightline.platform.experiments.create import create_run
from sightline.platform.experiments.progress import RunProgress
from sightline.platform.reports import summary
from sightline.platform.runs.events import HealthMeasured, RunEvent, ValidationDone
from sightline.platform.runs.record import Run
from sightline.platform.tracking.mlflow_run import metrics_of
from sightline.platform.training import validation
from sightline.platform.training.loop import find_method
from sightline.platform.training.validation import alarms, measure_health

RANK = Alarm("effective_rank", cause="lower the rate", below=0.1)


def test_only_metrics_beyond_their_limit_are_named() -> None:
    assert alarms({"effective_rank": 0.5, "other": 0.0}, [RANK]) == []
    assert alarms({"effective_rank": 0.05}, [RANK]) == ["effective_rank = 0.05 (below 0.1): lower the rate"]
    assert alarms({"loss": 9.0}, [Alarm("loss", cause="x", above=3.0)]) == ["loss = 9 (above 3): x"]
    assert len(alarms({"effective_rank": float("nan")}, [RANK])) == 1


def test_what_is_low_at_first_in_every_run_is_judged_later() -> None:
    late = Alarm("gap", cause="x", below=0.05, after=0.5)
    assert alarms({"gap": 0.0}, [late], progress=0.4) == []
    assert len(alarms({"gap": 0.0}, [late], progress=0.5)) == 1


@pytest.fixture
def collapsing(home: Path, toy_data: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Run]:
    """A toy run of a method whose rank falls to nothing after the first step."""

    def health(pretext: Any, batch: Any, noise: Any) -> dict[str, torch.Tensor]:
        assert not pretext.training and not torch.is_grad_enabled()
        return {"effective_rank": torch.tensor(0.01)}

    monkeypatch.setattr(CrocoPretext, "health", health, raising=False)
    method = find_method("croco")
    monkeypatch.setattr(validation, "find_method", lambda name: type(method)(**{**vars(method), "alarms": (RANK,)}))

    def make(**overrides: Any) -> Run:
        experiment = config.load("toy", {**toy_data, "train.length": "6 steps", **overrides}, settings=TOY)
        return create_run("toy", experiment, Dataset.open(str(experiment.data.train)).fingerprint, "test", "")

    return make


@pytest.mark.slow
def test_a_collapse_is_told_on_the_screen_in_the_report_and_to_mlflow(
    collapsing: Callable[..., Run], train_here: Callable[..., list[RunEvent]], capsys: pytest.CaptureFixture[str]
) -> None:
    run = collapsing()
    events = [e for e in train_here(run) if isinstance(e, HealthMeasured)]
    assert [(e.step, len(e.warnings)) for e in events] == [(0, 0), (6, 1)]  # random weights are not judged
    assert summary.warnings(list(run.events())) == ["step 6: effective_rank = 0.01 (below 0.1): lower the rate"]
    assert summary.curves(list(run.events()))["health: effective_rank"] == [(0, pytest.approx(0.01)), (6, pytest.approx(0.01))]
    told = {name: value for name, step, value in metrics_of(events[-1]) if step == 6}
    assert told.keys() == {"health/effective_rank", "health/rankme", "health/lidar"} and told["health/effective_rank"] == pytest.approx(
        0.01
    )
    with RunProgress(Screen()) as progress:
        progress.show(events[-1])
    assert "may be collapsing: effective_rank = 0.01" in capsys.readouterr().out


@pytest.mark.slow
def test_health_is_measured_without_validation_data(collapsing: Callable[..., Run], train_here: Callable[..., list[RunEvent]]) -> None:
    events = train_here(collapsing(**{"data.val": None}))
    assert [e.step for e in events if isinstance(e, HealthMeasured)] == [0, 6]
    assert not [e for e in events if isinstance(e, ValidationDone)]


def test_measuring_leaves_no_trace_in_running_statistics() -> None:
    class Pretext(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = torch.nn.BatchNorm1d(2)

        def train(self, mode: bool = True) -> Any:
            super().train(mode)
            self.norm.train()  # as a teacher that never evaluates
            return self

        def to_device(self, batch: Any) -> Any:
            return batch

        def health(self, batch: Any, noise: Any) -> dict[str, torch.Tensor]:
            return {"mean": self.norm(batch["x"]).mean()}

    import numpy as np

    pretext = Pretext()
    measure_health(pretext, {"x": np.ones((4, 2), np.float32)}, 0, torch.device("cpu"))
    assert pretext.norm.running_mean is not None and pretext.norm.running_mean.tolist() == [0, 0]
    assert pretext.training


@pytest.mark.slow
def test_an_encoder_that_gives_all_samples_the_same_is_told_and_a_sound_one_is_not(
    toy_run: Callable[..., Run], train_here: Callable[..., list[RunEvent]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two samples pulled together by a loss without a stop-gradient and without others to hold against: the classical collapse."""

    def warned(name: str, **settings: Any) -> set[str]:
        run = toy_run(name, **{"train.length": "16 steps", "train.validate_every": "16 steps", **settings})
        events = [event for event in train_here(run) if isinstance(event, HealthMeasured)]
        assert [event.step for event in events] == [0, 16] and not events[0].warnings, "random weights are not judged"
        return {warning.partition(" ")[0] for warning in events[-1].warnings}

    def pull(self: CrocoPretext, batch: Any, rng: Any) -> dict[str, torch.Tensor]:
        found = self.backbone.encode(batch["image1"]).mean(dim=1)
        unused = torch.stack([parameter.sum() for parameter in self.decoder.parameters()]).sum()
        return {"reconstruction": 1 - cosine_similarity(found, found.roll(1, dims=0)).mean() + 0 * unused}

    assert warned("sound") == set()
    monkeypatch.setattr(CrocoPretext, "forward", pull)
    assert {"rankme", "feature_std"} <= warned("collapsed", **{"optim.lr": 1.0})
