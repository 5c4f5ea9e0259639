"""Loads a block: the rows that a plan names become arrays, either by `views` or from a cache of earlier results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from sightline.methods.contract import Stage, Views
from sightline.methods.errors import BrokenSampleError, SightlineError
from sightline.methods.random import sample_rng, variant_rng
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.kinds import Row
from sightline.platform.data.schema import decode_row, input_columns

from .mixed_plan import MixedPlan
from .plan import Block, Plan

Columns = dict[str, np.ndarray]
ROW_COLUMNS = ("position", "id", "broken", "source")
"""The columns of a block besides the views."""
Sample = Callable[[int, int], tuple[str, Columns]]
"""(index of a row in its block, position in the plan) -> its id and its arrays. Raises `BrokenSampleError`: `ID: reason`."""


class Samples(Protocol):
    """A source of samples: reads what a block needs once, and then gives its samples one by one."""

    def __call__(self, block: Block) -> Sample: ...


@dataclass(frozen=True)
class Made:
    """Samples made from the stored rows by `views`.

    Random draws depend on the position in the plan. With `variants` they depend on the row and on its epoch modulo `variants`, so that
    each row has this many fixed draws, whatever its neighbours are and also where it replaces a broken sample.
    """

    dataset: Dataset
    views: Views
    seed: int
    variants: int = 0

    def __call__(self, block: Block) -> Sample:
        kind, columns = self.dataset.kind, input_columns(self.dataset.kind, self.views)
        rows: list[Row] = []
        places: list[tuple[int, int, int, int]] = []
        for piece in block.pieces:
            numbers = range(piece.start, piece.stop)
            rows += self.dataset.read(piece.shard, piece.row_group, rows=numbers, columns=columns).to_pylist()
            places += [(piece.shard, piece.row_group, row, piece.epoch % max(1, self.variants)) for row in numbers]

        def sample(index: int, position: int) -> tuple[str, Columns]:
            row = rows[index]
            rng = variant_rng(self.seed, *places[index]) if self.variants else sample_rng(self.seed, position)
            try:
                return str(row["id"]), self.views(decode_row(row, kind, needed=columns), rng)
            except BrokenSampleError as error:
                raise BrokenSampleError(f"{row['id']}: {error}") from None

        return sample


@dataclass(frozen=True)
class Several:
    """Samples of several data sets: those of a block are of one."""

    sets: tuple[Samples, ...]

    def __call__(self, block: Block) -> Sample:
        return self.sets[block.source](block)


def load_block(block: Block, first_step: int, *, samples: Samples, plan: Plan | MixedPlan) -> Columns:
    """The columns of a block from `first_step` on: the arrays, `position`, `id`, `broken` ('' or the reason) and `source`.

    A broken sample is replaced by the next usable row of the block, with the random draws of the place that it takes.
    """
    sample = samples(block)
    order = block.order()
    positions = plan.positions(block)
    skip = int(np.searchsorted(positions, first_step * plan.batch))
    positions = positions[skip:]
    arrays: Columns = {}
    ids, broken = [], []
    for out, place in enumerate(range(skip, len(order))):
        reason = ""
        for index in np.roll(order, -place):
            try:
                name, made = sample(int(index), int(positions[out]))
            except BrokenSampleError as error:
                reason = reason or str(error)
                continue
            break
        else:
            raise SightlineError(
                f"no usable sample in a whole block of {len(order)} rows; the first: {reason}", "run `sightline inspect DATASET`"
            )
        put(arrays, out, made, len(positions))
        ids.append(name)
        broken.append(reason)
    source = np.full(len(positions), block.source, np.uint16)
    return {**arrays, "position": positions, "id": np.asarray(ids, object), "broken": np.asarray(broken, object), "source": source}


def put(arrays: Columns, place: int, made: Columns, count: int) -> None:
    """Write one sample at `place` into arrays for `count` samples; the first sample allocates them."""
    if not arrays:
        arrays |= {name: np.empty((count, *np.shape(value)), np.asarray(value).dtype) for name, value in made.items()}
    for name, value in made.items():
        arrays[name][place] = value


def staged(columns: Columns, stage: Stage | None) -> Columns:
    """The columns of a block, with those that the stage adds."""
    arrays = {name: column for name, column in columns.items() if name not in ROW_COLUMNS}
    return columns if stage is None or not arrays else {**columns, **stage(arrays)}
