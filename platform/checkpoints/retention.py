"""Which checkpoints stay: the newest, milestones, and the best by a metric. Decided here for training, `sightline clean` and storage."""

from __future__ import annotations

import contextlib
import math
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from sightline.methods.catalog import find_method
from sightline.methods.errors import CallError, SightlineError
from sightline.methods.optim import Clock
from sightline.methods.settings import nearest
from sightline.platform.config import Experiment

from . import local
from .local import Checkpoint, Note

VALIDATION = "val/"
MEASURED = (VALIDATION, "health/")
"""Metrics that are measured by the training itself."""


class Reason(StrEnum):
    """Why a checkpoint is kept."""

    NEWEST = "newest"
    """One of the newest, as many as `train.keep`: from these a resume goes on."""
    MILESTONE = "milestone"
    BEST = "best"


@dataclass(frozen=True)
class Retention:
    """What is kept."""

    newest: int
    """How many of the newest."""
    every: int | None = None
    """Every so many steps one is a milestone, which stays."""
    best: str | None = None
    """The metric by which the best stays, under its name in MLflow."""
    better: str = "lower"
    """`lower` or `higher`."""

    @classmethod
    def of(cls, experiment: Experiment, clock: Clock | None = None) -> Retention:
        """As the settings say. Without a clock milestones are known by their notes alone. Raises `CallError`: see `better_of`."""
        train = experiment.train
        every = max(1, round(clock.in_steps(train.keep_every))) if clock and train.keep_every else None
        if train.keep_best is None:
            return cls(train.keep, every)
        return cls(train.keep, every, train.keep_best.metric, better_of(experiment))

    def is_milestone(self, step: int) -> bool:
        return self.every is not None and step > 0 and step % self.every == 0

    def value(self, metrics: Mapping[str, float]) -> float | None:
        """The metric by which the best is chosen, larger for a better one; None where it was not measured or is not finite."""
        value = metrics.get(self.best) if self.best else None
        if value is None or not math.isfinite(value):
            return None
        return value if self.better == "higher" else -value

    def measured(self, metrics: Mapping[str, float]) -> float | None:
        """`value`, but raises `SightlineError` where the training should have measured the metric and measured only others."""
        prefix = f"{str(self.best).partition('/')[0]}/"
        same = [name for name in metrics if name.startswith(prefix)]
        if prefix in MEASURED and same and self.best not in same:
            raise SightlineError(f"train.keep_best = {self.best}: {nearest(str(self.best), same)}", "go on with one that is measured")
        return self.value(metrics)

    def is_best(self, metrics: Mapping[str, float], folder: Path) -> bool:
        """Whether `metrics` are better than those of every checkpoint in `folder`. Raises as `measured` does."""
        value, best = self.measured(metrics), self.best_in(folder)
        return value is not None and (best is None or value > best)

    def best_in(self, folder: Path) -> float | None:
        """The best `value` of all checkpoints in `folder`; None where none has one."""
        values = (self.value(one.note.metrics) for one in local.checkpoints(folder)) if self.best else ()
        return max((value for value in values if value is not None), default=None)

    def choose(self, notes: Mapping[int, Note]) -> dict[int, tuple[Reason, ...]]:
        """Of the checkpoints with these notes, by step: why each one is kept. Those that are not kept are left out.

        Of equally good ones the earliest is the best.
        """
        steps = sorted(notes, reverse=True)
        values = {step: value for step in steps if (value := self.value(notes[step].metrics)) is not None}
        best = max(values, key=lambda step: (values[step], -step), default=None)
        chosen = {
            step: tuple(
                reason
                for reason, holds in (
                    (Reason.NEWEST, step in steps[: self.newest]),
                    (Reason.MILESTONE, notes[step].milestone or self.is_milestone(step)),
                    (Reason.BEST, step == best),
                )
                if holds
            )
            for step in steps
        }
        return {step: reasons for step, reasons in chosen.items() if reasons}


@dataclass(frozen=True)
class Kept:
    """A checkpoint and why it is kept."""

    checkpoint: Checkpoint
    reasons: tuple[Reason, ...]
    metrics: Mapping[str, float]
    """Measured at its step."""

    @property
    def path(self) -> Path:
        return self.checkpoint.path

    @property
    def step(self) -> int:
        return self.checkpoint.state.step


def kept(folder: Path, retention: Retention) -> list[Kept]:
    """The checkpoints in `folder` that stay, newest first. They are complete by name and size."""
    return choose(local.checkpoints(folder), retention)


def choose(found: Iterable[Checkpoint], retention: Retention) -> list[Kept]:
    """Those of the checkpoints that stay, in their order."""
    noted = [(one, one.note) for one in found]
    chosen = retention.choose({one.state.step: note for one, note in noted})
    return [Kept(one, chosen[one.state.step], note.metrics) for one, note in noted if one.state.step in chosen]


def prune(folder: Path, retention: Retention) -> None:
    """Delete the checkpoints that do not stay, and those that are not complete. Only those older than the newest complete one."""
    stay = [one.path for one in kept(folder, retention)]
    for old in local.steps(folder):
        if old not in stay and stay and old < stay[0]:
            with contextlib.suppress(OSError):
                shutil.rmtree(local.hide(old), ignore_errors=True)


def check_best(experiment: Experiment) -> None:
    """Raises `CallError` where nobody could tell which checkpoint is the best by `train.keep_best`."""
    if best := experiment.train.keep_best:
        if best.metric.startswith(VALIDATION) and experiment.data.val is None:
            raise CallError(f"train.keep_best = {best}: it is measured on data.val, which is not set", "give a data set: data.val=FOLDER")
        better_of(experiment)


def better_of(experiment: Experiment) -> str:
    """Whether `lower` or `higher` is better of the metric of `train.keep_best`: as the setting says, else as the method does.

    Raises `CallError` where neither says it.
    """
    best = experiment.train.keep_best
    assert best is not None
    if best.better is not None:
        return best.better
    name, infos = best.metric.partition("/")[2], find_method(experiment.method).metrics
    terms = ("loss", *experiment.method_config.loss.model_dump())
    if name in terms:
        return "lower"
    if name in infos:
        return infos[name].better
    near = nearest(name, [*terms, *infos]) if best.metric.startswith(VALIDATION) else "nobody has said which is better"
    raise CallError(
        f"train.keep_best = {best}: {near}", f"name another metric, or say which is better: train.keep_best='{best.metric} higher'"
    )
