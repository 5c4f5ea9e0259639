"""The one choice of the device that a process computes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sightline.methods.errors import SightlineError

if TYPE_CHECKING:
    import torch


def choose_device(wanted: str = "auto", required: bool = False) -> torch.device:
    """The current GPU where this process sees one and `wanted` (`auto`, `cpu` or `cuda`) allows it, else the CPU.

    `required`: raise `SightlineError` for `cuda` where there is no GPU, instead of using the CPU.
    """
    import torch

    if wanted != "cpu" and torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    if wanted == "cuda" and required:
        raise SightlineError("train.device = cuda, but this process sees no GPU", "use train.device=auto, or start workers with a GPU")
    return torch.device("cpu")
