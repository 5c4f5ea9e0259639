"""Optimisation as the papers state it: settings, decay groups and schedules, shared by all methods."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from .errors import CallError
from .settings import Added, Duration, Length, Settings

if TYPE_CHECKING:
    import torch


class OptimConfig(Settings):
    """AdamW with linear warm-up and cosine decay. The length of the decay and the end of training may differ (`train.length`)."""

    name: Literal["adamw"] = "adamw"
    lr: float | None = Field(default=None, gt=0, description="peak learning rate as it is")
    base_lr: float | None = Field(default=None, gt=0, description="peak learning rate per 256 samples: lr = base_lr * batch.size / 256")
    min_lr: float = Field(default=0.0, ge=0)
    warmup: Length = Field(default=Duration(amount=0, unit="steps"))
    decay: Length | None = Field(default=None, description="length of warm-up plus decay; default: the length of training")
    power: Annotated[float | None, Added(neutral=None)] = Field(
        default=None,
        gt=0,
        description="decay by (1 - step / length) ** power in place of the cosine; methods whose papers have another rule refuse it",
    )
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.05, ge=0)
    weight_decay_end: float | None = Field(default=None, ge=0, description="cosine from weight_decay to this; default: constant")
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    clip: float | None = Field(default=None, gt=0, description="larger gradients (global norm) are multiplied by clip / norm; default: off")

    @model_validator(mode="after")
    def _one_rate(self) -> OptimConfig:
        if (self.lr is None) == (self.base_lr is None):
            raise ValueError("give one of optim.lr (as it is) and optim.base_lr (per 256 samples); set the other to null")
        return self

    def peak_lr(self, batch_size: int) -> float:
        return self.lr if self.lr is not None else (self.base_lr or 0.0) * batch_size / 256


@dataclass(frozen=True)
class Clock:
    """What a schedule depends on: its length in steps, the global batch size and the samples in an epoch."""

    steps: int
    batch_size: int
    samples: int

    def epoch(self, step: float) -> float:
        return step * self.batch_size / self.samples

    def in_steps(self, length: Length) -> float:
        return length.steps(self.batch_size, self.samples)


Schedule = Callable[[int], float]
"""From the 0-based optimiser step to a value."""


@dataclass
class ParamGroup:
    """Parameters that share a decay rule and a learning-rate factor."""

    name: str
    params: list[torch.nn.Parameter]
    decay: bool
    lr_scale: float = 1.0


def warmup_cosine(t: float, warmup: float, length: float, peak: float, floor: float = 0.0) -> float:
    """Linear from 0 to `peak` over `warmup`, then cosine to `floor` at `length`; any one unit of time. Past `length`: `floor`."""
    if t < warmup:
        return peak * t / warmup
    if length <= warmup:
        return peak
    progress = min((t - warmup) / (length - warmup), 1.0)
    return floor + (peak - floor) / 2 * (1 + math.cos(math.pi * progress))


def warmup_polynomial(t: float, warmup: float, length: float, peak: float, power: float, floor: float = 0.0) -> float:
    """`peak` (1 - t / length) ** power down to `floor`; over `warmup` times t / warmup, as mmsegmentation has it. Later: `floor`."""
    rate: float = floor + (peak - floor) * max(0.0, 1 - t / length) ** power
    return rate * t / warmup if t < warmup else rate


def no_polynomial(optim: OptimConfig) -> None:
    """Raise `CallError` where `optim.power` is set: for methods whose papers have a decay of their own."""
    if optim.power is not None:
        raise CallError("optim.power: this method decays its rate by its paper's own rule", "leave it away")


def standard_schedules(optim: OptimConfig, clock: Clock) -> dict[str, Schedule]:
    """`lr` by `warmup_cosine`, or `warmup_polynomial` with `optim.power`; `weight_decay` constant or by a cosine: what a method uses unless
    its paper says otherwise."""
    peak = optim.peak_lr(clock.batch_size)
    warmup = clock.in_steps(optim.warmup)
    length = clock.in_steps(optim.decay) if optim.decay else float(clock.steps)
    start, end = optim.weight_decay, optim.weight_decay if optim.weight_decay_end is None else optim.weight_decay_end
    power = optim.power

    def lr(step: int) -> float:
        if power is None:
            return warmup_cosine(step, warmup, length, peak, optim.min_lr)
        return warmup_polynomial(step, warmup, length, peak, power, optim.min_lr)

    return {"lr": lr, "weight_decay": lambda step: warmup_cosine(step, 0, length, start, end)}


def decay_groups(named: Iterable[tuple[str, torch.nn.Parameter]], no_decay: Callable[[str, torch.nn.Parameter], bool]) -> list[ParamGroup]:
    """Two groups, `decay` and `no_decay`, in the order of the parameters; parameters without gradient are left out."""
    groups = {True: ParamGroup("decay", [], True), False: ParamGroup("no_decay", [], False)}
    for name, parameter in named:
        if parameter.requires_grad:
            groups[not no_decay(name, parameter)].params.append(parameter)
    return [g for g in groups.values() if g.params]


def layer_groups(
    named: Iterable[tuple[str, torch.nn.Parameter]],
    layer_of: Callable[[str], int],
    top: int,
    layer_decay: float,
    no_decay: Callable[[str, torch.nn.Parameter], bool],
) -> list[ParamGroup]:
    """The `decay_groups` of each layer, the lowest first, with rates scaled by `layer_decay` ** (`top` - layer); 1: one layer."""
    layers: dict[int, list[tuple[str, torch.nn.Parameter]]] = {}
    for name, parameter in named:
        layers.setdefault(top if layer_decay == 1 else layer_of(name), []).append((name, parameter))
    groups = []
    for layer in sorted(layers):
        for group in decay_groups(layers[layer], no_decay):
            group.lr_scale = layer_decay ** (top - layer)
            group.name = group.name if layer_decay == 1 else f"layer{layer}.{group.name}"
            groups.append(group)
    return groups
