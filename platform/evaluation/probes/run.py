"""Runs probes by name: each on the first data sets that have what it needs, all with one shape of result."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sightline.platform.data.dataset import Dataset

from .catalog import ProbeSpec, find_probe
from .clouds import CloudEvalContext
from .context import EvalContext, EvaluatedModel, ImageEvalContext, ProbeSkippedError, Progress
from .findings import finding_of
from .protocol import Protocol, as_dict, protocol_hash
from .result_table import Measurement, measure_table


@dataclass(frozen=True)
class DatasetPair:
    """Data that train heads and data that test them; a probe without a head needs only the second."""

    train: Dataset | None
    test: Dataset


def run_probes(
    names: Sequence[str],
    evaluated: Sequence[EvaluatedModel],
    dataset_pairs: Sequence[DatasetPair],
    *,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> dict[str, dict[str, Any]]:
    """Probe name -> result, plain JSON values (see `docs/probes.md`). Each probe takes the first pair of data sets with its columns.

    A result holds `rows`, one for each encoder, control, mean of controls and baseline, `differences` on the same resamples, the protocol
    with its hash, what the intervals cover, counts and seconds. Where the data do not allow a probe, it holds `skipped` with the reason.
    Raises `CallError` for an unknown name and for encoders that break the contract.
    """
    contexts = make_contexts(evaluated, device, progress)
    return {name: run_probe(name, contexts, dataset_pairs) for name in names}


def make_contexts(
    evaluated: Sequence[EvaluatedModel], device: torch.device | str = "cpu", progress: Progress | None = None
) -> dict[str, EvalContext]:
    """By what encoders take. Raises `CallError` where two evaluated have the same name, or there is none."""
    report = progress or (lambda what, share: None)
    EvalContext(evaluated)  # no two of one name, across the kinds too
    kinds = {"images": ImageEvalContext, "points": CloudEvalContext}
    of_kind = {kind: [model for model in evaluated if model.modality == kind] for kind in kinds}
    return {kind: kinds[kind](some, device, report) for kind, some in of_kind.items() if some}


def run_probe(
    name: str, contexts: Mapping[str, EvalContext], dataset_pairs: Sequence[DatasetPair], protocol: Protocol | None = None
) -> dict[str, Any]:
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
        if spec.modality not in contexts:
            raise ProbeSkippedError(f"it measures encoders of {spec.modality}, and there is none among these")
        dataset_pair = choose_dataset_pair(spec, dataset_pairs)
        found = spec.load()(contexts[spec.modality], dataset_pair.train, dataset_pair.test, protocol)
    except ProbeSkippedError as reason:
        return {**result, "skipped": f"probe {name} skipped: {reason}", "seconds": time.perf_counter() - began}
    result.update(_figures(found, spec, protocol))
    result["data"] = {"train": dataset_pair.train.uri if dataset_pair.train and spec.trains else None, "test": dataset_pair.test.uri}
    return {**result, "finding": finding_of(result, spec.says, found.table), "seconds": time.perf_counter() - began}


def choose_dataset_pair(spec: ProbeSpec, dataset_pairs: Sequence[DatasetPair]) -> DatasetPair:
    """The first dataset_pair that has what the probe needs. Raises `ProbeSkippedError` with what the others lack."""
    reasons = []
    for dataset_pair in dataset_pairs:
        needed = [dataset_pair.test, *([dataset_pair.train] if spec.trains and dataset_pair.train else [])]
        lacks = [lack for dataset in needed if (lack := spec.lacks(dataset))]
        if not lacks and spec.trains and dataset_pair.train is None:
            lacks = ["its head needs training data"]
        if not lacks:
            return dataset_pair
        reasons += lacks[:1]
    raise ProbeSkippedError("; ".join(dict.fromkeys(reasons)) or "there is no test data")


def _figures(found: Measurement, spec: ProbeSpec, protocol: Protocol) -> dict[str, Any]:
    figures = measure_table(found.table, found.sums, found.units, {**spec.metrics, **found.details}, found.metrics_of, protocol.resampling)
    for row in figures["rows"]:
        row["penalty"] = found.penalties.get(row["name"])
    if found.caution:
        figures["covers"] += f" {found.caution}"
    return {**figures, "counts": dict(found.counts)}
