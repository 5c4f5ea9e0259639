"""Networks of stereo, flow and depth that are built in a moment."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sightline.methods.contract import BuildContext
from sightline.methods.croco.config import CrocoModel
from sightline.methods.dense.config import DenseModel, TwoViewModel
from sightline.methods.dense.network import OneViewNetwork, TwoViewNetwork, build_network
from sightline.methods.dense.official import decoder_of

TINY = {"encoder_dim": 16, "encoder_depth": 2, "encoder_heads": 2, "decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2}
NARROW = {"widths": (4, 6, 8, 10), "features": 8, "last": 4}
ENCODERS: dict[str, dict[str, Any]] = {
    "croco": {"model": {**TINY, "image_size": 32, "position": "rope"}},
    "conmim": {"model": {"image_size": 32, "patch_size": 8, "dim": 16, "depth": 2, "heads": 2, "position_table": True}}
    | {"pretext": {"mask_cell": 8, "mask_ratio": 0.5}},
    "loca": {"model": {"image_size": 32, "patch_size": 8, "encoder_dim": 16, "encoder_depth": 2, "encoder_heads": 2}},
    "timm": {"model": {"name": "test_vit", "arguments": {"img_size": 32}}},
}


def tiny(size: tuple[int, int] = (32, 48), patch: int = 16, two: bool = True, **settings: object) -> DenseModel:
    own = {name: settings.pop(name) for name in ("position",) if name in settings}
    encoder = CrocoModel.model_validate({**TINY, "image_size": size, "patch_size": patch, "position": "rope", **own})
    values = {"encoder": {"method": "croco", "model": encoder.model_dump()}, "image_size": size, **NARROW, **settings}
    return TwoViewModel.model_validate(values | decoder_of(encoder)) if two else DenseModel.model_validate(values)


def built(model: DenseModel, channels: int = 2, seed: int = 0) -> OneViewNetwork | TwoViewNetwork:
    return build_network(model, channels, BuildContext(seed=seed))


def images(*size: int, seed: int = 0) -> Tensor:
    return torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(seed))
