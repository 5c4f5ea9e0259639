"""The order of several data sets: exact shares, each set its own epochs, the same from anywhere and for any worker."""

from __future__ import annotations

import pickle
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from toy import TOY, write_pairs

from sightline.methods.catalog import find_method
from sightline.methods.errors import CallError
from sightline.platform import config
from sightline.platform.config.location import Mixture
from sightline.platform.data.loader.mixed_plan import MixedPlan, Shares
from sightline.platform.data.loader.stream import Microbatch, Stream
from sightline.platform.data.mixed_data import MixedData

ONE, TWO = (*((0, i, 64) for i in range(5)), (0, 5, 17)), ((0, 0, 64), (0, 1, 40))


def plan(weights: tuple[int, ...] = (3, 1), seed: int = 0, **more: int) -> MixedPlan:
    groups = (ONE, TWO, *[((0, 0, 64),)] * (len(weights) - 2))
    return MixedPlan(groups, Shares(weights), seed, **{"batch": 24, "microbatch": 6, "block_rows": 40, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize("weights", [(3, 1), (1, 1, 1), (97, 2, 1), (1820, 1070, 2015, 655, 1594), (1 << 27, 1)])
def test_every_beginning_holds_the_shares_and_the_closed_form_is_one_sequence(weights: tuple[int, ...]) -> None:
    shares, length = Shares(weights), 700
    sets = np.full(length, -1)
    for of in range(len(weights)):
        places = shares.places(of, 0, length)
        assert [shares.place(of, number) for number in (0, 1, 99)] == [places[0], places[1], places[99]]
        assert (sets[places[places < length]] == -1).all()
        sets[places[places < length]] = of
        assert [shares.count(of, n) for n in (0, 1, 50, 699)] == [(sets[:n] == of).sum() for n in (0, 1, 50, 699)]
    assert (sets >= 0).all(), "a place is empty"
    for of, weight in enumerate(weights):
        off = np.cumsum(sets == of) - np.arange(1, length + 1) * (weight / sum(weights))
        assert abs(off).max() < 1


def places(one: MixedPlan, slots: range, first: int, steps: int) -> dict[int, tuple[int, int, int, int]]:
    """Position -> (set, row group, row, epoch), as a stream reads them."""
    found = {}
    for block in one.schedule(slots, first, steps):
        rows = [(block.source, p.row_group, r, p.epoch) for p in block.pieces for r in range(p.start, p.stop)]
        for position, index in zip(one.positions(block).tolist(), block.order().tolist(), strict=True):
            if first * one.batch <= position < steps * one.batch:
                assert position not in found
                found[position] = rows[index]
    return found


def test_positions_are_filled_once_from_anywhere_and_by_any_ranks() -> None:
    one = plan()
    whole = places(one, range(4), 0, 60)
    assert sorted(whole) == list(range(60 * 24))
    assert places(one, range(4), 37, 60) == {position: row for position, row in whole.items() if position >= 37 * 24}
    assert places(one, range(2), 0, 60) | places(one, range(2, 4), 0, 60) == whole
    assert pickle.loads(pickle.dumps(one)) == one
    others = [plan(seed=1), plan(weights=(2, 1)), MixedPlan((TWO, ONE), Shares((3, 1)), 0, 24, 6, 40)]
    assert all(places(other, range(4), 0, 60) != whole for other in others)


def test_every_set_has_its_share_of_each_microbatch_and_epochs_of_its_own() -> None:
    one = plan()
    whole = places(one, range(4), 0, 60)
    for step in range(60):
        for slot in range(4):
            first = step * 24 + slot * 6
            found = Counter(whole[position][0] for position in range(first, first + 6))
            assert one.counts(slot, step) == [found[0], found[1]] and abs(found[1] - 1.5) < 1
    assert one.seen(60) == [1080, 360]
    rows = [Counter(row[:3] for row in whole.values() if row[0] == of) for of in (0, 1)]
    assert [len(seen) for seen in rows] == [337, 104]
    for seen, mean in zip(rows, (1080 / 337, 360 / 104), strict=True):
        assert max(abs(count - mean) for count in seen.values()) <= 2


def test_a_batch_holds_close_to_the_share_of_a_rare_set() -> None:
    one = plan(weights=(15, 1), batch=64, microbatch=4)
    found = {sum(one.counts(slot, step)[1] for slot in range(16)) for step in range(100)}
    assert found <= {3, 4, 5}


def test_blocks_are_of_one_set_and_smaller_by_its_share() -> None:
    blocks = list(islice(plan().schedule(range(4), 0, 100), 60))
    assert {block.rows for block in blocks if block.source == 1} < set(range(8, 24)) and max(block.rows for block in blocks) > 29


def test_a_set_that_is_too_small_for_its_share_is_named() -> None:
    with pytest.raises(CallError, match="tiny has 3 samples, and 6 of each batch"):
        MixedPlan((ONE, ((0, 0, 3),)), Shares((3, 1)), 0, 24, 6, 40, ("large", "tiny"))


def test_the_stream_mixes_and_replaces_a_broken_row_from_its_own_set(tmp_path: Path) -> None:
    here = [write_pairs(tmp_path / name, rows, seed, broken) for name, rows, seed, broken in (("a", 40, 1, ()), ("b", 24, 2, (3,)))]
    data = MixedData.open(Mixture(tuple(map(str, here)), (3, 1)), "pairs")
    views = find_method("croco").views(config.load("toy", settings=TOY).method_config)
    one = MixedPlan(tuple(tuple(each.row_groups) for each in data.sets), Shares(data.weights), 0, 8, 4, 16, data.names)

    def microbatches(first: int) -> list[Microbatch]:
        return [each for step in Stream(data, views, one, range(2), first, 12, 0, max_broken=0.2) for each in step]

    whole, later = microbatches(0), microbatches(5)
    for each in whole:
        assert each.sources is not None
        assert [name[0] for name in each.ids] == [str(1 + of) for of in each.sources], "the set of a sample is not the one it says"
    assert {reason.partition(":")[0] for each in whole for reason in each.broken} == {"2-0003"}
    assert sum(name[0] == "2" for each in whole for name in each.ids) == 12 * 2
    assert [each.ids for each in later] == [each.ids for each in whole[10:]]
    assert all(np.array_equal(a.arrays["image1"], b.arrays["image1"]) for a, b in zip(later, whole[10:], strict=True))
