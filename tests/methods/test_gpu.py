"""On a GPU: the losses of a CPU, the same farthest points, and DDP over NCCL. Skipped where there is none."""

from __future__ import annotations

import socket
from typing import Any

import golden
import pytest
import torch
from torch import Tensor, distributed
from toy import TOY, TOY_IMAGES, TOY_POINTS

from sightline.methods.catalog import find_method
from sightline.methods.layers.points import farthest_point_sampling
from sightline.platform.training.compile import compile_blocks

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.filterwarnings("ignore::UserWarning"),  # of torch.compile and of CUDA libraries, about themselves
]
TOYS: dict[str, dict[str, Any]] = {"croco": TOY, **TOY_IMAGES, "i2p_mae": TOY_POINTS}
STEPS = 5
APART = 2e-3
"""Of a loss after five steps, relative: float32 sums in another order, which training carries on."""


def close(ours: list[dict[str, float]], theirs: list[dict[str, float]]) -> None:
    for step, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        for figure, value in b.items():
            assert abs(a[figure] - value) <= APART * max(1.0, abs(value)), (step, figure, a[figure], value)


@pytest.mark.parametrize("name", sorted(TOYS))
def test_a_gpu_trains_as_a_cpu_does(name: str) -> None:
    """The same draws too: drop path, masks and query tokens."""
    method, toy = find_method(name), golden.sections(TOYS[name])
    lr = 1e-5 if name == "i2p_mae" else 1e-3
    on_cpu = golden.losses(method, toy, lr, STEPS)
    close(golden.losses(method, toy, lr, STEPS, device="cuda"), on_cpu)
    close(golden.losses(method, toy, lr, STEPS, compile_blocks, device="cuda"), on_cpu)


@pytest.mark.parametrize("skip_origin", [False, True])
def test_farthest_points_are_those_of_a_cpu(skip_origin: bool) -> None:
    """Clouds with ties and without."""
    lattice = torch.stack(torch.meshgrid(*[torch.arange(4.0)] * 3, indexing="ij"), dim=-1).view(1, 64, 3) - 1.5
    clouds: list[Tensor] = [torch.rand(3, 700, 3, generator=torch.Generator().manual_seed(seed)) - 0.5 for seed in (0, 1)]
    for points in (*clouds, lattice, lattice.flip(1)):
        wanted = farthest_point_sampling(points, 60, skip_origin=skip_origin)
        assert torch.equal(farthest_point_sampling(points.cuda(), 60, skip_origin=skip_origin).cpu(), wanted)


def test_ddp_over_nccl_of_one_gpu_trains_the_same() -> None:
    method, toy = find_method("loca"), golden.sections(TOYS["loca"])
    alone = golden.losses(method, toy, steps=STEPS, device="cuda")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    distributed.init_process_group("nccl", init_method=f"tcp://127.0.0.1:{port}", rank=0, world_size=1)
    try:
        close(golden.losses(method, toy, steps=STEPS, device="cuda"), alone)
    finally:
        distributed.destroy_process_group()
