"""A comparison's record: `comparison.json` in a folder of its own. Its runs are ordinary runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from sightline.methods.errors import CallError
from sightline.platform import config
from sightline.platform.core.files import as_record, new_folder, read_record, write_record
from sightline.platform.core.paths import comparison_record, home, home_text, runs_folder
from sightline.platform.core.redaction import redact
from sightline.platform.experiments.create import create_run
from sightline.platform.runs.names import MOST_LETTERS, RUN_NAME, refuse_taken
from sightline.platform.runs.record import Run, unreadable
from sightline.platform.tracking.client import place_of, to_record


class ComparisonStatus(StrEnum):
    CREATED = "created"
    STOPPED = "stopped"
    FINISHED = "finished"


@dataclass(frozen=True)
class Entry:
    """One recipe of a comparison, with its own settings and the length of its training."""

    label: str
    recipe: str
    settings: dict[str, Any]
    """All sections, with the length that the budget gives."""
    fingerprint: str
    """Of its training data."""
    samples: int
    gflops_per_sample: float | None


@dataclass
class Comparison:
    name: str
    folder: Path
    budget: str
    seeds: tuple[int, ...]
    entries: list[Entry]
    probes: tuple[str, ...] | None
    """None: all that the data allow."""
    data: dict[str, list[str]]
    """`folders`, `train` and `test`, as `find_dataset_pairs` takes them."""
    controls: int
    created: str
    command: str
    status: ComparisonStatus = ComparisonStatus.CREATED
    mlflow_run_id: str | None = None
    tracking_uri: str = ""
    """Empty for the database of the home."""
    earlier_mlflow_runs: list[str] = field(default_factory=list)
    """As those of a run."""
    peaks: dict[str, int] = field(default_factory=dict)
    """Run -> most bytes of memory that all processes had while it trained."""

    @classmethod
    def create(cls, name: str, **values: Any) -> Comparison:
        """Raises `CallError` where the name is taken."""
        refuse_name(name)
        folder = home() / "comparisons" / name
        values["command"], values["tracking_uri"] = redact(values["command"]), to_record(values.get("tracking_uri", ""))
        made = cls(name=name, folder=folder, created=datetime.now(UTC).isoformat(timespec="seconds"), **values)
        with new_folder(folder) as part:
            replace(made, folder=part).save()
        return made

    @classmethod
    def open(cls, reference: str) -> Comparison:
        """By name or folder. Raises `CallError`."""
        path = comparison_record(reference)
        if path is None:
            raise CallError(f"no comparison {reference!r} under {home_text()}")
        try:
            return as_record(cls, read_record(path), folder=path.parent.absolute())
        except (OSError, ValueError) as error:
            raise unreadable(path, error) from error

    def save(self) -> None:
        write_record(self.folder / "comparison.json", {k: v for k, v in asdict(self).items() if k != "folder"})

    def run_name(self, entry: Entry, seed: int) -> str:
        return f"{self.name}-{entry.label}-s{seed}"

    def run(self, entry: Entry, seed: int) -> Run:
        """Created where there is none."""
        name = self.run_name(entry, seed)
        if (runs_folder() / name / "run.json").exists():
            return Run.open(name)
        experiment = config.load(entry.recipe, {"train.seed": seed}, settings=entry.settings)
        return create_run(name, experiment, entry.fingerprint, self.command, place_of(self), parent=self.mlflow_run_id)


def refuse_name(name: str, labels: Iterable[str] = (), seeds: int = 1) -> None:
    """Raise `CallError` where a comparison cannot have this name, or a run of it could not have its own, `NAME-LABEL-sSEED`."""
    refuse_taken(name, "comparison", [f"{name}-*-s[0-9]*"])
    for label in labels:
        if not RUN_NAME.fullmatch(whole := f"{name}-{label}-s{seeds - 1}"):
            raise CallError(
                f"an entry {label!r} would have runs named {whole!r}, which is no run name",
                f"use a shorter label or --name (at most {MOST_LETTERS} letters in all) of letters, digits, '.', '_' and '-'",
            )


def sections(experiment: config.Experiment) -> dict[str, Any]:
    """Settings as an entry keeps them."""
    return experiment.sections()
