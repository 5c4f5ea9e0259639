"""Single rows of a data set by their number, and which row groups are looked at."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np

from sightline.methods.random import keyed_rng
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.kinds import Row


class Rows:
    """The rows of a data set, numbered from 0 in the order of the manifest."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    @cached_property
    def starts(self) -> np.ndarray:
        """The number of the first row of each row group, and that of all rows."""
        return np.concatenate([[0], np.cumsum([rows for _, _, rows in self.dataset.row_groups])])

    def drawn(self, at_most: int | None, seed: int = 0) -> list[int]:
        """The row groups that are looked at: all, or random ones that hold about `at_most` rows, in their order."""
        count = len(self.dataset.row_groups)
        if at_most is None or self.dataset.rows <= at_most:
            return list(range(count))
        order = keyed_rng("inspect", seed).permutation(count)
        held = np.cumsum(np.diff(self.starts)[order])
        return sorted(order[: int(np.searchsorted(held, at_most)) + 1].tolist())

    def read(self, numbers: Iterable[int], columns: Sequence[str]) -> list[Row]:
        """These rows, in the order named. Raises `SightlineError` where a shard cannot be read."""
        wanted = list(numbers)
        groups = (np.searchsorted(self.starts, wanted, side="right") - 1).tolist()
        found: dict[int, Row] = {}
        for group in sorted(set(groups)):
            own = [number for number, at in zip(wanted, groups, strict=True) if at == group]
            shard, inside, _ = self.dataset.row_groups[group]
            picked = [number - int(self.starts[group]) for number in own]
            known = [name for name in columns if name in self.dataset.manifest.columns]
            found.update(zip(own, self.dataset.read(shard, inside, picked, known).to_pylist(), strict=True))
        return [found[number] for number in wanted]
