"""Stochastic depth: whole branches of single samples are left out, by drawn masks."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def linear_rates(rate: float, depth: int) -> list[float]:
    """The rate of each block: from 0 at the first to `rate` at the last."""
    return [rate * i / max(1, depth - 1) for i in range(depth)]


def draw_kept(rate: float, depth: int, batch: int, generator: torch.Generator) -> Bool[Tensor, "l 2 b"] | None:
    """True = the branch is kept: for each block, its two branches and each sample, by `linear_rates`. None for rate 0."""
    if not rate:
        return None
    rates = torch.tensor(linear_rates(rate, depth), device=generator.device)
    return torch.rand(depth, 2, batch, generator=generator, device=generator.device) >= rates[:, None, None]


def drop_path(branch: Float[Tensor, "b n d"], kept: Bool[Tensor, " b"] | None, rate: float) -> Float[Tensor, "b n d"]:
    """The branch with dropped samples 0 and kept ones divided by 1 - rate. `kept` None: nothing is dropped."""
    if kept is None or not rate:
        return branch
    return branch * (kept.to(branch.dtype) / (1 - rate)).view(-1, 1, 1)
