"""A method's control metrics on validation data, such as CroCo's: the other view helps, and only the right one.

The method gives one value a sample for its own input and for controls (`Pretext.control_metrics`). Here samples are paired with others
that share nothing with them, and the values get intervals over scenes or time blocks.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from sightline.methods.contract import Batch, MetricInfo, Stage, Views
from sightline.methods.errors import SightlineError
from sightline.methods.random import MicrobatchRng, keyed_rng
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.loader.blocks import Columns
from sightline.platform.data.loader.fixed import SampleReader, spread

from .eval_mode import eval_mode
from .intervals import Interval, Resampling, coverage, interval, resample_counts, unit_sums
from .results import CONTROL, TITLES, TRAINED, Contrast, MethodResult, Row, RowKind
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
    they mean; those of one `family` are compared, the first with each of the others, paired by sample. Raises `SightlineError` where
    fewer than two samples can be used.
    """
    began = time.perf_counter()
    reader = SampleReader(dataset, views, seed, stage)
    read = list(reader.batches(spread(dataset.rows, limit), batch))
    scenes = [scene for part in read for scene in part.scenes]
    if len(scenes) < 2:
        raise SightlineError(f"{len(scenes)} usable samples in {dataset.uri}: control metrics need two", "give more validation data")
    times = np.array([moment for part in read for moment in part.times], dtype=np.float64)
    columns = {name: np.concatenate([part.columns[name] for part in read]) for name in read[0].columns}
    other = _others(scenes, times, seed)
    parts: list[dict[str, np.ndarray]] = []
    with eval_mode([pretext], device):
        for number, start in enumerate(range(0, len(scenes), batch)):
            own = np.arange(start, min(start + batch, len(scenes)))
            first, second = (pretext.to_device(_tensors(columns, chosen, device)) for chosen in (own, other[own]))
            found = pretext.control_metrics(first, second, MicrobatchRng(seed, number, 0))
            parts.append({name: value.double().cpu().numpy() for name, value in found.items()})
    values = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    units = make_units(scenes, times, resampling)

    def mean(per_sample: Float[np.ndarray, " n"]) -> Interval:
        _, sums = unit_sums(np.stack([per_sample, np.ones_like(per_sample)], axis=1), units.names)
        drawn = resample_counts(len(sums), resampling.draws, resampling.seed) @ sums
        return interval(float(per_sample.mean()), drawn[:, 0] / drawn[:, 1], resampling.level, len(sums))

    infos = {name: (metrics or {}).get(name, MetricInfo()) for name in values}
    return MethodResult(
        name=CONTROL,
        title=TITLES[CONTROL],
        metrics=infos,
        rows=(Row(TRAINED, RowKind.ENCODER, {name: mean(value) for name, value in values.items()}),),
        unit_kind=units.kind,
        unit_count=units.count,
        covers=coverage(resampling.level, resampling.draws, units.count, units.kind),
        counts={"samples": len(scenes), "broken_samples": reader.broken},
        contrasts=tuple(Contrast(first, other, mean(values[first] - values[other])) for first, other in _compared(infos)),
        seconds=time.perf_counter() - began,
    )


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
