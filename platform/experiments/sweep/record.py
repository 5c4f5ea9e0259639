"""A sweep's record: a folder with its plan (`sweep.json`) and the events of its trials (`trials.jsonl`). A resume reads nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
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

from .space import Space, holds, parse_domain

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
    """Of several training seeds their mean."""
    others: dict[str, float] | None = None
    """Further objectives, by name."""
    seeds: dict[str, list[float]] | None = None
    """Objective -> its values with each training seed, where there are several."""


class TrialEnded(TrialEvent, frozen=True, tag="end"):
    trial: int
    status: TrialStatus
    error: str = ""
    seconds: dict[str, float] = msgspec.field(default_factory=dict)


class Objective(Settings):
    """What trials are compared by."""

    name: str = Field(description="PROBE.METRIC, val/NAME for a figure of the validation curve, or a cost of the run")
    better: Literal["higher", "lower"]

    @property
    def sign(self) -> int:
        """A value times this is the larger the better."""
        return 1 if self.better == "higher" else -1


class SweepPlan(Settings):
    """How a sweep searches. After the start only the number of trials can grow."""

    space: dict[str, str] = Field(description="setting -> domain, as `--space` takes it")
    own: dict[str, Any] = Field(default={}, description="the recipe's own values of these settings: those of trial 0")
    trials: int = Field(ge=1, description="how many, the recipe's own settings included")
    search: str = Field(default="random", description="a searcher, or SEARCHER:VARIANT")
    scheduler: str = "asha"
    objective: str = Field(description="PROBE.METRIC, or val/NAME for a figure of the validation curve")
    better: Literal["higher", "lower"]
    others: tuple[Objective, ...] = Field(default=(), description="further objectives")
    seeds: int = Field(default=1, ge=1, description="training seeds of a trial, whose mean is the objective")
    concurrent: int = Field(ge=1, description="trials at the same time")
    threads: int = Field(ge=1, description="torch threads of a trial")
    steps: int = Field(ge=1, description="length of a whole trial")
    rungs: tuple[int, ...] = Field(description="steps at which trials are measured; the last is the end")
    reduction: int = Field(default=3, ge=2, description="one trial of so many goes on from a rung")
    seed: int = Field(default=0, ge=0)

    @property
    def domains(self) -> Space:
        return {key: parse_domain(text, key) for key, text in self.space.items()}

    @property
    def variant(self) -> str:
        """Of the searcher; empty where none was asked for."""
        return self.search.partition(":")[2]

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """The first decides which trial is registered."""
        return (Objective(name=self.objective, better=self.better), *self.others)

    @property
    def mode(self) -> Literal["max", "min"]:
        """As Ray Tune says which way is better."""
        return "max" if self.better == "higher" else "min"

    def holds(self, settings: Mapping[str, Any]) -> bool:
        """Whether these are settings of the space."""
        return settings.keys() == self.space.keys() and all(holds(domain, settings[key]) for key, domain in self.domains.items())


@dataclass
class Trial:
    """What is recorded of one trial."""

    number: int
    settings: dict[str, Any]
    """Those that differ from the sweep's own."""
    results: dict[int, float] = field(default_factory=dict)
    """Step -> objective, in the order of measuring."""
    others: dict[int, dict[str, float]] = field(default_factory=dict)
    """Step -> further objectives by name."""
    seeds: dict[int, dict[str, list[float]]] = field(default_factory=dict)
    """Step -> objective -> its values with each training seed, where there are several."""
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

    def values(self, plan: SweepPlan, step: int | None = None) -> list[float] | None:
        """Its objectives at a step, the newest where none is named; None where it has none there."""
        step = max(self.results, default=-1) if step is None else step
        if step not in self.results:
            return None
        return [self.results[step], *(self.others.get(step, {}).get(one.name, math.nan) for one in plan.others)]

    def scores(self, plan: SweepPlan) -> tuple[float, ...] | None:
        """Its objectives at the end, each the larger the better; None where it did not finish with numbers."""
        values = self.values(plan, plan.steps) if self.status is TrialStatus.FINISHED else None
        if values is None or not all(map(math.isfinite, values)):
            return None
        return tuple(one.sign * value for one, value in zip(plan.objectives, values, strict=True))


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
        refuse_name(name, (experiment.train.seed + seed for seed in range(1, plan.seeds)))
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

    def run_name(self, number: int, seed: int = 0) -> str:
        """Of a trial's run with its first training seed, or with another of `plan.seeds`."""
        end = f"-s{self.settings['train']['seed'] + seed}" if seed else ""
        return f"{self.name}-{number:03d}{end}"

    def run_names(self, number: int) -> list[str]:
        """Of all runs of a trial."""
        return [self.run_name(number, seed) for seed in range(self.plan.seeds)]

    def experiment_of(self, trial: Trial, seed: int = 0) -> config.Experiment:
        """Raises `CallError` where the trial's settings do not go together."""
        another: dict[str, Any] = {}
        if seed:
            data = {
                **self.settings["data"],
                **{key.partition(".")[2]: value for key, value in trial.settings.items() if key.startswith("data.")},
            }
            another["train.seed"] = self.settings["train"]["seed"] + seed
            if data.get("fraction", 1) < 1:  # each training seed learns from a share of its own
                another["data.fraction_seed"] = data.get("fraction_seed", 0) + seed
        return config.load(self.recipe, {**trial.settings, **another}, settings=self.settings)

    def trials(self) -> list[Trial]:
        """What is recorded, by number."""
        found: dict[int, Trial] = {}
        for event in self.events():
            match event:
                case TrialProposed(trial=number, settings=settings):
                    found[number] = Trial(number, settings)
                case TrialMeasured(trial=number, step=step) if number in found:
                    trial = found[number]
                    trial.results[step], trial.stopped = event.objective, event.decision is Decision.STOP
                    trial.others[step], trial.seeds[step] = event.others or {}, event.seeds or {}
                case TrialEnded(trial=number) if number in found:
                    trial = found[number]
                    trial.status, trial.error, trial.seconds = event.status, event.error, event.seconds
        return [found[number] for number in sorted(found)]

    def results(self) -> list[TrialMeasured]:
        """In the order in which the scheduler saw them."""
        return [event for event in self.events() if isinstance(event, TrialMeasured)]

    def best(self) -> Trial | None:
        """The best of the finished trials in the first objective; of equal ones the best in the next, then the first."""
        scored = ((trial.scores(self.plan), trial) for trial in self.trials())
        whole = [(scores, trial) for scores, trial in scored if scores is not None]
        return max(whole, key=lambda pair: (pair[0], -pair[1].number), default=(None, None))[1]


def refuse_name(name: str, seeds: Iterable[int] = ()) -> None:
    """Raise `CallError` where a sweep cannot have this name; `seeds`: further training seeds of its trials."""
    ends = ["", *(f"-s{seed}" for seed in seeds)]
    room = len("-000") + max(map(len, ends))
    refuse_taken(name, "sweep", [f"{name}-[0-9][0-9][0-9]{end}" for end in ends], room)


def sweeps_folder() -> Path:
    return home() / "sweeps"


def sweep_names() -> list[str]:
    return sorted(path.parent.name for path in sweeps_folder().glob("[!.]*/sweep.json"))
