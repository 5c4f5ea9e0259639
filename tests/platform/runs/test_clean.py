"""What is collected, and above all what is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sightline.methods.errors import SightlineError
from sightline.platform.checkpoints import local as checkpoint
from sightline.platform.config import settings_hash
from sightline.platform.core.files import write_text
from sightline.platform.runs.clean import find_waste, kept_of
from sightline.platform.runs.record import Run


def given(run: Run, status: str, *steps: int) -> Run:
    """`run` in this status, with checkpoints of these steps."""
    for step in steps:
        state = checkpoint.TrainState(step, step * 12, 0, 1, run.fingerprint, settings_hash(run.experiment), "fp32", "h")
        tensors = {"model": {"w": torch.full((50,), float(step))}, "optimizer": {"w|exp_avg": torch.zeros(500)}}
        checkpoint.write(run.folder / "checkpoints", state, tensors)
    run.status = status
    run.save()
    return run


def names(run: Run, keep: int | None = None, optimizer: bool = False) -> list[str]:
    return sorted(str(waste.path.relative_to(run.folder / "checkpoints")) for waste in find_waste(run, keep, optimizer))


def path(run: Run, step: int) -> Path:
    return run.folder / "checkpoints" / f"step-{step:08d}"


def test_a_finished_run_keeps_the_weights_of_its_newest_checkpoint(toy_run: Callable[..., Run]) -> None:
    run = given(toy_run("done"), "finished", 6, 12, 18)
    assert names(run) == ["step-00000006", "step-00000012", "step-00000018/optimizer.safetensors"]
    assert names(run, optimizer=True) == ["step-00000006", "step-00000012"]
    assert names(run, keep=2) == ["step-00000006", "step-00000012/optimizer.safetensors", "step-00000018/optimizer.safetensors"]
    for waste in find_waste(run):
        assert waste.bytes > 1000
        waste.remove()
    found = checkpoint.newest(run.folder / "checkpoints")
    assert found is not None and found.state.step == 18 and found.tensors("model")["w"][0] == 18
    assert checkpoint.corrupt(run.folder / "checkpoints") == [] and find_waste(run) == []
    assert sorted(file.name for file in path(run, 18).iterdir()) == ["complete.json", "model.safetensors", "state.json"]


@pytest.mark.parametrize("status", ["finished", "stopped"])
def test_milestones_and_the_best_stay_unless_asked_for(status: str, toy_run: Callable[..., Run]) -> None:
    run = given(toy_run("noted", **{"train.keep": 1, "train.keep_every": "6 steps", "train.keep_best": "val/loss"}), status, 4, 6, 8, 10)
    write_text(path(run, 6) / "note.json", '{"milestone": true, "metrics": {"val/loss": 0.7}}')
    checkpoint.annotate(path(run, 4), {"val/loss": 0.5})
    states = [f"step-{step:08d}/optimizer.safetensors" for step in (4, 6, 10)] if status == "finished" else []
    assert names(run) == sorted(["step-00000008", *states])
    assert [(one.step, *one.reasons) for one in kept_of(run)] == [(10, "newest"), (6, "milestone"), (4, "best")]
    for waste in find_waste(run):
        waste.remove()
    assert find_waste(run) == [] and checkpoint.problem(path(run, 6)) is None
    assert names(run, optimizer=True) == [] and len(find_waste(run, milestones=True)) == 2


@pytest.mark.parametrize("status", ["created", "running", "stopped", "failed", "trained"])
def test_a_run_that_is_not_finished_keeps_whole_what_a_resume_may_need(status: str, toy_run: Callable[..., Run]) -> None:
    run = given(toy_run("open", **{"train.keep": 3}), status, 2, 4, 6, 8)
    (run.folder / "checkpoints" / ".part-1234").mkdir()  # somebody may be writing
    assert names(run) == ["step-00000002"]
    assert names(run, keep=1) == ["step-00000002", "step-00000004", "step-00000006"]
    for waste in find_waste(run, keep=1):
        waste.remove()
    (left,) = checkpoint.checkpoints(run.folder / "checkpoints")
    assert left.state.step == 8 and left.tensors("optimizer")["w|exp_avg"].shape == (500,)
    assert (run.folder / "checkpoints" / ".part-1234").is_dir()


def test_only_checkpoints_that_verify_count_as_kept(toy_run: Callable[..., Run]) -> None:
    run = given(toy_run("bitten"), "stopped", 2, 4, 6, 8)
    file = path(run, 6) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    assert names(run, keep=2) == ["step-00000002", "step-00000006"]


@pytest.mark.parametrize("status", ["finished", "stopped"])
def test_of_a_run_whose_newest_does_not_verify_nothing_goes(status: str, toy_run: Callable[..., Run]) -> None:
    """A finished one would have to train on from an older checkpoint, with its optimizer's state."""
    run = given(toy_run("harmed"), status, 2, 4, 6)
    (path(run, 6) / "model.safetensors").unlink()
    assert names(run, keep=1) == []


def test_what_a_kill_left_of_a_finished_run_goes_and_a_run_without_checkpoints_has_nothing(toy_run: Callable[..., Run]) -> None:
    assert names(toy_run("fresh")) == []
    run = given(toy_run("done"), "finished", 6)
    part = run.folder / "checkpoints" / ".part-1234"
    part.mkdir()
    (part / "model.safetensors").write_bytes(b"x" * 5000)
    (waste,) = find_waste(run, optimizer=True)
    assert waste.path == part and waste.bytes == 5000
    waste.remove()
    assert not part.exists()


def test_optimizer_state_that_a_kill_left_behind_its_list_is_found_again(
    toy_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = given(toy_run("cut"), "finished", 6)
    (waste,) = find_waste(run)
    real = Path.unlink

    def killed(self: Path, missing_ok: bool = False) -> None:
        if self == waste.path:
            raise OSError("killed here")
        real(self, missing_ok)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", killed)
        with pytest.raises(SightlineError, match="killed here"):
            waste.remove()
    assert waste.path.exists() and checkpoint.problem(path(run, 6)) is None
    (again,) = find_waste(run)
    again.remove()
    assert not waste.path.exists() and checkpoint.problem(path(run, 6)) is None
