"""The training loop in this process: exact resume, early end, faults."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from sightline.methods.errors import SightlineError
from sightline.platform import config
from sightline.platform.checkpoints import local as checkpoint
from sightline.platform.checkpoints.local import Checkpoint
from sightline.platform.core.event_log import encode
from sightline.platform.runs.clean import kept_of
from sightline.platform.runs.events import (
    CheckpointWritten,
    NonFiniteLoss,
    RunEvent,
    TrainingEnded,
    TrainingFailed,
    TrainingStarted,
    ValidationDone,
    WorkerStarted,
)
from sightline.platform.runs.record import Run
from sightline.platform.training.step import Stepper

Train = Callable[..., list[RunEvent]]
MakeRun = Callable[..., Run]


def last(run: Run) -> Checkpoint:
    found = checkpoint.newest(run.folder / "checkpoints")
    assert found is not None
    return found


def weights(run: Run) -> str:
    """One hash over the bits of all weights of the newest checkpoint."""
    digest = hashlib.sha256()
    for name, value in sorted(last(run).tensors("model").items()):
        digest.update(name.encode() + value.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def kinds(events: list[RunEvent]) -> list[object]:
    return [encode(event)["kind"] for event in events]


@pytest.mark.slow
def test_training_lowers_the_loss_and_the_validation_loss(toy_run: MakeRun, train_here: Train) -> None:
    run = toy_run(
        "long",
        **{"train.length": "100 steps", "train.validate_every": "50 steps", "batch.microbatch": 12},
        **{"train.checkpoint_every": "60 steps", "train.keep": 1, "train.keep_every": "60 steps", "train.keep_best": "val/loss higher"},
    )
    events = train_here(run)
    losses = [figures["loss"] for figures in run.history().values()]
    assert len(losses) == 100
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) - 0.03
    validation = [event.losses["loss"] for event in events if isinstance(event, ValidationDone)]
    assert len(validation) == 4 and validation[-1] < validation[0], "of the steps 0, 50 and 100, and of the milestone 60"
    assert events[-1] == TrainingEnded(100, last(run).state.history, stopped=False)
    reasons = {one.step: " ".join(one.reasons) for one in kept_of(run)}
    assert reasons == {100: "newest", 60: "milestone", 50: "best"}, "the worst, here, is saved although no checkpoint is due"
    assert len(checkpoint.steps(run.folder / "checkpoints")) == 3 and kept_of(run)[2].metrics["val/loss"] == validation[1]


@pytest.mark.slow
def test_a_run_stopped_anywhere_ends_with_the_same_bits(toy_run: MakeRun, train_here: Train) -> None:
    whole, parts = toy_run("whole"), toy_run("parts")
    train_here(whole)
    for stop_after in (5, 3, None):
        events = train_here(parts, stop_after=stop_after)
    assert [e.first_step for e in events if isinstance(e, TrainingStarted)] == [8]
    assert last(parts).state == last(whole).state
    assert weights(parts) == weights(whole)
    assert parts.history() == whole.history()


@pytest.mark.slow
def test_a_lost_attempt_is_repeated_exactly(toy_run: MakeRun, train_here: Train) -> None:
    """As after a kill: the newest checkpoints are gone, the run goes on from an older one."""
    import shutil

    whole, lost = toy_run("whole"), toy_run("lost")
    train_here(whole)
    train_here(lost, stop_after=14)
    shutil.rmtree(lost.folder / "checkpoints" / "step-00000014")
    (lost.folder / "checkpoints" / "step-00000012" / "model.safetensors").write_bytes(b"altered")
    train_here(lost)
    assert last(lost).state.history == last(whole).state.history
    assert weights(lost) == weights(whole)


@pytest.mark.slow
def test_history_tells_other_samples_apart(toy_run: MakeRun, train_here: Train) -> None:
    one, two = toy_run("one", **{"train.length": "3 steps"}), toy_run("two", **{"train.length": "3 steps", "train.seed": 1})
    train_here(one)
    train_here(two)
    assert last(one).state.history != last(two).state.history


@pytest.mark.slow
def test_a_loss_that_is_not_finite_is_not_applied_and_names_its_samples(toy_run: MakeRun, train_here: Train, monkeypatch: Any) -> None:
    from sightline.methods.croco.pretext import CrocoPretext

    run = toy_run("nan")
    forward = CrocoPretext.forward

    def poisoned(self: CrocoPretext, batch: Any, noise: Any) -> dict[str, torch.Tensor]:
        losses = forward(self, batch, noise)
        return {name: value * float("nan") if (noise.step, noise.microbatch) == (8, 3) else value for name, value in losses.items()}

    monkeypatch.setattr(CrocoPretext, "forward", poisoned)
    events = train_here(run)
    (found,) = (event for event in events if isinstance(event, NonFiniteLoss))
    assert found.step == 8 and len(found.ids) == 2
    assert not any(isinstance(event, TrainingEnded) for event in events), "the checkpoint of step 6 may be told after it"
    assert last(run).state.step == 6
    assert all(bool(torch.isfinite(value).all()) for value in last(run).tensors("model").values())


@pytest.mark.slow
def test_a_full_disk_ends_the_run_and_leaves_the_previous_checkpoint_whole(toy_run: MakeRun, train_here: Train, monkeypatch: Any) -> None:
    """The second checkpoint fails, but not before training has gone on beside it."""
    import safetensors.torch

    run, further = toy_run("full"), threading.Event()
    save, step = safetensors.torch.save_file, Stepper.step

    def full(tensors: Any, path: Any) -> None:
        if len(list((run.folder / "checkpoints").glob("step-*"))) == 1:
            assert further.wait(300), "training waited for the checkpoint"
            raise OSError(28, "No space left on device")
        save(tensors, path)

    def stepping(self: Stepper, number: int, microbatches: Any) -> Any:
        if number == 13:
            further.set()
        return step(self, number, microbatches)

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    monkeypatch.setattr(Stepper, "step", stepping)
    events = train_here(run)
    assert isinstance(events[-1], TrainingFailed) and "disk is full" in events[-1].what and "step 12 " in events[-1].what
    assert [event.step for event in events if isinstance(event, CheckpointWritten)] == [6]
    assert last(run).state.step == 6
    assert not list((run.folder / "checkpoints").glob(".part-*"))
    monkeypatch.undo()


def test_other_data_or_settings_are_refused_at_a_resume(toy_run: MakeRun, train_here: Train, toy_data: dict[str, str]) -> None:
    run = toy_run("strict")
    train_here(run, stop_after=2)
    fingerprint, run.fingerprint = run.fingerprint, "0" * 64
    with pytest.raises(SightlineError, match="not the one this run began with"):
        train_here(run)
    run.fingerprint = fingerprint
    run.settings = config.load("toy", {"optim.lr": 2e-3}, settings=run.settings).sections()
    with pytest.raises(SightlineError, match="another settings"):
        train_here(run)


@pytest.mark.slow
def test_auto_precision_is_decided_once_for_a_run(toy_run: MakeRun, train_here: Train) -> None:
    run = toy_run("auto", **{"train.precision": "auto", "train.length": "12 steps"})
    events = train_here(run, stop_after=3)
    note = json.loads((run.folder / "precision.json").read_text())
    assert isinstance(events[0], WorkerStarted) and isinstance(events[1], TrainingStarted)
    assert events[1].precision == note["precision"] == last(run).state.precision
    assert note["seconds"]["fp32"] > 0 and note["seconds"]["bf16"] > 0
    (remembered,) = (run.folder.parents[1] / "precision").iterdir()
    kept = json.loads(remembered.read_text())
    assert kept["precision"] == note["precision"] and kept["measured_on"]["what"]["method"] == "croco"
    other = {"fp32": "bf16", "bf16": "fp32"}[note["precision"]]
    remembered.write_text(json.dumps({**kept, "precision": other}))
    again = toy_run("again", **{"train.precision": "auto", "train.length": "12 steps"})
    train_here(again, stop_after=1)
    assert last(again).state.precision == other  # not measured again


@pytest.mark.slow
def test_a_step_is_the_mean_over_its_microbatches(toy_run: MakeRun, train_here: Train) -> None:
    """Accumulating six groups gives the gradient of their mean: the first update is that of one group six times as large."""
    groups, whole = (
        toy_run("groups", **{"train.length": "2 steps"}),
        toy_run("one-group", **{"train.length": "2 steps", "batch.microbatch": 12}),
    )
    train_here(groups)
    train_here(whole)
    first, second = groups.history(), whole.history()
    assert first.keys() == second.keys() == {0, 1}
    # The slots deal other rows to other groups, so the losses differ; both are near the loss of a network that knows nothing.
    assert abs(first[0]["loss"] - second[0]["loss"]) < 0.3
