"""A preparation is followed on any screen: bars where it can move, lines where it cannot, and nothing of them stays."""

from __future__ import annotations

import io

import pytest

from sightline.platform.core.screen import Screen
from sightline.platform.data.prepare import bars as module
from sightline.platform.data.prepare.bars import bars


def _told(screen: Screen, out: io.StringIO) -> str:
    with bars(screen, "looking") as show:
        show("reading", 0, 1000)
        show("reading", 1, 1000)
        show("reading", 500, 1000)
        show("finding", 3, None)
        show("finding", 7, 7)
        show("reading", 1000, 1000)
    return out.getvalue()


@pytest.mark.parametrize("dumb", [False, True])
def test_without_a_terminal_that_moves_there_are_lines(monkeypatch: pytest.MonkeyPatch, dumb: bool) -> None:
    monkeypatch.setattr(module, "EVERY_SECONDS", 0.0)
    monkeypatch.setenv("TERM", "dumb" if dumb else "xterm")
    out = io.StringIO()
    lines = _told(Screen(file=out, force_terminal=dumb), out).splitlines()
    assert lines == ["reading: 1 of 1,000", "reading: 500 of 1,000, about 0 s left", "finding: 3"]


def test_a_short_preparation_says_nothing_without_a_terminal() -> None:
    out = io.StringIO()
    assert _told(Screen(file=out, force_terminal=False), out) == ""


def test_on_a_terminal_bars_go_when_they_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    out = io.StringIO()
    told = _told(Screen(file=out, force_terminal=True, width=60), out)
    assert "looking" in told and told.endswith("\x1b[1A\x1b[2K"), "the last line is erased"
