"""Runs probes by name: each on the first data sets that have what it needs, all with one shape of result."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..data.dataset import Dataset
from .bench import Bench, Contender, ProbeSkippedError, Progress, Roster
from .catalog import ProbeSpec, find_probe
from .clouds import CloudBench
from .figures import Found, figures_of
from .findings import finding_of
from .protocol import Protocol, as_dict, protocol_hash


@dataclass(frozen=True)
class Couple:
    """Data that train heads and data that test them; a probe without a head needs only the second."""

    train: Dataset | None
    test: Dataset


def run_probes(
    names: Sequence[str],
    contenders: Sequence[Contender],
    couples: Sequence[Couple],
    *,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> dict[str, dict[str, Any]]:
    """Probe name -> result, plain JSON values (see `docs/probes.md`). Each probe takes the first couple that has the columns it needs.

    A result holds `rows`, one for each encoder, control, mean of controls and baseline, `differences` on the same resamples, the protocol
    with its hash, what the intervals cover, counts and seconds. Where the data do not allow a probe, it holds `skipped` with the reason.
    Raises `CallError` for an unknown name and for encoders that break the contract.
    """
    benches = make_benches(contenders, device, progress)
    return {name: run_probe(name, benches, couples) for name in names}


def make_benches(
    contenders: Sequence[Contender], device: torch.device | str = "cpu", progress: Progress | None = None
) -> dict[str, Roster]:
    """By what encoders take. Raises `CallError` where two contenders have the same name, or there is none."""
    report = progress or (lambda what, share: None)
    Roster(contenders)  # no two of one name, across the kinds too
    kinds = {"images": Bench, "points": CloudBench}
    of_kind = {kind: [contender for contender in contenders if contender.eats == kind] for kind in kinds}
    return {kind: kinds[kind](some, device, report) for kind, some in of_kind.items() if some}


def run_probe(name: str, benches: Mapping[str, Roster], couples: Sequence[Couple], protocol: Protocol | None = None) -> dict[str, Any]:
    """One probe of the encoders that it can measure; `protocol` replaces its frozen one."""
    began = time.perf_counter()
    spec = find_probe(name)
    protocol = protocol or spec.protocol
    result: dict[str, Any] = {
        "probe": name,
        "title": spec.title,
        "protocol": as_dict(protocol),
        "protocol_hash": protocol_hash(protocol),
        "metrics": dict(spec.metrics),
    }
    try:
        if spec.eats not in benches:
            raise ProbeSkippedError(f"it measures encoders of {spec.eats}, and there is none among these")
        couple = choose_couple(spec, couples)
        found = spec.load()(benches[spec.eats], couple.train, couple.test, protocol)
    except ProbeSkippedError as reason:
        return {**result, "skipped": f"probe {name} skipped: {reason}", "seconds": time.perf_counter() - began}
    result.update(_figures(found, spec, protocol))
    result["data"] = {"train": couple.train.uri if couple.train and spec.trains else None, "test": couple.test.uri}
    return {**result, "finding": finding_of(result, spec.says, found.lineup), "seconds": time.perf_counter() - began}


def choose_couple(spec: ProbeSpec, couples: Sequence[Couple]) -> Couple:
    """The first couple that has what the probe needs. Raises `ProbeSkippedError` with what the others lack."""
    reasons = []
    for couple in couples:
        needed = [couple.test, *([couple.train] if spec.trains and couple.train else [])]
        lacks = [lack for dataset in needed if (lack := spec.lacks(dataset))]
        if not lacks and spec.trains and couple.train is None:
            lacks = ["its head needs training data"]
        if not lacks:
            return couple
        reasons += lacks[:1]
    raise ProbeSkippedError("; ".join(dict.fromkeys(reasons)) or "there is no test data")


def _figures(found: Found, spec: ProbeSpec, protocol: Protocol) -> dict[str, Any]:
    figures = figures_of(found.lineup, found.sums, found.units, {**spec.metrics, **found.details}, found.metrics_of, protocol.resampling)
    for row in figures["rows"]:
        row["penalty"] = found.penalties.get(row["name"])
    if found.caution:
        figures["covers"] += f" {found.caution}"
    return {**figures, "counts": dict(found.counts)}
