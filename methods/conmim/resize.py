"""Position tables for another grid of patches: a learned table by bicubic interpolation, bias tables by a geometric spline."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import SightlineError
from ..layers.positions import resize_table

CLASS_ROWS = 3
"""The last rows of a bias table, of the class token: they have no place on the grid."""
GROWTH = (1.01, 1.5)


def resize_positions(table: Float[Tensor, "1 n d"], old: tuple[int, int], new: tuple[int, int]) -> Float[Tensor, "1 m d"]:
    """A table whose first row is the class token's, which stays; the grid's rows by bicubic interpolation."""
    if old == new:
        return table
    return torch.cat([table[:, :1], resize_table(table[0, 1:], old, new)[None]], dim=1)


def resize_bias(table: Float[Tensor, "r h"], old: tuple[int, int], new: tuple[int, int]) -> Float[Tensor, "s h"]:
    """A bias table for another (rows, columns) grid, as BEiT does it for squares: a cubic spline over offsets that grow geometrically, so
    that near neighbours keep their resolution. For a smaller grid this is nearly a crop. Each axis has its own growth. Linear, so the
    gradient reaches the table."""
    if old == new:
        return table
    heads = table.shape[1]
    maps = table[:-CLASS_ROWS].float().reshape(2 * old[0] - 1, 2 * old[1] - 1, heads)
    down, across = (torch.from_numpy(spline_matrix(2 * a - 1, 2 * b - 1)).to(maps) for a, b in zip(old, new, strict=True))
    resized = torch.einsum("ya,abh,xb->yxh", down, maps, across).flatten(0, 1)
    return torch.cat([resized.to(table.dtype), table[-CLASS_ROWS:]])


@lru_cache(maxsize=64)
def spline_matrix(source: int, target: int) -> Float[np.ndarray, "target source"]:
    """The map from values at `source` offsets to `target` offsets -(target // 2) .. target // 2, float64.

    Source offsets are the partial sums of 1, q, q^2, ..., mirrored. Targets beyond the outermost one take its value.
    """
    if source == target:
        return np.eye(source)
    if source < 4:
        raise SightlineError(
            f"a bias table of {(source + 1) // 2} patches a side is too small for a cubic spline", "build the model at its own image size"
        )
    from scipy.interpolate import make_interp_spline

    q = _growth(source // 2, target // 2)
    outward = np.cumsum(q ** np.arange(source // 2))
    offsets = np.concatenate([-outward[::-1], [0.0], outward])
    wanted = np.arange(-(target // 2), target // 2 + 1).clip(offsets[0], offsets[-1])
    matrix: np.ndarray = make_interp_spline(offsets, np.eye(source), k=3)(wanted)
    return matrix


def _growth(terms: int, reach: int) -> float:
    """q for which 1 + q + ... + q^(terms - 1) = reach, by bisection inside `GROWTH`; its edge where there is none inside."""
    low, high = GROWTH
    q = low
    while high - low > 1e-6:
        q = (low + high) / 2
        if (q ** np.arange(terms)).sum() > reach:
            high = q
        else:
            low = q
    return q
