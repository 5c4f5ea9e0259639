"""Which patches are hidden: True = masked, raster order. NumPy only. Counts are those of the authors' generators."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Bool

BLOCK_ASPECT = 0.3
"""Blocks are between this and its inverse as tall as they are wide."""
BLOCK_TRIES = 10

Mask = Bool[np.ndarray, "h w"]


def choose(grid: tuple[int, int], count: int, rng: np.random.Generator) -> Mask:
    """Exactly `count` cells of a (rows, columns) grid."""
    chosen = np.zeros(grid[0] * grid[1], dtype=bool)
    chosen[np.argpartition(rng.random(chosen.size), count - 1)[:count]] = True
    return chosen.reshape(grid)


def random_mask(grid: tuple[int, int], ratio: float, rng: np.random.Generator) -> Mask:
    """floor(ratio * patches) single patches."""
    return choose(grid, int(ratio * grid[0] * grid[1]), rng)


def cell_mask(cells: tuple[int, int], scale: int, ratio: float, rng: np.random.Generator) -> Mask:
    """ceil(ratio * cells) cells of `scale` x `scale` patches each, of a (rows, columns) grid of cells."""
    return cells_to_patches(choose(cells, math.ceil(ratio * cells[0] * cells[1]), rng), scale)


def cells_to_patches(cells: Bool[np.ndarray, "a b"], scale: int) -> Mask:
    return cells.repeat(scale, axis=0).repeat(scale, axis=1)


def block_mask(
    grid: tuple[int, int], count: int, least: int, rng: np.random.Generator, most: int | None = None, aspect: float = BLOCK_ASPECT
) -> Mask:
    """BEiT's rectangles of at least `least` and at most `most` patches, until `count` are hidden; never more, sometimes fewer.

    A block's area is uniform between `least` and what is left (the other way round when less is left), its shape log-uniform. It is
    taken where it fits into the grid and hides something new, but not too much; after ten vain tries for a block the mask is done.
    """
    mask = np.zeros(grid, dtype=bool)
    hidden, shapes = 0, (math.log(aspect), math.log(1 / aspect))
    while hidden < count:
        left = count - hidden if most is None else min(count - hidden, most)
        for area, shape, u, v in rng.random((BLOCK_TRIES, 4)).tolist():
            size = least + area * (left - least)
            tall = math.exp(shapes[0] + shape * (shapes[1] - shapes[0]))
            h, w = round(math.sqrt(size * tall)), round(math.sqrt(size / tall))
            if not (h < grid[0] and w < grid[1]):
                continue
            top, start = int(u * (grid[0] - h + 1)), int(v * (grid[1] - w + 1))
            block = mask[top : top + h, start : start + w]
            new = h * w - int(block.sum())
            if 0 < new <= left:
                block[:] = True
                hidden += new
                break
        else:
            break
    return mask
