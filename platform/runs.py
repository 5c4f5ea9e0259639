"""Runs: a folder each, with what was asked for (`run.json`), what happened (`events.jsonl`) and what came out of it."""

from __future__ import annotations

import json
import os
import re
import shlex
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sightline.methods.catalog import find_method
from sightline.methods.errors import CallError
from sightline.methods.settings import nearest

from . import config
from .events import Event
from .home import home, runs_folder

if TYPE_CHECKING:
    from .weights import Weights

RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,100}")
EVENTS, NOTICES = "events.jsonl", "notices.jsonl"
"""One writer each: the process of rank 0, where it sees the run's folder, and the driver."""


def append_lines(path: Path, events: list[Event]) -> None:
    """Append events as JSON lines, each with the `time` of its writing in seconds since 1970.

    A line that a kill cut short is closed first, so that it harms no other.
    """
    if not events:
        return
    now = round(time.time(), 3)
    with path.open("a+b") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write("".join(json.dumps({"time": now, **event}) + "\n" for event in events).encode())


def write_down(folder: Path, events: list[Event]) -> None:
    """Record in the run's `folder` what workers told: each event in the file that its `record` names, if it is not there already (None)."""
    records = [event.pop("record", NOTICES) for event in events]
    for name in (EVENTS, NOTICES):
        append_lines(folder / name, [event for event, record in zip(events, records, strict=True) if record == name])


def parse_lines(lines: Iterable[bytes]) -> Iterator[Event]:
    """The events of whole lines; what a kill cut short is left out."""
    for line in lines:
        with suppress(ValueError):
            if line.endswith(b"\n"):
                yield json.loads(line)


def write_record(path: Path, values: Mapping[str, Any]) -> None:
    """JSON that its owner alone may read, replaced in one move."""
    part = path.with_name(f".{path.name}")
    part.touch(mode=0o600)
    part.write_text(json.dumps(values, indent=1, default=str))
    part.replace(path)


@dataclass
class Run:
    """A logical run: one, across retries, resumes and changes of size."""

    name: str
    folder: Path
    recipe: str
    settings: dict[str, Any]
    fingerprint: str
    """Of the training data."""
    created: str
    command: str
    status: str = "created"
    """created | running | stopped | failed | trained | finished"""
    attempts: int = 0
    mlflow_run_id: str | None = None
    parent: str | None = None
    """MLflow run id of the run that this one is nested in."""
    commit: str | None = None
    """Of Sightline's checkout, when the run was made."""
    tracking_uri: str = ""
    """The one place that keeps a password, for the next connection; `settings` and `command` are shown and sent, so they hold none."""
    versions: dict[str, str] = field(default_factory=dict)

    @classmethod
    def create(
        cls, name: str, experiment: config.Experiment, fingerprint: str, command: str, tracking_uri: str, parent: str | None = None
    ) -> Run:
        """The run's record, and the weights it begins from (`train.init`, from here on with their SHA-256).

        Raises `CallError` where a run of this name exists, and where `train.init` names nothing that fits.
        """
        refuse_taken(name, "run")
        initial = None
        if experiment.train.init is not None:
            from .initial import find_initial  # imports torch where it is used

            initial = find_initial(experiment, tracking_uri or None)
            experiment = experiment.model_copy(update={"train": experiment.train.model_copy(update={"init": initial.place})})
        frozen: dict[str, Weights] = {}
        if find_method(experiment.method).frozen(experiment.settings):
            from .frozen import resolve

            experiment, frozen = resolve(experiment, tracking_uri or None)
        folder = runs_folder() / name
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            raise CallError(
                f"a run named {name!r} exists in {folder}", f"choose another --name, or go on with `sightline resume {name}`"
            ) from None
        created = datetime.now(UTC).isoformat(timespec="seconds")
        settings = without_password(experiment).sections()
        record = (name, folder, experiment.recipe, settings, fingerprint, created, redact(command))
        run = cls(*record, parent=parent, commit=this_commit(), tracking_uri=tracking_uri)
        if initial is not None:
            initial.keep(experiment, folder)
        if frozen:
            from .frozen import keep

            keep(frozen, folder)
        run.save()
        return run

    @classmethod
    def open(cls, reference: str) -> Run:
        """By name, folder or MLflow run id. Raises `CallError`."""
        candidates = [Path(reference), runs_folder() / reference]
        for folder in candidates:
            if (folder / "run.json").is_file():
                return cls._read(folder)
        for run in all_runs():
            if run.mlflow_run_id == reference:
                return run
        names = [run.name for run in all_runs()]
        raise CallError(f"no run {reference!r} under {home()}: {nearest(reference, names)}" if names else f"no runs under {home()}")

    @classmethod
    def _read(cls, folder: Path) -> Run:
        try:
            values = json.loads((folder / "run.json").read_text())
            return cls(**{**values, "folder": folder.absolute()})
        except (OSError, ValueError, TypeError) as error:
            raise CallError(f"{folder / 'run.json'} is not readable: {error}") from error

    @property
    def experiment(self) -> config.Experiment:
        return config.load(self.recipe, settings=self.settings)

    def save(self) -> None:
        """Replaced in one move, so that a kill leaves the old record or the new. For the owner's eyes: see `tracking_uri`."""
        write_record(self.folder / "run.json", {k: v for k, v in asdict(self).items() if k != "folder"})

    def append(self, events: list[Event]) -> None:
        """Record what rank 0 told; called by the process that trains, before the checkpoint that contains it is written."""
        append_lines(self.folder / EVENTS, events)

    def note(self, events: list[Event]) -> None:
        """Record what other ranks told, which reaches the driver alone."""
        append_lines(self.folder / NOTICES, events)

    def events(self) -> Iterator[Event]:
        """All events, of lost attempts too: rank 0's in the order of their making, then those of other ranks."""
        for path in (self.folder / EVENTS, self.folder / NOTICES):
            if path.exists():
                with path.open("rb") as file:
                    yield from parse_lines(file)

    def history(self) -> dict[int, dict[str, float]]:
        """Step -> its figures (losses, lr, grad_norm), each from the last attempt that made the step."""
        steps: dict[int, dict[str, float]] = {}
        for event in self.events():
            if event["kind"] == "steps":
                for i in range(len(event["lr"])):
                    figures = {name: values[i] for name, values in event["losses"].items()}
                    steps[event["first"] + i] = {**figures, "lr": event["lr"][i], "grad_norm": event["grad_norm"][i]}
        return dict(sorted(steps.items()))


def all_runs() -> list[Run]:
    return [Run._read(path.parent) for path in sorted(runs_folder().glob("*/run.json"))]


KINDS = ("runs", "sweeps", "comparisons")
"""Folders of what has a name that `resume` takes."""


def fresh_name(recipe: str) -> str:
    """A run name nobody used: the recipe, in letters that a run name may have, and the time."""
    clean = re.sub(r"[^A-Za-z0-9._-]+", "-", recipe).strip("._-")[:60] or "run"
    stem = f"{clean}-{datetime.now().strftime('%m%d-%H%M%S')}"
    name, number = stem, 1
    while any((home() / kind / name).exists() for kind in KINDS):
        number += 1
        name = f"{stem}-{number}"
    return name


def refuse_taken(name: str, kind: str, parts: str = "") -> None:
    """Raises `CallError` where `name` is no name, where a run, a sweep or a comparison has it, or where runs match `parts` (a pattern)."""
    if not RUN_NAME.fullmatch(name):
        raise CallError(f"{name!r} is no {kind} name", "use letters, digits, '.', '_' and '-'")
    for other in KINDS:
        if (folder := home() / other / name).exists():
            mend = f"choose another --name, or go on with `sightline resume {name}`"
            raise CallError(f"a {other.removesuffix('s')} named {name!r} exists in {folder}", mend)
    if parts and (found := sorted(path.name for path in runs_folder().glob(parts))):
        raise CallError(f"a run named {found[0]!r} exists, as one of this {kind} would be", "choose another --name, or remove such runs")


def redact(text: str) -> str:
    """`text` without the user, password or token of the addresses in it: `http://***@host`."""
    return re.sub(r"://[^/\s]+@", "://***@", text)


def safe_line(error: Exception) -> str:
    """What went wrong, in a line without passwords."""
    return redact(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")


def without_password(experiment: config.Experiment) -> config.Experiment:
    """The experiment as it is shown, recorded and sent."""
    uri = experiment.log.tracking_uri
    return experiment.model_copy(update={"log": experiment.log.model_copy(update={"tracking_uri": uri and redact(uri)})})


def command_line(words: Sequence[str]) -> str:
    """The `sightline` command of these words, as a shell takes it and without passwords."""
    return shlex.join(["sightline", *map(redact, words)])


def this_commit() -> str | None:
    """The commit of the checkout or worktree Sightline runs from, where there is one; read without starting git."""
    git = Path(__file__).parent.parent / ".git"
    try:
        if git.is_file():  # a worktree: its own HEAD, the common references
            git = Path(git.read_text().removeprefix("gitdir:").strip())
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head
        common = git / (git / "commondir").read_text().strip() if (git / "commondir").is_file() else git
        if (common / head[5:]).is_file():
            return (common / head[5:]).read_text().strip()
        packed = (line.split() for line in (common / "packed-refs").read_text().splitlines())
        return next((words[0] for words in packed if words[1:] == [head[5:]]), None)
    except OSError:
        return None
