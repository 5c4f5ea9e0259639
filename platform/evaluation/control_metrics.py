"""What a pretext method says of itself on validation data, such as CroCo's: the other view helps, and only the right one.

The method gives one figure a sample for its own input and for a control (`Pretext.claims`); here samples are paired with others that
share nothing with them, and figures get intervals over scenes or time blocks.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from sightline.methods.contract import Batch, Views
from sightline.methods.errors import BrokenSampleError, SightlineError
from sightline.methods.random import MicrobatchRng, keyed_rng, sample_rng
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.schema import decode_row, input_columns
from sightline.platform.evaluation.intervals import Interval, coverage, interval, resample_counts, unit_sums
from sightline.platform.evaluation.probes.features import eval_mode, read_rows, spread
from sightline.platform.evaluation.probes.protocol import Resampling
from sightline.platform.evaluation.probes.splits import make_units

RESAMPLING = Resampling()


def measure_control_metrics(
    pretext: Any,
    views: Views,
    dataset: Dataset,
    *,
    seed: int,
    batch: int,
    limit: int,
    device: torch.device | str = "cpu",
    resampling: Resampling = RESAMPLING,
) -> dict[str, Any]:
    """The figures of `pretext.claims` on at most `limit` samples of `dataset`, evenly spaced, in evaluation mode without gradients.

    `views` draws by (seed, row number), the method by (seed, batch number), so the same call gives the same numbers. Returns plain
    JSON values: `figures` (name -> value, low, high, units), `differences` between figures that share a prefix (`psnr_true` minus each
    other `psnr_...`, paired by sample), what the intervals cover, counts and seconds. Raises `SightlineError` where fewer than two
    samples can be used.
    """
    began = time.perf_counter()
    samples, scenes, times, broken = _load(dataset, views, seed, limit)
    if len(samples) < 2:
        raise SightlineError(f"{len(samples)} usable samples in {dataset.uri}: the method's claim needs two", "give more validation data")
    other = _others(scenes, times, seed)
    parts: list[dict[str, np.ndarray]] = []
    with eval_mode([pretext], device):
        for number, start in enumerate(range(0, len(samples), batch)):
            own = range(start, min(start + batch, len(samples)))
            first, second = (pretext.to_device(_collate([samples[i] for i in chosen], device)) for chosen in (own, other[list(own)]))
            figures = pretext.control_metrics(first, second, MicrobatchRng(seed, number, 0))
            parts.append({name: value.double().cpu().numpy() for name, value in figures.items()})
    values = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    units = make_units(scenes, times, resampling)
    return {
        **_summary(values, units.names, resampling),
        "units": {"kind": units.kind, "count": units.count},
        "covers": coverage(resampling.level, resampling.draws, units.count, units.kind),
        "counts": {"samples": len(samples), "broken_samples": broken},
        "seconds": time.perf_counter() - began,
    }


def _load(dataset: Dataset, views: Views, seed: int, limit: int) -> tuple[list[dict[str, np.ndarray]], list[str], np.ndarray, int]:
    samples, scenes, times, broken = [], [], [], 0
    needed = input_columns(dataset.kind, views)
    for row, stored in read_rows(dataset, spread(dataset.rows, limit)):
        try:
            samples.append(views(decode_row(stored, dataset.kind, needed=needed), sample_rng(seed, row)))
        except BrokenSampleError:
            broken += 1
            continue
        scenes.append(stored.get("scene") or "")
        times.append(float("nan") if stored.get("time") is None else float(stored["time"]))
    return samples, scenes, np.array(times, dtype=np.float64), broken


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


def _collate(samples: Sequence[Mapping[str, np.ndarray]], device: torch.device | str) -> Batch:
    return {name: torch.from_numpy(np.stack([sample[name] for sample in samples])).to(device) for name in samples[0]}


def _summary(values: Mapping[str, Float[np.ndarray, " n"]], units: Sequence[str], resampling: Resampling) -> dict[str, Any]:
    def mean(per_sample: Float[np.ndarray, " n"]) -> Interval:
        _, sums = unit_sums(np.stack([per_sample, np.ones_like(per_sample)], axis=1), units)
        drawn = resample_counts(len(sums), resampling.draws, resampling.seed) @ sums
        return interval(float(per_sample.mean()), drawn[:, 0] / drawn[:, 1], resampling.level, len(sums))

    differences = []
    for prefix in dict.fromkeys(name.split("_")[0] for name in values):
        first, *others = [name for name in values if name.split("_")[0] == prefix]
        for other in others:
            found = mean(values[first] - values[other])  # the mean of differences of the same samples: paired
            differences.append({"name": f"{first} minus {other}", "of": [first, other], **found.as_dict()})
    return {"figures": {name: mean(value).as_dict() for name, value in values.items()}, "differences": differences}
