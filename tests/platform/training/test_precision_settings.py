"""Precision belongs to the recipe: those of the papers pin it."""

from __future__ import annotations

import pytest
import torch

from sightline.platform import config
from sightline.platform.config.recipes import recipe_names
from sightline.platform.training.precision import allow_tf32

OUR_OWN = {"croco-small", "finetune-segmentation", "finetune-depth", "finetune-normals", "finetune-pose"}
"""Not from a paper; like the tiny ones they measure what pays on the machine."""


@pytest.mark.parametrize("name", recipe_names())
def test_the_recipes_of_papers_pin_their_precision(name: str) -> None:
    measured = config.read_recipe(name)[1].get("train", {}).get("precision", "auto") == "auto"
    assert measured is (name in OUR_OWN or "tiny" in name)


def test_tf32_is_allowed_where_it_is_asked_for_and_nowhere_else() -> None:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        for wanted, held in ((True, ("high", True)), (False, ("highest", False))):
            allow_tf32(wanted)
            assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == held
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
