"""What a worker needs to know to train a run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sightline.platform import config
from sightline.platform.config import Experiment
from sightline.platform.data.loader.stream import StreamResources


@dataclass(frozen=True)
class TrainJob:
    """One run as a worker sees it. It travels between processes as `to_values`, so each process validates the settings once."""

    experiment: Experiment
    folder: Path
    """The run's folder, as this process has it."""
    fingerprint: str
    """Of the training data that the run began with."""
    stream: StreamResources | None = None
    """Logical CPUs of each rank's pipeline; None: one worker in this process, without Ray."""
    threads: int = 1
    teacher_cache: str | None = None
    """Where the finished cache of the experiment's `teacher_cache.variants` lies; None: views and stage run as training needs them."""
    token: str = ""
    """Shows a worker whether it sees the driver's folder (`shared_fs.py`)."""

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def to_values(self) -> dict[str, Any]:
        """The job as JSON-able values."""
        return {
            "recipe": self.experiment.recipe,
            "settings": self.experiment.sections(),
            "folder": str(self.folder),
            "fingerprint": self.fingerprint,
            "stream": self.stream and asdict(self.stream),
            "threads": self.threads,
            "teacher_cache": self.teacher_cache,
            "token": self.token,
        }

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> TrainJob:
        """The job that `to_values` gave."""
        others = {key: value for key, value in values.items() if key not in ("recipe", "settings")}
        stream = values["stream"] and StreamResources(**values["stream"])
        experiment = config.load(values["recipe"], settings=values["settings"])
        return cls(experiment, **{**others, "folder": Path(values["folder"]), "stream": stream})
