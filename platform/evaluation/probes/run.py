"""Runs probes by name: each on the first data sets that have what it needs, all with one shape of result."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from sightline.platform.evaluation.findings import finding_of
from sightline.platform.evaluation.result_table import measure_table
from sightline.platform.evaluation.results import ProbeOutcome, ProbeResult, Resamples, SkippedProbe

from . import known_rows
from .catalog import find_probe
from .cloud_context import CloudEvalContext
from .context import EvalContext, EvaluatedModel, ImageEvalContext, ProbeSkippedError, Progress
from .dataset_pairs import DatasetPair
from .known_rows import KnownRows
from .protocol import Protocol, as_dict, protocol_hash
from .spec import ProbeSpec


def run_probes(
    names: Sequence[str],
    evaluated: Sequence[EvaluatedModel],
    dataset_pairs: Sequence[DatasetPair],
    *,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    network: Mapping[str, Any] | None = None,
) -> dict[str, ProbeOutcome]:
    """Probe name -> its outcome. Each probe takes the first pair of data sets with its columns.

    `network`: what the controls follow from (method, settings, seeds), for which their sums are kept and found again (`known_rows`).

    A `ProbeResult` has one row for each encoder, control, mean of controls and baseline, and differences on the same resamples. Where the
    data do not allow a probe, a `SkippedProbe` says why. Raises `CallError` for an unknown name and for encoders that break the contract.
    """
    contexts = make_contexts(evaluated, device, progress)
    if network is None or not all(find_probe(name).measure.__module__.startswith("sightline.") for name in names):
        # Probes of other packages may count on every row.
        return {name: run_probe(name, contexts, dataset_pairs) for name in names}
    key = known_rows.key_of(names, [protocol_hash(find_probe(name).protocol) for name in names], network, dataset_pairs, device)
    known, measured = known_rows.load(key), dict[str, KnownRows]()
    for context in contexts.values():
        context.known = frozenset(row for one in known.values() for row in one.sums)
    try:
        found = {name: run_probe(name, contexts, dataset_pairs, known=known.get(name), keep=measured) for name in names}
    except OtherImagesError:
        contexts, measured = make_contexts(evaluated, device, progress), {}
        found, known = {name: run_probe(name, contexts, dataset_pairs, keep=measured) for name in names}, {}
    if not known:
        known_rows.save(key, measured)
    return found


class OtherImagesError(Exception):
    """Known rows are of other images than those that were measured now."""


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
    name: str,
    contexts: Mapping[str, EvalContext],
    dataset_pairs: Sequence[DatasetPair],
    protocol: Protocol | None = None,
    known: KnownRows | None = None,
    keep: dict[str, KnownRows] | None = None,
) -> ProbeOutcome:
    """One probe of the encoders that it can measure; `protocol` replaces its frozen one.

    `known`: rows that the contexts leave out; `keep` gets those that another run can use. Raises `OtherImagesError`.
    """
    began = time.perf_counter()
    spec = find_probe(name)
    protocol = protocol or spec.protocol
    stated, digest = as_dict(protocol), protocol_hash(protocol)
    try:
        if spec.modality not in contexts:
            raise ProbeSkippedError(f"it measures encoders of {spec.modality}, and there is none among these")
        pair = choose_dataset_pair(spec, dataset_pairs)
        found = spec.measure(contexts[spec.modality], pair.train, pair.test, protocol)
    except ProbeSkippedError as reason:
        return SkippedProbe(name, spec.title, str(reason), time.perf_counter() - began, spec.metrics, stated, digest)
    if known is not None:
        joined = known.join(found)
        if joined is None:
            raise OtherImagesError
        found = joined
    if keep is not None:
        keep[name] = KnownRows.of(found)
    measured = measure_table(found, {**spec.metrics, **found.details}, protocol.resampling)
    train = pair.train if spec.fits_head else None
    conditions = {
        "protocol": digest,
        "training data": train.fingerprint if train else "",
        "test data": pair.test.fingerprint,
        "units": found.units.digest,
    }
    return ProbeResult(
        name=name,
        title=spec.title,
        metrics=measured.metrics,
        rows=measured.rows,
        unit_kind=found.units.kind,
        unit_count=found.units.count,
        covers=measured.covers,
        counts=dict(found.counts),
        finding=finding_of(measured, found.table, spec.sentence),
        differences=measured.differences,
        protocol=stated,
        protocol_hash=digest,
        data={"train": train.uri if train else None, "test": pair.test.uri},
        resamples={
            name: Resamples(draws, protocol.resampling.level, {**conditions, "grid": found.table.scope[name]})
            for name, draws in measured.draws.items()
        },
        seconds=time.perf_counter() - began,
    )


def choose_dataset_pair(spec: ProbeSpec, dataset_pairs: Sequence[DatasetPair]) -> DatasetPair:
    """The first pair that has what the probe needs. Raises `ProbeSkippedError` with what the others lack."""
    reasons = []
    for pair in dataset_pairs:
        needed = [pair.test, *([pair.train] if spec.fits_head and pair.train else [])]
        lacks = [lack for dataset in needed if (lack := spec.lacks(dataset))]
        if not lacks and spec.fits_head and pair.train is None:
            lacks = ["its head needs training data"]
        if not lacks:
            return pair
        reasons += lacks[:1]
    raise ProbeSkippedError("; ".join(dict.fromkeys(reasons)) or "there is no test data")
