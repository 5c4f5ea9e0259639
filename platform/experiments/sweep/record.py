"""A sweep's record: a folder with its plan (`sweep.json`) and the events of its trials (`trials.jsonl`). A resume reads nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

import msgspec
from pydantic import Field

from sightline.methods.errors import CallError
from sightline.methods.settings import Settings, nearest
from sightline.platform import config
from sightline.platform.config import without_password
from sightline.platform.core.event_log import Event, append_events, read_events
from sightline.platform.core.files import as_record, new_folder, read_record, write_record
from sightline.platform.core.paths import home, home_text, sweep_record
from sightline.platform.core.redaction import redact
from sightline.platform.runs.names import refuse_taken
from sightline.platform.runs.record import unreadable
from sightline.platform.tracking.client import to_record

from .space import Space, parse_domain

MOST_TRIALS = 1000
TRIALS = "trials.jsonl"
"""One line for each `TrialEvent`. Only the driver writes it."""


class SweepStatus(StrEnum):
    CREATED = "created"
    RUNNING = "running"
    STOPPED = "stopped"
    TRAINED = "trained"
    """All trials have ended; the winner is not promoted yet."""
    FINISHED = "finished"


class TrialStatus(StrEnum):
    OPEN = "open"
    FINISHED = "finished"
    PRUNED = "pruned"
    """Stopped by the scheduler."""
    CANCELLED = "cancelled"
    """Stopped by a person."""
    FAILED = "failed"


class Decision(StrEnum):
    """The scheduler's, about a result; by Ray Tune's names."""

    CONTINUE = "CONTINUE"
    PAUSE = "PAUSE"
    STOP = "STOP"
    NOOP = "NOOP"


class TrialEvent(Event, frozen=True, kw_only=True):
    """Base of a sweep's events. Names of classes and fields may change; the tags and keys on disk stay."""


class TrialProposed(TrialEvent, frozen=True, tag="proposed"):
    trial: int
    settings: dict[str, Any]


class TrialMeasured(TrialEvent, frozen=True, tag="result"):
    trial: int
    decision: Decision
    step: int
    objective: float


class TrialEnded(TrialEvent, frozen=True, tag="end"):
    trial: int
    status: TrialStatus
    error: str = ""
    seconds: dict[str, float] = msgspec.field(default_factory=dict)


class SweepPlan(Settings):
    """How a sweep searches. After the start only the number of trials can grow."""

    space: dict[str, str] = Field(description="setting -> domain, as `--space` takes it")
    own: dict[str, Any] = Field(default={}, description="the recipe's own values of these settings: those of trial 0")
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
    """Those that differ from the sweep's own."""
    results: dict[int, float] = field(default_factory=dict)
    """Step -> objective, in the order of measuring."""
    stopped: bool = False
    """Whether the scheduler's last decision was to stop it."""
    status: TrialStatus = TrialStatus.OPEN
    error: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    """Of its parts: whole, training, measuring. Empty for a trial that was started more than once."""

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
    """Of every trial, before those of the search space."""
    fingerprint: str
    """Of the training data."""
    plan: SweepPlan
    created: str
    command: str
    status: SweepStatus = SweepStatus.CREATED
    mlflow_run_id: str | None = None
    tracking_uri: str = ""
    """Empty for the database of the home."""
    earlier_mlflow_runs: list[str] = field(default_factory=list)
    """As those of a run."""
    winner: int | None = None

    @classmethod
    def create(cls, name: str, experiment: config.Experiment, fingerprint: str, plan: SweepPlan, command: str, tracking_uri: str) -> Sweep:
        """Raises `CallError` where the name is taken."""
        refuse_name(name)
        folder = sweeps_folder() / name
        created = datetime.now(UTC).isoformat(timespec="seconds")
        settings = without_password(experiment).sections()
        sweep = cls(name, folder, experiment.recipe, settings, fingerprint, plan, created, redact(command))
        sweep.tracking_uri = to_record(tracking_uri)
        with new_folder(folder) as part:
            replace(sweep, folder=part).save()
        return sweep

    @classmethod
    def open(cls, reference: str) -> Sweep:
        """By name or folder. Raises `CallError`."""
        if path := sweep_record(reference):
            try:
                values = read_record(path)
                return as_record(cls, values, folder=path.parent.absolute(), plan=SweepPlan.model_validate(values.get("plan")))
            except (OSError, ValueError) as error:
                raise unreadable(path, error) from error
        names = sweep_names()
        raise CallError(
            f"no sweep {reference!r} under {home()}: {nearest(reference, names)}" if names else f"no sweeps under {home_text()}"
        )

    def save(self) -> None:
        values = {key: value for key, value in asdict(self).items() if key not in ("folder", "plan")}
        write_record(self.folder / "sweep.json", {**values, "plan": self.plan.model_dump(mode="json")})

    def note(self, event: TrialEvent) -> None:
        append_events(self.folder / TRIALS, [event])

    def events(self) -> Iterator[TrialEvent]:
        return read_events(self.folder / TRIALS, TrialEvent)

    def run_name(self, number: int) -> str:
        return f"{self.name}-{number:03d}"

    def experiment_of(self, trial: Trial) -> config.Experiment:
        """Raises `CallError` where the trial's settings do not go together."""
        return config.load(self.recipe, trial.settings, settings=self.settings)

    def trials(self) -> list[Trial]:
        """What is recorded, by number."""
        found: dict[int, Trial] = {}
        for event in self.events():
            match event:
                case TrialProposed(trial=number, settings=settings):
                    found[number] = Trial(number, settings)
                case TrialMeasured(trial=number, step=step, objective=objective, decision=decision) if number in found:
                    found[number].results[step] = objective
                    found[number].stopped = decision is Decision.STOP
                case TrialEnded(trial=number) if number in found:
                    trial = found[number]
                    trial.status, trial.error, trial.seconds = event.status, event.error, event.seconds
        return [found[number] for number in sorted(found)]

    def results(self) -> list[TrialMeasured]:
        """In the order in which the scheduler saw them."""
        return [event for event in self.events() if isinstance(event, TrialMeasured)]

    def best(self) -> Trial | None:
        """The best of the finished trials; of equal ones the first."""
        ended = (trial for trial in self.trials() if trial.status is TrialStatus.FINISHED)
        whole = [trial for trial in ended if math.isfinite(trial.results.get(self.plan.steps, math.nan))]
        sign = 1 if self.plan.better == "higher" else -1
        return max(whole, key=lambda trial: sign * trial.results[self.plan.steps], default=None)


def refuse_name(name: str) -> None:
    """Raise `CallError` where a sweep cannot have this name."""
    refuse_taken(name, "sweep", f"{name}-[0-9][0-9][0-9]", room=len("-000"))


def sweeps_folder() -> Path:
    return home() / "sweeps"


def sweep_names() -> list[str]:
    return sorted(path.parent.name for path in sweeps_folder().glob("[!.]*/sweep.json"))
