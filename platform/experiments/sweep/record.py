"""A sweep's record: a folder with what was asked for (`sweep.json`) and what came of it (`trials.jsonl`). A resume reads no more."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from sightline.methods.errors import CallError
from sightline.methods.settings import Settings, nearest
from sightline.platform import config
from sightline.platform.config import without_password
from sightline.platform.core.files import append_lines, parse_lines, write_record
from sightline.platform.core.paths import home, sweep_record
from sightline.platform.core.redaction import redact
from sightline.platform.runs.names import refuse_taken

from .space import Space, parse_domain

TRIALS = "trials.jsonl"
"""One line an event: `proposed` (settings), `result` (step, objective, decision), `end` (status). Written by the driver alone."""


class SweepPlan(Settings):
    """How a sweep searches. Fixed from its start on."""

    space: dict[str, str] = Field(description="setting -> domain, as `--space` takes it")
    trials: int = Field(ge=1, description="how many, the recipe's own settings included")
    search: Literal["random", "grid", "optuna"] = "random"
    scheduler: Literal["asha", "none"] = "asha"
    objective: str = Field(description="PROBE.METRIC, or val/NAME for a figure of the validation curve")
    better: Literal["higher", "lower"]
    concurrent: int = Field(ge=1, description="trials at the same time")
    threads: int = Field(ge=1, description="torch threads of a trial")
    steps: int = Field(ge=1, description="length of a whole trial")
    rungs: tuple[int, ...] = Field(description="steps at which trials are measured; the last is the end")
    reduction: int = Field(default=3, ge=2, description="one trial of so many goes on from a rung")
    seed: int = Field(default=0, ge=0)

    @property
    def domains(self) -> Space:
        return {key: parse_domain(text, key) for key, text in self.space.items()}


@dataclass
class Trial:
    """What is recorded of one trial."""

    number: int
    settings: dict[str, Any]
    """What it has besides the sweep's own."""
    results: dict[int, float] = field(default_factory=dict)
    """Step -> objective, in the order in which they came."""
    stopped: bool = False
    """Whether the scheduler's last decision was to stop it."""
    status: str = "open"
    """open | finished | pruned | cancelled | failed"""
    error: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    """Where its time went: whole, training, measuring. Empty for a trial that was begun more than once."""

    @property
    def last(self) -> float | None:
        """The newest objective."""
        return self.results[max(self.results)] if self.results else None


@dataclass
class Sweep:
    name: str
    folder: Path
    recipe: str
    settings: dict[str, Any]
    """Of a trial, before the space's settings."""
    fingerprint: str
    """Of the training data."""
    plan: SweepPlan
    created: str
    command: str
    status: str = "created"
    """created | running | stopped | finished"""
    mlflow_run_id: str | None = None
    tracking_uri: str = ""
    winner: int | None = None

    @classmethod
    def create(cls, name: str, experiment: config.Experiment, fingerprint: str, plan: SweepPlan, command: str, tracking_uri: str) -> Sweep:
        """Raises `CallError` where the name is taken."""
        refuse_taken(name, "sweep", f"{name}-[0-9][0-9][0-9]")
        folder = sweeps_folder() / name
        folder.mkdir(parents=True)
        created = datetime.now(UTC).isoformat(timespec="seconds")
        settings = without_password(experiment).sections()
        sweep = cls(name, folder, experiment.recipe, settings, fingerprint, plan, created, redact(command), tracking_uri=tracking_uri)
        sweep.save()
        return sweep

    @classmethod
    def open(cls, reference: str) -> Sweep:
        """By name or folder. Raises `CallError`."""
        if path := sweep_record(reference):
            try:
                values = json.loads(path.read_text())
                plan = SweepPlan.model_validate(values.pop("plan"))
                return cls(**{**values, "folder": path.parent.absolute(), "plan": plan})
            except (OSError, ValueError, TypeError) as error:
                raise CallError(f"{path} is not readable: {error}") from error
        names = sweep_names()
        raise CallError(f"no sweep {reference!r} under {home()}: {nearest(reference, names)}" if names else f"no sweeps under {home()}")

    def save(self) -> None:
        values = {key: value for key, value in asdict(self).items() if key not in ("folder", "plan")}
        write_record(self.folder / "sweep.json", {**values, "plan": self.plan.model_dump(mode="json")})

    def note(self, events: Iterable[dict[str, Any]]) -> None:
        append_lines(self.folder / TRIALS, list(events))

    def run_name(self, number: int) -> str:
        return f"{self.name}-{number:03d}"

    def experiment_of(self, trial: Trial) -> config.Experiment:
        """Raises `CallError` where the trial's settings do not go together."""
        return config.load(self.recipe, trial.settings, settings=self.settings)

    def trials(self) -> list[Trial]:
        """What is recorded, by number."""
        found: dict[int, Trial] = {}
        if not (self.folder / TRIALS).exists():
            return []
        with (self.folder / TRIALS).open("rb") as file:
            for event in parse_lines(file):
                number = event["trial"]
                if event["kind"] == "proposed":
                    found[number] = Trial(number, event["settings"])
                elif event["kind"] == "result":
                    found[number].results[event["step"]] = event["objective"]
                    found[number].stopped = event["decision"] == "STOP"
                elif event["kind"] == "end":
                    found[number].status, found[number].error = event["status"], event.get("error", "")
                    found[number].seconds = event.get("seconds", {})
        return [found[number] for number in sorted(found)]

    def results(self) -> list[tuple[int, int, float]]:
        """(trial, step, objective) in the order in which the scheduler saw them."""
        if not (self.folder / TRIALS).exists():
            return []
        with (self.folder / TRIALS).open("rb") as file:
            return [(e["trial"], e["step"], e["objective"]) for e in parse_lines(file) if e["kind"] == "result"]

    def best(self) -> Trial | None:
        """The best of the whole trials; of equals the first."""
        whole = [trial for trial in self.trials() if trial.status == "finished" and self.plan.steps in trial.results]
        sign = 1 if self.plan.better == "higher" else -1
        return max(whole, key=lambda trial: sign * trial.results[self.plan.steps], default=None)


def sweeps_folder() -> Path:
    return home() / "sweeps"


def sweep_names() -> list[str]:
    return sorted(path.parent.name for path in sweeps_folder().glob("*/sweep.json"))
