"""The one reader of fixed samples: which rows, which draws, which batch, for each of its uses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sightline.methods.random import key, keyed_rng, sample_rng
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.images import encode_image
from sightline.platform.data.loader.fixed import SampleReader, fixed_microbatches, spread
from sightline.platform.data.writer import ShardWriter


def views(sample: dict[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The row, by its shade, and what it drew."""
    assert set(sample) == {"id", "image"}
    return {"row": np.round(sample["image"][0, 0, 0] / 10).astype(int), "draw": rng.integers(0, 2**32)}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """Row i is of shade 10 i, in several row groups; row 4 is broken, and row 0 says neither scene nor time."""
    monkeypatch.setattr("sightline.platform.data.writer.ROWS_PER_GROUP", 3)
    noise = encode_image(keyed_rng("noise").integers(0, 255, (24, 24, 3), dtype=np.uint8))
    with ShardWriter(tmp_path / "d", "images") as writer:
        for index in range(10):
            image = encode_image(np.full((24, 24, 3), 10 * index, np.uint8))
            about = {"scene": f"s{index // 2}", "time": float(index)} if index else {}
            writer.write({"id": str(index), "image": image if index != 4 else noise[: len(noise) // 2], **about})
    found = Dataset.open(tmp_path / "d")
    assert [rows for _, _, rows in found.row_groups] == [3, 3, 3, 1]
    return found


def test_validation_and_visualisations_draw_by_the_place_in_the_sample(data: Dataset) -> None:
    """A broken row makes its own microbatch smaller: those that other ranks have stay as they are."""
    found = {index: columns for index, columns in fixed_microbatches(data, views, microbatch=2, limit=7)}
    rows = {0: [0, 2], 1: [3], 2: [6, 8], 3: [9]}  # of 0, 1.5, 3, 4.5, 6, 7.5, 9, to even numbers
    places = {0: [0, 1], 1: [2], 2: [4, 5], 3: [6]}
    assert {index: columns["row"].tolist() for index, columns in found.items()} == rows
    for index, columns in found.items():
        assert columns["draw"].tolist() == [sample_rng(key("fixed") >> 1, place).integers(0, 2**32) for place in places[index]]


def test_ranks_share_the_microbatches_out(data: Dataset) -> None:
    whole = {index: columns["draw"].tolist() for index, columns in fixed_microbatches(data, views, microbatch=2, limit=7)}
    parts = [list(fixed_microbatches(data, views, microbatch=2, limit=7, part=part, parts=3)) for part in range(3)]
    assert [[index for index, _ in part] for part in parts] == [[0, 3], [1], [2]]
    assert {index: columns["draw"].tolist() for part in parts for index, columns in part} == whole


def test_measurements_draw_by_the_row_and_fill_their_batches(data: Dataset) -> None:
    reader = SampleReader(data, views, seed=5)
    batches = list(reader.batches(range(data.rows), 4))
    rows = [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert [batch.columns["row"].tolist() for batch in batches] == [rows[:4], rows[4:8], rows[8:]]
    draws = [draw for batch in batches for draw in batch.columns["draw"].tolist()]
    assert draws == [sample_rng(5, row).integers(0, 2**32) for row in rows] and reader.broken == 1
    assert batches[0].scenes == ["", "s0", "s1", "s1"] and batches[2].times == [9.0] and np.isnan(batches[0].times[0])


def test_numbers_are_spread_evenly_and_each_is_taken_once() -> None:
    assert spread(3, 9) == [0, 1, 2] and spread(10, 4) == [0, 3, 6, 9]
    assert all(len(set(spread(n, k))) == k and spread(n, k)[-1] == n - 1 for n in range(2, 40) for k in range(2, n + 1))
