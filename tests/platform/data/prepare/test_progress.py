"""A long search says how far it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from sightline.platform.data.prepare import progress
from sightline.platform.data.prepare.pair_sources.mine import Mine
from sightline.platform.data.prepare.pair_sources.rgbd import Rgbd
from sightline.platform.data.prepare.progress import follow, shown_by, steps
from tests.support.source_inputs import INPUTS

Shown = list[tuple[str, int, int | None]]


def test_steps_are_shown_and_end_also_where_they_are_broken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    shown: Shown = []
    with shown_by(lambda *said: shown.append(said)):
        assert list(follow("abc", "reading", 3)) == ["a", "b", "c"]
        with pytest.raises(ValueError, match="bad"), steps("placing") as step:
            step()
            raise ValueError("bad")
    assert shown[:5] == [("reading", 0, 3), ("reading", 1, 3), ("reading", 2, 3), ("reading", 3, 4), ("reading", 3, 3)]
    assert shown[5:] == [("placing", 0, None), ("placing", 1, None), ("placing", 1, 1)]
    assert list(follow("ab", "unseen")) == ["a", "b"]


@pytest.mark.parametrize(
    ("source", "name", "wanted"),
    [
        (Mine(), "pairs.mine", {"reading frames": 60, "comparing thousands of photos": 1}),
        (Rgbd(overlap=(0, 1)), "pairs.rgbd", {"comparing frames": 60}),
    ],
)
def test_looking_for_pairs_says_how_far_it_is(tmp_path: Path, source: Mine | Rgbd, name: str, wanted: dict[str, int]) -> None:
    INPUTS[name](tmp_path / "in")
    shown: Shown = []
    with shown_by(lambda *said: shown.append(said)):
        assert source.find(str(tmp_path / "in"), "x").items
    begun = {what: total for what, done, total in shown if done == 0 and total}
    assert begun.items() >= wanted.items()
    assert {what for what, done, total in shown if done == total} == {what for what, _, _ in shown}, "what begins also ends"
