"""The plan: endless, exact, the same from any starting point and for any number of workers."""

from __future__ import annotations

from collections import Counter
from itertools import islice, pairwise

import numpy as np
import pytest

from sightline.methods.errors import CallError
from sightline.platform.data.loader.plan import Plan

GROUPS = (*((0, i, 64) for i in range(5)), (0, 5, 17))


def rows_of(plan: Plan, slot: int, first: int, count: int) -> list[tuple[int, int, int]]:
    """(shard, row group, row) of `count` slot rows from `first` on, as the stream would read them."""
    found: list[tuple[int, int, int]] = []
    for block in plan.blocks(slot, first):
        rows = [(p.shard, p.row_group, r) for p in block.pieces for r in range(p.start, p.stop)]
        shuffled = [rows[i] for i in block.order()]
        found += shuffled[max(0, first - block.start) :]
        if len(found) >= count:
            return found[:count]
    raise AssertionError


def test_every_row_is_seen_equally_often_up_to_one_epoch_of_drift() -> None:
    plan = Plan(GROUPS, seed=0, batch=32, microbatch=16)
    seen = Counter(row for slot in range(2) for row in rows_of(plan, slot, 0, 337 * 10))
    assert len(seen) == 337
    assert all(abs(count - 20) <= 2 for count in seen.values())  # slots drift by a fraction of an epoch, blocks shuffle across its end


def test_a_slot_continues_anywhere_as_if_read_from_the_start() -> None:
    plan = Plan(GROUPS, seed=3, batch=12, microbatch=2, block_rows=50)
    whole = rows_of(plan, 4, 0, 900)
    for first in (1, 49, 50, 333, 800):
        assert rows_of(plan, 4, first, 60) == whole[first : first + 60]


def test_order_depends_on_seed_and_epoch_and_is_shuffled() -> None:
    one, two = Plan(GROUPS, 0, 16, 16), Plan(GROUPS, 1, 16, 16)
    first, second = rows_of(one, 0, 0, 337), rows_of(one, 0, 337, 337)
    assert first != rows_of(two, 0, 0, 337)
    assert first != second
    assert first != sorted(first)


def test_each_epoch_deals_the_row_groups_in_an_order_of_its_own() -> None:
    """Not only the shuffle inside a block: else rows that once met in a block would meet in every epoch."""
    plan = Plan(GROUPS, seed=0, batch=16, microbatch=16, block_rows=16)
    dealt = [(p.row_group, p.start) for block in islice(plan.blocks(0, 0), 120) for p in block.pieces]
    count = len(plan.pieces)
    epochs = [dealt[i * count : (i + 1) * count] for i in range(4)]
    assert all(sorted(epoch) == sorted(epochs[0]) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_blocks_come_in_the_order_of_need_and_cover_exactly_the_steps() -> None:
    plan = Plan(GROUPS, seed=0, batch=32, microbatch=8, block_rows=40)
    blocks = list(plan.schedule([1, 3], first_step=7, steps=60))
    needs = [max(block.start, 7 * 8) // 8 for block in blocks]
    assert all(b >= a - 8 for a, b in pairwise(needs))
    for slot in (1, 3):
        mine = [b for b in blocks if b.slot == slot]
        assert mine[0].start <= 56 < mine[0].stop
        assert mine[-1].start < 480 <= mine[-1].stop
        assert all(a.stop == b.start for a, b in pairwise(mine))


def test_positions_of_a_step_are_the_batch_whatever_the_slots() -> None:
    plan = Plan(GROUPS, seed=0, batch=12, microbatch=4)
    step = [plan.position(slot, 5 * 4 + i) for slot in range(3) for i in range(4)]
    assert step == list(range(60, 72))


def test_the_plan_is_pinned() -> None:
    """A change here changes what every unfinished run would see next: raise PLAN_VERSION with it."""
    plan = Plan(GROUPS, seed=5, batch=8, microbatch=4, block_rows=32)
    assert [(b.slot, b.start, b.rows) for b in islice(plan.schedule([0, 1], 0, 100), 3)] == [(0, 0, 32), (1, 0, 32), (0, 32, 32)]
    assert np.array_equal(next(plan.blocks(0, 0)).order()[:6], PINNED)


PINNED = [13, 21, 18, 31, 5, 15]


def test_large_row_groups_are_cut_to_blocks() -> None:
    plan = Plan(((0, 0, 5000), (0, 1, 5000)), seed=0, batch=8, microbatch=8, block_rows=100)
    assert all(block.rows <= 200 for block in islice(plan.blocks(0, 0), 50))


@pytest.mark.parametrize(("batch", "group", "word"), [(30, 16, "no multiple"), (512, 16, "337 samples")])
def test_impossible_batches_are_refused_with_the_arithmetic(batch: int, group: int, word: str) -> None:
    with pytest.raises(CallError, match=word) as caught:
        Plan(GROUPS, 0, batch, group)
    assert "batch.size" in caught.value.hint
