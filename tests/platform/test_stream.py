"""The stream: exact order, keyed draws, substitutes for broken samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy import TOY, write_pairs

from sightline.methods.catalog import find_method
from sightline.methods.errors import SightlineError
from sightline.platform import config
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.plan import Plan
from sightline.platform.data.stream import Group, Stream, StreamResources


def stream(data: str, lanes: Sequence[int] = range(6), first: int = 0, steps: int = 20, **more: Any) -> Stream:
    experiment = config.load("toy", {"data.train": data}, settings=TOY)
    dataset = Dataset.open(data)
    plan = Plan(tuple(dataset.row_groups), 0, 12, 2, block_rows=16)
    return Stream(dataset, find_method("croco").views(experiment.settings), plan, lanes, first, steps, 0, **more)


def same(one: Group, two: Group) -> bool:
    return one.ids == two.ids and all(np.array_equal(one.arrays[name], two.arrays[name]) for name in one.arrays)


def test_a_stream_that_starts_anywhere_gives_the_same_groups(toy_data: dict[str, str]) -> None:
    whole = list(stream(toy_data["data.train"]))
    later = list(stream(toy_data["data.train"], first=13))
    assert len(whole) == 20 and len(later) == 7
    assert all(same(a, b) for x, y in zip(whole[13:], later, strict=True) for a, b in zip(x, y, strict=True))


def test_ranks_see_the_lanes_of_the_whole(toy_data: dict[str, str]) -> None:
    whole = list(stream(toy_data["data.train"], steps=8))
    parts = [list(stream(toy_data["data.train"], lanes=lanes, steps=8)) for lanes in (range(0, 3), range(3, 6))]
    for step in range(8):
        together = [group for part in parts for group in part[step]]
        assert all(same(a, b) for a, b in zip(whole[step], together, strict=True))


def test_digests_tell_which_samples_a_step_held(toy_data: dict[str, str]) -> None:
    groups = [group for step in stream(toy_data["data.train"], steps=10) for group in step]
    assert len({group.digest for group in groups}) == len(groups)


def test_a_broken_sample_keeps_its_place_and_is_named(tmp_path: Path, toy_data: dict[str, str]) -> None:
    broken = str(write_pairs(tmp_path / "broken", 90, 1, broken=(7,)))
    clean = [g for step in stream(toy_data["data.train"], steps=30) for g in step]
    mended = [g for step in stream(broken, steps=30, max_broken=0.2) for g in step]
    for a, b in zip(clean, mended, strict=True):
        assert len(a.ids) == len(b.ids)
        assert [x for x, y in zip(a.ids, b.ids, strict=True) if x != y] == ["1-0007"] * len(b.broken)
    named = [reason for group in mended for reason in group.broken]
    assert named and all(reason.startswith("1-0007: ") for reason in named)


def test_too_many_broken_samples_end_the_stream_with_their_share(tmp_path: Path) -> None:
    broken = str(write_pairs(tmp_path / "broken", 90, 1, broken=tuple(range(0, 90, 5))))
    with pytest.raises(SightlineError, match=r"data\.max_broken = 0\.05"):
        list(stream(broken, steps=30))


def test_leaving_a_stream_early_leaves_no_thread(toy_data: dict[str, str]) -> None:
    import threading

    steps = iter(stream(toy_data["data.train"]))
    next(steps)
    steps.close()  # type: ignore[attr-defined]
    assert not [t for t in threading.enumerate() if t.name == "sightline-stream"]


@pytest.mark.slow
def test_ray_data_gives_exactly_what_this_process_gives(toy_data: dict[str, str], ray_head: None) -> None:
    here = [g for step in stream(toy_data["data.train"], steps=40) for g in step]
    there = [g for step in stream(toy_data["data.train"], steps=40, resources=StreamResources(0.38, 0.38)) for g in step]
    assert all(same(a, b) for a, b in zip(here, there, strict=True))
