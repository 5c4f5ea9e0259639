"""Pre-norm transformer blocks. Parameter names are those of the published CroCo checkpoints."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import gelu

from .attention import attend
from .drop_path import drop_path
from .positions import Rotary, rotate

NORM_EPS = 1e-6
Gelu = Literal["none", "tanh"]
"""How GELU is approximated, in PyTorch's words: not at all (erf), or by a tanh, as in the networks that come from JAX."""


def layer_norm(dim: int) -> nn.LayerNorm:
    return nn.LayerNorm(dim, eps=NORM_EPS)


class Attention(nn.Module):
    """Self-attention with one `qkv` matrix: thirds for q, k, v, heads inside each third."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def project(self, x: Float[Tensor, "b n d"], rotary: Rotary | None) -> tuple[Tensor, Tensor, Tensor]:
        """q, k, v as b x heads x n x head width; q and k turned."""
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))
        if rotary is None:
            q, k, v = qkv.unbind(2)
        else:
            cos, sin = (t[..., None, None, :] for t in rotary)
            qk, v = torch.split(qkv, [2, 1], dim=2)
            q, k = rotate(qk, cos, sin).unbind(2)
            v = v.squeeze(2)
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)

    def forward(self, x: Float[Tensor, "b n d"], rotary: Rotary | None = None, segments: list[int] | None = None) -> Float[Tensor, "b n d"]:
        """`segments`: lengths of sequences that lie side by side in `x` and do not see each other; default one sequence."""
        q, k, v = self.project(x, rotary)
        if segments is None:
            seen = attend(q, k, v)
        else:
            split = zip(*(torch.split(t, segments, dim=2) for t in (q, k, v)), strict=True)
            seen = torch.cat([attend(*qkv) for qkv in split], dim=1)
        out: Tensor = self.proj(seen.flatten(2))
        return out

    def weights(self, x: Float[Tensor, "b n d"], rotary: Rotary | None = None) -> Float[Tensor, "b h n n"]:
        """The attention matrix itself, float32: queries x keys, rows sum to 1."""
        q, k, _ = self.project(x, rotary)
        return torch.softmax(q.float() @ k.float().transpose(-1, -2) * q.shape[-1] ** -0.5, dim=-1)


class CrossAttention(nn.Module):
    """Attention from `x` to a memory `y`, each with its own positions."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.projq = nn.Linear(dim, dim)
        self.projk = nn.Linear(dim, dim)
        self.projv = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)

    def forward(
        self, x: Float[Tensor, "b n d"], y: Float[Tensor, "b m d"], rotary: Rotary | None = None, rotary_y: Rotary | None = None
    ) -> Float[Tensor, "b n d"]:
        q, k, v = (t.unflatten(-1, (self.heads, -1)) for t in (self.projq(x), self.projk(y), self.projv(y)))
        if rotary is not None and rotary_y is not None:
            q = rotate(q, *(t[..., None, :] for t in rotary))
            k = rotate(k, *(t[..., None, :] for t in rotary_y))
        seen = attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        out: Tensor = self.proj(seen.flatten(2))
        return out


class Mlp(nn.Module):
    def __init__(self, dim: int, hidden: int, approximate: Gelu = "none") -> None:
        super().__init__()
        self.approximate = approximate
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        out: Tensor = self.fc2(gelu(self.fc1(x), approximate=self.approximate))
        return out


class EncoderBlock(nn.Module):
    def __init__(self, dim: int, heads: int, mlp_ratio: float, approximate: Gelu = "none") -> None:
        super().__init__()
        self.norm1 = layer_norm(dim)
        self.attn = Attention(dim, heads)
        self.norm2 = layer_norm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), approximate)

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        rotary: Rotary | None = None,
        segments: list[int] | None = None,
        scales: Float[Tensor, "2 b"] | None = None,
    ) -> Float[Tensor, "b n d"]:
        """`scales`: of the attention branch and the MLP branch of each sample, from `branch_scales`."""
        first, second = (None, None) if scales is None else scales.unbind(0)
        x = x + drop_path(self.attn(self.norm1(x), rotary, segments), first)
        x = x + drop_path(self.mlp(self.norm2(x)), second)
        return x


class CrossBlock(nn.Module):
    """Cross-attention to a memory, then an MLP; no self-attention."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float, approximate: Gelu = "none") -> None:
        super().__init__()
        self.norm1 = layer_norm(dim)
        self.norm_y = layer_norm(dim)
        self.cross_attn = CrossAttention(dim, heads)
        self.norm2 = layer_norm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), approximate)

    def forward(self, x: Float[Tensor, "b n d"], y: Float[Tensor, "b m d"]) -> Float[Tensor, "b n d"]:
        x = x + self.cross_attn(self.norm1(x), self.norm_y(y))
        x = x + self.mlp(self.norm2(x))
        return x


class DecoderBlock(nn.Module):
    """Self-attention, cross-attention to a memory that stays as it is through all blocks, MLP."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float, norm_memory: bool) -> None:
        super().__init__()
        self.norm1 = layer_norm(dim)
        self.attn = Attention(dim, heads)
        self.norm2 = layer_norm(dim)
        self.cross_attn = CrossAttention(dim, heads)
        self.norm3 = layer_norm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.norm_y = layer_norm(dim) if norm_memory else nn.Identity()

    def forward(
        self, x: Float[Tensor, "b n d"], y: Float[Tensor, "b m d"], rotary: Rotary | None = None, rotary_y: Rotary | None = None
    ) -> Float[Tensor, "b n d"]:
        x = x + self.attn(self.norm1(x), rotary)
        x = x + self.cross_attn(self.norm2(x), self.norm_y(y), rotary, rotary_y)
        x = x + self.mlp(self.norm3(x))
        return x
