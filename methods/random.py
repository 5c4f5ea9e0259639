"""The two sources of randomness, both keyed; no global generator is ever used.

Draws of a *sample* come from `sample_rng(seed, position)`, or from `variant_rng` where every row has a fixed number of draws; draws of a
*microbatch* from `MicrobatchRng(seed, step, microbatch)`. So a run can be replayed from any step, and a sample looks the same whoever
processes it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from . import old_names

if TYPE_CHECKING:
    import torch


def key(*parts: int | str) -> int:
    """A 64-bit key from a few numbers and names; the same on every machine and Python version."""
    text = "\x1f".join(str(p) for p in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def keyed_rng(*parts: int | str) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=key(*parts)))


def sample_rng(seed: int, position: int) -> np.random.Generator:
    """The generator of the sample at `position` in the plan of a run with `seed`."""
    return keyed_rng("sample", seed, position)


def variant_rng(seed: int, shard: int, row_group: int, row: int, variant: int) -> np.random.Generator:
    """The generator of one of a stored row's fixed draws, wherever in the plan the row stands."""
    return keyed_rng("variant", seed, shard, row_group, row, variant)


@old_names.fields(group="microbatch")
@dataclass(frozen=True)
class MicrobatchRng:
    """The draws of one microbatch of one step: a generator for each name, on whatever device."""

    seed: int
    step: int
    microbatch: int
    """Number of the microbatch in its step."""

    def numpy(self, name: str) -> np.random.Generator:
        return keyed_rng("group", self.seed, self.step, self.microbatch, name)

    def torch(self, name: str, device: torch.device | str = "cpu") -> torch.Generator:
        import torch

        return torch.Generator(device).manual_seed(key("group", self.seed, self.step, self.microbatch, name) >> 1)


__getattr__ = old_names.module_names(globals(), Noise="MicrobatchRng")
