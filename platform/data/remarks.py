"""Remarks on samples that are used, but not quite as they are: counted, so that nothing is changed in silence.

What reads a file says `remark("...")`; whoever wants to know runs it inside `collected()`. Threads do not hear each other's remarks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_HEARD: ContextVar[Counter[str] | None] = ContextVar("remarks", default=None)


def remark(text: str) -> None:
    """Count one remark; `text` is the same for every sample it is true of."""
    heard = _HEARD.get()
    if heard is not None:
        heard[text] += 1


@contextmanager
def collected() -> Iterator[Counter[str]]:
    """Remark -> how many samples, of everything that this thread reads inside."""
    heard: Counter[str] = Counter()
    token = _HEARD.set(heard)
    try:
        yield heard
    finally:
        _HEARD.reset(token)
