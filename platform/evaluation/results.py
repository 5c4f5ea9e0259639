"""What an evaluation found: one family of results for probes, control metrics and test metrics.

Each number has a `MetricInfo` (unit, direction) and an `Interval`. `to_json` and `from_json` keep the form in which results lie on disk
(`probes.json`, `claims.json`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sightline.methods.contract import MetricInfo

from .probes.intervals import Interval


class RowKind(StrEnum):
    ENCODER = "encoder"
    SEED = "seed"
    """One of the encoders of which an `ENCODER` row is the mean."""
    CONTROL_MEAN = "control mean"
    CONTROL = "control"
    """A network of the same make with random weights."""
    BASELINE = "baseline"
    """Features that no network has touched."""
    CONDITION = "condition"
    """The trained network under a condition, such as another second view."""


class Verdict(StrEnum):
    BETTER = "better"
    WORSE = "worse"
    NO_DIFFERENCE = "no difference shown"


@dataclass(frozen=True)
class Row:
    name: str
    kind: RowKind
    values: Mapping[str, Interval]
    """By metric."""
    baseline: str = ""
    """Short name of a baseline, such as `pixels`."""
    penalty: float | None = None
    """Of the head that was fitted."""


@dataclass(frozen=True)
class Difference:
    """`first` minus `second`, on the same resamples."""

    first: str
    second: str
    values: Mapping[str, Interval]
    verdicts: Mapping[str, Verdict]


@dataclass(frozen=True)
class EvaluationResult:
    """Rows by metrics with their intervals, and the differences between rows. The first main metric is the one that is told first."""

    name: str
    """Of the probe; `control` or `test` for those of a method itself."""
    title: str
    metrics: Mapping[str, MetricInfo]
    rows: tuple[Row, ...]
    differences: tuple[Difference, ...]
    unit_kind: str
    """What was resampled: scene, time block, image."""
    unit_count: int
    covers: str
    """What the intervals cover and what they do not."""
    counts: Mapping[str, int]
    finding: str
    seconds: float


@dataclass(frozen=True)
class ProbeResult(EvaluationResult):
    protocol: Mapping[str, Any] = field(default_factory=dict)
    protocol_hash: str = ""
    data: Mapping[str, str | None] = field(default_factory=dict)
    """URIs of the training and the test data."""


@dataclass(frozen=True)
class SkippedProbe:
    """A probe that the data did not allow."""

    name: str
    title: str
    reason: str
    seconds: float = 0.0
