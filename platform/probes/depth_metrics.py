"""Figures of the depth probe: metrics, intervals, paired differences and the sentence that says what was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from .intervals import Interval, average_over_seeds, coverage, interval, resample_counts, unit_sums
from .protocol import DepthProtocol

METRICS = {
    "delta1": {"label": "delta1", "unit": "%", "better": "higher", "means": "share of patches within a factor 1.25 of the true depth"},
    "absrel": {"label": "AbsRel", "unit": "", "better": "lower", "means": "mean of |predicted - true| / true"},
    "rmse": {"label": "RMSE", "unit": "m", "better": "lower", "means": "root mean squared error"},
}


def error_sums(predicted: Float[np.ndarray, "b n"], true: Float[np.ndarray, "b n"], delta: float) -> Float[np.ndarray, "b 4"]:
    """For each image: counted patches, patches within `delta`, sum of relative errors, sum of squared errors."""
    known = np.isfinite(true)
    t = np.where(known, true, 1.0).astype(np.float64)
    p = np.where(known, predicted, 1.0).astype(np.float64)
    hit = np.maximum(p / t, t / p) < delta
    columns = [known, known & hit, np.abs(p - t) / t, (p - t) ** 2]
    return np.stack([column.sum(axis=1).astype(np.float64) for column in columns], axis=1)


def metrics_of(sums: Float[np.ndarray, "*shape 4"]) -> dict[str, Float[np.ndarray, "*shape"]]:
    with np.errstate(invalid="ignore", divide="ignore"):  # a resample without a counted patch has no figure
        count, hits, relative, squared = np.moveaxis(sums, -1, 0)
        return {"delta1": hits / count, "absrel": relative / count, "rmse": np.sqrt(squared / count)}


def figures_of(
    sums: Mapping[str, tuple[list[str], np.ndarray]], encoders: list[str], controls: list[str], unit_kind: str, protocol: DepthProtocol
) -> dict[str, Any]:
    """Rows and paired differences: every figure is taken on the same resamples of units."""
    r = protocol.resampling
    by_unit = {name: unit_sums(values, ids)[1] for name, (ids, values) in sums.items()}
    count = len(by_unit["position"])
    drawn = resample_counts(count, r.draws, r.seed)
    value = {name: metrics_of(total.sum(axis=0)) for name, total in by_unit.items()}
    draws = {name: metrics_of(drawn @ total) for name, total in by_unit.items()}
    kinds = dict.fromkeys(encoders, "encoder")
    if controls:
        mean = f"mean of {len(controls)} random"
        kinds |= {mean: "control mean", **dict.fromkeys(controls, "control")}
        value[mean] = {m: np.mean([value[name][m] for name in controls]) for m in METRICS}
        draws[mean] = {m: average_over_seeds(np.stack([draws[name][m] for name in controls]), r.seed) for m in METRICS}
    kinds["position"] = "baseline"

    def figure(values: Mapping[str, Any], many: Mapping[str, Any]) -> dict[str, Any]:
        return {m: interval(float(values[m]), many[m], r.level, count).as_dict() for m in METRICS}

    rows = [{"name": name, "kind": kind, "metrics": figure(value[name], draws[name])} for name, kind in kinds.items()]
    against = [name for name, kind in kinds.items() if kind in ("control mean", "baseline")]
    pairs = [(name, other) for name in encoders for other in against] + [(encoders[0], other) for other in encoders[1:]]
    differences = []
    for one, other in pairs:
        found = figure({m: value[one][m] - value[other][m] for m in METRICS}, {m: draws[one][m] - draws[other][m] for m in METRICS})
        for m in METRICS:
            spread = [float(value[name][m]) for name in controls] if kinds[other] == "control mean" else []
            found[m]["verdict"] = verdict_of(Interval.from_dict(found[m]), float(value[one][m]), spread, METRICS[m]["better"])
        differences.append({"name": f"{one} minus {other}", "of": [one, other], "metrics": found})
    also = f" and of the {len(controls)} random-weights networks" if controls else ""
    return {
        "rows": rows,
        "differences": differences,
        "units": {"kind": unit_kind, "count": count},
        "covers": coverage(r.level, r.draws, count, unit_kind, also),
    }


def verdict_of(difference: Interval, value: float, spread: Sequence[float], better: str) -> str:
    """'better', 'worse' or 'no difference shown'.

    The interval must leave out zero. Against random networks (`spread`: their figures) the value must also lie farther beyond the
    nearest of them than they lie apart: on one data set, random networks differ from each other by more than chance of scenes.
    """
    if not difference.excludes_zero:
        return "no difference shown"
    if spread and max(min(spread) - value, value - max(spread)) <= max(spread) - min(spread):
        return "no difference shown"
    return "better" if (difference.value > 0) == (better == "higher") else "worse"


def finding_of(result: Mapping[str, Any]) -> str:
    """One sentence: what was found, and whether it may be called a difference."""
    rows = {row["name"]: row["metrics"]["delta1"]["value"] for row in result["rows"]}
    if not result["differences"]:
        return ""
    difference = next((d for d in result["differences"] if d["of"][1].startswith("mean of")), result["differences"][0])
    one, other = difference["of"]
    gain = difference["metrics"]["delta1"]
    random = other.startswith("mean of")
    named, short = (f"the {other}-weights networks", "random weights") if random else (f"the {other} baseline", other)
    verdict = f"the features are {gain['verdict']} than {short}" if gain["verdict"] in ("better", "worse") else "no difference is shown"
    span = f", interval {gain['low'] * 100:+.1f} to {gain['high'] * 100:+.1f}" if gain["low"] is not None else ""
    controls = [row["metrics"]["delta1"]["value"] for row in result["rows"] if row["kind"] == "control"]
    apart = f", which lie between {min(controls):.1%} and {max(controls):.1%}" if random and len(controls) > 1 else ""
    return (
        f"A linear map on the frozen features puts {rows[one]:.1%} of the patches within a factor 1.25 of the true depth, "
        f"against {rows[other]:.1%} for {named}{apart} ({gain['value'] * 100:+.1f} points{span}): {verdict}."
    )
