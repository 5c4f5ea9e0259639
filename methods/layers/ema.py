"""The moving average of a student, which is the teacher of self-distilling methods."""

from __future__ import annotations

import math

import torch
from torch import nn


@torch.no_grad()
def ema_update(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """teacher <- momentum * teacher + (1 - momentum) * student, for every parameter of `teacher` by its name; buffers stay as they are.

    A few kernels for all parameters together, not one for each.
    """
    source = dict(student.named_parameters())
    ours: list[torch.Tensor] = []
    theirs: list[torch.Tensor] = []
    for name, parameter in teacher.named_parameters():
        ours.append(parameter)
        theirs.append(source[name])
    torch._foreach_lerp_(ours, theirs, 1 - momentum)


@torch.no_grad()
def average_update(average: nn.Module, trained: nn.Module, decay: float, updates: int) -> None:
    """average <- decay * average + (1 - decay) * trained, buffers too (those of whole numbers are copied): timm's `ModelEmaV3`.

    `updates`: those of the optimiser so far, this one included; the first one copies, as there.
    """
    source = trained.state_dict()
    ours: list[torch.Tensor] = []
    theirs: list[torch.Tensor] = []
    for name, value in average.state_dict().items():
        if value.is_floating_point() and updates > 1:
            ours.append(value)
            theirs.append(source[name])
        else:
            value.copy_(source[name])
    if ours:
        torch._foreach_lerp_(ours, theirs, 1 - decay)


def cosine_momentum(start: float, step: int, steps: int) -> float:
    """From `start` at step 0 to 1 at `steps` by a cosine; `step` counts the updates already done."""
    return 1 - (1 - start) * (1 + math.cos(math.pi * step / steps)) / 2
