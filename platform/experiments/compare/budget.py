"""How long each entry of a comparison trains: from samples, from FLOP and the cost of a sample, or from seconds and a measured speed."""

from __future__ import annotations

import math
import re
import tempfile
import time
from pathlib import Path
from typing import Literal

from sightline.methods.catalog import find_method
from sightline.methods.errors import CallError
from sightline.platform import config
from sightline.platform.cluster.resources import local_plan
from sightline.platform.data.training_data import recorded_training_data
from sightline.platform.experiments.estimate import estimate_cost
from sightline.platform.runs.events import RunEvent, StepsDone
from sightline.platform.training.job import TrainJob
from sightline.platform.training.loop import train

Unit = Literal["samples", "seconds", "flop"]
UNITS: dict[str, tuple[float, Unit]] = {
    "samples": (1.0, "samples"),
    "seconds": (1.0, "seconds"),
    "minutes": (60.0, "seconds"),
    "hours": (3600.0, "seconds"),
    "flop": (1.0, "flop"),
}
SPEED_SECONDS = 15.0
"""Of training in which an entry's speed is measured, after its first report, where the budget is time."""


def parse_budget(text: str) -> tuple[float, Unit]:
    """(amount, unit). Raises `CallError`."""
    found = re.fullmatch(r"\s*([0-9]+\.?[0-9]*(?:e[+-]?[0-9]+)?)\s*([a-z]+)\s*", text.lower())
    unit = next((unit for unit in UNITS if found and found[2] in (unit, unit.removesuffix("s"), f"{unit}s")), None)
    if not found or unit is None or not 0 < float(found[1]) < math.inf:
        raise CallError(f"--budget {text!r} is no budget", "write for example '20000 samples', '10 minutes' or '1e15 flop'")
    factor, kind = UNITS[unit]
    return float(found[1]) * factor, kind


def samples_of(budget: str, experiment: config.Experiment, gflops_per_sample: float | None) -> int:
    """Samples that the budget pays for, at least one batch. Raises `CallError` where that cannot be said."""
    amount, unit = parse_budget(budget)
    if unit == "seconds":
        amount *= measure_speed(experiment)
    elif unit == "flop":
        if not gflops_per_sample:
            raise CallError(f"{experiment.recipe}: the cost of a sample cannot be counted", "give the budget in samples or minutes")
        amount /= 1e9 * gflops_per_sample
    return max(experiment.batch.size, int(amount))


def gflops(experiment: config.Experiment) -> float | None:
    """GFLOP of a sample: forward, backward and the stage before; None where it cannot be counted."""
    cost = estimate_cost(experiment)
    return None if cost.gflops_per_sample is None else cost.gflops_per_sample + (cost.stage_gflops_per_sample or 0.0)


def measure_speed(experiment: config.Experiment) -> float:
    """Samples a second of training with one worker in this process, from the second report on."""
    changed = {"train.length": "1e9 samples", "train.checkpoint_every": "1e9 samples", "log.every": 1, "train.workers": 1}
    changed |= {"data.val": None, "train.init": None, "train.storage": None}
    tried = config.load(experiment.recipe, changed, settings=experiment.sections())
    seen: list[tuple[float, int]] = []

    def post(event: RunEvent) -> None:
        if isinstance(event, StepsDone):
            seen.append((time.perf_counter(), event.samples))

    def stop() -> bool:
        return len(seen) > 2 and seen[-1][0] - seen[0][0] >= SPEED_SECONDS

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if tried.has_stage:
            from sightline.platform.models.resolve import resolve_teachers
            from sightline.platform.runs.pinned import keep_teachers

            tried, found = resolve_teachers(tried)
            keep_teachers(found, folder)
        fingerprint = recorded_training_data(experiment.data, find_method(experiment.method).kind).fingerprint
        train(TrainJob(tried, folder, fingerprint, threads=local_plan(tried).threads), post, stop)
    return sum(samples for _, samples in seen[1:]) / (seen[-1][0] - seen[0][0])
