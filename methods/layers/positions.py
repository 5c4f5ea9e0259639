"""Positions of patches: sine-cosine tables and rotary embedding in two dimensions. Rows come first everywhere but inside the table."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import interpolate


class Rotary(NamedTuple):
    """Cosine and signed sine of every angle, float32, ready to multiply: made once per forward, shared by all blocks."""

    cos: Float[Tensor, "*b n d"]
    sin: Float[Tensor, "*b n d"]

    def take(self, order: Int[Tensor, "b k"]) -> Rotary:
        """The rows of an unbatched `Rotary` in another order for each sample: b x k x d."""
        return Rotary(self.cos[order], self.sin[order])


def sincos_table(dim: int, grid: tuple[int, int]) -> Float[Tensor, "n dim"]:
    """The fixed table of a (rows, columns) grid, raster order, computed in float64 on the CPU (also inside a device context).

    A row is [e(column), e(row)], column first, with e(c) = [sin(c w), cos(c w)] and w_i = 10000^(-i / (dim / 4)).
    """
    if dim % 4:
        raise ValueError(f"a sine-cosine table needs a width divisible by 4, not {dim}")
    w = 10000.0 ** (-torch.arange(dim // 4, dtype=torch.float64, device="cpu") / (dim / 4))
    row, column = grid_positions(grid, "cpu").double().unbind(-1)
    halves = [part for c in (column, row) for part in (torch.sin(c[:, None] * w), torch.cos(c[:, None] * w))]
    return torch.cat(halves, dim=1).float()


def resize_table(table: Float[Tensor, "n d"], old: tuple[int, int], new: tuple[int, int]) -> Float[Tensor, "m d"]:
    """A table for another (rows, columns) grid: bicubic, half-pixel centres, no antialias, as CroCo's authors do it."""
    if old == new:
        return table
    maps = table.float().reshape(1, *old, table.shape[1]).permute(0, 3, 1, 2)
    resized = interpolate(maps, size=new, mode="bicubic", align_corners=False)
    return resized.permute(0, 2, 3, 1).flatten(0, 2).to(table.dtype)


def squeeze_table(table: Float[Tensor, "n d"], old: tuple[int, int], new: tuple[int, int]) -> Float[Tensor, "m d"]:
    """A table for another (rows, columns) grid: bilinear, half-pixel centres, with antialias where it shrinks, as JAX resizes images."""
    if old == new:
        return table
    maps = table.float().reshape(1, *old, table.shape[1]).permute(0, 3, 1, 2)
    resized = interpolate(maps, size=new, mode="bilinear", align_corners=False, antialias=True)
    return resized.permute(0, 2, 3, 1).flatten(0, 2)


def grid_positions(grid: tuple[int, int], device: torch.device | str | None = None) -> Int[Tensor, "n 2"]:
    """(row, column) of each cell of a (rows, columns) grid, raster order."""
    rows, columns = torch.arange(grid[0], device=device), torch.arange(grid[1], device=device)
    return torch.stack([rows.repeat_interleave(grid[1]), columns.repeat(grid[0])], dim=1)


def rotary_angles(positions: Int[Tensor, "*b n 2"], head_dim: int, base: float = 100.0, f0: float = 1.0) -> Rotary:
    """RoPE in two dimensions: the first half of a head turns with the row, the second with the column.

    Angles, cosines and sines are float32 whatever the tokens are, for any integer positions, negative ones included.
    In a half of width 2q, f_i = f0 * base^(-i/q) and components i and i+q form the pair.
    """
    if head_dim % 4:
        raise ValueError(f"rotary embedding in two dimensions needs a head width divisible by 4, not {head_dim}")
    quarter = head_dim // 4
    steps = torch.arange(quarter, device=positions.device, dtype=torch.float32)
    angles = positions.float()[..., None] * (f0 * base ** (-steps / quarter))
    cos, sin = torch.cos(angles), torch.sin(angles)
    return Rotary(torch.cat([cos, cos], -1).flatten(-2), torch.cat([-sin, sin], -1).flatten(-2))


def rotate(x: Float[Tensor, "*x d"], cos: Float[Tensor, "*c d"], sin: Float[Tensor, "*c d"]) -> Float[Tensor, "*x d"]:
    """`x` turned by the angles of a `Rotary`, whose tensors must broadcast to `x`. Out of place, in the dtype of `x`."""
    a, b, c, d = x.chunk(4, dim=-1)
    partner = torch.cat([b, a, d, c], dim=-1)
    return x * cos.to(x.dtype) + partner * sin.to(x.dtype)
