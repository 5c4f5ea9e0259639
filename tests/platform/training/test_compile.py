"""torch.compile of the blocks: the same losses, drawn anew at every step."""

from __future__ import annotations

from typing import Any

import golden
import pytest
from torch import nn
from toy import TOY, TOY_IMAGES, TOY_POINTS

from sightline.methods.catalog import find_method
from sightline.methods.errors import SightlineError
from sightline.platform.training.compile import compile_blocks

TOYS: dict[str, dict[str, Any]] = {"croco": TOY, **TOY_IMAGES, "i2p_mae": TOY_POINTS}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")  # Dynamo's, of its own doing and of the checks of types that tests run with
@pytest.mark.parametrize("name", sorted(TOYS))
def test_losses_and_gradients_are_the_same_bits_where_no_kernel_is_fused(name: str) -> None:
    """The backend `eager` runs what was traced as it is: a draw that was traced as a constant would show in the second step."""
    method, toy = find_method(name), golden.sections(TOYS[name])
    found: list[int] = []
    plain = golden.losses(method, toy, steps=3)
    again = golden.losses(method, toy, steps=3, changed=lambda pretext: found.append(compile_blocks(pretext, backend="eager")))
    assert again == plain
    assert found[0] >= 2


def test_a_network_without_blocks_is_told() -> None:
    with pytest.raises(SightlineError, match=r"train\.compile: this network has no transformer blocks"):
        compile_blocks(nn.Sequential(nn.Linear(4, 4)))
