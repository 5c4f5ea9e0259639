"""Fresh weights without PyTorch's global generator."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from ..random import key

M = TypeVar("M", bound=nn.Module)


def uninitialised(make: Callable[[], M]) -> M:
    """The module on the CPU, its tensors undefined. PyTorch's own initialisation would draw from the global generator, and take as long
    again as the one that follows."""
    with torch.device("meta"):
        module = make()
    # What `to_empty` does, which asks the meta device for a like tensor, and so imports sympy for half a second.
    empty: M = module._apply(lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype))  # type: ignore[no-untyped-call]
    return empty


def weight_rng(name: str, seed: int) -> torch.Generator:
    """The generator of the weights of the method or part `name` in a run with `seed`."""
    return torch.Generator().manual_seed(key("weights", name, seed) >> 1)
