"""What happens in a run, as typed events. Workers hand them to the driver, and both write them as JSON lines in the run's folder.

Names of classes and fields may change; the tags and keys on disk stay.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import msgspec

from sightline.platform.core.event_log import Event

EVENTS, NOTICES, PROBES = "events.jsonl", "notices.jsonl", "probes.jsonl"
"""Files in a run's folder with one writer each: the process of rank 0, where it sees the run's folder; the driver; and, of probes during
training, the driver or the sweep's trial."""


class RunEvent(Event, frozen=True, kw_only=True):
    """Base of a run's events."""


class WorkerStarted(RunEvent, frozen=True, tag="worker"):
    """Comes from every rank."""

    rank: int
    pid: int
    host: str
    node: str | None = None
    """Ray's id of the node; None without Ray."""


class ClusterNote(RunEvent, frozen=True, tag="cluster"):
    """What the run waits for, or where it continues."""

    text: str


class DataNote(RunEvent, frozen=True, tag="data"):
    """About the training data: what a resume does not repeat."""

    text: str


class TeacherCacheNote(RunEvent, frozen=True, tag="cache"):
    """About the teacher cache, which is made or found before training."""

    text: str


class TeacherCacheProgress(RunEvent, frozen=True, tag="cache_progress"):
    """Samples in the teacher cache that is being made. For the screen; it is not written."""

    done: int
    total: int


class StorageNote(RunEvent, frozen=True, tag="storage"):
    """About checkpoints that cannot be uploaded to `train.storage`, or fetched from there."""

    text: str


class TrainingStarted(RunEvent, frozen=True, tag="start"):
    device: str
    precision: str
    parameters: int
    first_step: int
    steps: int
    """Of the whole run."""
    workers: int


class SetDone(msgspec.Struct, frozen=True, kw_only=True):
    """One data set of a mixture, in the steps since the last report."""

    samples: int
    loss: float | None
    """Mean over these samples; None where the method does not tell it."""
    seen: int
    """Samples since the run began."""
    epochs: float
    """How often each of its rows has come since then."""


class StepsDone(RunEvent, frozen=True, tag="steps"):
    """The steps since the last report."""

    first: int
    losses: dict[str, list[float]]
    """By name, one value a step."""
    lr: list[float]
    grad_norm: list[float]
    seconds: float
    phases: dict[str, float]
    """Seconds by phase."""
    samples: int
    system: dict[str, float] | None = None
    """With `log.system_metrics`."""
    sets: dict[str, SetDone] | None = None
    """By name, of a run that learns from several data sets."""

    def __post_init__(self) -> None:
        if any(len(values) != len(self.lr) for values in (self.grad_norm, *self.losses.values())) or not self.seconds > 0:
            raise ValueError("not one value a step, or no seconds")

    @property
    def end(self) -> int:
        """Steps done so far."""
        return self.first + len(self.lr)

    @property
    def samples_per_second(self) -> float:
        return self.samples / self.seconds

    @property
    def data_wait(self) -> float:
        """Share of the time in which training waited for data."""
        return self.phases.get("data_wait", 0.0) / self.seconds


class BrokenSamples(RunEvent, frozen=True, tag="broken"):
    """Samples that were replaced by substitutes. Comes from any rank."""

    step: int
    reasons: list[str]


class ValidationDone(RunEvent, frozen=True, tag="validation"):
    step: int
    losses: dict[str, float]


class HealthMeasured(RunEvent, frozen=True, tag="health", rename={"metrics": "figures"}):
    """How collapsed the representation is."""

    step: int
    metrics: dict[str, float]
    warnings: list[str]
    """One sentence for each metric beyond its limit."""


class CheckpointWritten(RunEvent, frozen=True, tag="checkpoint"):
    step: int
    path: str
    seconds: float


class ProbesMeasured(RunEvent, frozen=True, tag="probes"):
    """What the encoder of a checkpoint is worth, measured while training went on."""

    step: int
    """Of the checkpoint."""
    values: dict[str, float]
    """Of the encoder and of its method, by the names that the final metrics have in MLflow."""
    low: dict[str, float]
    high: dict[str, float]
    """Ends of their intervals, as far as there are any."""
    baselines: dict[str, float]
    """By such names, of raw pixels and the like; in the first event of a run also of random weights."""
    skipped: dict[str, str]
    """Probe -> why the data do not allow it."""
    seconds: float


class ProbesMissed(RunEvent, frozen=True, tag="probes_missed"):
    """A checkpoint that was to be probed and was not. Training goes on."""

    step: int
    reason: str
    late: bool
    """Whether the probes of an earlier checkpoint were still running; else they failed."""


class NonFiniteLoss(RunEvent, frozen=True, tag="nonfinite"):
    """The update of this step was not applied. Comes from any rank, with the samples of its own microbatches."""

    step: int
    ids: list[str]


class TrainingFailed(RunEvent, frozen=True, tag="failed"):
    """An error that another attempt would only repeat."""

    OLD_KEYS: ClassVar[dict[str, str]] = {"mend": "hint"}

    what: str
    hint: str = ""
    machine: bool = False
    """Whether the machine was at fault (`MachineError`), such as by a full disk."""


class MemoryPeak(RunEvent, frozen=True, tag="memory"):
    """Of a worker's process since it started. Comes from every rank at the end of training."""

    rank: int
    bytes: int


class TrainingEnded(RunEvent, frozen=True, tag="end"):
    """The last step, or an early end that the driver asked for."""

    step: int
    history: str
    stopped: bool


Post = Callable[[RunEvent], None]
"""Hands an event to the driver without blocking."""
Stop = Callable[[], bool]
"""Whether the driver asked for an early end, as far as this process knows. Does not block."""
