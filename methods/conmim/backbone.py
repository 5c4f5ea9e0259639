"""ConMIM's ViT, in the style of BEiT. Parameter names are those of the published checkpoints."""

from __future__ import annotations

import re

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import embedding, linear

from ..layers.attention import attend
from ..layers.colour import IMAGENET_MEAN, IMAGENET_STD, Channels, imagenet_denormalise, imagenet_normalise
from ..layers.drop_path import branch_scales, drop_path, linear_rates
from ..layers.patches import PatchEmbed, patchify
from ..layers.positions import grid_positions
from ..layers.transformer import Mlp, layer_norm
from .config import ConMIMModel
from .resize import resize_bias, resize_positions

Bias = Float[Tensor, "h n n"]


def mean_std(model: ConMIMModel) -> tuple[Channels, Channels]:
    """Of the colour channels, as the network was trained with."""
    return (IMAGENET_MEAN, IMAGENET_STD) if model.normalise == "imagenet" else ((0.5,) * 3, (0.5,) * 3)


def normalise(images: Float[Tensor, "b 3 h w"], model: ConMIMModel) -> Float[Tensor, "b 3 h w"]:
    return imagenet_normalise(images, *mean_std(model))


def denormalise(images: Float[Tensor, "b 3 h w"], model: ConMIMModel) -> Float[Tensor, "b 3 h w"]:
    return imagenet_denormalise(images, *mean_std(model))


def layer_of(name: str, depth: int) -> int:
    """Depth of a backbone parameter for layer-wise rates: 0 for tokens, positions and patch embedding, i + 1 for block i, depth + 1 for
    the rest (norms, the shared bias table, whatever comes after the blocks)."""
    if match := re.search(r"\bblocks\.(\d+)\.", name):
        return int(match[1]) + 1
    first = name.startswith("patch_embed.") or name in ("cls_token", "mask_token", "pos_embed")
    return 0 if first else depth + 1


def relative_index(grid: tuple[int, int]) -> Int[Tensor, "n n"]:
    """Row of the bias table for each query (row) and key (column); token 0 is the class token.

    Two patches: (row difference, column difference), shifted to start at 0. The last three rows are for the class token looking at a
    patch, a patch looking at it, and it looking at itself.
    """
    h, w = grid
    place = grid_positions(grid, "cpu")
    away = place[:, None] - place[None]
    index = torch.empty(h * w + 1, h * w + 1, dtype=torch.int64, device="cpu")
    index[1:, 1:] = (away[..., 0] + h - 1) * (2 * w - 1) + away[..., 1] + w - 1
    rows = table_rows(grid)
    index[0, :], index[:, 0], index[0, 0] = rows - 3, rows - 2, rows - 1
    return index


def table_rows(grid: tuple[int, int]) -> int:
    return (2 * grid[0] - 1) * (2 * grid[1] - 1) + 3


def bias_of(table: Float[Tensor, "r h"], index: Int[Tensor, "n n"]) -> Bias:
    return embedding(index, table).permute(2, 0, 1)


class SharedBias(nn.Module):
    """The table that all blocks share."""

    def __init__(self, rows: int, heads: int) -> None:
        super().__init__()
        self.relative_position_bias_table = nn.Parameter(torch.zeros(rows, heads))


class BiasedAttention(nn.Module):
    """Self-attention whose logits get a bias. One `qkv` matrix (thirds for q, k, v, heads inside each); k has no bias."""

    def __init__(self, dim: int, heads: int, rows: int | None) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.v_bias = nn.Parameter(torch.zeros(dim))
        self.relative_position_bias_table = nn.Parameter(torch.zeros(rows, heads)) if rows else None
        self.proj = nn.Linear(dim, dim)

    def project(self, x: Float[Tensor, "b n d"]) -> tuple[Tensor, Tensor, Tensor]:
        """q, k, v as b x heads x n x head width."""
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        b, n, d = x.shape
        thirds = linear(x, self.qkv.weight, bias).view(b, n, 3, self.heads, d // self.heads)
        q, k, v = thirds.permute(2, 0, 3, 1, 4).unbind(0)
        return q, k, v

    def forward(self, x: Float[Tensor, "b n d"], bias: Bias | None) -> Float[Tensor, "b n d"]:
        q, k, v = self.project(x)
        out: Tensor = self.proj(attend(q, k, v, None if bias is None else bias[None]).flatten(2))
        return out

    def weights(self, x: Float[Tensor, "b n d"], bias: Bias | None) -> Float[Tensor, "b h n n"]:
        """The attention matrix itself, float32: queries x keys, rows sum to 1."""
        q, k, _ = self.project(x)
        logits = q.float() @ k.float().transpose(-1, -2) * q.shape[-1] ** -0.5
        return torch.softmax(logits if bias is None else logits + bias.float(), dim=-1)


class Block(nn.Module):
    """Pre-norm block; each branch is scaled (`gamma_1`, `gamma_2`) before whole samples of it are dropped."""

    def __init__(self, model: ConMIMModel, rows: int | None) -> None:
        super().__init__()
        scaled = model.layer_scale is not None
        self.gamma_1 = nn.Parameter(torch.ones(model.dim)) if scaled else None
        self.gamma_2 = nn.Parameter(torch.ones(model.dim)) if scaled else None
        self.norm1 = layer_norm(model.dim)
        self.attn = BiasedAttention(model.dim, model.heads, rows)
        self.norm2 = layer_norm(model.dim)
        self.mlp = Mlp(model.dim, int(model.dim * model.mlp_ratio))

    def forward(self, x: Float[Tensor, "b n d"], bias: Bias | None, scales: Float[Tensor, "2 b"] | None = None) -> Float[Tensor, "b n d"]:
        first, second = (None, None) if scales is None else scales.unbind(0)
        seen = self.attn(self.norm1(x), bias)
        x = x + drop_path(seen if self.gamma_1 is None else self.gamma_1 * seen, first)
        thought = self.mlp(self.norm2(x))
        return x + drop_path(thought if self.gamma_2 is None else self.gamma_2 * thought, second)


class ConMIMBackbone(nn.Module):
    """Normalised images in, tokens out; the class token comes first.

    `masking`, `final_norm`: whether there are a mask token and a norm after the blocks (fine-tuning has neither).
    """

    index: Tensor

    def __init__(self, model: ConMIMModel, masking: bool = True, final_norm: bool = True) -> None:
        super().__init__()
        self.dim, self.depth, self.patch_size, self.grid = model.dim, model.depth, model.patch_size, model.grid
        self.rates = linear_rates(model.drop_path, model.depth)
        rows = table_rows(model.grid)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, model.dim))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, model.dim)) if masking else None
        self.pos_embed = nn.Parameter(torch.zeros(1, model.patches + 1, model.dim)) if model.position_table else None
        self.patch_embed = PatchEmbed(model.patch_size, model.dim)
        self.rel_pos_bias = SharedBias(rows, model.heads) if model.relative_bias in ("shared", "both") else None
        own = rows if model.relative_bias in ("per_block", "both") else None
        self.blocks = nn.ModuleList([Block(model, own) for _ in range(model.depth)])
        self.norm = layer_norm(model.dim) if final_norm else None
        if model.relative_bias != "none":
            self.register_buffer("index", relative_index(model.grid), persistent=False)

    def fill_index(self) -> None:
        """For a module that was made on the meta device: buffers follow from the grid, no state dict holds them."""
        if hasattr(self, "index"):
            self.index.copy_(relative_index(self.grid))

    def _start(self, images: Tensor, mask: Tensor | None) -> tuple[Tensor, list[Bias | None]]:
        """Tokens before the first block, and the bias of each block; tables are resized where the grid is another one."""
        grid = images.shape[2] // self.patch_size, images.shape[3] // self.patch_size
        x = self.patch_embed(patchify(images, self.patch_size)).float()  # the residual stream stays float32 under autocast
        if mask is not None:
            assert self.mask_token is not None
            x = torch.where(mask[..., None], self.mask_token, x)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
        if self.pos_embed is not None:
            x = x + resize_positions(self.pos_embed, self.grid, grid)
        return x, self._biases(grid)

    def _biases(self, grid: tuple[int, int]) -> list[Bias | None]:
        tables = [block.attn.relative_position_bias_table for block in self.blocks]  # type: ignore[union-attr]
        if self.rel_pos_bias is None and tables[0] is None:
            return [None] * self.depth
        index = self.index if grid == self.grid else relative_index(grid).to(self.index.device)
        shared = None
        if self.rel_pos_bias is not None:
            shared = bias_of(resize_bias(self.rel_pos_bias.relative_position_bias_table, self.grid, grid), index).contiguous()
        biases: list[Bias | None] = []
        for table in tables:
            own = None if table is None else bias_of(resize_bias(table, self.grid, grid), index)  # type: ignore[arg-type]
            biases.append(shared if own is None else own.contiguous() if shared is None else own + shared)
        return biases

    def blocks_out(
        self, images: Float[Tensor, "b 3 h w"], mask: Bool[Tensor, "b n"] | None = None, kept: Bool[Tensor, "l 2 b"] | None = None
    ) -> Float[Tensor, "b n1 d"]:
        """Tokens of the last block, no final norm. `mask`: True = replaced by the mask token; `kept`: branches that are not dropped."""
        x, biases = self._start(images, mask)
        for block, bias, scales in zip(self.blocks, biases, branch_scales(kept, self.rates), strict=True):
            x = block(x, bias, scales)
        return x

    def every_block(self, images: Float[Tensor, "b 3 h w"], kept: Bool[Tensor, "l 2 b"] | None = None) -> list[Float[Tensor, "b n1 d"]]:
        """Tokens after each block, no final norm, nothing masked. `kept`: branches that are not dropped."""
        x, biases = self._start(images, None)
        outputs = []
        for block, bias, scales in zip(self.blocks, biases, branch_scales(kept, self.rates), strict=True):
            x = block(x, bias, scales)
            outputs.append(x)
        return outputs

    def forward(
        self, images: Float[Tensor, "b 3 h w"], mask: Bool[Tensor, "b n"] | None = None, kept: Bool[Tensor, "l 2 b"] | None = None
    ) -> Float[Tensor, "b n1 d"]:
        """`blocks_out` after the final norm."""
        assert self.norm is not None
        out: Tensor = self.norm(self.blocks_out(images, mask, kept))
        return out

    def last_attention(self, images: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b n1 d"], Float[Tensor, "b heads n1 n1"]]:
        """(tokens as `forward` gives them, the attention of the last block: queries x keys), nothing masked."""
        x, biases = self._start(images, None)
        for block, bias in zip(self.blocks[:-1], biases[:-1], strict=True):
            x = block(x, bias)
        last = self.blocks[-1]
        assert isinstance(last, Block)
        assert self.norm is not None
        return self.norm(last(x, biases[-1])), last.attn.weights(last.norm1(x), biases[-1])
