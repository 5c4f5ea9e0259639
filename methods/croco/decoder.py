"""CroCo's decoder: predicts the pixels of image 1 from its visible tokens and all tokens of image 2."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..layers.positions import grid_positions, rotary_angles, sincos_table
from ..layers.transformer import DecoderBlock, layer_norm
from .config import CrocoModel


class CrocoDecoder(nn.Module):
    dec_pos_embed: Tensor

    def __init__(self, model: CrocoModel) -> None:
        super().__init__()
        dim = model.decoder_dim
        self.grid, self.rotary = model.grid, model.position == "rope"
        self.head_dim, self.base, self.f0 = dim // model.decoder_heads, model.rope_base, model.rope_f0
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        if not self.rotary:
            self.register_buffer("dec_pos_embed", sincos_table(dim, model.grid))
        self.decoder_embed = nn.Linear(model.encoder_dim, dim)
        blocks = (DecoderBlock(dim, model.decoder_heads, model.mlp_ratio, model.norm_memory) for _ in range(model.decoder_depth))
        self.dec_blocks = nn.ModuleList(blocks)
        self.dec_norm = layer_norm(dim)
        self.prediction_head = nn.Linear(dim, 3 * model.patch_size**2)

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
        rotary = rotary_y = None
        if self.rotary:
            rotary_y = rotary_angles(grid_positions(self.grid, x.device), self.head_dim, self.base, self.f0)
            rotary = rotary_y.take(order)
        else:
            x, y = x + self.dec_pos_embed[order], y + self.dec_pos_embed
        for block in self.dec_blocks:
            x = block(x, y, rotary, rotary_y)
        prediction: Tensor = self.prediction_head(self.dec_norm(x[:, first:]))
        return prediction
