"""How far a long search is. A source says it with `follow` or `steps`; whoever shows it runs the source inside `shown_by`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")
Show = Callable[[str, int, int | None], None]
"""(what is done, how many are done, of how many as far as that is known). It is over when both are the same."""
SECONDS = 0.2
"""Between two calls of `Show`."""
_SHOWN: ContextVar[Show | None] = ContextVar("shown", default=None)


@contextmanager
def shown_by(show: Show) -> Iterator[None]:
    token = _SHOWN.set(show)
    try:
        yield
    finally:
        _SHOWN.reset(token)


@contextmanager
def steps(what: str, total: int | None = None) -> Iterator[Callable[[], None]]:
    """A function to call after each step."""
    show, done, last = _SHOWN.get(), 0, time.monotonic()

    def step() -> None:
        nonlocal done, last
        done += 1
        if show and time.monotonic() - last >= SECONDS:
            last = time.monotonic()
            show(what, done, None if total is None else max(total, done + 1))

    if show:
        show(what, 0, total)
    try:
        yield step
    finally:
        if show:
            show(what, done, done)


def follow(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """The items, each of which is a step that is done when the next one is asked for."""
    with steps(what, total) as step:
        for item in items:
            yield item
            step()
