"""Activation checkpointing: a block's activations are computed again in the backward pass and not kept from the forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from sightline.methods.contract import Pretext
from sightline.methods.errors import SightlineError

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def checkpoint_activations(pretext: Pretext | nn.Module) -> int:
    """Make every transformer block of `pretext` compute its activations again in the backward pass. Returns the number of blocks.

    Losses and gradients stay as they are, and so do the names of parameters. Raises `SightlineError` where there is no block.
    """
    blocks = list(transformer_blocks(pretext))
    if not blocks:
        raise SightlineError("train.checkpoint_activations: this network has no transformer blocks", "leave it out")
    for block in blocks:
        block.forward = partial(_recomputed, block.forward)
    return len(blocks)


def transformer_blocks(network: Pretext | nn.Module) -> Iterator[nn.Module]:
    """The members of lists of modules that have linear maps and a norm, the innermost where such lists are nested.

    Not those with batch normalisation: its running statistics would move twice.
    """
    for module in network.modules():
        if isinstance(module, nn.ModuleList | nn.Sequential):
            yield from (member for member in module if _is_block(member) and not any(map(_is_list_of_blocks, member.modules())))


def _is_block(module: nn.Module) -> bool:
    inner = list(module.modules())
    linear = sum(isinstance(one, nn.Linear) for one in inner)
    norms = any("Norm" in type(one).__name__ for one in inner)
    return linear >= 2 and norms and not any(isinstance(one, BATCH_NORMS) for one in inner)


def _is_list_of_blocks(module: nn.Module) -> bool:
    return isinstance(module, nn.ModuleList | nn.Sequential) and any(map(_is_block, module))


def _recomputed(forward: Callable[..., Any], *inputs: Any, **named: Any) -> Any:
    if not torch.is_grad_enabled():  # a teacher, validation
        return forward(*inputs, **named)
    return checkpoint(forward, *inputs, use_reentrant=False, **named)
