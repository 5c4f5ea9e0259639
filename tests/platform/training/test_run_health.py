"""A collapse raises a warning that names the figure and the likely cause; it travels to the screen, the report and MLflow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.functional import cosine_similarity
from toy import TOY, TOY_IMAGES, TOY_POINTS, write_images, write_pairs, write_points

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
from sightline.platform.training import loop, validation
from sightline.platform.training.loop import find_method
from sightline.platform.training.validation import measure_health

RANK = Alarm("effective_rank", cause="lower the rate", below=0.1, after_steps=0)


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
def test_a_collapse_is_told_in_the_report_and_to_mlflow(collapsing: Callable[..., Run], train_here: Callable[..., list[RunEvent]]) -> None:
    run = collapsing()
    events = [e for e in train_here(run) if isinstance(e, HealthMeasured)]
    assert [(e.step, len(e.warnings)) for e in events] == [(0, 0), (6, 1)]  # random weights are not judged
    assert summary.warnings(list(run.events())) == ["step 6: effective_rank = 0.01 (below 0.1): lower the rate"]
    assert summary.curves(list(run.events()))["health: effective_rank"] == [(0, pytest.approx(0.01)), (6, pytest.approx(0.01))]
    told = {name: value for name, step, value in metrics_of(events[-1]) if step == 6}
    assert told.keys() == {"health/effective_rank", "health/rankme", "health/lidar"} and told["health/effective_rank"] == pytest.approx(
        0.01
    )


def test_an_alarm_is_told_when_it_begins_and_not_while_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    with RunProgress(Screen()) as progress:
        for step, warned in enumerate((["rank = 0.01 (low)"], ["rank = 0.02 (low)", "std = 0.1 (low)"], [], ["rank = 0.03 (low)"])):
            progress.show(HealthMeasured(step, {}, warned))
    told = capsys.readouterr().out
    assert [
        value for value in ("0.01", "0.02", "0.1 ", "0.03") if f"may be going wrong: rank = {value}" in told or f"std = {value}" in told
    ] == [
        "0.01",
        "0.1 ",
        "0.03",
    ]


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
        every = {"train.validate_every": "105 steps", "train.checkpoint_every": "210 steps", "batch.size": 2}
        run = toy_run(name, **{"train.length": "210 steps", **every, **settings})
        events = [event for event in train_here(run) if isinstance(event, HealthMeasured)]
        assert [(event.step, event.warnings) for event in events[:-1]] == [(0, []), (105, [])] and events[-1].step == 210
        return {warning.partition(" ")[0] for warning in events[-1].warnings}

    def pull(self: CrocoPretext, batch: Any, rng: Any) -> dict[str, torch.Tensor]:
        found = self.backbone.encode(batch["image1"]).mean(dim=1)
        unused = torch.stack([parameter.sum() for parameter in self.decoder.parameters()]).sum()
        return {"reconstruction": 1 - cosine_similarity(found, found.roll(1, dims=0)).mean() + 0 * unused}

    assert warned("sound") == set()
    monkeypatch.setattr(CrocoPretext, "forward", pull)
    assert {"rankme", "feature_std"} <= warned("collapsed", **{"optim.lr": 1.0})


SOUND: dict[str, tuple[dict[str, Any], Callable[..., Path]]] = {
    "croco": (TOY, write_pairs),
    "conmim": (TOY_IMAGES["conmim"], write_images),
    "loca": (TOY_IMAGES["loca"], write_images),
    "i2p_mae": ({**TOY_POINTS, "pretext": {"mask": "random"}, "loss": {"features": 0}, "optim": {"lr": 1.0e-3}}, write_points),
}
"""Toy runs and what writes their data."""


def silence(pretext: Any, method: str) -> None:
    """All features are the same: the last norm of each encoder gives ones, and stays so."""
    networks = [pretext] if method in ("croco", "i2p_mae") else [pretext.student, pretext.teacher]
    ends = ("backbone.enc_norm", "backbone.norm", "encoder.norm", "h_encoder.encoder_norms.2")
    for network in networks:
        for name, norm in network.named_modules():
            if name in ends:
                torch.nn.init.zeros_(norm.weight)
                torch.nn.init.ones_(norm.bias)
                norm.requires_grad_(False)


def stop_teacher(pretext: Any, method: str) -> None:
    """The teacher gives the same for all patches of all images, and does not follow the student."""
    for name, norm in pretext.teacher.named_modules():
        if name in ("backbone.norm", "encoder.norm"):
            torch.nn.init.zeros_(norm.weight)
            torch.nn.init.ones_(norm.bias)
    pretext.after_step = lambda *a, **k: None


@pytest.mark.long
@pytest.mark.parametrize("method", SOUND)
@pytest.mark.parametrize("fault", ["none", "features", "teacher"])
def test_what_is_broken_on_purpose_is_told_and_what_is_sound_is_not(
    method: str, fault: str, home: Path, tmp_path: Path, train_here: Callable[..., list[RunEvent]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within 200 steps after the warm-up and two validations."""
    if fault == "teacher" and method not in ("conmim", "loca"):
        pytest.skip(f"{method} has no teacher that is trained with it")
    settings, write = SOUND[method]
    data = {f"data.{name}": str(write(tmp_path / name, rows, seed=rows)) for name, rows in (("train", 90), ("val", 40))}
    lengths = {"train.length": "280 steps", "train.validate_every": "20 steps", "train.checkpoint_every": "280 steps"}
    batch = {"batch.size": 8, "batch.microbatch": 8, "optim.warmup": "20 steps"}
    experiment = config.load("toy", {**data, **lengths, **batch}, settings=settings)
    build = find_method(method).build

    def built(*arguments: Any) -> Any:
        pretext = build(*arguments)
        if fault != "none":
            {"features": silence, "teacher": stop_teacher}[fault](pretext, method)
        return pretext

    monkeypatch.setattr(loop, "find_method", lambda name: SimpleNamespace(**{**vars(find_method(name)), "build": built}))
    run = create_run("toy", experiment, Dataset.open(str(experiment.data.train)).fingerprint, "test", "")
    events = [event for event in train_here(run) if isinstance(event, HealthMeasured)]
    told = [(event.step, warning.partition(" ")[0]) for event in events for warning in event.warnings]
    assert [event.step for event in events] == list(range(0, 281, 20))
    assert (told[0][0] == 240) if fault != "none" else not told
    assert fault == "none" or "effective_rank" in {metric for _, metric in told}
