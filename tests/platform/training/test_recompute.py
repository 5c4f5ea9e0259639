"""Activation checkpointing changes memory and time, and nothing else."""

from __future__ import annotations

from typing import Any

import golden
import pytest
import torch
from torch import nn
from toy import TOY, TOY_IMAGES, TOY_POINTS

from sightline.methods.catalog import find_method
from sightline.methods.errors import SightlineError
from sightline.platform.training.recompute import checkpoint_activations, transformer_blocks

TOYS: dict[str, dict[str, Any]] = {"croco": TOY, **TOY_IMAGES, "i2p_mae": TOY_POINTS}


@pytest.mark.parametrize("name", sorted(TOYS))
def test_losses_and_gradients_are_the_same_bits(name: str) -> None:
    method, toy = find_method(name), golden.sections(TOYS[name])
    found: list[int] = []
    plain = golden.losses(method, toy, steps=2)
    again = golden.losses(method, toy, steps=2, changed=lambda pretext: found.append(checkpoint_activations(pretext)))
    assert again == plain
    assert found[0] >= 2


def test_the_names_of_parameters_stay_and_activations_are_not_kept() -> None:
    """What is saved for the backward pass of a deep network: one tensor a block, in place of all that a block computes."""
    network = nn.ModuleList(nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 8)) for _ in range(6))

    def kept() -> int:
        numbers: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: numbers.append(t.numel()) or t, lambda t: t):
            x = torch.ones(4, 16, 8, requires_grad=True)
            for block in network:
                x = block(x)
        assert x.requires_grad
        return sum(numbers)

    names, before = list(network.state_dict()), kept()
    assert checkpoint_activations(network) == 6
    assert list(network.state_dict()) == names
    assert kept() < before / 4


def test_batch_norms_and_outer_lists_are_no_blocks() -> None:
    """Statistics that run would move twice; and a block inside a block would be computed three times."""

    def block(norm: nn.Module) -> nn.Sequential:
        return nn.Sequential(norm, nn.Linear(8, 8), nn.Linear(8, 8))

    inner = block(nn.LayerNorm(8))
    network = nn.ModuleList([nn.ModuleList([inner]), block(nn.BatchNorm1d(8))])
    assert list(transformer_blocks(network)) == [inner]
    with pytest.raises(SightlineError, match="no transformer blocks"):
        checkpoint_activations(nn.Linear(2, 2))
