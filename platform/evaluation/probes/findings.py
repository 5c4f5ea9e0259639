"""What was found, in words: a sentence for a probe's section, a few words for the head of a page, a line for each encoder in a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .result_table import ResultTable


def finding_of(result: Mapping[str, Any], says: str, table: ResultTable) -> str:
    """For each encoder a sentence: its first figure beside random weights and each baseline, and what may be called a difference."""
    metric = next(iter(result["metrics"]))
    rows = {row["name"]: row["metrics"][metric]["value"] for row in result["rows"]}
    sentences = []
    for name, against in table.encoders.items():
        parts = [f"{says.format(value=f'{rows[name]:.1%}')}"]
        for other in against:
            difference = next(d["metrics"][metric] for d in result["differences"] if d["of"] == [name, other])
            controls = [rows[control] for control in table.controls.get(other, ())]
            apart = f", which lie between {min(controls):.1%} and {max(controls):.1%}" if len(controls) > 1 else ""
            alone = other if table.baselines.get(other) == "pixels" else f"the {other} alone"
            named, short = (f"the {other}-weights networks", "random weights") if other in table.controls else (alone, alone)
            span = f", interval {difference['low'] * 100:+.1f} to {difference['high'] * 100:+.1f}" if difference["low"] is not None else ""
            verdict = difference["verdict"]
            said = f"{verdict} than {short}" if verdict in ("better", "worse") else "no difference is shown"
            parts.append(f"against {rows[other]:.1%} for {named}{apart} ({difference['value'] * 100:+.1f} points{span}): {said}")
        whose = f"{name}: " if len(table.encoders) > 1 else ""
        first, *others = parts
        sentences.append(f"{whose}{first}{', ' if others else ''}{'; '.join(others)}.")
    return " ".join(sentences)


def brief(result: Mapping[str, Any]) -> str:
    """The first encoder's first figure in a few words; empty for a probe that was skipped."""
    if "skipped" in result:
        return ""
    metric, about = next(iter(result["metrics"].items()))
    encoder = result["rows"][0]
    against = [d for d in result["differences"] if d["of"][0] == encoder["name"] and _short(result, d["of"][1])]
    value = {row["name"]: row["metrics"][metric]["value"] for row in result["rows"]}
    others = "; ".join(f"{_short(result, d['of'][1])} {value[d['of'][1]]:.1%}, {_word(d['metrics'][metric]['verdict'])}" for d in against)
    label = metric if about["label"] == "all pairs" else about["label"]
    return f"{result['probe']} {label} {value[encoder['name']]:.1%}" + (f" ({others})" if others else "")


def flat_metrics(results: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """`probe/<probe>/<metric>` of the first encoder, `random_<metric>` of the mean of its controls, `pixels_<metric>` and the like."""
    out: dict[str, float] = {}
    for name, result in results.items():
        if "skipped" in result:
            continue
        main = [key for key, about in result["metrics"].items() if "group" not in about]
        first: dict[str, Mapping[str, Any]] = {}
        for row in result["rows"]:
            label = {"encoder": "", "control mean": "random_"}.get(row["kind"]) if "baseline" not in row else f"{row['baseline']}_"
            if label is not None:
                first.setdefault(label, row)
        for label, row in first.items():
            out |= {f"probe/{name}/{label}{key}": row["metrics"][key]["value"] for key in main}
    return out


def table(result: Mapping[str, Any]) -> list[tuple[str, str, list[str]]]:
    """(row name, its first figure with the interval, its differences in points) for a terminal; controls are left out."""
    metric = next(iter(result["metrics"]))
    lines = []
    for row in result["rows"]:
        if row["kind"] not in ("control", "seed"):
            mine = [(d["of"][1], d["metrics"][metric]) for d in result["differences"] if d["of"][0] == row["name"]]
            said = [f"{_span(figure, '+')} against {other}: {figure['verdict']}" for other, figure in mine]
            lines.append((row["name"], _span(row["metrics"][metric]), said))
    return lines


def _short(result: Mapping[str, Any], name: str) -> str:
    row = next(row for row in result["rows"] if row["name"] == name)
    if row["kind"] == "control mean":
        return "random weights" + ", calibrated" * name.endswith(", calibrated")
    return {"pixels": "raw pixels"}.get(row.get("baseline", ""), name) if row["kind"] == "baseline" else ""


def _word(verdict: str) -> str:
    return verdict if verdict in ("better", "worse") else "no difference"


def _span(figure: Mapping[str, Any], sign: str = "") -> str:
    ends = f" ({figure['low'] * 100:{sign}.1f} to {figure['high'] * 100:{sign}.1f})" if figure["low"] is not None else ""
    return f"{figure['value'] * 100:{sign}.1f}{ends}"
