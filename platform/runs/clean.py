"""Finds checkpoint files that no run needs any more. The registry has its own copies, and runs keep what they began with."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sightline.methods.errors import SightlineError
from sightline.platform.checkpoints import local as checkpoint
from sightline.platform.checkpoints.retention import Kept, Reason, Retention, kept

from .record import Run


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
