"""Checkpoints are whole or not there."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch

from sightline.platform.checkpoints import local as checkpoint
from sightline.platform.checkpoints.local import TrainState
from sightline.platform.checkpoints.retention import Retention, prune


def state(step: int) -> TrainState:
    return TrainState(step, step * 4, 0, 1, "f", "s", "fp32", "h")


def tensors(step: int, size: int = 8) -> dict[str, dict[str, torch.Tensor]]:
    return {"model": {"w": torch.full((size,), float(step))}, "optimizer": {"w|step": torch.tensor(float(step))}}


def test_the_newest_that_verifies_is_taken_and_old_ones_go(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        checkpoint.write(tmp_path, state(step), tensors(step))
        prune(tmp_path, Retention(3))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000002", "step-00000003", "step-00000004"]
    found = checkpoint.newest(tmp_path)
    assert found is not None and found.state == state(4)
    assert torch.equal(found.tensors("model")["w"], tensors(4)["model"]["w"])


@pytest.mark.parametrize("harm", ["missing", "short", "bit", "complete", "state"])
def test_a_harmed_checkpoint_is_passed_over(tmp_path: Path, harm: str) -> None:
    checkpoint.write(tmp_path, state(1), tensors(1))
    path = checkpoint.write(tmp_path, state(2), tensors(2))
    file = path / "model.safetensors"
    content = bytearray(file.read_bytes())
    match harm:
        case "missing":
            file.unlink()
        case "short":
            file.write_bytes(content[:-1])
        case "bit":
            content[-1] ^= 1
            file.write_bytes(content)
        case "complete":
            (path / "complete.json").unlink()
        case "state":
            (path / "state.json").write_text("{")
    found = checkpoint.newest(tmp_path)
    assert found is not None and found.state.step == 1
    assert checkpoint.problem(path) is not None
    assert [line.partition(":")[0] for line in checkpoint.corrupt(tmp_path)] == ["step-00000002"]


@pytest.mark.slow
def test_a_kill_while_writing_leaves_the_previous_one(tmp_path: Path) -> None:
    """A real SIGKILL at a random moment of a process that does nothing but write checkpoints."""
    code = f"""
        import torch
        from pathlib import Path
        from sightline.platform.checkpoints import local as checkpoint
        from sightline.platform.checkpoints.local import TrainState
        from sightline.platform.checkpoints.retention import Retention, prune
        for step in range(1, 10_000):
            tensors = {{"model": {{"w": torch.full((200_000,), float(step))}}}}
            checkpoint.write(Path({str(tmp_path)!r}), TrainState(step, step, 0, 1, "f", "s", "fp32", "h"), tensors)
            prune(Path({str(tmp_path)!r}), Retention(2))
            if step == 1:
                print("there is one", flush=True)
    """
    for pause in (0.11, 0.32):
        process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(pause)
        process.kill()
        process.wait()
        process.stdout.close()
        found = checkpoint.newest(tmp_path)
        assert found is not None
        assert float(found.tensors("model")["w"][0]) == found.state.step
        before = found.state.step
    checkpoint.write(tmp_path, state(before + 1), tensors(1))
    assert not list(tmp_path.glob(".part-*"))


def test_a_really_full_disk(tmp_path: Path) -> None:
    """On a file system of 3 MB, where one may be mounted."""
    from sightline.methods.errors import SightlineError

    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        checkpoint.write(place, state(1), tensors(1, 300_000))
        with pytest.raises(SightlineError, match="disk is full"):
            checkpoint.write(place, state(2), tensors(2, 900_000))
        found = checkpoint.newest(place)
        assert found is not None and found.state.step == 1
        assert [p.name for p in place.iterdir()] == ["step-00000001"]
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_optimizer_state_round_trips(tmp_path: Path) -> None:
    def make() -> tuple[torch.nn.Linear, torch.optim.AdamW, dict[torch.Tensor, str]]:
        torch_layer = torch.nn.Linear(3, 2)
        return torch_layer, torch.optim.AdamW(torch_layer.parameters(), fused=True), {p: n for n, p in torch_layer.named_parameters()}

    layer, optimizer, names = make()
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    path = checkpoint.write(tmp_path, state(1), {"optimizer": checkpoint.optimizer_tensors(optimizer, names)})
    other, fresh, other_names = make()
    other.load_state_dict(layer.state_dict())
    checkpoint.restore_optimizer(fresh, other_names, checkpoint.Checkpoint(path, state(1)).tensors("optimizer"))
    for module, adam in ((layer, optimizer), (other, fresh)):
        adam.zero_grad()
        module(torch.ones(1, 3) * 2).sum().backward()
        adam.step()
    assert torch.equal(layer.weight, other.weight)
