"""LOCA's encoder: the part that is kept after pre-training."""

from __future__ import annotations

import re

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..layers.colour import imagenet_normalise
from ..layers.drop_path import linear_rates
from ..layers.patches import PatchEmbed, patchify
from ..layers.positions import squeeze_table
from ..layers.transformer import EncoderBlock, layer_norm
from .config import LocaModel


class LocaEncoder(nn.Module):
    """A ViT without class token, learned positions, tanh GELU. As an `ImageEncoder` it takes float32 RGB in [0, 1] of any size that
    the patch divides; the grid of positions is resized (bilinear, antialiased). Parameter names are timm's."""

    def __init__(self, model: LocaModel) -> None:
        super().__init__()
        self.dim, self.patch_size, self.image_size, self.depth = model.encoder_dim, model.patch_size, model.image_size, model.encoder_depth
        self.grid = model.grid
        self.patch_embed = PatchEmbed(model.patch_size, model.encoder_dim)
        self.pos_embed = nn.Parameter(torch.empty(1, model.patches, model.encoder_dim))
        rates = linear_rates(model.drop_path, model.encoder_depth)
        self.blocks = nn.ModuleList(EncoderBlock(self.dim, model.encoder_heads, model.mlp_ratio, "tanh", rate) for rate in rates)
        self.norm = layer_norm(self.dim)

    def embed(self, images: Float[Tensor, "b 3 h w"], positions: bool = True, kept: Int[Tensor, " k"] | None = None) -> Tensor:
        """Tokens before the first block, b x n x d; with `kept` those of these patches alone, in this order, and no other is computed."""
        grid = images.shape[2] // self.patch_size, images.shape[3] // self.patch_size
        patches, table = patchify(images, self.patch_size), squeeze_table(self.pos_embed[0], self.grid, grid)
        if kept is not None:
            patches, table = patches[:, kept], table[kept]
        x: Tensor = self.patch_embed(patches).float()  # the residual stream stays float32 under autocast
        return x + table if positions else x

    def encode(
        self,
        images: Float[Tensor, "b 3 h w"],
        positions: bool = True,
        kept: Int[Tensor, " k"] | None = None,
        paths: Bool[Tensor, "l 2 b"] | None = None,
    ) -> Float[Tensor, "b n d"]:
        """Tokens after the final norm, of normalised images. `paths`: which branches are kept (`draw_kept`); None: all."""
        x = self.embed(images, positions, kept)
        for i, block in enumerate(self.blocks):
            x = block(x, kept=None if paths is None else paths[i])
        out: Tensor = self.norm(x)
        return out.float()

    def tokens(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        """Patch tokens of the last block after the final norm, raster order; images in [0, 1]."""
        return self.encode(imagenet_normalise(images))

    def saliency(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n"]:
        """The attention each patch receives in the last block, mean over heads and queries; rows sum to 1."""
        return self.tokens_and_saliency(images)[1]

    def tokens_and_saliency(self, images: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b n"]]:
        """Both from one pass."""
        x = self.embed(imagenet_normalise(images))
        for block in self.blocks[:-1]:
            x = block(x)
        last = self.blocks[-1]
        assert isinstance(last, EncoderBlock)
        return self.norm(last(x)).float(), last.attn.weights(last.norm1(x)).mean(dim=(1, 2))

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        return self.tokens(images)

    def layer_of(self, name: str) -> int:
        """Depth of a parameter for layer-wise learning rates: 0 (embedding), 1 .. depth (blocks), depth + 1 (final norm)."""
        if match := re.match(r"blocks\.(\d+)\.", name):
            return int(match[1]) + 1
        return self.depth + 1 if name.startswith("norm.") else 0
