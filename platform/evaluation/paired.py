"""Paired comparison of two encoders that were measured at different times, on the same data by the same protocol.

Resamples are a function of the number of units alone (`intervals.resample_counts`). So the values that an encoder had on them say, beside
those of another one, what measuring both together would have said.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from sightline.methods.contract import MetricInfo
from sightline.methods.errors import SightlineError
from sightline.platform.core.files import replacing

from .intervals import Interval, interval
from .result_table import verdict_of
from .results import EvaluationResult, Resamples, Verdict, info_from_json, info_to_json

FILE = "resamples.safetensors"
"""In a run's folder, and among the artifacts of its MLflow run."""


@dataclass(frozen=True)
class Measured:
    """The first metric of a result for one encoder, with its resamples and the conditions under which it was measured."""

    name: str
    """Of the probe, or `test`."""
    metric: str
    info: MetricInfo
    value: float
    resamples: Resamples = field(repr=False)
    unit_kind: str
    unit_count: int
    data: Mapping[str, str | None]
    """Where the `train` and the `test` data lay."""

    @classmethod
    def of(cls, result: EvaluationResult, row: str) -> Measured | None:
        """Of the encoder in this row; None where the result has no resamples of it."""
        if (resamples := result.resamples.get(row)) is None:
            return None
        metric = result.first_metric
        value = result.row(row).values[metric].value
        return cls(result.name, metric, result.metrics[metric], value, resamples, result.unit_kind, result.unit_count, dict(result.data))


@dataclass(frozen=True)
class Paired:
    """The first encoder against the second."""

    name: str
    metric: str
    info: MetricInfo
    first: float
    second: float
    difference: Interval
    verdict: Verdict
    unit_kind: str


def unlike(one: Measured, other: Measured) -> list[str]:
    """In which conditions the two differ, so that they cannot be compared; empty where they can."""
    first, second = one.resamples.conditions, other.resamples.conditions
    return [key for key in {**first, **second} if first.get(key) != second.get(key)]


def compare(one: Measured, other: Measured) -> Paired:
    """Both must have been measured alike (`unlike`)."""
    if differs := unlike(one, other):
        raise ValueError(f"not measured alike: {', '.join(differs)}")
    apart = interval(one.value - other.value, one.resamples.draws - other.resamples.draws, one.resamples.level, one.unit_count)
    verdict = verdict_of(apart, one.value, (), one.info.better)
    return Paired(one.name, one.metric, one.info, one.value, other.value, apart, verdict, one.unit_kind)


def write_measured(path: Path, sha256: str, measured: Iterable[Measured]) -> Path:
    """Write what the encoder with this SHA-256 measured, as safetensors."""
    from safetensors.numpy import save

    found = list(measured)
    about = {
        one.name: {
            "metric": one.metric,
            "info": info_to_json(one.info),
            "value": one.value,
            "level": one.resamples.level,
            "conditions": dict(one.resamples.conditions),
            "units": {"kind": one.unit_kind, "count": one.unit_count},
            "data": dict(one.data),
        }
        for one in found
    }
    with replacing(path) as part:
        part.write_bytes(save({one.name: one.resamples.draws for one in found}, {"sha256": sha256, "results": json.dumps(about)}))
    return path


def read_measured(path: Path) -> tuple[str, dict[str, Measured]]:
    """(SHA-256 of the encoder, name -> what it measured). Raises `SightlineError` where the file cannot be read as such."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), "numpy") as file:
            told = file.metadata()
            return told["sha256"], {name: _measured(name, one, file.get_tensor(name)) for name, one in json.loads(told["results"]).items()}
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise SightlineError(f"{path} is not readable: {error}", "measure the encoder again") from error


def _measured(name: str, stored: Mapping[str, Any], draws: Float[np.ndarray, " draws"]) -> Measured:
    return Measured(
        name=name,
        metric=stored["metric"],
        info=info_from_json(stored["info"]),
        value=float(stored["value"]),
        resamples=Resamples(draws, stored["level"], stored["conditions"]),
        unit_kind=stored["units"]["kind"],
        unit_count=stored["units"]["count"],
        data=stored["data"],
    )
