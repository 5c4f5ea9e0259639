"""LOCA's encoder as a timm model: the same maths, the same names."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ..contract import TimmForm
from ..layers.colour import IMAGENET_MEAN, IMAGENET_STD
from .config import LocaConfig


def timm_form(config: LocaConfig, state: Mapping[str, Tensor]) -> TimmForm:
    """timm's `VisionTransformer` without class token; patch tokens are the whole of its `forward_features`."""
    model = config.model
    arguments = {
        "img_size": model.image_size,
        "patch_size": model.patch_size,
        "embed_dim": model.encoder_dim,
        "depth": model.encoder_depth,
        "num_heads": model.encoder_heads,
        "mlp_ratio": model.mlp_ratio,
        "class_token": False,
        "global_pool": "avg",
        "fc_norm": False,  # the norm stays before pooling, where patch tokens pass through it
        "act_layer": "gelu_tanh",
    }
    return TimmForm("vit_base_patch16_224", arguments, dict(state), IMAGENET_MEAN, IMAGENET_STD)
