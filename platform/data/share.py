"""A share of a data set's rows (`data.fraction`): drawn by their ids, so a larger share of the same seed holds every smaller one."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from sightline.methods.random import key


@dataclass(frozen=True)
class Share:
    """Which rows are kept. It depends on ids, labels, fraction and seed alone: not on the order of the rows, nor on what learns from them.

    Every row has a place in line by the hash of seed and id. Of each class the first `fraction` are kept, rounded to the nearest and at
    least one, so that classes keep their proportions; rows without a label are a class of their own.
    """

    fraction: float
    seed: int = 0

    def places(self, ids: Iterable[str]) -> np.ndarray:
        """uint64 by row: the smaller, the earlier it is taken."""
        return np.fromiter((key("share", self.seed, name) for name in ids), np.uint64)

    def kept(self, places: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Boolean by row. `labels`: int64, one for each row."""
        kept = np.zeros(len(places), bool)
        order = np.lexsort((places, labels))  # by label, then by place
        starts = np.flatnonzero(np.diff(labels[order], prepend=labels[order[0]] - 1)) if len(order) else order
        for first, last in zip(starts, [*starts[1:], len(order)], strict=True):
            kept[order[first : first + self.count(int(last - first))]] = True
        return kept

    def count(self, rows: int) -> int:
        """Rows that are kept of `rows` in one class."""
        return min(rows, max(1, math.floor(self.fraction * rows + 0.5)))

    def named(self, whole: str) -> str:
        """What a fingerprint of the share is taken of, from that of the `whole` data set."""
        return f"{whole} share {self.fraction!r} {self.seed}"
