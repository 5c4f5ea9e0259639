"""The order of a run's samples from several data sets: which set stands at which position, and which of its rows.

Each slot interleaves the sets by a fixed law (`Shares`), not by random draws: among the first n samples of a slot every set has its share
of n, up to a sample or two. What comes from a set is the order of a `Plan` of that set alone, so each set has epochs of its own. A block
holds rows of one set, so a broken row is replaced from its own set. Like `Plan`, it is a pure function, of seed, weights and row groups.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np

from sightline.methods.errors import CallError
from sightline.methods.random import key
from sightline.platform.config import Experiment
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.mixed_data import MixedData

from .plan import Block, Plan, RowGroups, check_batch

FEWEST_ROWS = 8
"""Of a block, however small the share of its set."""


@dataclass(frozen=True)
class Shares:
    """An endless sequence of sets in which each has its share, as evenly as can be.

    The j-th sample of a set of weight w wants the time (2j + 1) / 2w; samples stand in the order of their times, at equal times in the
    order of the sets. So places and counts have a closed form in whole numbers, and the sequence repeats after `sum(weights)` places.
    """

    weights: tuple[int, ...]

    def place(self, of: int, number: int) -> int:
        """Where the sample `number` of the set `of` stands."""
        own, time = self.weights[of], 2 * number + 1
        return sum((time * weight + own - (other > of)) // (2 * own) for other, weight in enumerate(self.weights) if other != of) + number

    def places(self, of: int, first: int, count: int) -> np.ndarray:
        """Where the samples `first` to `first + count` of the set `of` stand, int64."""
        own = self.weights[of]
        turns, within = np.divmod(np.arange(first, first + count, dtype=np.int64), own)  # within a turn the products fit 64 bits
        time = 2 * within + 1
        before = [(time * weight + own - (other > of)) // (2 * own) for other, weight in enumerate(self.weights) if other != of]
        found: np.ndarray = turns * sum(self.weights) + within + sum(before, np.zeros(count, np.int64))
        return found

    def count(self, of: int, place: int) -> int:
        """How many of the first `place` samples are of the set `of`."""
        return _count(self, of, place)


@lru_cache(1 << 12)
def _count(shares: Shares, of: int, place: int) -> int:
    """A step begins where the one before it ended."""
    own, whole = shares.weights[of], sum(shares.weights)
    number = max(0, (2 * place * own - len(shares.weights) * own - 2 * whole) // (2 * whole))  # it is not further from its share
    while shares.place(of, number) < place:
        number += 1
    return number


@dataclass(frozen=True)
class MixedPlan:
    """See the module's docstring. `sets`: the row groups of each data set; `shares`: of the samples."""

    sets: tuple[RowGroups, ...]
    shares: Shares
    seed: int
    batch: int
    microbatch: int
    block_rows: int = 256
    names: tuple[str, ...] = ()
    """Of the sets, for messages."""

    def __post_init__(self) -> None:
        check_batch(self.batch, self.microbatch)
        for number, plan in enumerate(self.plans):
            needed = -(-self.batch * self.shares.weights[number] // sum(self.shares.weights))
            if plan.rows < needed:
                name = self.names[number] if self.names else number + 1
                raise CallError(
                    f"{name} has {plan.rows} samples, and {needed} of each batch come from it",
                    "lower its weight or batch.size, or add data",
                )

    @cached_property
    def plans(self) -> tuple[Plan, ...]:
        """The order inside each set. Blocks are smaller by its share, so that those of all sets reach as far into the run."""
        whole, plans = sum(self.shares.weights), []
        for number, (groups, weight) in enumerate(zip(self.sets, self.shares.weights, strict=True)):
            rows = min(self.block_rows, max(FEWEST_ROWS, round(self.block_rows * weight / whole)))
            seed = key("mixture", self.seed, number) >> 1
            plans.append(Plan(groups, seed, self.batch, self.microbatch, rows, part=True))
        return tuple(plans)

    @property
    def slots(self) -> int:
        return self.batch // self.microbatch

    def positions(self, block: Block) -> np.ndarray:
        """Of the block's samples in the run, int64, growing."""
        first = self.shares.count(block.source, self._phase(block.slot)) + block.start
        rows = self.shares.places(block.source, first, block.rows) - self._phase(block.slot)
        found: np.ndarray = rows // self.microbatch * self.batch + block.slot * self.microbatch + rows % self.microbatch
        return found

    def counts(self, slot: int, step: int) -> list[int]:
        """How many samples of each set microbatch `slot` of this step holds."""
        first = self._phase(slot) + step * self.microbatch
        return [self.shares.count(number, first + self.microbatch) - self.shares.count(number, first) for number in range(len(self.sets))]

    def seen(self, steps: int) -> list[int]:
        """How many samples of each set the first `steps` steps hold."""
        return [sum(self._rows(number, slot, steps) for slot in range(self.slots)) for number in range(len(self.sets))]

    def schedule(self, slots: Sequence[int], first_step: int, steps: int) -> Iterator[Block]:
        """All blocks that `slots` need for the steps `[first_step, steps)`, in the order in which a consumer needs them."""
        waiting: list[tuple[int, int, int, Block]] = []
        heads: dict[tuple[int, int], Iterator[Block]] = {}

        def take(slot: int, source: int) -> None:
            block = replace(next(heads[slot, source]), source=source)
            step = int(self.positions(replace(block, pieces=block.pieces[:1]))[0]) // self.batch
            if step < steps:
                heapq.heappush(waiting, (step, slot, source, block))

        for slot in slots:
            for source, plan in enumerate(self.plans):
                heads[slot, source] = plan.blocks(slot, self._rows(source, slot, first_step))
                take(slot, source)
        while waiting:
            _, slot, source, block = heapq.heappop(waiting)
            yield block
            take(slot, source)

    def _phase(self, slot: int) -> int:
        """Where a slot begins in the sequence: spread over a turn of the rarest set, so that its samples do not come in one step."""
        return slot * sum(self.shares.weights) // (min(self.shares.weights) * self.slots)

    def _rows(self, source: int, slot: int, steps: int) -> int:
        """Samples of a set that a slot gets in its first `steps` steps."""
        phase = self._phase(slot)
        return self.shares.count(source, phase + steps * self.microbatch) - self.shares.count(source, phase)


def plan_of(experiment: Experiment, dataset: Dataset | MixedData) -> Plan | MixedPlan:
    """The order of a run's samples. Raises `CallError` where the data are too few for a batch."""
    seed, batch, block = experiment.train.seed, experiment.batch, experiment.data.block
    if isinstance(dataset, Dataset):
        return Plan(tuple(dataset.row_groups), seed, batch.size, batch.microbatch, block)
    groups = tuple(tuple(one.row_groups) for one in dataset.sets)
    return MixedPlan(groups, Shares(dataset.weights), seed, batch.size, batch.microbatch, block, dataset.names)
