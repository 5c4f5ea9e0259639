"""The authors' schedules: tables of one value a step, whose warm-up contains both its ends."""

from __future__ import annotations

import math

from ..optim import Clock, OptimConfig, Schedule, no_polynomial


def table_value(step: int, length: int, warmup: int, base: float, final: float, start: float = 0.0) -> float:
    """`warmup` values from `start` to `base`, both included, then `length - warmup` values of a cosine from `base` towards `final`.

    So the peak appears twice and `final` is never quite reached; steps past the end keep it.
    """
    if step < warmup:
        return start + (base - start) * step / (warmup - 1) if warmup > 1 else start
    n = length - warmup
    return final + (base - final) / 2 * (1 + math.cos(math.pi * min(step - warmup, n) / n)) if n > 0 else base


def conmim_schedules(optim: OptimConfig, clock: Clock) -> dict[str, Schedule]:
    """`lr` with warm-up from 0, `weight_decay` by a cosine without; one value a step."""
    no_polynomial(optim)
    peak, warmup = optim.peak_lr(clock.batch_size), round(clock.in_steps(optim.warmup))
    length = round(clock.in_steps(optim.decay)) if optim.decay else clock.steps
    start, end = optim.weight_decay, optim.weight_decay if optim.weight_decay_end is None else optim.weight_decay_end
    return {
        "lr": lambda step: table_value(step, length, warmup, peak, optim.min_lr),
        "weight_decay": lambda step: table_value(step, length, 0, start, end),
    }
