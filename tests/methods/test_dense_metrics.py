"""Metrics of dense tasks against plain loops over pixels."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from sightline.methods.ops.dense_metrics import (
    depth_metrics,
    depth_sums,
    flow_metrics,
    flow_sums,
    normal_angles,
    normal_metrics,
    stereo_metrics,
    stereo_sums,
    subpixel_stereo_error,
)

RNG = np.random.default_rng(5)
UNKNOWN = (np.inf, -np.inf, np.nan)


def with_unknown(true: np.ndarray, share: float = 0.3) -> np.ndarray:
    out = true.copy()
    flat = out.reshape(-1)
    for index in RNG.choice(flat.size, int(share * flat.size), replace=False):
        flat[index] = UNKNOWN[index % 3]
    return out


def mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def same(ours: dict[str, np.ndarray], plain: dict[str, float]) -> None:
    assert {name: float(value) for name, value in ours.items()} == {
        name: pytest.approx(v, rel=1e-9, nan_ok=True) for name, v in plain.items()
    }


def plain_stereo(pairs: list[tuple[float, float]]) -> dict[str, float]:
    errors = [abs(p - t) for p, t in pairs]
    found = {"avgerr": mean(errors), "rmse": math.sqrt(mean([e * e for e in errors])) if errors else math.nan}
    found |= {f"bad@{limit}": mean([100.0 * (e > limit) for e in errors]) for limit in (0.5, 1.0, 2.0, 3.0, 5.0)}
    return found | {"D1": mean([100.0 * (e > 3 and e > 0.05 * abs(t)) for e, (_, t) in zip(errors, pairs, strict=True)])}


def plain_flow(pairs: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    epe = [math.dist(p, t) for p, t in pairs]
    speed = [math.hypot(*t) for _, t in pairs]
    found = {"EPE": mean(epe), "L1err": mean([float(abs(p - t).sum()) for p, t in pairs])}
    for name, low, high in (("s0-10", 0, 10), ("s10-40", 10, 40), ("s40+", 40, math.inf)):
        found[name] = mean([e for e, s in zip(epe, speed, strict=True) if low <= s < high])
    found |= {f"bad@{limit}": mean([100.0 * (e > limit) for e in epe]) for limit in (0.5, 1.0, 2.0, 3.0, 5.0)}
    return found | {"Fl": mean([100.0 * (e > 3 and e > 0.05 * s) for e, s in zip(epe, speed, strict=True)])}


def plain_depth(pairs: list[tuple[float, float]], low: float, high: float) -> dict[str, float]:
    pairs = [(min(max(p, low), high), t) for p, t in pairs if low <= t <= high]
    ratios = [max(p / t, t / p) for p, t in pairs]
    found = {"absrel": mean([abs(p - t) / t for p, t in pairs]), "sqrel": mean([(p - t) ** 2 / t for p, t in pairs])}
    found["rmse"] = mean([(p - t) ** 2 for p, t in pairs]) ** 0.5
    found["rmse_log"] = mean([(math.log(p) - math.log(t)) ** 2 for p, t in pairs]) ** 0.5
    found["log10"] = mean([abs(math.log10(p) - math.log10(t)) for p, t in pairs])
    return found | {f"delta{k}": mean([float(r < 1.25**k) for r in ratios]) for k in (1, 2, 3)}


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_stereo(share: float) -> None:
    true = with_unknown(RNG.normal(0, 60, (2, 6, 7)), share)
    predicted, mask = true + RNG.normal(0, 4, true.shape), RNG.random(true.shape) < 0.7
    sums = stereo_sums(predicted, true, mask)
    for image in (0, 1):
        pairs = [
            (p, t) for p, t, m in zip(predicted[image].flat, true[image].flat, mask[image].flat, strict=True) if m and math.isfinite(t)
        ]
        same(stereo_metrics(sums[image]), plain_stereo(pairs))
    pooled = [(p, t) for p, t, m in zip(predicted.flat, true.flat, mask.flat, strict=True) if m and math.isfinite(t)]
    same(stereo_metrics(sums.sum(axis=0)), plain_stereo(pooled))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_flow(share: float) -> None:
    true = with_unknown(RNG.normal(0, 30, (2, 2, 6, 7)), share)
    predicted, mask = true + RNG.normal(0, 4, true.shape), RNG.random((2, 6, 7)) < 0.7
    pixels = [
        (predicted[n, :, y, x], true[n, :, y, x])
        for n, y, x in np.ndindex(2, 6, 7)
        if mask[n, y, x] and np.isfinite(true[n, :, y, x]).all()
    ]
    same(flow_metrics(flow_sums(predicted, true, mask).sum(axis=0)), plain_flow(pixels))


def test_a_flow_with_one_unknown_component_counts_for_the_authors_alone() -> None:
    true = np.array([[[[1.0, 1.0]], [[np.inf, 2.0]]]])
    assert flow_sums(true, true)[0, 0] == 1
    assert flow_sums(true, true, official=True)[0, 0] == 2


@pytest.mark.parametrize(("low", "high"), [(1e-3, np.inf), (0.5, 8.0)])
def test_depth(low: float, high: float) -> None:
    true = RNG.uniform(0.1, 12, (2, 6, 7))
    true[0, 0, :4] = 0.0, -1.0, np.inf, np.nan
    predicted = true * RNG.uniform(0.5, 2, true.shape)
    predicted[1, 0, :2] = -3.0, 0.0
    predicted[0, 0, :4] = np.nan, np.inf, 0.0, -1.0
    pairs = [(p, t) for p, t in zip(predicted.flat, true.flat, strict=True) if math.isfinite(t)]
    same(depth_metrics(depth_sums(predicted, true, low=low, high=high).sum(axis=0)), plain_depth(pairs, low, high))


def test_normals() -> None:
    true, predicted = RNG.normal(size=(2, 2, 3, 5, 6))
    true[0, :, 0, 0], true[1, 2, 1, 1] = 0.0, np.nan
    mask = RNG.random((2, 5, 6)) < 0.8
    plain = []
    for n, y, x in np.ndindex(2, 5, 6):
        t, p = true[n, :, y, x], predicted[n, :, y, x]
        if mask[n, y, x] and np.isfinite(t).all() and np.linalg.norm(t) > 0:
            plain.append(math.degrees(math.acos(np.clip(t @ p / np.linalg.norm(t) / np.linalg.norm(p), -1, 1))))
    angles = normal_angles(predicted, true, mask)
    assert angles == pytest.approx(plain, abs=1e-6)
    found = normal_metrics(angles)
    assert found["mean"] == pytest.approx(mean(plain)) and found["median"] == pytest.approx(float(np.median(plain)))
    assert found["within_11.25"] == mean([float(a < 11.25) for a in plain]) and found["within_30"] == mean([float(a < 30) for a in plain])
    one = np.array([0.0, 0.0, 1.0]).reshape(1, 3, 1, 1)
    assert normal_angles(one * 1e-200, one)[0] == 0 and normal_angles(-one * 1e200, one)[0] == 180
    assert normal_angles(one * 0, one)[0] == 180 and normal_angles(one * np.nan, one)[0] == 180
    assert all(math.isnan(value) for value in normal_metrics(normal_angles(one, one * 0)).values())


def test_a_limit_is_passed_only_by_more() -> None:
    """An error of exactly 3 is no bad@3; 3.5 pixels of 100 are within 5 per cent, so no outlier of KITTI."""
    true = np.array([[[100.0, 100.0, 10.0]]])
    found = stereo_metrics(stereo_sums(true + np.array([3.0, 3.5, 3.5]), true)[0])
    assert float(found["bad@3.0"]) == pytest.approx(200 / 3) and float(found["D1"]) == pytest.approx(100 / 3)
    flow = np.zeros((1, 2, 1, 2))
    flow[0, 0, 0] = 10.0, 40.0
    found = flow_metrics(flow_sums(flow, flow)[0])
    assert math.isnan(found["s0-10"]) and float(found["s10-40"]) == float(found["s40+"]) == 0


@pytest.mark.parametrize("sums", [stereo_sums, depth_sums])
def test_a_prediction_that_is_no_number_is_an_error_and_not_left_out(sums: Callable[..., np.ndarray]) -> None:
    true, predicted = np.full((1, 1, 2), 5.0), np.array([[[np.nan, 5.0]]])
    metrics = (stereo_metrics if sums is stereo_sums else depth_metrics)(sums(predicted, true)[0])
    assert math.isinf(metrics["rmse"])
    assert float(metrics["bad@3.0" if sums is stereo_sums else "delta1"]) == pytest.approx(50 if sums is stereo_sums else 0.5)


def test_truth_of_twice_the_size_takes_the_best_of_four_or_their_mean() -> None:
    true = np.array([[[1.0, 2.0, np.inf, np.inf], [4.0, np.nan, np.inf, np.inf]]])
    predicted = np.array([[[2.5, 7.0]]])
    assert subpixel_stereo_error(predicted, true)[0, 0].tolist() == pytest.approx([0.5, math.nan], nan_ok=True)
    assert subpixel_stereo_error(predicted, true, mean=True)[0, 0].tolist() == pytest.approx([3.5 / 3, math.nan], nan_ok=True)
    with pytest.raises(ValueError, match="twice the prediction"):
        subpixel_stereo_error(predicted, true[:, :, :3])
