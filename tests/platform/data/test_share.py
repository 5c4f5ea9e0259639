"""A share of a data set is the same rows for whoever asks, with the classes in proportion, and a larger one holds every smaller one."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow.data.dataset_source_registry import get_dataset_source_from_json

from sightline.methods.errors import CallError
from sightline.platform.config.schema import DataConfig
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.loader.plan import Plan
from sightline.platform.data.loader.stream import Stream
from sightline.platform.data.share import Share
from sightline.platform.data.training_data import open_training_data
from sightline.platform.tracking.datasets import logged_dataset
from tests.support.toy_shapes import make_clouds


def test_shares_of_a_seed_are_nested_and_hold_each_class_in_proportion() -> None:
    labels = np.array([0] * 64 + [1] * 32 + [2] * 3 + [-1] * 10)
    ids = [f"row{index}" for index in range(len(labels))]

    def kept(fraction: float, seed: int = 0) -> set[str]:
        share = Share(fraction, seed)
        return {ids[index] for index in np.flatnonzero(share.kept(share.places(ids), labels))}

    sizes = {1 / 4: [16, 8, 1, 3], 1 / 8: [8, 4, 1, 1], 1 / 32: [2, 1, 1, 1], 1.0: [64, 32, 3, 10]}  # 2.5 rounds up, a class keeps one
    for fraction, counts in sizes.items():
        found = Counter(labels[ids.index(name)] for name in kept(fraction))
        assert [found[label] for label in (0, 1, 2, -1)] == counts
    assert kept(1 / 32) < kept(1 / 8) < kept(1 / 4) < kept(1.0)
    assert kept(1 / 4, seed=1) != kept(1 / 4)
    order = np.random.default_rng(0).permutation(len(ids))
    share = Share(1 / 4)
    other = share.kept(share.places([ids[index] for index in order]), labels[order])
    assert {ids[order[index]] for index in np.flatnonzero(other)} == kept(1 / 4), "whatever the order in which rows are stored"


def test_a_run_on_a_share_sees_its_rows_alone(tmp_path: Path) -> None:
    whole = make_clouds(tmp_path / "set", 150)
    part = open_training_data(DataConfig(train=str(tmp_path / "set"), fraction=0.2), "points")
    assert isinstance(part, Dataset) and part.rows == 30 and part.labels == {0: 10, 1: 10, 2: 10}
    assert part.described == "30 of 150 points (fraction 0.2, seed 0)"
    ids = part.sample_ids()
    assert len(set(ids)) == 30 and set(ids) < set(whole.sample_ids())
    assert whole.part(None) == whole and part.fingerprint != whole.fingerprint != whole.part(Share(0.2, 1)).fingerprint

    class Views:
        def __call__(self, sample: Mapping[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
            return {"first": np.asarray(sample["points"][0])}

    plan = Plan(tuple(part.row_groups), 0, 10, 5, 8)
    stream = Stream(pickle.loads(pickle.dumps(part)), Views(), plan, range(2), 0, 9, 0)
    seen = Counter(name for step in stream for microbatch in step for name in microbatch.ids)
    assert set(seen) == set(ids) and sum(seen.values()) == 90


def test_a_mixture_takes_the_share_of_each_set_and_a_logged_share_is_opened_again(tmp_path: Path) -> None:
    sets = [make_clouds(tmp_path / name, count) for name, count in (("a", 30), ("b", 60))]
    mixed = open_training_data(DataConfig(train=f"[{sets[0].uri}: 1, {sets[1].uri}: 3]", fraction=0.1, fraction_seed=2), "points")
    assert mixed.rows == 3 + 6
    one = sets[0].part(Share(0.1, 2))
    logged = logged_dataset(one)
    assert get_dataset_source_from_json(logged.source, logged.source_type).load().sample_ids() == one.sample_ids()
    assert json.loads(logged.profile)["rows_of_class"] == {"b": 1, "p": 1, "r": 1}


@pytest.mark.parametrize("fraction", [0, -0.1, 1.5])
def test_a_share_is_more_than_nothing_and_at_most_all(fraction: float) -> None:
    with pytest.raises((CallError, ValueError), match="fraction"):
        DataConfig(fraction=fraction)
