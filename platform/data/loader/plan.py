"""The plan says which row stands at which position of a run. It is endless and a pure function of seed, row groups and batch sizes.

A run's samples are dealt to *slots*, one for each microbatch of a step (`batch.size / batch.microbatch`). A slot is an endless sequence of
rows: the row groups of the data set in a new keyed order every epoch, dealt to the slots in turn, then shuffled inside *blocks* of
about `block_rows` rows. An epoch's tail joins the next epoch's head. Slot `g` feeds microbatch `g` of every step, so

    position = step * batch + g * microbatch + i        <->        row `step * microbatch + i` of slot `g`.

The order does not depend on the number of workers, a worker reads only the row groups of the slots it trains, each block costs one
read of its row groups, and any position is found again from a few integers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

import numpy as np

from sightline.methods.errors import CallError
from sightline.methods.random import keyed_rng

PLAN_VERSION = 1
"""Stored in every checkpoint: a run is not resumed under another version of the plan."""


@dataclass(frozen=True)
class Piece:
    """Consecutive rows of one row group, the unit that is dealt to slots."""

    shard: int
    row_group: int
    start: int
    stop: int
    epoch: int = 0
    """How often these rows came before."""

    @property
    def rows(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Block:
    """The unit of reading, shuffling and decoding: consecutive rows `[start, stop)` of a slot, as (piece, row in its row group)."""

    slot: int
    start: int
    pieces: tuple[Piece, ...]
    key: tuple[int, int, int]
    source: int = 0
    """The number of its data set, where a run has several."""

    @property
    def rows(self) -> int:
        return sum(piece.rows for piece in self.pieces)

    @property
    def stop(self) -> int:
        return self.start + self.rows

    def order(self) -> np.ndarray:
        """The shuffle of this block: indices into its rows in the order of `pieces`."""
        return keyed_rng("block", *self.key).permutation(self.rows)


RowGroups = tuple[tuple[int, int, int], ...]
"""(shard, row group, rows), as in `Dataset.row_groups`."""


def check_batch(batch: int, microbatch: int) -> None:
    """Raises `CallError` where microbatches do not make a batch."""
    if batch % microbatch:
        raise CallError(
            f"batch.size = {batch} is no multiple of batch.microbatch = {microbatch}",
            f"use for example batch.size={microbatch * max(1, round(batch / microbatch))}",
        )


@dataclass(frozen=True)
class Plan:
    """The order of a run's samples; see the module's docstring."""

    row_groups: RowGroups
    seed: int
    batch: int
    microbatch: int
    block_rows: int = 256
    part: bool = False
    """Whether a batch takes but a part of its samples from it."""

    def __post_init__(self) -> None:
        check_batch(self.batch, self.microbatch)
        if self.rows < self.batch and not self.part:
            fits = self.rows // self.microbatch * self.microbatch or self.rows
            raise CallError(
                f"the data set has {self.rows} samples, one batch needs {self.batch}",
                f"set batch.size={fits} batch.microbatch={min(self.microbatch, fits)} or less, or add data",
            )

    @property
    def rows(self) -> int:
        return sum(rows for _, _, rows in self.row_groups)

    @property
    def slots(self) -> int:
        return self.batch // self.microbatch

    @property
    def pieces(self) -> tuple[Piece, ...]:
        return _pieces(self.row_groups, self.slots, self.block_rows)

    def position(self, slot: int, row: int) -> int:
        return row // self.microbatch * self.batch + slot * self.microbatch + row % self.microbatch

    def positions(self, block: Block) -> np.ndarray:
        """Of the block's samples in the run, int64, growing."""
        rows = np.arange(block.start, block.stop, dtype=np.int64)
        return rows // self.microbatch * self.batch + block.slot * self.microbatch + rows % self.microbatch

    def counts(self, slot: int, step: int) -> list[int]:
        """How many samples of each data set microbatch `slot` of a step holds: of the only one, all."""
        return [self.microbatch]

    def blocks(self, slot: int, first_row: int) -> Iterator[Block]:
        """The endless blocks of a slot, from the one that holds its row `first_row`."""
        start = 0
        gathered: list[Piece] = []
        for piece in self._pieces_of(slot):
            gathered.append(piece)
            rows = sum(p.rows for p in gathered)
            if rows < self.block_rows:
                continue
            if start + rows > first_row:
                yield Block(slot, start, tuple(gathered), (self.seed, slot, start))
            start += rows
            gathered = []

    def schedule(self, slots: Sequence[int], first_step: int, steps: int) -> Iterator[Block]:
        """All blocks that `slots` need for the steps `[first_step, steps)`, in the order in which a consumer needs them."""
        heads = {slot: self.blocks(slot, first_step * self.microbatch) for slot in slots}
        pending = {slot: next(blocks) for slot, blocks in heads.items()}
        end = steps * self.microbatch
        while pending:
            slot = min(pending, key=lambda name: (pending[name].start // self.microbatch, name))
            block = pending.pop(slot)
            if block.start < end:
                yield block
                pending[slot] = next(heads[slot])

    def _pieces_of(self, slot: int) -> Iterator[Piece]:
        """The endless pieces of a slot: every `slots`-th piece of all epochs, each epoch in its own order."""
        pieces = self.pieces
        offset = slot
        epoch = 0
        while True:
            if offset < len(pieces):
                order = keyed_rng("epoch", self.seed, epoch).permutation(len(pieces))
                for index in order[offset :: self.slots]:
                    yield replace(pieces[index], epoch=epoch)
            taken = max(0, -(-(len(pieces) - offset) // self.slots))
            offset += taken * self.slots - len(pieces)
            epoch += 1


@lru_cache(maxsize=8)
def _pieces(row_groups: RowGroups, slots: int, block_rows: int) -> tuple[Piece, ...]:
    """The row groups, cut where they are larger than a block, or so few that a slot would get fewer than 4 pieces of an epoch."""
    total = sum(rows for _, _, rows in row_groups)
    most = max(1, min(block_rows, total // (4 * slots)))
    pieces = []
    for shard, row_group, rows in row_groups:
        parts = -(-rows // most) if rows > most else 1
        bounds = [rows * i // parts for i in range(parts + 1)]
        pieces += [Piece(shard, row_group, a, b) for a, b in pairwise(bounds) if b > a]
    return tuple(pieces)
