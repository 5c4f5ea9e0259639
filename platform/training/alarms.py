"""When a health metric is told as an alarm: by the run's own history, not by its value alone.

Sound runs pass through values that a collapse has, too. After its warm-up an I2P-MAE has a RankMe of 1.1 for fifty steps, and a validation
loss above that of random weights; to a ConMIM all hidden patches look alike until its bias tables have grown. An alarm waits, and compares.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

from sightline.methods.contract import Alarm
from sightline.platform.runs.events import HealthMeasured, RunEvent, ValidationDone

LOSS = "val/loss"
DIVERGED = Alarm(
    LOSS,
    "no better than the weights that the run began with: the training diverges, or has learnt its samples by heart; lower optim.lr, "
    "lengthen optim.warmup, set optim.clip, or take more data",
)
"""For every method with a health. `above` is the run's own loss at its first validation."""


class HealthJudge:
    """Judges the validations of a run, in their order. What is compared with is the first of them: of the weights that the run began with
    or, where a resume does not see the record, of those that it continues from."""

    def __init__(self, known: Iterable[Alarm], warmup: float, steps: int) -> None:
        """`warmup`, `steps`: of the run, in optimiser steps."""
        self.known, self.warmup, self.steps = tuple(known), warmup, steps
        self._first: Mapping[str, float] = {}
        self._before: set[str] = set()
        """Metrics that were beyond their limit at the validation before."""

    def repeat(self, events: Iterable[RunEvent], until: int) -> None:
        """Judge again what is on record, up to step `until`: a resume begins there."""
        losses: dict[int, float] = {}
        for event in events:
            match event:
                case ValidationDone(step=step) if step <= until and "loss" in event.losses:
                    losses[step] = event.losses["loss"]
                case HealthMeasured(step=step, metrics=metrics) if step <= until:
                    self.judge(step, metrics | ({LOSS: losses[step]} if step in losses else {}))

    def judge(self, step: int, values: Mapping[str, float]) -> list[str]:
        """One sentence for each alarm.

        A metric is judged from `Alarm.after_steps` steps after the warm-up on. It is told where it is beyond its limit for the second
        validation in a row, or at the last step. What is not a number is told at once. The first validation is not judged.
        """
        if not self._first:
            self._first = dict(values)
            return []
        found, beyond = [], set()
        for alarm in (*self.known, replace(DIVERGED, above=self._first.get(LOSS, math.inf))):
            value = values.get(alarm.metric)
            if value is None or not (math.isnan(value) or step >= self.warmup + alarm.after_steps):
                continue
            if limit := self._limit(alarm, value):
                beyond.add(alarm.metric)
                if math.isnan(value) or alarm.metric in self._before or step >= self.steps:
                    found.append(f"{alarm.metric} = {value:.3g} ({limit}): {alarm.cause}")
        self._before = beyond
        return found

    def _limit(self, alarm: Alarm, value: float) -> str:
        """The limit that `value` is beyond, in words; empty where it is not."""
        if math.isnan(value):
            return "not a number"
        if value > alarm.above:
            return f"above {alarm.above:.3g}"
        if value >= alarm.below:
            return ""
        first = self._first.get(alarm.metric)
        if alarm.fall is None or first is None:
            return f"below {alarm.below:g}"
        return f"below {alarm.below:g}; {first:.3g} at first" if value <= alarm.fall * first else ""
