"""Disparity, flow and occlusion of pairs: stored to the bit, read by others as arrays, and as samples."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sightline.methods.errors import BrokenSampleError
from sightline.platform.data.arrays import RAY_NAME, ArrayFormError
from sightline.platform.data.contact_sheet import contact_sheet
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.displacement import (
    DISPARITY_FORM,
    FLOW_FORM,
    decode_disparity,
    encode_disparity,
    encode_flow,
    encode_occluded,
    placed_disparity,
    placed_flow,
    placed_occluded,
)
from sightline.platform.data.images import Resize, encode_png
from sightline.platform.data.schema import decode_row
from sightline.platform.data.writer import ShardWriter

RNG = np.random.default_rng(5)
IMAGE = encode_png(RNG.integers(0, 256, (36, 40, 3)).astype(np.uint8))
DISPARITY = RNG.uniform(0, 30, (36, 40)).astype(np.float32)
DISPARITY[2:5, 3] = np.nan
FLOW = RNG.normal(0, 30, (36, 40, 2)).astype(np.float32)
FLOW[7, 8] = np.nan
OCCLUDED = RNG.random((36, 40)) < 0.3
PLAIN: dict[str, Any] = {"id": "a", "scene": "s", "image1": IMAGE, "image2": IMAGE}
FULL = {"disparity": encode_disparity(DISPARITY), "flow": encode_flow(FLOW), "occluded": encode_occluded(OCCLUDED)}


def written(folder: Path, rows: list[dict[str, Any]]) -> Dataset:
    with ShardWriter(folder, "pairs") as writer:
        for row in rows:
            writer.write(row)
    return Dataset.open(folder)


def test_a_sample_has_every_bit_of_what_was_stored(tmp_path: Path) -> None:
    dataset = written(tmp_path, [PLAIN | {"id": "b"}, PLAIN | FULL])
    other, row = dataset.read(0, 0).to_pylist()
    assert dataset.manifest.schema_version == 2 and not decode_row(other, "pairs").keys() & FULL.keys()
    sample = decode_row(row, "pairs", needed=("flow",))
    for name, truth in (("disparity", DISPARITY), ("flow", FLOW), ("occluded", OCCLUDED)):
        assert sample[name].dtype == truth.dtype and np.array_equal(sample[name], truth, equal_nan=truth.dtype != bool)
    with pytest.raises(BrokenSampleError, match="b: flow is empty"):
        decode_row(other, "pairs", needed=("flow",))
    assert json.loads((tmp_path / "manifest.json").read_text())["maps"]["occluded"]["known"] == OCCLUDED.sum()


def test_others_read_arrays_with_their_shape(tmp_path: Path) -> None:
    written(tmp_path, [PLAIN | FULL, PLAIN | {"id": "b"}])
    file = pq.ParquetFile(tmp_path / "pairs-00000.parquet")
    assert RAY_NAME.encode() in file.schema_arrow.field("flow").metadata.values() or "Tensor" in str(file.schema_arrow.field("flow").type)
    raw = pq.read_table(tmp_path / "pairs-00000.parquet", columns=["flow"])["flow"].combine_chunks()
    held, none = getattr(raw, "storage", raw).to_pylist()
    assert held["shape"] == [36, 40, 2] and np.array_equal(np.asarray(held["data"], "f4").reshape(held["shape"]), FLOW, equal_nan=True)
    assert none == {"data": [], "shape": [0, 0, 2]}


def test_pairs_without_them_have_the_columns_that_they_had_before(tmp_path: Path) -> None:
    dataset = written(tmp_path, [PLAIN | {"overlap": 0.5}])
    assert dataset.manifest.schema_version == 1 and "maps" not in (tmp_path / "manifest.json").read_text()
    assert pq.read_schema(tmp_path / "pairs-00000.parquet").names[-1] == "time"


def test_an_array_whose_sides_do_not_fit_is_refused() -> None:
    with pytest.raises(ArrayFormError, match="do not fit"):
        DISPARITY_FORM.as_bytes(pa.chunked_array([FLOW_FORM.stored([FULL["flow"]])]))
    with pytest.raises(BrokenSampleError, match="no map of 40 x 36"):
        decode_disparity(FULL["disparity"][:-4])
    with pytest.raises(BrokenSampleError, match="negative or infinite"):
        decode_disparity(np.array([1, 1], "<i4").tobytes() + np.array([-1], "<f4").tobytes())
    with pytest.raises(BrokenSampleError, match="flow of 40 x 36 pixels, image1 of 32 x 32"):
        decode_row({**PLAIN, **FULL, "image1": encode_png(np.zeros((32, 32, 3), np.uint8)), "disparity": None}, "pairs")


def test_a_cut_and_a_resize_take_nearest_values_in_stored_pixels() -> None:
    at = Resize(18, square=True).placement(36, 40, 1)
    rows, columns = 2 * np.arange(18) + 1, 2 * np.arange(18) + 1 + 2
    assert np.array_equal(placed_disparity(DISPARITY, at), DISPARITY[rows[:, None], columns] / 2, equal_nan=True)
    assert np.array_equal(placed_flow(FLOW, at), FLOW[rows[:, None], columns] / 2, equal_nan=True)
    assert np.array_equal(placed_occluded(OCCLUDED, at), OCCLUDED[rows[:, None], columns])
    same = Resize().placement(36, 40, 1)
    assert placed_flow(FLOW, same).tobytes() == FLOW.tobytes()
    with pytest.raises(BrokenSampleError, match="differ in size: 40 x 35 and 40 x 36"):
        placed_disparity(DISPARITY[1:], same)
    with pytest.raises(BrokenSampleError, match="EXIF tag turns"):
        placed_flow(FLOW, Resize().placement(36, 40, 3))


def test_wrong_signs_are_refused_when_they_are_stored() -> None:
    with pytest.raises(BrokenSampleError, match=r"negative disparity .*swapped.*: -2 px"):
        encode_disparity(np.array([[1.0, -2.0]]))


def test_the_sheet_shows_them(tmp_path: Path) -> None:
    rows = [PLAIN | {"flow": encode_flow(np.broadcast_to([-9.0, 0], (36, 40, 2)))}, PLAIN | FULL | {"id": "b"}]
    sheet = Image.open(io.BytesIO(contact_sheet(written(tmp_path, rows), height=36)))
    assert (0, 255, 255) in {colour for _, colour in sheet.getcolors(1 << 20) or []}  # to the left
