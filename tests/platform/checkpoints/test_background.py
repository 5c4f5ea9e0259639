"""Writing beside the training: the copy is that of its moment, one write at a time, errors are told, a kill leaves the one before."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
import safetensors.torch
import torch

from sightline.methods.errors import MachineError
from sightline.platform.checkpoints import local as checkpoint
from sightline.platform.checkpoints.background import BackgroundWriter, HostCopy
from sightline.platform.checkpoints.local import Note, TrainState
from sightline.platform.checkpoints.retention import Retention


def state(step: int) -> TrainState:
    return TrainState(step, step * 4, 0, 1, "f", "s", "fp32", "h")


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Writes wait for it."""
    opened, save = threading.Event(), safetensors.torch.save_file

    def held(*words: object) -> None:
        assert opened.wait(300)
        save(*words)  # type: ignore[arg-type]

    monkeypatch.setattr(safetensors.torch, "save_file", held)
    return opened


def test_what_is_written_is_the_state_of_its_moment_though_training_goes_on(tmp_path: Path, gate: threading.Event) -> None:
    weight = torch.arange(6.0).reshape(2, 3).T  # not contiguous
    writer = BackgroundWriter(tmp_path, Retention(2))
    writer.start(state(3), {"model": {"w": weight}, "optimizer": {"w|step": torch.tensor(3.0)}}, Note(metrics={"val/loss": 0.5}))
    weight += 1
    assert writer.take() is None and checkpoint.newest(tmp_path) is None
    gate.set()
    writer.wait()
    written = writer.take()
    assert written is not None and written.step == 3 and written.seconds > 0 and writer.take() is None
    found = checkpoint.newest(tmp_path)
    assert found is not None and found.path == written.path and found.note.metrics == {"val/loss": 0.5}
    assert torch.equal(found.tensors("model")["w"], weight - 1)


def test_the_same_bytes_as_written_at_once_and_the_memory_is_used_again(tmp_path: Path) -> None:
    tensors = {"model": {"b": torch.ones(3, dtype=torch.bfloat16), "a": torch.randn(4, 2), "n": torch.tensor(7)}, "optimizer": {}}
    copy = HostCopy()
    first = copy.take(tensors)
    checkpoint.write(tmp_path / "beside", state(1), first)
    checkpoint.write(tmp_path / "at-once", state(1), tensors)
    for name in ("model.safetensors", "optimizer.safetensors", "complete.json"):
        assert len({(tmp_path / place / "step-00000001" / name).read_bytes() for place in ("beside", "at-once")}) == 1
    again = copy.take({"model": {**tensors["model"], "a": torch.zeros(4, 2), "n": torch.zeros(2)}, "optimizer": {}})
    assert again["model"]["a"].data_ptr() == first["model"]["a"].data_ptr() and not again["model"]["a"].any()
    assert again["model"]["n"].shape == (2,)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_an_error_of_the_disk_is_raised_where_training_asks(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = BackgroundWriter(tmp_path, Retention(2))
    with monkeypatch.context() as patch:
        patch.setattr(safetensors.torch, "save_file", lambda *words: (_ for _ in ()).throw(OSError(number, os.strerror(number))))
        writer.start(state(3), {"model": {"w": torch.ones(2)}}, Note())
        writer.wait()
    with pytest.raises(MachineError, match="checkpoint of step 3 could not be written"):
        writer.take()
    assert writer.take() is None and list(tmp_path.iterdir()) == []
    writer.start(state(6), {"model": {"w": torch.ones(2)}}, Note())
    writer.wait()
    assert writer.take() is not None


@pytest.mark.slow
def test_a_kill_while_the_thread_writes_leaves_the_previous_one(tmp_path: Path) -> None:
    """SIGKILL while the thread is between two files and the training counts on."""
    code = f"""
        import time, torch, safetensors.torch
        from pathlib import Path
        from sightline.platform.checkpoints.background import BackgroundWriter
        from sightline.platform.checkpoints.local import Note, TrainState
        from sightline.platform.checkpoints.retention import Retention
        save, writer = safetensors.torch.save_file, BackgroundWriter(Path({str(tmp_path)!r}), Retention(2))
        for step in (1, 2):
            if step == 2:
                safetensors.torch.save_file = lambda *words: (save(*words), print("writing", flush=True), time.sleep(60))
            writer.start(TrainState(step, step, 0, 1, "f", "s", "fp32", "h"), {{"model": {{"w": torch.full((9,), float(step))}}}}, Note())
            if step == 1:
                writer.wait(), writer.take()
        while True:
            time.sleep(0.01)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"writing\n"
    process.kill()
    process.wait()
    process.stdout.close()
    assert len(list(tmp_path.glob(".part-*/model.safetensors"))) == 1, "killed in the middle"
    found = checkpoint.newest(tmp_path)
    assert found is not None and found.state.step == 1 and checkpoint.problem(found.path) is None
    checkpoint.write(tmp_path, state(3), {"model": {"w": torch.ones(2)}})
    assert not list(tmp_path.glob(".part-*"))
