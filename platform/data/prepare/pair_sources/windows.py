"""Frames of a sequence held against those that follow them, by the workers of the preparation."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import NamedTuple, TypeVar

from ..progress import steps
from ..workers import Workers

T = TypeVar("T")
V = TypeVar("V")
GAPS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
"""Candidates lie this many frames ahead: near and far ones at a cost that stays linear in the number of frames."""
LITTLE = 2000
"""So many comparisons take less than the start of processes."""
_FIRSTS = 64
"""Frames of a task that are held against those that follow them."""
_READ = 64
"""Frames that a task reads."""


class _Window(NamedTuple):
    """Some frames of a sequence, by number, and which two of them are compared."""

    views: dict[int, object]
    firsts: range
    gaps: Sequence[int]
    """Frames that follow, as far as there are any."""


def comparisons(frames: int, all_pairs: int = 0) -> int:
    """How many are made of so many frames."""
    return frames * (frames - 1) // 2 if frames <= all_pairs else frames * len(GAPS)


def read_in_order(read: Callable[[T], V], items: Iterable[T], workers: Workers) -> Iterator[V]:
    """What `read` makes of each; a task has some of them."""
    items = iter(items)
    parts = iter(lambda: list(islice(items, _READ)), [])
    for found in workers.in_order(partial(_each, read), parts):
        yield from found


def _each(read: Callable[[T], V], items: Sequence[T]) -> list[V]:
    return [read(item) for item in items]


def compared(
    share: Callable[[V, V], float | None], views: Iterator[V], total: int, workers: Workers, all_pairs: int = 0
) -> Iterator[tuple[int, list[tuple[int, float]]]]:
    """(number of a frame, (number of a later one, what they share) of all that share something), frame by frame.

    Every two of up to `all_pairs` frames are compared, and of more those that lie `GAPS` apart. `total`: about how many there are.
    """
    with steps("comparing frames", total) as step:
        for found in workers.in_order(partial(_compare, share), _windows(views, all_pairs)):
            for one in found:
                yield one
                step()


def _windows(views: Iterator[V], all_pairs: int) -> Iterator[_Window]:
    """Few frames are held: as many as a task needs."""
    held = deque(islice(views, all_pairs + 1))
    whole = len(held) <= all_pairs
    gaps = range(1, len(held)) if whole else GAPS
    firsts = max(1, _FIRSTS * len(GAPS) // max(1, len(gaps)))
    start = 0
    while held:
        if not whole:
            held.extend(islice(views, GAPS[-1] + firsts - len(held)))
        own = range(start, start + min(firsts, len(held)))
        needed = {place for first in range(len(own)) for gap in (0, *gaps) if (place := first + gap) < len(held)}
        yield _Window({start + place: view for place, view in enumerate(held) if place in needed}, own, gaps)
        for _ in own:
            held.popleft()
        start = own.stop


def _compare(share: Callable[[V, V], float | None], window: _Window) -> list[tuple[int, list[tuple[int, float]]]]:
    views: dict[int, V] = window.views  # type: ignore[assignment]
    found = []
    for first in window.firsts:
        others = [first + gap for gap in window.gaps if first + gap in views]
        shares = [(other, share(views[first], views[other])) for other in others]
        found.append((first, [(other, value) for other, value in shares if value is not None]))
    return found
