"""A fixed sample of a data set, for validation and pictures: the same rows with the same draws every time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sightline.methods.contract import Stage, Views
from sightline.methods.errors import BrokenSampleError
from sightline.methods.random import key, sample_rng
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.schema import decode_row, input_columns

from .blocks import Columns, staged


def fixed_rows(dataset: Dataset, limit: int) -> list[tuple[int, int, int]]:
    """At most `limit` rows spread evenly over the data set, as (shard, row group, row)."""
    rows = [(shard, row_group, row) for shard, row_group, count in dataset.row_groups for row in range(count)]
    chosen = np.linspace(0, len(rows) - 1, min(limit, len(rows))).round().astype(int)
    return [rows[i] for i in chosen]


def fixed_microbatches(
    dataset: Dataset, views: Views, *, microbatch: int, limit: int, part: int = 0, parts: int = 1, stage: Stage | None = None
) -> Iterator[tuple[int, Columns]]:
    """(index, columns) of every `parts`-th microbatch of a fixed sample, from the `part`-th on. Broken samples are left out."""
    rows = fixed_rows(dataset, limit)
    seed = key("fixed") >> 1
    columns = input_columns(dataset.kind, views)
    for index, start in enumerate(range(0, len(rows), microbatch)):
        if index % parts != part:
            continue
        made = []
        for place, (shard, row_group, row) in enumerate(rows[start : start + microbatch], start):
            stored = dataset.read(shard, row_group, rows=[row], columns=columns).to_pylist()[0]
            try:
                made.append(views(decode_row(stored, dataset.kind, needed=columns), sample_rng(seed, place)))
            except BrokenSampleError:
                continue
        if made:
            yield index, staged({name: np.stack([views_of[name] for views_of in made]) for name in made[0]}, stage)
