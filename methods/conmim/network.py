"""ConMIM's network: backbone and projector, which student and teacher both are, and the encoder that is kept."""

from __future__ import annotations

import copy

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from .backbone import ConMIMBackbone, layer_of, mean_std, normalise
from .config import ConMIMModel
from .transfer import ConMIMFinetune, finetuning


def projector(model: ConMIMModel) -> nn.Sequential:
    """Tokens as rows in, features out. BatchNorm takes all tokens of a microbatch for its rows, the class token's among them."""
    hidden, out = model.projector_hidden, model.projector_dim
    return nn.Sequential(
        nn.Linear(model.dim, hidden, bias=False),
        nn.BatchNorm1d(hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden, bias=False),
        nn.BatchNorm1d(hidden),
        nn.ReLU(),
        nn.Linear(hidden, out, bias=False),
        nn.BatchNorm1d(out, affine=False),
    )


class ConMIMNetwork(nn.Module):
    """Backbone and projector: what student and teacher both are."""

    def __init__(self, model: ConMIMModel) -> None:
        super().__init__()
        self.backbone = ConMIMBackbone(model)
        self.projectors = projector(model)

    def forward(
        self, images: Float[Tensor, "b 3 h w"], mask: Bool[Tensor, "b n"] | None = None, kept: Bool[Tensor, "l 2 b"] | None = None
    ) -> tuple[Float[Tensor, "b n1 d"], Float[Tensor, "b n p"]]:
        """(backbone tokens, the class token first; projected patch tokens, not normalised)."""
        tokens = self.backbone(images, mask, kept)
        projected = self.projectors(tokens.flatten(0, 1)).unflatten(0, tokens.shape[:2])
        return tokens, projected[:, 1:]


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

    def block_tokens(self, images: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b n d"]]:
        """Patch tokens after each block, the last one after the final norm."""
        blocks = self.backbone.every_block(normalise(images, self.model))
        assert self.backbone.norm is not None
        return [tokens[:, 1:] for tokens in (*blocks[:-1], self.backbone.norm(blocks[-1]))]

    def saliency(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n"]:
        """The attention each patch receives in the last block from all tokens, mean over heads, the class token left out; rows sum to 1."""
        return self.tokens_and_saliency(images)[1]

    def tokens_and_saliency(self, images: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b n"]]:
        """Both from one pass."""
        tokens, attention = self.backbone.last_attention(normalise(images, self.model))
        received = attention.mean(dim=(1, 2))[:, 1:]
        return tokens[:, 1:], received / received.sum(dim=1, keepdim=True)

    def tokens_and_attention(self, images: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b n"]]:
        """The class token's attention in the last block as it is, mean over heads, without what it gives itself."""
        tokens, attention = self.backbone.last_attention(normalise(images, self.model))
        return tokens[:, 1:], attention.mean(dim=1)[:, 0, 1:]

    @property
    def mean(self) -> Float[Tensor, "3 1 1"]:
        return torch.tensor(mean_std(self.model)[0]).view(3, 1, 1)

    @property
    def std(self) -> Float[Tensor, "3 1 1"]:
        return torch.tensor(mean_std(self.model)[1]).view(3, 1, 1)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        return self.tokens(images)

    def layer_of(self, name: str) -> int:
        return layer_of(name.removeprefix("backbone."), self.depth)

    def finetuning(self, image_size: tuple[int, int], drop_path: float = 0.0) -> ConMIMFinetune:
        """The authors' network for fine-tuning, with these weights."""
        return finetuning(self.backbone, self.model, image_size, drop_path)
