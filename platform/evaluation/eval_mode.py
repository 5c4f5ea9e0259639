"""Networks in evaluation mode while they are measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch


@contextmanager
def eval_mode(modules: Sequence[torch.nn.Module], device: torch.device | str) -> Iterator[None]:
    """The modules on `device` in evaluation mode without gradients; their training mode is put back afterwards."""
    were_training = [module.training for module in modules]
    try:
        for module in modules:
            module.to(device).eval()
        with torch.no_grad():
            yield
    finally:
        for module, training in zip(modules, were_training, strict=True):
            module.train(training)
