"""Intervals cover what they say, and paired figures are compared on the same resamples."""

from __future__ import annotations

import numpy as np
import pytest

from sightline.methods.errors import CallError
from sightline.methods.random import keyed_rng
from sightline.platform.evaluation.intervals import Interval, Resampling, average_over_seeds, coverage, interval, resample_counts, unit_sums
from sightline.platform.evaluation.units import make_folds, make_units, too_near


def test_a_95_percent_interval_covers_the_truth_in_about_95_of_100_worlds() -> None:
    rng, covered, worlds = keyed_rng("coverage"), 0, 400
    drawn = resample_counts(40, 500, 0)
    for _ in range(worlds):
        values = rng.normal(3.0, 1.0, 40)
        found = interval(values.mean(), drawn @ values / 40, 0.95, 40)
        covered += found.low <= 3.0 <= found.high
    assert 0.90 <= covered / worlds <= 0.98


def test_images_of_one_scene_do_not_narrow_the_interval() -> None:
    rng = keyed_rng("clusters")
    scene = rng.normal(0, 1, 10)
    values, units = np.repeat(scene, 100)[:, None], np.repeat([f"s{i}" for i in range(10)], 100)
    _, sums = unit_sums(values, list(units))
    by_scene = interval(0, resample_counts(10, 2000, 0) @ sums[:, 0] / 1000, 0.95, 10)
    by_image = interval(0, resample_counts(1000, 2000, 0) @ values[:, 0] / 1000, 0.95, 1000)
    assert by_scene.high - by_scene.low > 5 * (by_image.high - by_image.low)


def test_a_paired_difference_is_narrower_than_the_metrics_it_comes_from() -> None:
    rng = keyed_rng("pairs")
    hard = rng.normal(0, 1, 20)
    drawn = resample_counts(20, 2000, 0)
    a, b = drawn @ hard / 20, drawn @ (hard + 0.1 + rng.normal(0, 0.01, 20)) / 20
    difference = interval(0.1, b - a, 0.95, 20)
    assert difference.excludes_zero and difference.high - difference.low < 0.1 * np.ptp(np.quantile(a, [0.025, 0.975]))


def test_seeds_widen_the_interval() -> None:
    draws = np.stack([np.full(2000, value) for value in (0.0, 1.0, 2.0)])
    crossed = average_over_seeds(draws, 0)
    assert crossed.mean() == pytest.approx(1.0, abs=0.05) and crossed.min() == 0 and crossed.max() == 2


def test_one_unit_gives_no_interval_and_says_so() -> None:
    assert interval(0.5, np.zeros(10), 0.95, 1).as_dict() == {"value": 0.5, "low": None, "high": None, "units": 1}
    assert coverage(0.95, 2000, 1, "scene").startswith("No interval")
    assert not Interval(1.0, float("nan"), float("nan"), 1).excludes_zero


def test_few_scenes_are_cut_in_time_blocks_that_never_cross_a_scene() -> None:
    many = make_units([f"s{i}" for i in range(6)], np.full(6, np.nan), Resampling())
    assert many.kind == "scene" and many.count == 6
    scenes, times = ["a"] * 50 + ["b"] * 50, np.tile(np.arange(50.0)[::-1], 2)
    few = make_units(scenes, times, Resampling(blocks=10))
    assert few.kind == "time block" and few.count == 10
    first = [t for name, t in zip(few.names, times, strict=True) if name == few.names[49]]
    assert first == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]


def test_folds_keep_units_whole_and_a_gap_between_frames_of_one_video() -> None:
    scenes = [f"s{i % 10}" for i in range(100)]
    units = make_units(scenes, np.full(100, np.nan), Resampling())
    folds = make_folds(units, scenes, np.full(100, np.nan), 5, 2.0)
    assert np.bincount(folds).tolist() == [20] * 5 and all(len(set(folds[i::10])) == 1 for i in range(10))

    times = np.arange(0, 50, 0.5)
    video = make_folds(make_units(["v"] * 100, times, Resampling()), ["v"] * 100, times, 5, 2.0)
    for fold in range(5):
        others = times[(video != fold) & (video >= 0)]
        assert min(np.abs(others - time).min() for time in times[video == fold]) >= 1.5 and (video == fold).sum() >= 16


def test_frames_near_a_test_frame_of_the_same_scene_are_found() -> None:
    near = too_near(["a", "a", "a", "b"], np.array([0.0, 8.5, 14.0, 10.0]), ["a", "a"], np.array([12.0, 10.0]), 2.0)
    assert near.tolist() == [False, True, False, False]
    with pytest.raises(CallError, match="have no time"):
        too_near(["a"], np.array([np.nan]), ["a"], np.array([1.0]), 2.0)
