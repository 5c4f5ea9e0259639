"""Where a training goes on: rank 0 reads the checkpoint, the others are sent it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from gloo import train_in_processes

from sightline.methods import collective
from sightline.platform.checkpoints import local as checkpoint
from sightline.platform.runs.record import Run

CPU = torch.device("cpu")


def test_tensors_of_every_type_and_shape_are_sent_as_they_are(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sent = {
        "fp32": torch.randn(3, 4),
        "bf16": torch.randn(5).bfloat16(),
        "flags": torch.tensor([True, False]),
        "step": torch.tensor(7.0),
        "count": torch.tensor(3),
        "none": torch.empty(0, 2),
        "strided": torch.randn(4, 3).t(),
    }
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        got, words = collective.broadcast_tensors(sent, CPU), collective.broadcast_bytes(b"words \xff\x00", CPU)
        assert collective.broadcast_tensors({}, CPU) == {} and collective.broadcast_bytes(b"", CPU) == b""
    finally:
        dist.destroy_process_group()
    assert list(got) == list(sent) and words == b"words \xff\x00"
    assert all(got[name].dtype == tensor.dtype and torch.equal(got[name], tensor) for name, tensor in sent.items())


@pytest.mark.slow
def test_ranks_that_see_no_checkpoint_go_on_from_that_of_rank_0(
    toy_run: Callable[..., Run], train_here: Callable[..., object], tmp_path: Path
) -> None:
    length = {"batch.microbatch": 6, "train.length": "9 steps", "train.checkpoint_every": "3 steps", "data.val": None}
    whole, parts = toy_run("whole", **length), toy_run("parts", **length)
    train_here(whole)
    train_here(parts, stop_after=5)
    train_in_processes(parts, 2, elsewhere=tmp_path / "node" / "parts")
    ours, theirs = (checkpoint.newest(run.folder / "checkpoints") for run in (whole, parts))
    assert ours is not None and theirs is not None and ours.state == theirs.state, "effective history"
    weights, expected = theirs.tensors("model"), ours.tensors("model")
    assert all(torch.allclose(weights[name], expected[name], atol=1e-5) for name in expected)
    assert not list((tmp_path / "node").rglob("step-*")), "nothing was written or fetched there"
