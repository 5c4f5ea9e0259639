"""CroCo's encoder as a timm model. The maths is the same for both kinds of positions; names and the order of head channels differ."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from ..contract import TimmForm
from ..errors import SightlineError
from ..layers.colour import IMAGENET_MEAN, IMAGENET_STD
from .config import CrocoConfig, CrocoModel


def timm_form(config: CrocoConfig, state: Mapping[str, Tensor]) -> TimmForm:
    """A ViT without class token: timm's `VisionTransformer` with the position table, or its `Eva` with axial rotary embedding.

    timm turns neighbouring channels of a head, CroCo those a quarter of a head apart; queries and keys are put in timm's order, which
    leaves their products as they are.
    """
    model = config.model
    arguments = {
        "img_size": list(model.image_size),
        "patch_size": model.patch_size,
        "embed_dim": model.encoder_dim,
        "depth": model.encoder_depth,
        "num_heads": model.encoder_heads,
        "mlp_ratio": model.mlp_ratio,
        "class_token": False,
        "global_pool": "avg",
    }
    tensors = {_timm_name(name): tensor for name, tensor in state.items()}
    if model.position == "cosine":
        tensors["pos_embed"] = tensors["pos_embed"][None]
        return TimmForm("vit_base_patch16_224", {**arguments, "fc_norm": False}, tensors, IMAGENET_MEAN, IMAGENET_STD)
    if model.rope_f0 != 1:
        raise SightlineError(
            f"timm's rotary embedding has no place for model.rope_f0 = {model.rope_f0}",
            "only models with rope_f0 = 1 can be exported to timm",
        )
    order = _channel_order(model)
    for name in tensors:
        if ".attn.qkv." in name:
            tensors[name] = tensors[name][order]
    for block in range(model.encoder_depth):  # `create_model` drops arguments that are None, so timm's layer scale stays, at 1
        tensors |= {f"blocks.{block}.gamma_{part}": torch.ones(model.encoder_dim) for part in (1, 2)}
    rotary = {"use_fc_norm": False, "rope_grid_indexing": "ij", "rope_temperature": model.rope_base}
    return TimmForm("vit_base_patch16_rope_224", {**arguments, **rotary}, tensors, IMAGENET_MEAN, IMAGENET_STD)


def _timm_name(name: str) -> str:
    return re.sub(r"^enc_(blocks|norm|pos_embed)", r"\1", name)


def _channel_order(model: CrocoModel) -> Tensor:
    """Row j of timm's qkv matrix is this row of ours: in each half of a head, (i, i + q) become neighbours."""
    head = model.encoder_dim // model.encoder_heads
    channels = torch.arange(head).view(2, 2, head // 4).transpose(1, 2).flatten()
    turned = (torch.arange(model.encoder_heads)[:, None] * head + channels).flatten()
    return torch.cat([turned, model.encoder_dim + turned, 2 * model.encoder_dim + torch.arange(model.encoder_dim)])
