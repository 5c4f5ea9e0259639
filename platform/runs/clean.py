"""Finds what no run needs any more: checkpoint files, and data that were kept from sources. The registry has its own copies, and
runs keep the weights that they began with."""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sightline.methods.errors import SightlineError
from sightline.platform.checkpoints import local as checkpoint
from sightline.platform.checkpoints.retention import Kept, Reason, Retention, kept
from sightline.platform.core.paths import home
from sightline.platform.data.materialize import FOLDER

from .record import Run

YOUNG_SECONDS = 3600.0
"""Data that no run names, but that are younger, may belong to a command that is starting."""


@dataclass(frozen=True)
class Waste:
    """A file or folder that can be deleted."""

    run: str
    status: str
    """The run's."""
    path: Path
    what: str
    bytes: int

    def remove(self) -> None:
        """Delete it. A kill meanwhile leaves every other checkpoint as it was. Raises `SightlineError`."""
        try:
            if self.path.is_dir():
                shutil.rmtree(checkpoint.hide(self.path))
            else:
                checkpoint.delete_file(self.path)
        except OSError as error:
            raise SightlineError(
                f"{self.path} could not be deleted: {error.strerror or error}", "see who owns it, and try again"
            ) from error

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "path": str(self.path)}


def find_waste(run: Run, keep: int | None = None, optimizer: bool = False, milestones: bool = False) -> list[Waste]:
    """Checkpoints beyond the newest `keep` that verify, and the optimizer's state of a finished run unless `optimizer` keeps it.

    `keep`: by default 1 of a finished run, of any other its `train.keep`. Milestones and the best one stay, too, unless `milestones`.
    Nothing of a run whose newest checkpoint does not verify: a person may need the older ones to repair it.
    """
    folder, finished = run.folder / "checkpoints", run.status == "finished"
    paths = checkpoint.steps(folder)
    if not paths or checkpoint.problem(paths[0]) is not None:
        return []
    wanted = keep or (1 if finished else run.experiment.train.keep)
    whole: list[Path] = []
    for path in paths:
        if len(whole) < wanted and (not whole or checkpoint.problem(path) is None):
            whole.append(path)
    if not milestones:
        whole += [one.path for one in kept_of(run) if one.reasons != (Reason.NEWEST,) and one.path not in whole]
    waste = [_waste(run, path, f"checkpoint of {_step(path)}") for path in paths if path not in whole]
    if finished:  # of other runs somebody may still be writing it
        waste += [_waste(run, path, "checkpoint that was not written to its end") for path in folder.glob(".part-*")]
        states = [path / "optimizer.safetensors" for path in whole if not optimizer]
        waste += [_waste(run, path, f"optimizer state of {_step(path.parent)}") for path in states if path.exists()]
    return waste


@dataclass(frozen=True)
class KeptData:
    """A folder of rows that were kept from a source that Ray Data reads (`materialize`), or made of somebody's folder (`own_folders`)."""

    path: Path
    bytes: int
    days: float
    """Since it was written."""
    runs: tuple[str, ...]
    """Those that name it, for training, validation or probes; sweeps and comparisons, too."""

    @property
    def free(self) -> bool:
        """Whether it can go: no run names it, and it is no part of a command that is starting."""
        return not self.runs and self.days * 86_400 > YOUNG_SECONDS

    @property
    def waste(self) -> Waste:
        return Waste(FOLDER, "no run's", self.path, f"{self.path.name}, {age(self.days)} old", self.bytes)

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "path": str(self.path), "runs": list(self.runs)}


def kept_data() -> list[KeptData]:
    """Those in the home, also what a killed command left half made. Any record of a run, sweep or comparison that has its name counts, a
    damaged one, too."""
    root = home()
    records = [*root.glob("runs/*/run.json"), *root.glob("sweeps/*/sweep.json"), *root.glob("comparisons/*/comparison.json")]
    folders = [folder for folder in sorted((root / FOLDER).glob("*-*")) if folder.is_dir()]
    texts = {path.parent.name: path.read_text(errors="replace") for path in records} if folders else {}
    found = []
    for folder in folders:
        files = [file.stat() for file in folder.rglob("*") if file.is_file()]
        written = max(one.st_mtime for one in (folder.stat(), *files))
        users = tuple(sorted(name for name, text in texts.items() if folder.name in text))
        found.append(KeptData(folder, sum(one.st_size for one in files), max(0.0, time.time() - written) / 86_400, users))
    return found


def age(days: float) -> str:
    """In words: `3 days`, `5 hours`."""
    number, unit = (round(days), "day") if days >= 1 else (round(24 * days), "hour")
    return f"{number} {unit}{'' if number == 1 else 's'}"


def kept_of(run: Run) -> list[Kept]:
    """The checkpoints of a run that its settings keep, newest first, each with the reasons and the metrics measured at its step.

    Milestones are known by their notes. Others may lie there besides, for example those that were kept before a setting was changed.
    """
    return kept(run.folder / "checkpoints", Retention.of(run.experiment))


def _waste(run: Run, path: Path, what: str) -> Waste:
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    return Waste(run.name, run.status, path, what, sum(file.stat().st_size for file in files))


def _step(path: Path) -> str:
    return f"step {checkpoint.number(path.name):,}"
