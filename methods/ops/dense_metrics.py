"""Metrics of disparity, optical flow, depth and normals, exact about pixels whose truth is unknown. NumPy, float64.

`*_sums` gives a row of sums for each image, `*_metrics` makes metrics of such rows: of one row those of an image, of rows that were added
up those of a data set with all pixels pooled, as the benchmarks count. Where no pixel counts a metric is NaN: not measured. A pixel that
counts and whose prediction is no finite number has an infinite error: it is never left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float

Maps = Float[np.ndarray, "b h w"]
Vectors = Float[np.ndarray, "b c h w"]
Mask = Bool[np.ndarray, "b h w"]
Sums = Float[np.ndarray, "*b k"]
Metrics = dict[str, Float[np.ndarray, "*b"]]

BAD = (0.5, 1.0, 2.0, 3.0, 5.0)
"""Errors in pixels whose share is counted; strictly more is bad."""
SPEEDS = (10.0, 40.0)
"""Lengths of the true flow that part the ranges s0-10, s10-40, s40+."""
KITTI_PIXELS, KITTI_SHARE = 3.0, 0.05
"""An outlier of KITTI's D1 and Fl is off by more than both: 3 pixels, and 5 % of the true length."""
DELTA = 1.25
NORMAL_ANGLES = (11.25, 22.5, 30.0)


def _flat(values: np.ndarray) -> np.ndarray:
    return np.asarray(values, np.float64).reshape(len(values), -1)


def _error(predicted: np.ndarray, true: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """predicted - true where it counts, else 0; infinite for a prediction that is no finite number."""
    with np.errstate(invalid="ignore"):
        error = np.where(counts, predicted, 0.0) - np.where(counts, true, 0.0)
    return np.where(np.isfinite(error), error, np.inf)


def _bad(error: np.ndarray, counts: np.ndarray, length: np.ndarray) -> list[np.ndarray]:
    shares = [(counts & (error > limit)).sum(axis=1) for limit in BAD]
    return [*shares, (counts & (error > KITTI_PIXELS) & (error > KITTI_SHARE * length)).sum(axis=1)]


def _rows(columns: Sequence[np.ndarray]) -> np.ndarray:
    return np.stack([np.asarray(column, np.float64) for column in columns], axis=-1)


def _columns(sums: np.ndarray) -> list[np.ndarray]:
    return [np.asarray(column) for column in np.moveaxis(sums, -1, 0)]


def _ratios(parts: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Metrics:
    with np.errstate(invalid="ignore", divide="ignore"):
        return {name: np.where(count > 0, total / count, np.nan) for name, (total, count) in parts.items()}


def stereo_sums(predicted: Maps, true: Maps, mask: Mask | None = None) -> Sums:
    """Of disparities in pixels. A pixel counts where the truth is finite and, with `mask`, that is True: the matched ones, say."""
    p, t = _flat(predicted), _flat(true)
    counts = np.isfinite(t) & (True if mask is None else mask.reshape(len(t), -1))
    error = np.abs(_error(p, t, counts))
    return _rows([counts.sum(axis=1), error.sum(axis=1), (error**2).sum(axis=1), *_bad(error, counts, np.abs(t))])


def stereo_metrics(sums: Sums) -> Metrics:
    """`avgerr` (mean |error|), `rmse`, `bad@t` in per cent, `D1` of KITTI in per cent."""
    count, error, squared, *bad = _columns(sums)
    names = [*(f"bad@{limit}" for limit in BAD), "D1"]
    found = _ratios({"avgerr": (error, count), "rmse": (squared, count), **{n: (100 * b, count) for n, b in zip(names, bad, strict=True)}})
    return {**found, "rmse": np.asarray(np.sqrt(found["rmse"]))}


def flow_sums(predicted: Vectors, true: Vectors, mask: Mask | None = None, official: bool = False) -> Sums:
    """Of optical flow, b x 2 (x, y) x h x w in pixels. A pixel counts where both components of the truth are finite and, with `mask`, that
    is True: the visible ones, say. `official`: where the first component is finite."""
    p, t = (np.asarray(field, np.float64).reshape(len(field), 2, -1) for field in (predicted, true))
    counts = np.asarray(np.isfinite(t[:, 0]) if official else np.isfinite(t).all(axis=1))
    if mask is not None:
        counts = counts & mask.reshape(len(t), -1)
    off = _error(p, t, counts[:, None])
    error, length = np.hypot(off[:, 0], off[:, 1]), np.hypot(*(np.where(counts, t[:, axis], 0.0) for axis in (0, 1)))
    ranges = np.searchsorted(SPEEDS, length, side="right")
    inside = [counts & (ranges == i) for i in range(3)]
    speeds = [column for own in inside for column in (own, np.where(own, error, 0.0))]
    columns = [counts, np.abs(off).sum(axis=1), error, *speeds]
    return _rows([*(column.sum(axis=1) for column in columns), *_bad(error, counts, length)])


def flow_metrics(sums: Sums) -> Metrics:
    """`EPE` (mean length of the error), `L1err` (mean of its two components' sizes, added), EPE by true speed `s0-10`, `s10-40`, `s40+`,
    `bad@t` in per cent, `Fl` of KITTI in per cent."""
    count, l1, epe, slow_n, slow, mid_n, mid, fast_n, fast, *bad = _columns(sums)
    names = [*(f"bad@{limit}" for limit in BAD), "Fl"]
    speeds = {"s0-10": (slow, slow_n), "s10-40": (mid, mid_n), "s40+": (fast, fast_n)}
    return _ratios({"EPE": (epe, count), "L1err": (l1, count), **speeds, **{n: (100 * b, count) for n, b in zip(names, bad, strict=True)}})


def subpixel_stereo_error(predicted: Maps, true: Float[np.ndarray, "b h2 w2"], mean: bool = False) -> Maps:
    """|error| where the truth has twice the size of the image, as in Spring: the least of a pixel's four, or with `mean` their mean, as
    the authors validate. Only those whose truth is finite count; NaN where none is."""
    b, h, w = predicted.shape
    if true.shape != (b, 2 * h, 2 * w):
        raise ValueError(f"the truth is {true.shape[1:]}, twice the prediction would be {(2 * h, 2 * w)}")
    four = np.asarray(true, np.float64).reshape(b, h, 2, w, 2).transpose(0, 1, 3, 2, 4).reshape(b, h, w, 4)
    known = np.isfinite(four)
    error = np.abs(_error(np.asarray(predicted, np.float64)[..., None], four, known))
    any_known = known.any(axis=-1)
    if mean:
        return np.where(any_known, np.where(known, error, 0.0).sum(axis=-1) / np.maximum(known.sum(axis=-1), 1), np.nan)
    return np.where(any_known, np.where(known, error, np.inf).min(axis=-1), np.nan)


def depth_sums(predicted: Maps, true: Maps, mask: Mask | None = None, low: float = 1e-3, high: float = np.inf) -> Sums:
    """Of depths in one unit. A pixel counts where the truth is finite and in [`low`, `high`] (0 for unknown is outside) and, with `mask`,
    that is True. Predictions are clipped to [`low`, `high`], as the benchmarks do."""
    if not 0 < low < high:
        raise ValueError(f"low {low:g} and high {high:g} are no range of depths above 0")
    p, t = _flat(predicted), _flat(true)
    with np.errstate(invalid="ignore"):
        counts = np.isfinite(t) & (t >= low) & (t <= high) & (True if mask is None else mask.reshape(len(t), -1))
    t = np.where(counts, t, 1.0)
    finite = np.isfinite(p) | ~counts
    clipped = np.where(counts & finite, np.clip(np.where(finite, p, 1.0), low, high), t)
    bad = np.where(finite, 0.0, np.inf)
    off, log = np.abs(clipped - t) + bad, np.abs(np.log(clipped / t)) + bad
    with np.errstate(over="ignore"):
        ratio = np.exp(log)
    shares = [counts & (ratio < DELTA**k) for k in (1, 2, 3)]
    columns = [counts, off / t, off**2 / t, off**2, log**2, log / np.log(10), *shares]
    return _rows([column.sum(axis=1) for column in columns])


def depth_metrics(sums: Sums) -> Metrics:
    """`absrel`, `sqrel`, `rmse`, `rmse_log` (natural), `log10`, `delta1` .. `delta3` as shares of pixels within a factor 1.25^k."""
    count, absrel, sqrel, squared, squared_log, log10, *deltas = _columns(sums)
    parts = {"absrel": absrel, "sqrel": sqrel, "rmse": squared, "rmse_log": squared_log, "log10": log10}
    parts |= {f"delta{k}": delta for k, delta in enumerate(deltas, start=1)}
    found = _ratios({name: (total, count) for name, total in parts.items()})
    return {**found, **{name: np.asarray(np.sqrt(found[name])) for name in ("rmse", "rmse_log")}}


def normal_angles(predicted: Vectors, true: Vectors, mask: Mask | None = None) -> Float[np.ndarray, " n"]:
    """Degrees between predicted and true normals, b x 3 x h x w of any length, of all pixels that count, one after the other.

    A pixel counts where the truth is finite and not the zero vector and, with `mask`, that is True. A prediction that is not finite, or
    zero, is off by 180.
    """
    p, t = (np.moveaxis(np.asarray(field, np.float64), 1, -1) for field in (predicted, true))
    counts: np.ndarray = np.isfinite(t).all(axis=-1) & (np.abs(np.where(np.isfinite(t), t, 0.0)).sum(axis=-1) > 0)
    counts &= True if mask is None else mask
    p, t = p[counts], t[counts]
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        p, t = (field / np.abs(field).max(axis=-1, keepdims=True) for field in (p, t))
        # From cross and dot product: exact near 0 and 180 degrees, where an arc cosine is not.
        angles = np.degrees(np.arctan2(np.linalg.norm(np.cross(p, t), axis=-1), (p * t).sum(axis=-1)))
    return np.where(np.isfinite(angles), angles, 180.0)


def normal_metrics(angles: Float[np.ndarray, " n"]) -> dict[str, float]:
    """`mean`, `median` and `rmse` in degrees, and the shares below 11.25, 22.5 and 30 degrees; NaN of none."""
    if not angles.size:
        return dict.fromkeys(("mean", "median", "rmse", *(f"within_{limit:g}" for limit in NORMAL_ANGLES)), float("nan"))
    shares = {f"within_{limit:g}": float((angles < limit).mean()) for limit in NORMAL_ANGLES}
    return {"mean": float(angles.mean()), "median": float(np.median(angles)), "rmse": float(np.sqrt((angles**2).mean())), **shares}
