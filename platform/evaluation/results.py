"""What an evaluation found: one family of results for probes, control metrics and test metrics.

Every number is an `Interval` and every metric has a `MetricInfo` (unit, direction). `to_json` and `from_json` keep the form in which
results lie on disk: a `ProbeResult` or a `SkippedProbe` in `probes.json`, a `MethodResult` in `claims.json`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
from jaxtyping import Float

from sightline.methods.contract import MetricInfo

from .intervals import Interval


class RowKind(StrEnum):
    ENCODER = "encoder"
    SEED = "seed"
    """One of the encoders of which an `ENCODER` row is the mean."""
    CONTROL_MEAN = "control mean"
    CONTROL = "control"
    """A network of the same make with random weights."""
    BASELINE = "baseline"
    """Features that no network has touched."""


class Verdict(StrEnum):
    BETTER = "better"
    WORSE = "worse"
    NO_DIFFERENCE = "no difference shown"


@dataclass(frozen=True)
class Row:
    """The metrics of one network, of a mean of several, or of a baseline."""

    name: str
    kind: RowKind
    values: Mapping[str, Interval]
    """By metric."""
    baseline: str = ""
    """Short name of a baseline, such as `pixels`."""
    penalty: float | None = None
    """Of the head that was fitted."""

    def to_json(self) -> dict[str, Any]:
        baseline = {"baseline": self.baseline} if self.baseline else {}
        metrics = {key: value.as_dict() for key, value in self.values.items()}
        return {"name": self.name, "kind": str(self.kind), "metrics": metrics, **baseline, "penalty": self.penalty}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Row:
        values = {key: Interval.from_dict(value) for key, value in stored["metrics"].items()}
        return cls(stored["name"], RowKind(stored["kind"]), values, stored.get("baseline", ""), stored.get("penalty"))


@dataclass(frozen=True)
class Difference:
    """Row `first` minus row `second`, on the same resamples."""

    first: str
    second: str
    values: Mapping[str, Interval]
    """By metric."""
    verdicts: Mapping[str, Verdict]
    """By metric: of the first row against the second."""

    @property
    def name(self) -> str:
        return f"{self.first} minus {self.second}"

    def to_json(self) -> dict[str, Any]:
        metrics = {key: {**value.as_dict(), "verdict": str(self.verdicts[key])} for key, value in self.values.items()}
        return {"name": self.name, "of": [self.first, self.second], "metrics": metrics}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Difference:
        (first, second), metrics = stored["of"], stored["metrics"]
        values = {key: Interval.from_dict(value) for key, value in metrics.items()}
        return cls(first, second, values, {key: Verdict(value["verdict"]) for key, value in metrics.items()})


@dataclass(frozen=True)
class Contrast:
    """Metric `first` minus metric `second` of one family (`MetricInfo.family`), on the same samples."""

    first: str
    second: str
    value: Interval

    @property
    def name(self) -> str:
        return f"{self.first} minus {self.second}"

    @property
    def verdict(self) -> str:
        return "the interval leaves out zero" if self.value.excludes_zero else str(Verdict.NO_DIFFERENCE)

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "of": [self.first, self.second], **self.value.as_dict()}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Contrast:
        first, second = stored["of"]
        return cls(first, second, Interval.from_dict(stored))


@dataclass(frozen=True)
class Resamples:
    """The first metric of an encoder on every resample, so that it can be compared with another one that is measured later (`paired`)."""

    draws: Float[np.ndarray, " draws"]
    level: float
    """Of the intervals."""
    conditions: Mapping[str, str]
    """What two encoders must have in common to be compared: data by their fingerprints, protocol, units."""


MOST_FREQUENT = "of_the_most_frequent_class"
"""End of the name of a count: test images or clouds of the class that is most frequent in training."""


@dataclass(frozen=True)
class EvaluationResult:
    """Rows by metrics, each with its interval, and what was resampled. The first metric is the one that is told first."""

    name: str
    """Of the probe; `control` or `test` for those of the method itself."""
    title: str
    metrics: Mapping[str, MetricInfo]
    """By key. Those with a `group` are details, such as the IoU of each class."""
    rows: tuple[Row, ...]
    unit_kind: str
    """What was resampled: scene, time block, image."""
    unit_count: int
    covers: str
    """What the intervals cover and what they do not."""
    counts: Mapping[str, int]
    seconds: float
    finding: str = field(default="", kw_only=True)
    """A sentence or two; empty where nothing is to be said."""
    data: Mapping[str, str | None] = field(default_factory=dict, kw_only=True)
    """URIs of the `train` and the `test` data."""
    resamples: Mapping[str, Resamples] = field(default_factory=dict, kw_only=True, repr=False, compare=False)
    """Of each encoder, by its row. They lie in a file of their own, not in the JSON."""

    @property
    def main_metrics(self) -> dict[str, MetricInfo]:
        """Those that are no detail."""
        return {key: info for key, info in self.metrics.items() if not info.group}

    @property
    def first_metric(self) -> str:
        return next(iter(self.metrics))

    @property
    def groups(self) -> dict[str, list[str]]:
        """Heading of a table of details -> its metrics."""
        found: dict[str, list[str]] = {}
        for key, info in self.metrics.items():
            if info.group:
                found.setdefault(info.group, []).append(key)
        return found

    @property
    def guessing(self) -> float | None:
        """Accuracy of always guessing the class that is most frequent in training; None where no class is asked for."""
        for name, count in self.counts.items():
            if name.endswith(MOST_FREQUENT):
                return count / max(self.counts[name.removesuffix(MOST_FREQUENT).rstrip("_")], 1)
        return None

    def row(self, name: str) -> Row:
        return next(row for row in self.rows if row.name == name)

    def rows_of(self, *kinds: RowKind) -> Iterator[Row]:
        return (row for row in self.rows if row.kind in kinds)


@dataclass(frozen=True)
class ProbeResult(EvaluationResult):
    differences: tuple[Difference, ...] = ()
    protocol: Mapping[str, Any] = field(default_factory=dict)
    """Plain JSON values."""
    protocol_hash: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            **_head(self),
            "rows": [row.to_json() for row in self.rows],
            "differences": [difference.to_json() for difference in self.differences],
            "units": {"kind": self.unit_kind, "count": self.unit_count},
            "covers": self.covers,
            "counts": dict(self.counts),
            "data": dict(self.data),
            "finding": self.finding,
            "seconds": self.seconds,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> ProbeResult:
        return cls(
            name=stored["probe"],
            title=stored["title"],
            metrics={key: info_from_json(about) for key, about in stored["metrics"].items()},
            rows=tuple(Row.from_json(row) for row in stored["rows"]),
            unit_kind=stored["units"]["kind"],
            unit_count=stored["units"]["count"],
            covers=stored["covers"],
            counts=stored["counts"],
            seconds=stored["seconds"],
            finding=stored["finding"],
            differences=tuple(Difference.from_json(one) for one in stored["differences"]),
            protocol=stored["protocol"],
            protocol_hash=stored["protocol_hash"],
            data=stored["data"],
        )


@dataclass(frozen=True)
class SkippedProbe:
    """A probe that the data did not allow."""

    name: str
    title: str
    reason: str
    seconds: float = 0.0
    metrics: Mapping[str, MetricInfo] = field(default_factory=dict)
    protocol: Mapping[str, Any] = field(default_factory=dict)
    protocol_hash: str = ""

    @property
    def sentence(self) -> str:
        return f"probe {self.name} skipped: {self.reason}"

    def to_json(self) -> dict[str, Any]:
        return {**_head(self), "skipped": self.sentence, "seconds": self.seconds}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> SkippedProbe:
        name = stored["probe"]
        return cls(
            name=name,
            title=stored["title"],
            reason=stored["skipped"].removeprefix(f"probe {name} skipped: "),
            seconds=stored["seconds"],
            metrics={key: info_from_json(about) for key, about in stored["metrics"].items()},
            protocol=stored["protocol"],
            protocol_hash=stored["protocol_hash"],
        )


ProbeOutcome = ProbeResult | SkippedProbe
ProbeOutcomes = Mapping[str, ProbeOutcome]
"""By name of the probe."""


def probe_from_json(stored: Mapping[str, Any]) -> ProbeOutcome:
    """One value of `probes.json`."""
    return (SkippedProbe if "skipped" in stored else ProbeResult).from_json(stored)


def probes_to_json(probes: ProbeOutcomes) -> dict[str, dict[str, Any]]:
    """The content of `probes.json`."""
    return {name: outcome.to_json() for name, outcome in probes.items()}


@dataclass(frozen=True)
class Confusion:
    """How many test samples (of segmentation: pixels) of each true class got each class."""

    classes: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    """One row for each true class, one column for each predicted one."""

    def to_json(self) -> dict[str, Any]:
        return {"classes": list(self.classes), "counts": [list(row) for row in self.counts]}


CONTROL, TEST = "control", "test"
TRAINED = "trained network"
"""The one row of a `MethodResult`."""
TITLES = {CONTROL: "Control metrics of the method", TEST: "Test metrics"}
IOU = "IoU"
RECALL, PRECISION = "Share of each class that is found", "Share of each prediction that is right"
CATEGORY = "mIoU by category"
BY_CLASS = {"iou": IOU, "recall": RECALL, "precision": PRECISION, "category_miou": CATEGORY}
"""Key in JSON -> group of the details that hold a metric of each class."""


@dataclass(frozen=True)
class MethodResult(EvaluationResult):
    """Of a method itself: its control metrics (`name` is `control`), or the test metrics of a model with a predictor (`test`).

    It has one row, the trained network. Control metrics of one family are held against each other in `contrasts`.
    """

    contrasts: tuple[Contrast, ...] = ()
    chance: float | None = None
    """The first test metric of always guessing the most frequent class; None for control metrics."""
    confusion: Confusion | None = None

    @property
    def values(self) -> Mapping[str, Interval]:
        """By metric."""
        return self.rows[0].values

    def to_json(self) -> dict[str, Any]:
        by_class = {
            key: {self.metrics[metric].label: self.values[metric].as_dict()["value"] for metric in self.groups[group]}
            for key, group in BY_CLASS.items()
            if group in self.groups
        }
        return {
            "figures": {key: self.values[key].as_dict() for key in self.main_metrics},
            "differences": [contrast.to_json() for contrast in self.contrasts],
            "units": {"kind": self.unit_kind, "count": self.unit_count},
            "covers": self.covers,
            "counts": dict(self.counts),
            **({"finding": self.finding} if self.finding else {}),
            "seconds": self.seconds,
            **by_class,
            **({"chance": self.chance} if self.chance is not None else {}),
            **({"confusion": self.confusion.to_json()} if self.confusion else {}),
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any], metrics: Mapping[str, MetricInfo] | None = None) -> MethodResult:
        """The content of `claims.json`, which does not say what its metrics mean: `metrics` does."""
        known, units = metrics or {}, stored["units"]
        values = {key: Interval.from_dict(value) for key, value in stored["figures"].items()}
        infos = {key: known.get(key, MetricInfo()) for key in values}
        for name, group in BY_CLASS.items():
            for label, value in stored.get(name, {}).items():
                nan = float("nan")
                values[f"{name}_{label}"] = Interval(nan if value is None else value, nan, nan, units["count"])
                infos[f"{name}_{label}"] = of_class(group, label)
        confusion = stored.get("confusion")
        name = TEST if stored.get("finding") else CONTROL
        return cls(
            name=name,
            title=TITLES[name],
            metrics=infos,
            rows=(Row(TRAINED, RowKind.ENCODER, values),),
            unit_kind=units["kind"],
            unit_count=units["count"],
            covers=stored["covers"],
            counts=stored["counts"],
            seconds=stored["seconds"],
            finding=stored.get("finding", ""),
            contrasts=tuple(Contrast.from_json(one) for one in stored["differences"]),
            chance=stored.get("chance"),
            confusion=Confusion(tuple(confusion["classes"]), tuple(map(tuple, confusion["counts"]))) if confusion else None,
        )


def of_class(group: str, label: str) -> MetricInfo:
    """What a metric of one class means; `group` is one of `BY_CLASS`."""
    return MetricInfo(means=f"{group}: {label}", label=label, unit="%", group=group)


def _head(of: ProbeOutcome) -> dict[str, Any]:
    metrics = {key: info_to_json(info) for key, info in of.metrics.items()}
    protocol = {"protocol": dict(of.protocol), "protocol_hash": of.protocol_hash}
    return {"probe": of.name, "title": of.title, **protocol, "metrics": metrics}


def info_to_json(info: MetricInfo) -> dict[str, str]:
    group = {"group": info.group} if info.group else {}
    return {"label": info.label, "unit": info.unit, "better": info.better, "means": info.means, **group}


def info_from_json(stored: Mapping[str, Any]) -> MetricInfo:
    return MetricInfo(
        means=stored["means"], label=stored["label"], unit=stored["unit"], better=stored["better"], group=stored.get("group", "")
    )
