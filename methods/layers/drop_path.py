"""Stochastic depth: whole branches of single samples are left out, by drawn masks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def linear_rates(rate: float, depth: int) -> list[float]:
    """The rate of each block: from 0 at the first to `rate` at the last."""
    return [rate * i / max(1, depth - 1) for i in range(depth)]


def draw_kept(
    rate: float, depth: int, batch: int, generator: torch.Generator, device: torch.device | str = "cpu"
) -> Bool[Tensor, "l 2 b"] | None:
    """True = the branch is kept: for each block, its two branches and each sample, by `linear_rates`. None for rate 0.

    `generator` is one of the CPU, so that a GPU drops the same branches.
    """
    if not rate:
        return None
    kept = torch.rand(depth, 2, batch, generator=generator) >= torch.tensor(linear_rates(rate, depth))[:, None, None]
    return kept.to(device, non_blocking=True)


def branch_scales(kept: Bool[Tensor, "l 2 b"] | None, rates: Sequence[float]) -> Sequence[Float[Tensor, "2 b"] | None]:
    """For each block what `drop_path` multiplies its branches by: 0 where one is dropped, else 1 / (1 - rate). None: nothing is dropped."""
    if kept is None:
        return [None] * len(rates)
    left = torch.tensor([1 - rate for rate in rates], dtype=torch.float32, device=kept.device)
    return (kept.float() / left[:, None, None]).unbind(0)


def drop_path(branch: Float[Tensor, "b n d"], scale: Float[Tensor, " b"] | None) -> Float[Tensor, "b n d"]:
    """The branch with each sample multiplied by its `branch_scales`."""
    return branch if scale is None else branch * scale.to(branch.dtype).view(-1, 1, 1)
