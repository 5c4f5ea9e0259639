"""Farthest point sampling in NumPy, for views; `layers.points` has the same for tensors."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int

NEAR_ORIGIN = 1e-3
"""Squared radius in which the reference kernel (pointnet2_ops) never picks a point."""


def farthest_point_sampling(points: Float[np.ndarray, "n 3"], count: int, *, skip_origin: bool = False) -> Int[np.ndarray, " g"]:
    """Indices of `count` points: the picks of `layers.points.farthest_point_sampling` on this cloud as float32, equal distances included.

    The first picks of a larger `count` are those of a smaller one.
    """
    order = tie_order(len(points))
    x, y, z = np.ascontiguousarray(points[order].T, np.float32)
    least = np.full(len(points), np.inf, np.float32)
    if skip_origin:
        least[x * x + y * y + z * z <= np.float32(NEAR_ORIGIN)] = -1
    picks = np.zeros(count, np.int64)  # `order` begins with index 0
    for i in range(1, count):
        last = picks[i - 1]
        distance = np.square(x - x[last])
        distance += np.square(y - y[last])
        distance += np.square(z - z[last])
        np.minimum(least, distance, out=least)
        picks[i] = least.argmax()
    return np.asarray(order[picks])


@lru_cache(maxsize=16)
def tie_order(n: int) -> Int[np.ndarray, " n"]:
    """All indices, those first that win a tie. NumPy's: a tensor that is kept while a graph is exported would be none afterwards."""
    threads = min(512, 1 << (n.bit_length() - 1))
    bits = threads.bit_length() - 1
    index = np.arange(n)
    slot = index % threads
    reversed_slot = np.zeros_like(slot)
    for bit in range(bits):
        reversed_slot |= ((slot >> bit) & 1) << (bits - 1 - bit)
    return np.argsort(reversed_slot * n + index)
