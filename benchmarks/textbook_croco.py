"""CroCo as one writes it from the papers: the yardstick of `step.py`, fp32, nothing clever, nothing of Sightline's.

Explicit softmax attention, both views encoded one after the other, patches cut by the convolution and then hidden by a boolean mask,
mask tokens put back in raster order, every patch decoded and predicted, angles of the rotary embedding worked out in every attention.
Parameter names are those of the published checkpoints. Rotary positions (v2), normalised targets, loss on the hidden patches.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from textbook_layers import Mlp
from torch import Tensor, nn


def rotate_half(x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
    first, second = x.chunk(2, dim=-1)
    return torch.cat([-second, first], dim=-1)


def rope_1d(x: Float[Tensor, "b h n d"], positions: Int[Tensor, "b n"], base: float) -> Float[Tensor, "b h n d"]:
    """Components i and i + d/2 turned by position * base^(-2i/d)."""
    d = x.shape[-1]
    frequencies = base ** (-torch.arange(0, d, 2, device=x.device).float() / d)
    angles = positions[:, None, :, None].float() * frequencies
    angles = torch.cat([angles, angles], dim=-1)
    return x * angles.cos() + rotate_half(x) * angles.sin()


def rope_2d(x: Float[Tensor, "b h n d"], positions: Int[Tensor, "b n 2"], base: float) -> Float[Tensor, "b h n d"]:
    """The first half of each head turned by the row, the second by the column (CroCo v2, section 3.2)."""
    by_row, by_column = x.chunk(2, dim=-1)
    return torch.cat([rope_1d(by_row, positions[..., 0], base), rope_1d(by_column, positions[..., 1], base)], dim=-1)


def attend(q: Float[Tensor, "b h n d"], k: Float[Tensor, "b h m d"], v: Float[Tensor, "b h m d"]) -> Float[Tensor, "b n c"]:
    """softmax(q k^T / sqrt(d)) v, heads side by side."""
    weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1)
    out: Tensor = (weights @ v).transpose(1, 2).flatten(2)
    return out


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int, base: float) -> None:
        super().__init__()
        self.heads, self.base = heads, base
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Float[Tensor, "b n c"], positions: Int[Tensor, "b n 2"]) -> Float[Tensor, "b n c"]:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        q, k = rope_2d(q, positions, self.base), rope_2d(k, positions, self.base)
        out: Tensor = self.proj(attend(q, k, v))
        return out


class CrossAttention(nn.Module):
    def __init__(self, dim: int, heads: int, base: float) -> None:
        super().__init__()
        self.heads, self.base = heads, base
        self.projq = nn.Linear(dim, dim)
        self.projk = nn.Linear(dim, dim)
        self.projv = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)

    def split(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b h n d"]:
        b, n, c = x.shape
        return x.reshape(b, n, self.heads, c // self.heads).transpose(1, 2)

    def forward(
        self, x: Float[Tensor, "b n c"], y: Float[Tensor, "b m c"], positions: Int[Tensor, "b n 2"], positions_y: Int[Tensor, "b m 2"]
    ) -> Float[Tensor, "b n c"]:
        q = rope_2d(self.split(self.projq(x)), positions, self.base)
        k = rope_2d(self.split(self.projk(y)), positions_y, self.base)
        out: Tensor = self.proj(attend(q, k, self.split(self.projv(y))))
        return out


class EncoderBlock(nn.Module):
    def __init__(self, dim: int, heads: int, mlp_ratio: float, base: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads, base)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x: Float[Tensor, "b n c"], positions: Int[Tensor, "b n 2"]) -> Float[Tensor, "b n c"]:
        x = x + self.attn(self.norm1(x), positions)
        x = x + self.mlp(self.norm2(x))
        return x


class DecoderBlock(nn.Module):
    def __init__(self, dim: int, heads: int, mlp_ratio: float, base: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads, base)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.norm_y = nn.LayerNorm(dim, eps=1e-6)
        self.cross_attn = CrossAttention(dim, heads, base)
        self.norm3 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(
        self, x: Float[Tensor, "b n c"], y: Float[Tensor, "b m c"], positions: Int[Tensor, "b n 2"], positions_y: Int[Tensor, "b m 2"]
    ) -> Float[Tensor, "b n c"]:
        x = x + self.attn(self.norm1(x), positions)
        x = x + self.cross_attn(self.norm2(x), self.norm_y(y), positions, positions_y)
        x = x + self.mlp(self.norm3(x))
        return x


class TextbookCroco(nn.Module):
    """The two-view network with its loss."""

    def __init__(
        self,
        patch_size: int,
        enc_embed_dim: int,
        enc_depth: int,
        enc_num_heads: int,
        dec_embed_dim: int,
        dec_depth: int,
        dec_num_heads: int,
        mlp_ratio: float,
        rope_base: float,
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, enc_embed_dim, kernel_size=patch_size, stride=patch_size)})
        self.enc_blocks = nn.ModuleList(EncoderBlock(enc_embed_dim, enc_num_heads, mlp_ratio, rope_base) for _ in range(enc_depth))
        self.enc_norm = nn.LayerNorm(enc_embed_dim, eps=1e-6)
        self.decoder_embed = nn.Linear(enc_embed_dim, dec_embed_dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dec_embed_dim))
        self.dec_blocks = nn.ModuleList(DecoderBlock(dec_embed_dim, dec_num_heads, mlp_ratio, rope_base) for _ in range(dec_depth))
        self.dec_norm = nn.LayerNorm(dec_embed_dim, eps=1e-6)
        self.prediction_head = nn.Linear(dec_embed_dim, 3 * patch_size**2)

    def embed(self, image: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b n c"], Int[Tensor, "b n 2"]]:
        """Tokens of all patches in raster order, and their (row, column)."""
        x = self.patch_embed["proj"](image)
        b, _, rows, columns = x.shape
        positions = torch.cartesian_prod(torch.arange(rows, device=x.device), torch.arange(columns, device=x.device))
        return x.flatten(2).transpose(1, 2), positions.expand(b, -1, -1)

    def encode(self, x: Float[Tensor, "b n c"], positions: Int[Tensor, "b n 2"]) -> Float[Tensor, "b n c"]:
        for block in self.enc_blocks:
            x = block(x, positions)
        out: Tensor = self.enc_norm(x)
        return out

    def targets(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n p"]:
        """Pixels of each patch, channel fastest, normalised by the patch's own mean and (unbiased) variance."""
        b, c, h, w = image.shape
        p = self.patch_size
        patches = image.reshape(b, c, h // p, p, w // p, p).permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
        return (patches - patches.mean(dim=-1, keepdim=True)) / (patches.var(dim=-1, keepdim=True) + 1e-6).sqrt()

    def forward(self, image1: Float[Tensor, "b 3 h w"], image2: Float[Tensor, "b 3 h w"], mask: Bool[Tensor, "b n"]) -> Float[Tensor, ""]:
        """The loss: mean squared error over the hidden patches (`mask` True; the same number in each row)."""
        x1, positions1 = self.embed(image1)
        x2, positions2 = self.embed(image2)
        b, n, c = x1.shape
        visible = x1[~mask].reshape(b, -1, c)
        encoded1 = self.encode(visible, positions1[~mask].reshape(b, -1, 2))
        encoded2 = self.encode(x2, positions2)
        memory = self.decoder_embed(encoded2)
        x = self.mask_token.to(memory.dtype).repeat(b, n, 1)
        x[~mask] = self.decoder_embed(encoded1).flatten(0, 1)
        for block in self.dec_blocks:
            x = block(x, memory, positions1, positions2)
        prediction = self.prediction_head(self.dec_norm(x))
        error: Tensor = (prediction - self.targets(image1)).square().mean(dim=-1)
        return (error * mask).sum() / mask.sum()
