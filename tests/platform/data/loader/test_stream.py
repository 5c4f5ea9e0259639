"""The stream: exact order, keyed draws, substitutes for broken samples; a stage, wherever it runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stages
from stages import Failing, Signed, Telling, told, unmade
from toy import TOY, write_pairs

from sightline.methods.catalog import find_method
from sightline.methods.errors import SightlineError
from sightline.platform import config
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.loader.fixed import fixed_microbatches
from sightline.platform.data.loader.plan import Plan
from sightline.platform.data.loader.stream import Microbatch, Stream, StreamResources


def stream(data: str, slots: Sequence[int] = range(6), first: int = 0, steps: int = 20, **more: Any) -> Stream:
    experiment = config.load("toy", {"data.train": data}, settings=TOY)
    dataset = Dataset.open(data)
    plan = Plan(tuple(dataset.row_groups), 0, 12, 2, block_rows=16)
    return Stream(dataset, find_method("croco").views(experiment.method_config), plan, slots, first, steps, 0, **more)


def same(one: Microbatch, two: Microbatch) -> bool:
    return one.ids == two.ids and all(np.array_equal(one.arrays[name], two.arrays[name]) for name in one.arrays)


def test_a_stream_that_starts_anywhere_gives_the_same_microbatches(toy_data: dict[str, str]) -> None:
    whole = list(stream(toy_data["data.train"]))
    later = list(stream(toy_data["data.train"], first=13))
    assert len(whole) == 20 and len(later) == 7
    assert all(same(a, b) for x, y in zip(whole[13:], later, strict=True) for a, b in zip(x, y, strict=True))


def test_ranks_see_the_slots_of_the_whole(toy_data: dict[str, str]) -> None:
    whole = list(stream(toy_data["data.train"], steps=8))
    parts = [list(stream(toy_data["data.train"], slots=slots, steps=8)) for slots in (range(0, 3), range(3, 6))]
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
def test_ray_gives_exactly_what_this_process_gives(toy_data: dict[str, str], ray_head: None) -> None:
    here = [g for step in stream(toy_data["data.train"], steps=40) for g in step]
    there = [g for step in stream(toy_data["data.train"], steps=40, resources=StreamResources(0.38, 0.38)) for g in step]
    assert all(same(a, b) for a, b in zip(here, there, strict=True))


HERE, ONE, TWO = None, StreamResources(0.38, 0.38, 1, 0.38), StreamResources(0.38, 0.38, 2, 0.38)
EVERYWHERE = [
    pytest.param(HERE, id="here"),
    pytest.param(ONE, id="one actor", marks=pytest.mark.slow),
    pytest.param(TWO, id="two actors", marks=pytest.mark.slow),
]


def head_for(resources: StreamResources | None, request: pytest.FixtureRequest) -> None:
    """Ray's actors cannot import what lies here, so the stages travel as code."""
    if resources is not None:
        request.getfixturevalue("ray_head")
        import ray.cloudpickle

        ray.cloudpickle.register_pickle_by_value(stages)


@pytest.mark.parametrize("resources", EVERYWHERE)
def test_a_stage_adds_its_columns_and_changes_nothing_else(
    resources: StreamResources | None, toy_data: dict[str, str], request: pytest.FixtureRequest
) -> None:
    """Views, ids and places are those of a stream without; what the stage says belongs to the sample beside it."""
    head_for(resources, request)
    plain = [g for step in stream(toy_data["data.train"]) for g in step]
    staged = [g for step in stream(toy_data["data.train"], resources=resources, make_stage=Telling) for g in step]
    assert len(plain) == len(staged) == 120
    processes = set()
    for one, two in zip(plain, staged, strict=True):
        assert same(one, two) and list(two.arrays) == [*one.arrays, "told", "process"]
        assert (two.step, two.slot, two.digest) == (one.step, one.slot, one.digest)
        assert np.array_equal(two.arrays["told"], told(next(iter(one.arrays.values()))))
        processes |= set(two.arrays["process"].tolist())
    assert (processes == {os.getpid()}) == (resources is None)


@pytest.mark.slow
def test_blocks_are_not_loaded_in_the_actors_of_the_stage(toy_data: dict[str, str], request: pytest.FixtureRequest) -> None:
    """Loading would then wait for the stage."""
    head_for(ONE, request)
    signed = stream(toy_data["data.train"], resources=ONE, make_stage=Telling)
    signed.views = Signed(signed.views)
    groups = [g for step in signed for g in step]
    loaders, processes = ({int(p) for g in groups for p in g.arrays[name]} for name in ("loader", "process"))
    assert not loaders & processes and os.getpid() not in loaders | processes


def test_a_stage_begins_anywhere(toy_data: dict[str, str]) -> None:
    whole = list(stream(toy_data["data.train"], make_stage=Telling))
    later = list(stream(toy_data["data.train"], first=13, make_stage=Telling))
    assert all(same(a, b) for x, y in zip(whole[13:], later, strict=True) for a, b in zip(x, y, strict=True))


@pytest.mark.parametrize("resources", EVERYWHERE[:2])
def test_the_stand_in_of_a_broken_sample_goes_through_the_stage(
    resources: StreamResources | None, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    head_for(resources, request)
    broken = str(write_pairs(tmp_path / "broken", 90, 1, broken=(7,)))
    groups = [g for step in stream(broken, max_broken=0.2, resources=resources, make_stage=Telling) for g in step]
    assert any(group.broken for group in groups)
    for group in groups:
        assert np.array_equal(group.arrays["told"], told(next(iter(group.arrays.values()))))


@pytest.mark.parametrize("resources", EVERYWHERE[:2])
@pytest.mark.parametrize(
    ("make_stage", "rows", "says", "hint"),
    [
        pytest.param(Failing, (), "the teacher sees nothing", "put a light on", id="in the stage"),
        pytest.param(unmade, (), "the teacher is gone", "find it", id="as it is made"),
        pytest.param(Telling, range(90), "no usable sample in a whole block", "sightline inspect", id="before it"),
    ],
)
def test_an_error_reaches_the_consumer_with_its_words(
    make_stage: Any,
    rows: Sequence[int],
    says: str,
    hint: str,
    resources: StreamResources | None,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    head_for(resources, request)
    data = str(write_pairs(tmp_path / "data", 90, 1, broken=tuple(rows)))
    with pytest.raises(SightlineError, match=says) as caught:
        list(stream(data, resources=resources, make_stage=make_stage))
    assert hint in caught.value.hint


def test_fixed_microbatches_go_through_the_stage(toy_data: dict[str, str]) -> None:
    dataset = Dataset.open(toy_data["data.val"])
    views = find_method("croco").views(config.load("toy", {}, settings=TOY).method_config)
    plain = list(fixed_microbatches(dataset, views, microbatch=4, limit=10))
    staged = list(fixed_microbatches(dataset, views, microbatch=4, limit=10, stage=Telling()))
    assert [index for index, _ in plain] == [index for index, _ in staged] and len(plain) == 3
    for (_, one), (_, two) in zip(plain, staged, strict=True):
        assert list(two) == [*one, "told", "process"] and all(np.array_equal(one[name], two[name]) for name in one)
        assert np.array_equal(two["told"], told(next(iter(one.values()))))
