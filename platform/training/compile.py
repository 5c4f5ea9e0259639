"""torch.compile of a network's transformer blocks."""

from __future__ import annotations

from torch import nn

from sightline.methods.contract import Pretext
from sightline.methods.errors import SightlineError

from .recompute import transformer_blocks


def compile_blocks(pretext: Pretext | nn.Module, backend: str = "inductor") -> int:
    """Make every transformer block of `pretext` run compiled by torch. Returns the number of blocks.

    Not the whole forward pass: what a method draws there (drop path, query tokens) must be drawn anew at every step, and equal blocks are
    compiled once. Losses change by rounding alone; the names of parameters stay. Raises `SightlineError` where there is no block.
    """
    blocks = list(transformer_blocks(pretext))
    if not blocks:
        raise SightlineError("train.compile: this network has no transformer blocks", "leave it out")
    for block in blocks:
        block.compile(backend=backend)
    return len(blocks)
