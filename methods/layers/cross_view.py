"""The decoder of two-view networks: tokens of image 1 look at those of image 2. Parameter names are those of the published CroCo files."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .positions import Rotary, grid_positions, resize_table, rotary_angles, sincos_table
from .transformer import DecoderBlock, layer_norm

Grid = tuple[int, int]


@dataclass(frozen=True)
class DecoderShape:
    """Sizes of a decoder. `rope`: (base, f0) of rotary positions; None: the fixed table of `grid` (rows, columns)."""

    encoder_dim: int
    dim: int
    depth: int
    heads: int
    grid: Grid
    rope: tuple[float, float] | None
    mlp_ratio: float = 4.0
    norm_memory: bool = True


class CrossViewDecoder(nn.Module):
    """Blocks of self-attention, cross-attention to the other view, and MLP; the other view's tokens stay as they are through depth."""

    dec_pos_embed: Tensor

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.dim, self.depth = shape.dim, shape.depth
        self.grid, self.rope = shape.grid, shape.rope
        self.head_dim = shape.dim // shape.heads
        if shape.rope is None:
            self.register_buffer("dec_pos_embed", sincos_table(shape.dim, shape.grid))
        self.decoder_embed = nn.Linear(shape.encoder_dim, shape.dim)
        blocks = (DecoderBlock(shape.dim, shape.heads, shape.mlp_ratio, shape.norm_memory) for _ in range(shape.depth))
        self.dec_blocks = nn.ModuleList(blocks)
        self.dec_norm = layer_norm(shape.dim)

    def angles(self, grid: Grid, device: torch.device) -> Rotary | None:
        """Of all patches of a grid, n x head width; None with a table."""
        return None if self.rope is None else rotary_angles(grid_positions(grid, device), self.head_dim, *self.rope)

    def block_tokens(self, tokens: Float[Tensor, "b n e"], memory: Float[Tensor, "b n e"], grid: Grid) -> list[Float[Tensor, "b n d"]]:
        """The output of each block for all tokens of image 1, the last one after the final norm. `memory`: the encoder's of image 2.

        Both images have this (rows, columns) grid. A fixed table is resized to it (bicubic).
        """
        embedded = self.decoder_embed(torch.cat([tokens, memory], dim=1)).float()  # the residual stream stays float32 under autocast
        x, y = embedded.split((tokens.shape[1], memory.shape[1]), dim=1)
        rotary = self.angles(grid, x.device)
        if rotary is None:
            table = resize_table(self.dec_pos_embed, self.grid, grid)
            x, y = x + table, y + table
        outputs = []
        for block in self.dec_blocks:
            x = block(x, y, rotary, rotary)
            outputs.append(x)
        outputs[-1] = self.dec_norm(x)
        return outputs
