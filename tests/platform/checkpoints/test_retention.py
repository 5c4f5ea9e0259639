"""Which checkpoints stay, and why."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sightline.methods.errors import CallError, SightlineError
from sightline.methods.optim import Clock
from sightline.platform import config
from sightline.platform.checkpoints import local as checkpoint
from sightline.platform.checkpoints.local import Note, TrainState
from sightline.platform.checkpoints.remote import Storage
from sightline.platform.checkpoints.retention import Reason, Retention, kept, prune
from sightline.platform.config import settings_hash
from sightline.platform.experiments.preflight import check
from sightline.platform.runs.record import Run

LOSSES = {2: 0.9, 4: 0.5, 6: 0.7, 8: float("nan"), 10: 0.5, 12: 0.6}


def put(folder: Path, step: int, loss: float | None = None, milestone: bool = False) -> Path:
    state = TrainState(step, step * 4, 0, 1, "f", "s", "fp32", "h")
    note = Note(milestone, {} if loss is None else {"val/loss": loss})
    return checkpoint.write(folder, state, {"model": {"w": torch.full((8,), float(step))}}, note)


def shown(folder: Path, retention: Retention) -> dict[int, str]:
    return {one.step: " ".join(one.reasons) for one in kept(folder, retention)}


def test_the_newest_milestones_and_the_first_of_the_best_stay(tmp_path: Path) -> None:
    retention = Retention(1, every=6, best="val/loss")
    for step, loss in LOSSES.items():
        put(tmp_path, step, loss, retention.is_milestone(step))
        prune(tmp_path, retention)
    assert shown(tmp_path, retention) == {12: "newest milestone", 6: "milestone", 4: "best"}
    assert [path.name for path in checkpoint.steps(tmp_path)] == ["step-00000012", "step-00000006", "step-00000004"]
    assert kept(tmp_path, retention)[2].metrics == {"val/loss": 0.5} and kept(tmp_path, retention)[2].reasons == (Reason.BEST,)
    prune(tmp_path, Retention(1))
    assert shown(tmp_path, Retention(1)) == {12: "newest milestone", 6: "milestone"}, "a milestone stays one when the setting is gone"


def test_higher_may_be_better_and_what_was_not_measured_is_never_the_best(tmp_path: Path) -> None:
    for step, value in ((2, 0.1), (4, 0.3), (6, None), (8, 0.2)):
        put(tmp_path, step, value)
    assert shown(tmp_path, Retention(1, best="val/loss", better="higher")) == {8: "newest", 4: "best"}
    assert shown(tmp_path, Retention(1, best="val/other")) == {8: "newest"}
    retention = Retention(1, best="val/loss", better="higher")
    assert retention.best_in(tmp_path) == 0.3 and Retention(1, best="val/loss").best_in(tmp_path) == -0.1
    assert retention.measured({"val/loss": 0.31}) == 0.31
    assert retention.measured({}) is None and retention.measured({"val/loss": float("nan")}) is None
    with pytest.raises(SightlineError, match=r"keep_best = val/loss: did you mean 'val/los'"):
        retention.measured({"val/los": 1.0})


def test_a_metric_that_comes_later_decides_too_and_a_damaged_note_harms_nothing(tmp_path: Path) -> None:
    paths = [put(tmp_path, step, milestone=step == 2) for step in (2, 4, 6)]
    checkpoint.annotate(paths[1], {"probe/knn/top1": 0.7})
    assert shown(tmp_path, Retention(1, best="probe/knn/top1", better="higher")) == {6: "newest", 4: "best", 2: "milestone"}
    assert checkpoint.problem(paths[1]) is None
    (paths[0] / "note.json").write_text('{"milestone": 3}')
    (paths[1] / "note.json").unlink()
    assert shown(tmp_path, Retention(1, best="probe/knn/top1", better="higher")) == {6: "newest"}
    assert checkpoint.corrupt(tmp_path) == [] and sum(1 for _ in checkpoint.checkpoints(tmp_path)) == 3


def test_a_storage_has_them_too_also_those_that_an_upload_passed_over(tmp_path: Path) -> None:
    mine, other = (Storage(str(tmp_path / "there"), tmp_path / name / "run") for name in ("one", "two"))
    retention = Retention(1, every=6, best="val/loss")
    for step, loss in LOSSES.items():
        put(mine.folder / "checkpoints", step, loss, retention.is_milestone(step))
        prune(mine.folder / "checkpoints", retention)
        if step not in (4, 6):
            mine.push(retention)
    there = tmp_path / "there" / "run" / "checkpoints"
    assert shown(there, retention) == {12: "newest milestone", 6: "milestone", 4: "best"} and len(checkpoint.steps(there)) == 3
    found = other.pull(print)
    assert found is not None and found.state.step == 12
    put(other.folder / "checkpoints", 14, 0.4)
    other.push(retention)
    assert shown(there, retention) == {14: "newest best", 12: "milestone", 6: "milestone"}, "of nodes that never had them"


def test_the_settings_say_it_and_a_resume_may_change_them(toy_run: Callable[..., Run]) -> None:
    run = toy_run("plain")
    wanted = {"train.keep_every": "2 epochs", "train.keep_best": "val/loss"}
    experiment = config.load("toy", wanted, settings=run.settings)
    assert settings_hash(experiment) == settings_hash(run.experiment)
    assert config.load("toy", {}, settings=experiment.sections()) == experiment
    assert Retention.of(experiment, Clock(100, 12, 90)) == Retention(2, 15, "val/loss", "lower")
    stated = config.load("toy", {"train.keep_best": "health/effective_rank higher"}, settings=run.settings)
    assert Retention.of(stated) == Retention(2, None, "health/effective_rank", "higher")


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ({"train.keep_best": "val/reconstructio"}, "did you mean 'reconstruction'"),
        ({"train.keep_best": "health/effective_rank"}, "which is better.*train.keep_best='health/effective_rank higher'"),
        ({"train.keep_best": "val/loss", "data.val": None}, "data.val, which is not set"),
    ],
)
def test_what_cannot_be_kept_is_told_before_the_start(overrides: dict[str, object], told: str, toy_run: Callable[..., Run]) -> None:
    experiment = config.load("toy", overrides, settings=toy_run("asked").settings)
    with pytest.raises(CallError) as caught:
        check(experiment)

    assert re.search(told, f"{caught.value} {caught.value.hint}")


@pytest.mark.parametrize("value", ["loss", "val/", "val/loss best", "train/loss"])
def test_what_is_no_metric_is_refused(value: str, toy_run: Callable[..., Run]) -> None:
    with pytest.raises(CallError, match="no metric of a run"):
        config.load("toy", {"train.keep_best": value}, settings=toy_run("asked").settings)
