"""Encoders give tokens and saliency from one pass, with the bits of two."""

from __future__ import annotations

import pytest
import torch

from sightline.methods.catalog import find_method
from sightline.methods.contract import BuildContext

SETTINGS = {
    "croco": {"model": {"image_size": 32, "patch_size": 8, "encoder_dim": 48, "encoder_depth": 2, "encoder_heads": 3, "decoder_dim": 48}},
    "conmim": {"model": {"image_size": 32, "patch_size": 8, "dim": 48, "depth": 2, "heads": 3}, "pretext": {"mask": "random"}},
    "loca": {"model": {"image_size": 32, "patch_size": 8, "encoder_dim": 48, "encoder_depth": 2, "encoder_heads": 3}},
    "timm": {"model": {"name": "resnet18"}},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_tokens_and_saliency_of_one_pass_are_those_of_two(name: str) -> None:
    method = find_method(name)
    config = method.Config.model_validate(SETTINGS[name])
    encoder = method.build(config, BuildContext(seed=0)).encoder().eval()
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        tokens, saliency = encoder.tokens_and_saliency(images)
        assert torch.equal(tokens, encoder.tokens(images)) and torch.equal(saliency, encoder.saliency(images))
    torch.testing.assert_close(saliency.sum(dim=1), torch.ones(2))
