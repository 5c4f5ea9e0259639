"""Samples of fixed rows with fixed draws, for all that measures or shows: validation, visualisations, control metrics and test metrics.

One path for all of them: stored rows -> decoded samples -> views -> the method's stage -> a batch. Training has its own, in `blocks`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from sightline.methods.contract import Stage, Views
from sightline.methods.errors import BrokenSampleError
from sightline.methods.random import key, sample_rng
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.schema import decode_row, input_columns

from .blocks import Columns, staged


def spread(count: int, limit: int) -> list[int]:
    """At most `limit` of the numbers below `count`, evenly spaced, in order."""
    if count <= limit:
        return list(range(count))
    return [int(index) for index in np.linspace(0, count - 1, limit).round()]


def read_rows(dataset: Dataset, rows: Sequence[int], columns: Sequence[str] | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row number, stored row) for the rows named, which must be in increasing order; each row group is read once."""
    groups = dataset.row_groups
    starts = np.cumsum([0, *(count for _, _, count in groups)])
    located = [(int(np.searchsorted(starts, row, side="right")) - 1, row) for row in rows]
    for index, members in groupby(located, key=lambda item: item[0]):
        numbers = [row for _, row in members]
        shard, row_group, _ = groups[index]
        table = dataset.read(shard, row_group, rows=[row - int(starts[index]) for row in numbers], columns=columns)
        yield from zip(numbers, table.to_pylist(), strict=True)


@dataclass(frozen=True)
class FixedBatch:
    """Samples along dimension 0 of each column, and where they come from."""

    columns: Columns
    scenes: list[str]
    """Empty where unknown."""
    times: list[float]
    """Seconds; NaN where unknown."""


@dataclass
class SampleReader:
    """Makes batches of samples of stored rows. A broken sample is left out and counted in `broken`."""

    dataset: Dataset
    views: Views
    seed: int
    stage: Stage | None = None
    broken: int = 0

    def batches(self, rows: Sequence[int], size: int, draws: Sequence[int] | None = None) -> Iterator[FixedBatch]:
        """The usable samples of `rows` (in increasing order), `size` at a time, the last batch as many as are left.

        The draws of a sample are those of `sample_rng(seed, number)`, where `draws` holds a number for each row; by default the row itself.
        """
        needed = input_columns(self.dataset.kind, self.views)
        numbers = rows if draws is None else draws
        made: list[Columns] = []
        scenes: list[str] = []
        times: list[float] = []
        for number, (_, stored) in zip(numbers, read_rows(self.dataset, rows, [*needed, "scene", "time"]), strict=True):
            seen = {name: stored[name] for name in needed if name in stored}
            try:
                made.append(self.views(decode_row(seen, self.dataset.kind, needed=needed), sample_rng(self.seed, number)))
            except BrokenSampleError:
                self.broken += 1
                continue
            scenes.append(stored.get("scene") or "")
            times.append(float("nan") if stored.get("time") is None else float(stored["time"]))
            if len(made) == size:
                yield self._batch(made, scenes, times)
                made, scenes, times = [], [], []
        if made:
            yield self._batch(made, scenes, times)

    def _batch(self, made: list[Columns], scenes: list[str], times: list[float]) -> FixedBatch:
        columns = {name: np.stack([one[name] for one in made]) for name in made[0]}
        return FixedBatch(staged(columns, self.stage), scenes, times)


def fixed_microbatches(
    dataset: Dataset, views: Views, *, microbatch: int, limit: int, part: int = 0, parts: int = 1, stage: Stage | None = None
) -> Iterator[tuple[int, Columns]]:
    """(index, columns) of every `parts`-th microbatch of at most `limit` rows spread evenly over the data, from the `part`-th on.

    A sample's place in the whole decides its draws and its microbatch, so a broken one makes its own microbatch smaller and no other.
    """
    rows = spread(dataset.rows, limit)
    reader = SampleReader(dataset, views, key("fixed") >> 1, stage)
    for index, start in list(enumerate(range(0, len(rows), microbatch)))[part::parts]:
        places = range(start, min(start + microbatch, len(rows)))
        for batch in reader.batches([rows[place] for place in places], microbatch, places):
            yield index, batch.columns
