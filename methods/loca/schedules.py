"""What the released recipe does in time, and what it decays."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..layers.ema import cosine_momentum
from ..optim import Clock, OptimConfig, ParamGroup, Schedule, layer_groups, no_polynomial, standard_schedules

if TYPE_CHECKING:
    from .network import LocaNetwork

DECAYED_BIASES = ("attn.qkv.bias", "cross_attn.projq.bias", "cross_attn.projk.bias", "cross_attn.projv.bias")
"""Stored as heads x head width in the authors' tree, and so taken for matrices by their rule."""


def warmup_then_cosine(step: int, warmup: float, length: float, peak: float, floor: float) -> float:
    """Linear from 0 over `warmup` steps, then a cosine to `floor` at `length`, where it starts again from `peak`."""
    progress = max(0.0, step - warmup) / (length - warmup) if length > warmup else 0.0
    share = floor / peak
    cosine = (1 + math.cos(math.pi * (progress % 1.0))) / 2
    return peak * min(1.0, step / warmup if warmup else 1.0) * ((1 - share) * cosine + share)


def loca_schedules(optim: OptimConfig, clock: Clock) -> dict[str, Schedule]:
    """`step` counts the updates already done: the first update has rate 0, the last nearly `min_lr`."""
    no_polynomial(optim)
    peak, warmup = optim.peak_lr(clock.batch_size), clock.in_steps(optim.warmup)
    length = clock.in_steps(optim.decay) if optim.decay else float(clock.steps)
    return {**standard_schedules(optim, clock), "lr": lambda step: warmup_then_cosine(step, warmup, length, peak, optim.min_lr)}


def teacher_momentum(start: float, step: int, steps: int) -> float:
    """From `start` to 1 by a cosine; `step` counts the updates done before this one. It starts again at `steps`, like the rate."""
    return cosine_momentum(start, step % steps, steps)


def decay_and_rate_groups(network: LocaNetwork, layer_decay: float) -> list[ParamGroup]:
    """Decay for matrices, the position grid, the prototypes, and the biases of q, k and v; `layer_decay` scales the rate by depth."""
    top = network.encoder.depth + 1
    return layer_groups(
        network.named_parameters(),
        lambda name: network.encoder.layer_of(name.removeprefix("encoder.")) if name.startswith("encoder.") else top,
        top,
        layer_decay,
        lambda name, p: p.ndim == 1 and not name.endswith(DECAYED_BIASES),
    )
