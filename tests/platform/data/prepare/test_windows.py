"""Frames are held against those that follow them: every two of few, of many those at given gaps, whoever compares them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sightline.platform.data.prepare.pair_sources import rgbd
from sightline.platform.data.prepare.pair_sources.windows import GAPS, compared, read_in_order
from sightline.platform.data.prepare.workers import Where, start_workers
from tests.support.source_inputs import INPUTS

HELD = GAPS[-1] + 65
"""Views that a task needs, and one more."""


def _product(one: int, two: int) -> float | None:
    return float(one * two) if (one + two) % 3 else None


@pytest.mark.parametrize("count", [0, 1, 2, 63, 64, 65, 129, 1100, 2500])
@pytest.mark.parametrize("all_pairs", [0, 70])
def test_each_is_held_against_those_that_follow(count: int, all_pairs: int) -> None:
    gaps = range(1, count) if count <= all_pairs else GAPS
    expected = [
        (one, [(one + gap, value) for gap in gaps if one + gap < count and (value := _product(one, one + gap)) is not None])
        for one in range(count)
    ]
    read = 0

    def views() -> Iterator[int]:
        nonlocal read
        for number in range(count):
            read += 1
            yield number

    with start_workers(Where(2), 2, threads=True) as workers:
        found = []
        for one in compared(_product, views(), count, workers, all_pairs):
            found.append(one)
            assert read <= one[0] + HELD + 64 * 5, "few are held: those of the tasks that are begun"
    assert found == expected


def test_what_is_read_in_parallel_comes_in_order_and_an_error_ends_it() -> None:
    with start_workers(Where(2), 2, threads=True) as workers:
        assert list(read_in_order(str, range(200), workers)) == [str(number) for number in range(200)]
        with pytest.raises(ZeroDivisionError):
            list(read_in_order(lambda number: 1 // (150 - number), range(200), workers))


@pytest.mark.slow
def test_processes_find_what_one_thread_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder,) = INPUTS["pairs.rgbd"](tmp_path / "in")
    alone = rgbd.Rgbd().find(folder, "walk", 0, Where(1))
    monkeypatch.setattr(rgbd, "LITTLE", 1)
    several = rgbd.Rgbd().find(folder, "walk", 0, Where(2))
    assert alone.items == several.items and alone.skips == several.skips and len(alone.items) > 50
