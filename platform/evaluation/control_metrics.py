"""A method's control metrics on validation data, such as CroCo's: the other view helps, and only the right one.

The method gives one value a sample for its own input and for controls (`Pretext.control_metrics`). Here samples are paired with others
that share nothing with them, and the values get intervals over scenes or time blocks.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping, Sequence
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped

from sightline.methods.contract import Batch, HasEvaluationViews, HasWholeViews, MetricInfo, Stage, Views
from sightline.methods.errors import SightlineError
from sightline.methods.random import MicrobatchRng, keyed_rng
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.loader.blocks import Columns
from sightline.platform.data.loader.fixed import SampleReader, read_rows, spread

from .eval_mode import eval_mode
from .intervals import Interval, Resampling, coverage, interval, resample_counts, unit_sums
from .results import CONTROL, TITLES, TRAINED, Contrast, MethodResult, Resamples, Row, RowKind
from .side_by_side import most_at_once, side_by_side
from .units import make_units

RESAMPLING = Resampling()


def measure_control_metrics(
    pretext: Any,
    views: Views,
    dataset: Dataset,
    *,
    seed: int,
    batch: int,
    limit: int,
    metrics: Mapping[str, MetricInfo] | None = None,
    stage: Stage | None = None,
    device: torch.device | str = "cpu",
    resampling: Resampling = RESAMPLING,
) -> MethodResult:
    """`pretext.control_metrics` on at most `limit` samples of `dataset`, evenly spaced, in evaluation mode without gradients.

    `views` draws by (seed, row number), the method by (seed, batch number), so the same call gives the same numbers. `metrics` says what
    they mean; those of one `family` are compared, the first with each of the others, paired by sample. A value that is NaN is not
    measured on that sample. Raises `SightlineError` where fewer than two samples can be used.
    """
    began = time.perf_counter()
    rows = spread(dataset.rows, limit)
    if isinstance(views, HasWholeViews):
        measured = _one_by_one(pretext, SampleReader(dataset, views.whole, seed, stage), rows, device)
    else:
        seen = views.evaluation if isinstance(views, HasEvaluationViews) else views
        measured = _in_batches(pretext, SampleReader(dataset, seen, seed, stage), rows, batch, device)
    scenes, times = measured.scenes, measured.times
    values = {name: value for name, value in measured.values.items() if not np.isnan(value).all()}
    units = make_units(scenes, times, resampling)

    names, of_unit = np.unique(np.asarray(units.names, dtype=str), return_inverse=True)
    drawn = resample_counts(len(names), resampling.draws, resampling.seed)
    infos = {name: (metrics or {}).get(name, MetricInfo()) for name in values}

    def averaged(per_sample: Float[np.ndarray, " n"], info: MetricInfo) -> tuple[float, Float[np.ndarray, " draws"]]:
        """Over all samples, and over each resample of the units."""
        known = ~np.isnan(per_sample)
        if info.average == "median":
            middles = weighted_medians(per_sample[known], drawn[:, of_unit[known]])
            return float(weighted_medians(per_sample[known], np.ones((1, known.sum())))[0]), middles
        _, sums = unit_sums(np.stack([np.where(known, per_sample, 0.0), known], axis=1), units.names)
        totals = drawn @ sums
        with np.errstate(invalid="ignore"):  # a resample without any sample that is measured
            return float(per_sample[known].mean()), totals[:, 0] / totals[:, 1]

    def measured_of(name: str) -> Interval:
        return interval(*averaged(values[name], infos[name]), resampling.level, len(names))

    def contrast(first: str, other: str) -> Contrast:
        """On the same samples: the mean of the differences, or the difference of the medians."""
        if infos[first].average == "mean":
            return Contrast(first, other, interval(*averaged(values[first] - values[other], infos[first]), resampling.level, len(names)))
        (one, ones), (two, twos) = (averaged(values[name], infos[name]) for name in (first, other))
        return Contrast(first, other, interval(one - two, ones - twos, resampling.level, len(names)))

    conditions = {"test data": dataset.fingerprint, "units": units.digest, "samples": str(len(scenes)), "input": measured.input}
    first = next(iter(values))
    return MethodResult(
        name=CONTROL,
        title=TITLES[CONTROL],
        metrics=infos,
        rows=(Row(TRAINED, RowKind.ENCODER, {name: measured_of(name) for name in values}),),
        unit_kind=units.kind,
        unit_count=units.count,
        covers=coverage(resampling.level, resampling.draws, units.count, units.kind),
        counts={"samples": len(scenes), "broken_samples": measured.broken},
        contrasts=tuple(contrast(first, other) for first, other in _compared(infos)),
        seconds=time.perf_counter() - began,
        data={"train": None, "test": dataset.uri},
        resamples={TRAINED: Resamples(averaged(values[first], infos[first])[1], resampling.level, conditions)},
    )


def weighted_medians(values: Float[np.ndarray, " n"], weights: Shaped[np.ndarray, "draws n"]) -> Float[np.ndarray, " draws"]:
    """The least value at which half of the weight is reached; NaN where there is no weight. The lower median is one that was measured."""
    order = np.argsort(values)
    reached = np.cumsum(weights[:, order], axis=1)
    first = (2 * reached >= reached[:, -1:]).argmax(axis=1)
    return np.where(reached[:, -1] > 0, values[order][first], np.nan)


class _Measured(NamedTuple):
    """One value a sample, and where the samples come from."""

    values: dict[str, Float[np.ndarray, " n"]]
    scenes: list[str]
    times: Float[np.ndarray, " n"]
    broken: int
    input: str
    """What the method was given of each sample, where that has one size."""


def _enough(count: int, reader: SampleReader) -> None:
    if count < 2:
        raise SightlineError(f"{count} usable samples in {reader.dataset.uri}: control metrics need two", "give more validation data")


def _in_batches(pretext: Any, reader: SampleReader, rows: Sequence[int], batch: int, device: torch.device | str) -> _Measured:
    read = list(reader.batches(rows, batch))
    scenes = [scene for part in read for scene in part.scenes]
    _enough(len(scenes), reader)
    times = np.array([moment for part in read for moment in part.times], dtype=np.float64)
    columns = {name: np.concatenate([part.columns[name] for part in read]) for name in read[0].columns}
    other = _others(scenes, times, reader.seed)
    batches = range(math.ceil(len(scenes) / batch))
    free: SimpleQueue[Any] = SimpleQueue()
    """A method may keep something of a call in itself, so each thread has a network of its own."""

    def measure(number: int) -> dict[str, np.ndarray]:
        own = np.arange(number * batch, min((number + 1) * batch, len(scenes)))
        network = free.get()
        try:
            first, second = (network.to_device(_tensors(columns, chosen, device)) for chosen in (own, other[own]))
            return _values(network, first, second, MicrobatchRng(reader.seed, number, 0))
        finally:
            free.put(network)

    with eval_mode([pretext], device):
        for number in range(min(len(batches), most_at_once(device))):
            free.put(copy.deepcopy(pretext) if number else pretext)
        parts = side_by_side(measure, batches, device)
    given = ", ".join(f"{name} {'x'.join(map(str, column.shape[1:]))}" for name, column in sorted(columns.items()))
    return _Measured(_joined(parts), scenes, times, reader.broken, given)


def _one_by_one(pretext: Any, reader: SampleReader, rows: Sequence[int], device: torch.device | str) -> _Measured:
    """Of samples of several sizes. Each is read beside its other one, so that memory does not grow; one with a broken other is left out."""
    stored = [row for _, row in read_rows(reader.dataset, rows, ["scene", "time"])]
    scenes = [row.get("scene") or "" for row in stored]
    times = np.array([np.nan if row.get("time") is None else row["time"] for row in stored], dtype=np.float64)
    _enough(len(rows), reader)
    other = _others(scenes, times, reader.seed)
    parts: list[dict[str, np.ndarray]] = []
    used: list[int] = []
    with eval_mode([pretext], device):
        for number, row in enumerate(rows):
            read = [next(reader.batches([chosen], 1), None) for chosen in (row, rows[other[number]])]
            if read[0] is None or read[1] is None:
                continue
            one = np.zeros(1, np.int64)
            first, second = (pretext.to_device(_tensors(part.columns, one, device)) for part in read if part is not None)
            parts.append(_values(pretext, first, second, MicrobatchRng(reader.seed, number, 0)))
            used.append(number)
    _enough(len(used), reader)
    return _Measured(_joined(parts), [scenes[number] for number in used], times[used], len(rows) - len(used), "whole")


def _values(pretext: Any, own: Batch, other: Batch, rng: MicrobatchRng) -> dict[str, np.ndarray]:
    return {name: value.double().cpu().numpy() for name, value in pretext.control_metrics(own, other, rng).items()}


def _joined(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _compared(metrics: Mapping[str, MetricInfo]) -> list[tuple[str, str]]:
    """The first metric of each family with each of the others."""
    firsts: dict[str, str] = {}
    pairs = []
    for name, info in metrics.items():
        if info.family and firsts.setdefault(info.family, name) != name:
            pairs.append((firsts[info.family], name))
    return pairs


def _others(scenes: Sequence[str], times: Float[np.ndarray, " n"], seed: int) -> Int[np.ndarray, " n"]:
    """For each sample one of another scene (a keyed draw); in a single scene the one half the recording away, each used once."""
    scene = np.asarray(scenes, dtype=str)
    if len(set(scenes)) > 1:
        rng = keyed_rng("other scene", seed)
        return np.array([rng.choice(np.flatnonzero(scene != own)) for own in scene])
    order = np.lexsort((np.arange(len(scene)), np.nan_to_num(times, nan=0.0)))
    other = np.empty(len(scene), dtype=np.int64)
    other[order] = np.roll(order, -(len(scene) // 2))
    return other


def _tensors(columns: Columns, chosen: Int[np.ndarray, " b"], device: torch.device | str) -> Batch:
    return {name: torch.from_numpy(column[chosen]).to(device) for name, column in columns.items()}
