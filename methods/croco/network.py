"""CroCo's networks: the encoder, which is kept after pre-training, and the decoder."""

from __future__ import annotations

import re
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..layers.colour import imagenet_normalise
from ..layers.cross_view import CrossViewDecoder, DecoderShape
from ..layers.patches import PatchEmbed, patch_statistics, patchify
from ..layers.positions import Rotary, grid_positions, resize_table, rotary_angles, sincos_table
from ..layers.transformer import EncoderBlock, layer_norm
from .config import CrocoModel


class CrocoEncoder(nn.Module):
    """A ViT without class token. As an `ImageEncoder` it takes float32 RGB in [0, 1] of any size the patch divides.

    Rotary models need nothing for another size; the table of a cosine model is resized (bicubic).
    """

    enc_pos_embed: Tensor

    def __init__(self, model: CrocoModel) -> None:
        super().__init__()
        self.dim, self.patch_size, self.image_size = model.encoder_dim, model.patch_size, model.image_size
        self.depth = model.encoder_depth
        self.grid, self.rotary = model.grid, model.position == "rope"
        self.head_dim, self.base, self.f0 = model.encoder_dim // model.encoder_heads, model.rope_base, model.rope_f0
        self.patch_embed = PatchEmbed(model.patch_size, model.encoder_dim)
        if not self.rotary:
            self.register_buffer("enc_pos_embed", sincos_table(model.encoder_dim, model.grid))
        blocks = (EncoderBlock(model.encoder_dim, model.encoder_heads, model.mlp_ratio) for _ in range(model.encoder_depth))
        self.enc_blocks = nn.ModuleList(blocks)
        self.enc_norm = layer_norm(model.encoder_dim)

    def angles(self, grid: tuple[int, int], device: torch.device) -> Rotary | None:
        """Of all patches of a grid, n x head width; None for a cosine model."""
        return rotary_angles(grid_positions(grid, device), self.head_dim, self.base, self.f0) if self.rotary else None

    def encode_pair(
        self, visible: Float[Tensor, "b v p"], patches2: Float[Tensor, "b n p"], cells: Int[Tensor, "b v"]
    ) -> tuple[Float[Tensor, "b v d"], Float[Tensor, "b n d"]]:
        """Tokens of image 1's visible patches (at `cells` of the grid) and of all patches of image 2.

        Both views go through the blocks side by side: one matrix product for both, attention within each.
        """
        v, n = visible.shape[1], patches2.shape[1]
        x = self.patch_embed(torch.cat([visible, patches2], dim=1)).float()  # the residual stream stays float32 under autocast
        rotary = self.angles(self.grid, x.device)
        if rotary is None:
            table = self.enc_pos_embed
            x = x + torch.cat([table[cells], table.expand(x.shape[0], -1, -1)], dim=1)
        else:
            every = torch.arange(n, device=cells.device).expand(x.shape[0], n)
            rotary = rotary.take(torch.cat([cells, every], dim=1))
        for block in self.enc_blocks:
            x = block(x, rotary, [v, n])
        x1, x2 = self.enc_norm(x).split((v, n), dim=1)
        return x1, x2

    def _start(self, images: Tensor) -> tuple[Tensor, Rotary | None]:
        """Of normalised images."""
        grid = images.shape[2] // self.patch_size, images.shape[3] // self.patch_size
        x = self.patch_embed(patchify(images, self.patch_size))
        if not self.rotary:
            x = x + resize_table(self.enc_pos_embed, self.grid, grid)
        return x, self.angles(grid, images.device)

    def tokens(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        """Patch tokens of the last block after the final norm, raster order; images in [0, 1]."""
        return self.encode(imagenet_normalise(images))

    def encode(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        """`tokens` of normalised images."""
        x, rotary = self._start(images)
        for block in self.enc_blocks:
            x = block(x, rotary)
        out: Tensor = self.enc_norm(x)
        return out

    def block_tokens(self, images: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b n d"]]:
        """Patch tokens after each block, the last one after the final norm, raster order; images in [0, 1]."""
        x, rotary = self._start(imagenet_normalise(images))
        x, outputs = x.float(), []
        for block in self.enc_blocks:
            x = block(x, rotary)
            outputs.append(x)
        outputs[-1] = self.enc_norm(x)
        return outputs

    def saliency(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n"]:
        """The attention each patch receives in the last block, mean over heads and queries; rows sum to 1."""
        return self.tokens_and_saliency(images)[1]

    def tokens_and_saliency(self, images: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b n"]]:
        """Both from one pass."""
        x, rotary = self._start(imagenet_normalise(images))
        for block in self.enc_blocks[:-1]:
            x = block(x, rotary)
        last = self.enc_blocks[-1]
        assert isinstance(last, EncoderBlock)
        return self.enc_norm(last(x, rotary)), last.attn.weights(last.norm1(x), rotary).mean(dim=(1, 2))

    @property
    def branches(self) -> list[tuple[nn.Module, nn.Module]]:
        return [(block.attn, block.mlp) for block in self.enc_blocks if isinstance(block, EncoderBlock)]

    def layer_of(self, name: str) -> int:
        """Depth of a parameter for layer-wise learning rates: 0 for the patch embedding, i + 1 for block i, depth + 1 after them."""
        if match := re.match(r"enc_blocks\.(\d+)\.", name):
            return int(match[1]) + 1
        return 0 if name.startswith("patch_embed") else self.depth + 1

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        return self.tokens(images)


def decoder_shape(model: CrocoModel) -> DecoderShape:
    """Of the decoder that is pre-trained with the encoder."""
    return DecoderShape(
        encoder_dim=model.encoder_dim,
        dim=model.decoder_dim,
        depth=model.decoder_depth,
        heads=model.decoder_heads,
        grid=model.grid,
        rope=(model.rope_base, model.rope_f0) if model.position == "rope" else None,
        mlp_ratio=model.mlp_ratio,
        norm_memory=model.norm_memory,
    )


class CrocoDecoder(CrossViewDecoder):
    """Predicts the pixels of image 1 from its visible tokens and all tokens of image 2."""

    def __init__(self, model: CrocoModel) -> None:
        super().__init__(decoder_shape(model))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, model.decoder_dim))
        self.prediction_head = nn.Linear(model.decoder_dim, 3 * model.patch_size**2)

    def forward(
        self, visible: Float[Tensor, "b v d"], memory: Float[Tensor, "b n d"], order: Int[Tensor, "b n"], first: int
    ) -> Float[Tensor, "b k p"]:
        """Predicted patch vectors of the grid cells `order[:, first:]`.

        `order`: all cells of image 1, the visible ones first, in the order of `visible`. Tokens stay in this order through all
        blocks: attention does not mind, positions say where each belongs, and the hidden ones end up side by side.
        """
        embedded = self.decoder_embed(torch.cat([visible, memory], dim=1)).float()
        v1, y = embedded.split((visible.shape[1], memory.shape[1]), dim=1)
        b, n, v = *order.shape, visible.shape[1]
        x = torch.cat([v1, self.mask_token.to(v1.dtype).expand(b, n - v, -1)], dim=1)
        rotary = None
        rotary_y = self.angles(self.grid, x.device)
        if rotary_y is not None:
            rotary = rotary_y.take(order)
        else:
            x, y = x + self.dec_pos_embed[order], y + self.dec_pos_embed
        for block in self.dec_blocks:
            x = block(x, y, rotary, rotary_y)
        prediction: Tensor = self.prediction_head(self.dec_norm(x[:, first:]))
        return prediction


class Completion(NamedTuple):
    """Predicted and true patch vectors of image 1 at `cells` of the grid.

    `patches` are in the scale of the input images. `prediction` is, too, or with `normalised` in that of each patch's own mean and
    standard deviation.
    """

    prediction: Float[Tensor, "b k p"]
    patches: Float[Tensor, "b k p"]
    cells: Int[Tensor, "b k"]
    normalised: bool

    def errors(self) -> Float[Tensor, "b k"]:
        """Squared error of each patch in the scale of the prediction, mean over its values; float32."""
        return (self.prediction - self.targets()).square().mean(dim=-1)

    def targets(self) -> Float[Tensor, "b k p"]:
        """The true patches in the scale of the prediction."""
        if not self.normalised:
            return self.patches
        mean, std = patch_statistics(self.patches)
        return (self.patches - mean) / std

    def pixels(self) -> Float[Tensor, "b k p"]:
        """The prediction in the scale of the input images: with `normalised` by the true patch's mean and standard deviation."""
        if not self.normalised:
            return self.prediction
        mean, std = patch_statistics(self.patches)
        return self.prediction * std + mean
