"""The authors' learning rate: one value an epoch, and a cosine that warm-up does not shift."""

from __future__ import annotations

import math

from ..optim import Clock, OptimConfig, Schedule, no_polynomial


def cosine(t: float, warmup: float, length: float, peak: float, floor: float) -> float:
    """`warmup` and `length` in the unit of `t`: a line from `floor` to `peak`, then a cosine that began at 0; `floor` from `length` on."""
    if t < warmup:
        return floor + (peak - floor) * t / warmup
    return floor + (peak - floor) * (1 + math.cos(math.pi * t / length)) / 2 if t < length else floor


def i2p_schedules(optim: OptimConfig, clock: Clock, official: bool) -> dict[str, Schedule]:
    """`official`: an epoch has the value of the one before it, as the authors step their schedule after each epoch with its own
    number: epochs 0 and 1 both have the first. Else one value a step, without that lag."""
    no_polynomial(optim)
    peak, per_epoch = optim.peak_lr(clock.batch_size), clock.samples / clock.batch_size
    unit = per_epoch if official else 1.0
    warmup = clock.in_steps(optim.warmup) / unit
    length = (clock.in_steps(optim.decay) if optim.decay else clock.steps) / unit

    def lr(step: int) -> float:
        t = max(0, math.floor(step / per_epoch) - 1) if official else step
        return cosine(float(t), warmup, length, peak, optim.min_lr)

    return {"lr": lr, "weight_decay": lambda step: optim.weight_decay}
