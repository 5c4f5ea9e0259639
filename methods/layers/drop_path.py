"""Stochastic depth: whole branches of single samples are left out, by drawn masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


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


class HookedBranches:
    """Stochastic depth for an encoder whose `forward` knows nothing of it: hooks multiply what the two branches of each block give.

    What `keep` sets holds until the next call, so that a block whose activations are computed again in the backward drops the same.
    """

    def __init__(self, branches: Sequence[tuple[nn.Module, nn.Module]], rate: float) -> None:
        self.rates = linear_rates(rate, len(branches))
        self.scales: Sequence[Tensor | None] = [None] * len(branches)
        for block, pair in enumerate(branches):
            for place, branch in enumerate(pair):
                branch.register_forward_hook(_Hook(self, block, place))

    def keep(self, kept: Bool[Tensor, "l 2 b"] | None) -> None:
        """The branches that the next pass keeps, as `draw_kept` gives them; None: all."""
        self.scales = branch_scales(kept, self.rates)


class _Hook:
    """A class of its own, not a closure: a copy of the encoder gets copies of it."""

    def __init__(self, branches: HookedBranches, block: int, place: int) -> None:
        self.branches, self.block, self.place = branches, block, place

    def __call__(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        scales = self.branches.scales[self.block]
        return output if scales is None else drop_path(output, scales[self.place])
