"""How far a preparation is, on the screen: bars that go when they are done; without a terminal that can move, a line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.text import Text

from sightline.platform.core.screen import Screen

EVERY_SECONDS = 15.0
"""Between two lines where there is no terminal, and before the first."""
FEW = 50
"""Below this part of the whole nothing is said of the time that is left."""
Show = Callable[[str, int, int | None], None]
"""(what is done, how many are done, of how many). It is over when both are the same."""


@contextmanager
def bars(screen: Screen, first: str = "") -> Iterator[Show]:
    """Shows one bar for everything that is begun and not over. `first` is what is done as long as nothing else is said."""
    if not screen.is_terminal or screen.is_dumb_terminal:
        yield _Lines(screen).show
        return
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), _Count(), _Left())
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=screen, transient=True) as progress:
        waiting = progress.add_task(first, total=None) if first else None

        def show(what: str, done: int, total: int | None) -> None:
            if done == total:
                if what in tasks:
                    progress.remove_task(tasks.pop(what))
            else:
                if what not in tasks:
                    tasks[what] = progress.add_task(what, total=total)
                progress.update(tasks[what], completed=done, total=total)
            if waiting is not None:
                progress.update(waiting, visible=not tasks)

        yield show


class _Count(ProgressColumn):
    def render(self, task: Task) -> Text:
        if not task.completed and task.total is None:
            return Text("")
        return Text(f"{task.completed:,.0f}" + (f" of {task.total:,.0f}" if task.total is not None else ""))


class _Left(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text("" if task.time_remaining is None else f"{_duration(task.time_remaining)} left")


class _Lines:
    """`comparing frames: 2,048 of 100,000, about 4 min left`"""

    def __init__(self, screen: Screen) -> None:
        self._screen, self._last = screen, time.monotonic()
        self._began: dict[str, float] = {}

    def show(self, what: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        began = self._began.setdefault(what, now)
        if done == total:
            del self._began[what]
        elif done and now - self._last >= EVERY_SECONDS:
            self._last = now
            of = f" of {total:,}" if total else ""
            if total and done * FEW >= total:
                of += f", about {_duration((now - began) / done * (total - done))} left"
            self._screen.print(f"{what}: {done:,}{of}")


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
