"""ConMIM's encoder: the backbone that is kept after pre-training, with normalisation inside."""

from __future__ import annotations

import copy
import re

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..layers.colour import IMAGENET_MEAN, IMAGENET_STD
from .backbone import ConMIMBackbone
from .config import ConMIMModel


def mean_std(model: ConMIMModel) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Of the colour channels, as the network was trained with."""
    return (IMAGENET_MEAN, IMAGENET_STD) if model.normalise == "imagenet" else ((0.5,) * 3, (0.5,) * 3)


def normalise(images: Float[Tensor, "b 3 h w"], model: ConMIMModel) -> Float[Tensor, "b 3 h w"]:
    mean, std = (torch.tensor(v, device=images.device).view(3, 1, 1) for v in mean_std(model))
    return (images - mean) / std


def denormalise(images: Float[Tensor, "b 3 h w"], model: ConMIMModel) -> Float[Tensor, "b 3 h w"]:
    mean, std = (torch.tensor(v, device=images.device).view(3, 1, 1) for v in mean_std(model))
    return images * std + mean


def layer_of(name: str, depth: int) -> int:
    """Depth of a backbone parameter for layer-wise rates: 0 for tokens, positions and patch embedding, i + 1 for block i, depth + 1 for
    the rest (norms, the shared bias table, whatever comes after the blocks)."""
    if match := re.search(r"\bblocks\.(\d+)\.", name):
        return int(match[1]) + 1
    first = name.startswith("patch_embed.") or name in ("cls_token", "mask_token", "pos_embed")
    return 0 if first else depth + 1


class ConMIMEncoder(nn.Module):
    """An `ImageEncoder`: float32 RGB in [0, 1] of any size the patch divides. Tables are resized for another grid than its own."""

    def __init__(self, model: ConMIMModel, backbone: ConMIMBackbone) -> None:
        """Takes a copy of the backbone."""
        super().__init__()
        self.model = model
        self.dim, self.depth, self.patch_size, self.image_size = model.dim, model.depth, model.patch_size, model.image_size
        self.backbone = copy.deepcopy(backbone).requires_grad_(True)

    def tokens(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        """Patch tokens after the final norm, raster order; no class token."""
        tokens: Tensor = self.backbone(normalise(images, self.model))
        return tokens[:, 1:]

    def saliency(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n"]:
        """The attention each patch receives in the last block from all tokens, mean over heads, the class token left out; rows sum to 1."""
        return self.tokens_and_saliency(images)[1]

    def tokens_and_saliency(self, images: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b n"]]:
        """Both from one pass."""
        tokens, attention = self.backbone.last_attention(normalise(images, self.model))
        received = attention.mean(dim=(1, 2))[:, 1:]
        return tokens[:, 1:], received / received.sum(dim=1, keepdim=True)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        return self.tokens(images)

    def layer_of(self, name: str) -> int:
        return layer_of(name.removeprefix("backbone."), self.depth)

    def finetuning(self, image_size: tuple[int, int], drop_path: float = 0.0) -> nn.Module:
        """The authors' network for fine-tuning, with these weights: see `transfer.ConMIMFinetune`."""
        from .transfer import finetuning

        return finetuning(self, image_size, drop_path)
