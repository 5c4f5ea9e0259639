"""Progress of a run, from its events: a live line on a terminal, else a line every few seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from sightline.platform.core.printable import printable
from sightline.platform.core.screen import Screen
from sightline.platform.runs.events import (
    BrokenSamples,
    ClusterNote,
    DataNote,
    HealthMeasured,
    ProbesMeasured,
    ProbesMissed,
    RunEvent,
    StepsDone,
    StorageNote,
    TeacherCacheNote,
    TeacherCacheProgress,
    TrainingStarted,
    ValidationDone,
)

LOG_SECONDS = 15.0
"""Between two lines where there is no terminal."""


class RunProgress:
    """`with RunProgress(console) as progress: progress.show(event)`."""

    def __init__(self, console: Screen) -> None:
        self.console = console
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[metrics]}"),
            TimeRemainingColumn(),
            console=console,
            transient=False,
            disable=not console.is_terminal,
        )
        self.task: TaskID | None = None
        self.making: TaskID | None = None
        self.steps = 0
        self.validation = ""
        self.alarms: set[str] = set()
        """Metrics whose alarm stood at the last validation: it is not told again."""
        self.started = 0.0
        self.first = 0
        self.last_line = 0.0

    def __enter__(self) -> RunProgress:
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def say(self, text: str) -> None:
        self.console.print(text)

    def show(self, event: RunEvent) -> None:
        match event:
            case ClusterNote(text=text) | TeacherCacheNote(text=text) | DataNote(text=text):
                self.say(text)
            case TeacherCacheProgress(done=done, total=total):
                self._cache(done, total)
            case TrainingStarted():
                self._start(event)
            case StepsDone():
                self._steps(event)
            case ValidationDone(losses=losses):
                self.validation = f"  val {losses['loss']:.4f}"
            case StorageNote(text=text):
                self.console.warn(text)
            case HealthMeasured(step=step, warnings=warnings):
                standing, self.alarms = self.alarms, {warning.partition(" = ")[0] for warning in warnings}
                for warning in warnings:
                    if warning.partition(" = ")[0] not in standing:
                        self.console.warn(f"step {step}: this run may be going wrong: {warning}")
            case ProbesMeasured():
                self._probes(event)
            case ProbesMissed(step=step, reason=reason, late=late):
                self.console.warn(f"step {step}: {'not probed' if late else 'the probes failed'}: {reason}; training goes on")
            case BrokenSamples(reasons=reasons):
                self.console.warn(f"a substitute stands in for {reasons[0]}")

    def _start(self, event: TrainingStarted) -> None:
        self.steps, self.first, self.started = event.steps, event.first_step, time.monotonic()
        again = f", going on at step {event.first_step}" if event.first_step else ""
        workers = f"{event.workers} worker{'s' * (event.workers > 1)}"
        self.say(f"training {event.parameters / 1e6:.2f} M parameters in {event.precision} on {workers} ({event.device}){again}")
        if self.task is None:
            self.task = self.bar.add_task("training", total=event.steps, metrics="")
        self.bar.update(self.task, completed=event.first_step)

    def _cache(self, done: int, total: int) -> None:
        if self.making is None:
            self.making = self.bar.add_task("teacher cache", total=total, metrics="samples")
        self.bar.update(self.making, completed=done)
        now = time.monotonic()
        if not self.console.is_terminal and now - self.last_line > LOG_SECONDS:
            self.say(f"teacher cache {done:,}/{total:,} samples")
            self.last_line = now

    def _probes(self, event: ProbesMeasured) -> None:
        """Of a method's own metrics the first is enough for a line."""
        of_method = [name for name in event.values if not name.startswith("probe/")]
        shown = [name for name in event.values if name not in of_method[1:]]
        found = ", ".join(f"{' '.join(name.split('/')[1:]).replace('_', ' ')} {event.values[name]:.3g}" for name in shown)
        if found:
            self.say(f"probes of step {event.step}: {found}  ({event.seconds:.0f} s beside the training)")
        else:
            why = "; ".join(f"{name}: {reason}" for name, reason in event.skipped.items()) or "there is no data.val"
            self.console.warn(f"probe.every: nothing can be measured during training: {why}")

    def _steps(self, event: StepsDone) -> None:
        speed = f"{event.samples_per_second:.0f} samples/s  data wait {event.data_wait:.0%}"
        metrics = f"loss {event.losses['loss'][-1]:.4f}{self.validation}  {speed}"
        if self.task is not None:
            self.bar.update(self.task, completed=event.end, metrics=metrics)
        now = time.monotonic()
        if not self.console.is_terminal and (now - self.last_line > LOG_SECONDS or event.end == self.steps):
            left = (now - self.started) / max(1, event.end - self.first) * (self.steps - event.end)
            self.say(f"step {event.end}/{self.steps}  {metrics}  {left:.0f} s left")
            self.last_line = now


@contextmanager
def doing(console: Screen, what: str) -> Iterator[Callable[[str, float], None]]:
    """Show work without steps: a spinner on a terminal, else a line at its start and one every `LOG_SECONDS`.

    Yields a function of (what is done now, the share of it that is done).
    """
    last = time.monotonic()
    if not console.is_terminal:
        console.print(what)
    with console.status(what) as status:

        def tell(now: str, share: float) -> None:
            nonlocal last
            text = f"{now}, {share:.0%}"
            status.update(Text(printable(text)))
            if not console.is_terminal and time.monotonic() - last > LOG_SECONDS:
                last = time.monotonic()
                console.print(text)

        yield tell


def duration(seconds: float) -> str:
    """`95` -> `1 min 35 s`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
