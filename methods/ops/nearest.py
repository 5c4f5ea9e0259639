"""Nearest neighbours by a tree, in NumPy: the same as by a table of all distances, in less time."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Int

MORE = 2
"""Neighbours that are asked for besides, so that most rows need no second look."""
ROUNDING = 1e-6
"""Larger than the relative error of a squared distance in float32."""


def nearest_by_tree(centres: Float32[np.ndarray, "g 3"], points: Float32[np.ndarray, "n 3"], count: int) -> Int[np.ndarray, "g k"]:
    """Indices of the `count` nearest points of each centre by rising squared distance in float32; equal distances keep the lower index.

    The tree knows float64 distances. So its candidates are ordered again, and a row is made from all distances where a point that is
    no candidate could belong to it: points that lie equally far, such as those of a grid.
    """
    from scipy.spatial import cKDTree

    asked = min(count + MORE, len(points))
    # Not balanced: it is built once and asked once.
    far, index = cKDTree(points, balanced_tree=False, compact_nodes=False).query(centres, np.arange(1, asked + 1))
    index = np.sort(index, axis=1)
    squared = _squared(centres[:, None], points[index])
    order = np.argsort(squared, axis=1, kind="stable")[:, :count]
    found = np.take_along_axis(index, order, axis=1)
    if asked < len(points):
        last = np.take_along_axis(squared, order[:, -1:], axis=1)[:, 0]
        unsure = last >= np.square(far[:, -1]) * (1 - ROUNDING)
        if unsure.any():
            found[unsure] = np.argsort(_squared(centres[unsure, None], points), axis=1, kind="stable")[:, :count]
    return np.asarray(found, np.int64)


def _squared(a: Float32[np.ndarray, "*b 3"], b: Float32[np.ndarray, "*c 3"]) -> Float32[np.ndarray, "*d"]:
    """Coordinate by coordinate, as `layers.points.squared_distances` adds them."""
    squared = np.square(a[..., 0] - b[..., 0])
    for axis in (1, 2):
        squared += np.square(a[..., axis] - b[..., axis])
    return np.asarray(squared)
