"""A run's record: a folder with its settings (`run.json`), its events (`events.jsonl`) and its results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

from sightline.methods.errors import CallError
from sightline.methods.settings import nearest
from sightline.platform import config
from sightline.platform.core.event_log import append_events, read_events
from sightline.platform.core.files import as_record, read_record, write_record
from sightline.platform.core.paths import home, home_text, runs_folder

from .events import EVENTS, NOTICES, PROBES, RunEvent, StepsDone

RUN_FILE = "run.json"
METRIC_NAMES = 2
"""Version of the names that a run's metrics have in MLflow. Version 1 called a fine-tuned model's test metrics `claim/...`."""


class RunStatus(StrEnum):
    CREATED = "created"
    RUNNING = "running"
    STOPPED = "stopped"
    """Early, with a checkpoint to continue from."""
    FAILED = "failed"
    TRAINED = "trained"
    """The last step is done; probes, registration and report are not."""
    FINISHED = "finished"


@dataclass
class Run:
    """One logical run, across retries, resumes and changes of the number of workers."""

    name: str
    folder: Path
    recipe: str
    settings: dict[str, Any]
    fingerprint: str
    """Of the training data."""
    created: str
    command: str
    status: RunStatus = RunStatus.CREATED
    attempts: int = 0
    mlflow_run_id: str | None = None
    parent: str | None = None
    """MLflow run id of the run that this one is nested in."""
    commit: str | None = None
    """Of Sightline's checkout, when the run was made."""
    earlier_mlflow_runs: list[str] = field(default_factory=list)
    """Runs that recorded it before `resume` was told to record it elsewhere: `ID in PLACE`."""
    tracking_uri: str = ""
    """Empty for the database of the home. With its password: `settings` and `command` are shown and sent, so theirs is `***`."""
    versions: dict[str, str] = field(default_factory=dict)
    metric_names: int = 1
    """See `METRIC_NAMES`; a record without it was written before there was a second version."""
    _validated: tuple[dict[str, Any], config.Experiment] | None = field(default=None, init=False, repr=False, compare=False)

    @classmethod
    def open(cls, reference: str) -> Run:
        """By name, folder or MLflow run id. Raises `CallError`."""
        run = find_run(reference)
        if run is None:
            damaged: list[str] = []
            names = [run.name for run in all_runs(damaged.append)]
            what = f"no run {reference!r} under {home()}: {nearest(reference, names)}" if names else f"no runs under {home_text()}"
            raise CallError("\n".join([what, *damaged]))
        return run

    @classmethod
    def read(cls, folder: Path) -> Run:
        """The run in `folder`. Raises `CallError` where its record is not readable."""
        try:
            run = as_record(cls, read_record(folder / RUN_FILE), folder=folder.absolute())
            if not isinstance(run.settings.get("method"), str):
                raise ValueError("settings: they name no method")
            return run
        except (OSError, ValueError) as error:
            raise unreadable(folder / RUN_FILE, error) from error

    @property
    def experiment(self) -> config.Experiment:
        """The run's settings, validated once."""
        if self._validated is None or self._validated[0] is not self.settings:
            try:
                self._validated = (self.settings, config.load(self.recipe, settings=self.settings))
            except CallError as error:
                raise CallError(f"the settings in {self.folder / RUN_FILE} are not those of this version: {error}", error.hint) from None
        return self._validated[1]

    @experiment.setter
    def experiment(self, experiment: config.Experiment) -> None:
        self.settings = experiment.sections()
        self._validated = (self.settings, experiment)

    def save(self) -> None:
        """Replace the record by a rename, so that a kill leaves the old or the new one. Only its owner can read it: see `tracking_uri`."""
        values = {each.name: getattr(self, each.name) for each in fields(self) if each.init and each.name != "folder"}
        write_record(self.folder / RUN_FILE, values)

    def append(self, events: list[RunEvent]) -> None:
        """Record events of rank 0. The process that trains calls this before it writes the checkpoint that contains them."""
        append_events(self.folder / EVENTS, events)

    def note(self, events: list[RunEvent]) -> None:
        """Record events of other ranks and of the driver."""
        append_events(self.folder / NOTICES, events)

    def events(self) -> Iterator[RunEvent]:
        """All events, those of lost attempts included: rank 0's in the order in which they were made, then those of others."""
        for name in (EVENTS, NOTICES, PROBES):
            yield from read_events(self.folder / name, RunEvent)

    def history(self) -> dict[int, dict[str, float]]:
        """See `history_of`."""
        return history_of(self.events())


def history_of(events: Iterable[RunEvent]) -> dict[int, dict[str, float]]:
    """Step -> its metrics (losses, lr, grad_norm), each from the last attempt that made the step."""
    steps: dict[int, dict[str, float]] = {}
    for event in events:
        if isinstance(event, StepsDone):
            for i in range(len(event.lr)):
                losses = {name: values[i] for name, values in event.losses.items()}
                steps[event.first + i] = {**losses, "lr": event.lr[i], "grad_norm": event.grad_norm[i]}
    return dict(sorted(steps.items()))


def find_run(reference: str) -> Run | None:
    """The run with this name, folder or MLflow run id; None where there is none. Raises `CallError` where its record is not readable."""
    for folder in (Path(reference), runs_folder() / reference):
        if (folder / RUN_FILE).is_file():
            return Run.read(folder)
    return next((run for run in all_runs() if run.mlflow_run_id == reference), None)


def all_runs(say: Callable[[str], None] = lambda text: None) -> list[Run]:
    """Those whose record is readable. `say` is told of each other one."""
    runs = []
    for path in sorted(runs_folder().glob(f"[!.]*/{RUN_FILE}")):
        try:
            runs.append(Run.read(path.parent))
        except CallError as error:
            say(str(error))
    return runs


def unreadable(path: Path, error: Exception) -> CallError:
    """The error for a person where the record of a run, a sweep or a comparison is damaged."""
    return CallError(
        f"{path} is not readable: {error}",
        f"put it back from a copy (MLflow and checkpoints have the rest), or remove {path.parent}; no other run needs it",
    )
