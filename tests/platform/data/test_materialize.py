"""Rows of a source that Ray Data reads, kept as a prepared data set."""

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

from sightline.methods.errors import CallError, SightlineError
from sightline.platform.config.location import parse
from sightline.platform.data import materialize as module
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.materialize import materialize
from sightline.platform.data.ray_source import RaySource
from sightline.platform.data.schema import decode_row


def _png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((6, 5, 3), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


NAMES = ["owl", "cat", "owl", "dog"] * 5


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Twenty images of values 0, 10, 20 ... in two files."""
    monkeypatch.setenv("SIGHTLINE_HOME", str(tmp_path / "home"))
    (tmp_path / "in").mkdir()
    for file in (0, 1):
        rows = range(10 * file, 10 * file + 10)
        table = {
            "n": list(rows),
            "photo": [_png(10 * row) for row in rows],
            "y": [row % 3 for row in rows],
            "name": NAMES[rows[0] : rows[0] + 10],
        }
        pq.write_table(pa.table(table), tmp_path / f"in/{file}.parquet", row_group_size=4)
    return f"parquet:{tmp_path}/in?image=photo&id=n"


def _kept(text: str, kind: str = "images", **more: Any) -> Dataset:
    return materialize(RaySource.open(parse(text), kind), "data.val", **more)


def _rows(dataset: Dataset) -> list[dict[str, Any]]:
    return [decode_row(row, dataset.kind) for table in dataset.scan() for row in table.to_pylist()]


def test_rows_are_kept_in_order_once_and_without_a_copy_of_equal_ones(photos: str, tmp_path: Path) -> None:
    told: list[str] = []
    dataset = _kept(photos, say=told.append)
    assert [(row["id"], int(row["image"].mean())) for row in _rows(dataset)] == [(str(row), 10 * row) for row in range(20)]
    assert dataset.uri == str(tmp_path / f"home/data/images-{dataset.fingerprint[:16]}") and dataset.manifest.columns == ("id", "image")
    assert told[-1].startswith(f"data.val: 20 images are kept in {dataset.uri}")
    assert _kept(photos).uri == dataset.uri and [one.name for one in (tmp_path / "home/data").iterdir()] == [Path(dataset.uri).name]
    (source,) = dataset.manifest.provenance.sources
    assert source.where == photos and source.reader == "parquet" and source.licence == "unknown"
    few = _kept(f"{photos}&rows=3")
    assert [row["id"] for row in _rows(few)] == ["0", "10", "19"], "evenly spaced, because their number is known"
    elsewhere = _kept(photos, storage=str(tmp_path / "shared"))
    assert elsewhere.uri == str(tmp_path / f"shared/data/{Path(dataset.uri).name}") and elsewhere.fingerprint == dataset.fingerprint


def test_labels_are_numbers_or_names(photos: str) -> None:
    numbers = _kept(f"{photos}&label=y", needed=("label",))
    assert numbers.manifest.classes == ("0", "1", "2") and [row["label"] for row in _rows(numbers)] == [row % 3 for row in range(20)]
    names = _kept(f"{photos}&label=name")
    assert names.manifest.classes == ("cat", "dog", "owl")
    assert [names.manifest.classes[row["label"]] for row in _rows(names)] == NAMES
    other = _kept(f"{photos}&label=name", classes=("owl", "dog", "cat"))
    assert [other.manifest.classes[row["label"]] for row in _rows(other)] == NAMES
    with pytest.raises(
        SightlineError, match=r"5 of 20 rows of parquet:.* are broken.*3: label: 'dog' is none of the 2 classes|label.*'dog'"
    ):
        _kept(f"{photos}&label=name", classes=("owl", "cat"))
    with pytest.raises(CallError, match="none of its columns is called label; columns: n, photo, y, name"):
        _kept(photos, needed=("label",))


def test_names_of_hugging_face_are_the_classes(photos: str, tmp_path: Path) -> None:
    feature = {"info": {"features": {"y": {"names": ["ant", "bee", "fly", "wasp"], "_type": "ClassLabel"}}}}
    for file in (tmp_path / "in").iterdir():
        pq.write_table(pq.read_table(file).replace_schema_metadata({"huggingface": json.dumps(feature)}), file)
    dataset = _kept(f"{photos}&label=y")
    assert dataset.manifest.classes == ("ant", "bee", "fly", "wasp") and dataset.manifest.labels == {0: 7, 1: 7, 2: 6}


def test_training_rows_are_shuffled_the_same_at_every_time(photos: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = _kept(f"{photos}&label=name", shuffle=True)
    rows = [(int(row["id"]), dataset.manifest.classes[row["label"]]) for row in _rows(dataset)]
    assert sorted(rows) == list(enumerate(NAMES)) and rows != sorted(rows)
    monkeypatch.setattr(module, "HELD_BYTES", 1)  # in parts
    monkeypatch.setattr(module, "ROWS_PER_GROUP", 3)
    assert _kept(f"{photos}&label=name", shuffle=True).fingerprint == dataset.fingerprint


def test_what_cannot_be_kept_is_told(photos: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = pq.read_table(tmp_path / "in/0.parquet")
    broken = table.set_column(1, "photo", pa.array([b"x", *table["photo"].to_pylist()[1:]]))
    pq.write_table(broken, tmp_path / "broken.parquet")
    text = f"parquet:{tmp_path}/broken.parquet?image=photo&id=n"
    with pytest.raises(SightlineError, match=r"1 of 10 rows .* are broken, more than data.max_broken = 0.05; the first: 0"):
        _kept(text)
    kept = _kept(text, max_broken=0.2)
    assert kept.rows == 9 and kept.manifest.provenance.skipped[0].count == 1
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.png").write_bytes(_png(7))
    assert [int(row["image"].mean()) for row in _rows(_kept(f"images:{tmp_path}/photos"))] == [7]
    with pytest.raises(CallError, match="has no labels") as caught:
        _kept(f"images:{tmp_path}/photos", needed=("label",))
    assert "sightline prepare images classes" in caught.value.hint
    monkeypatch.setattr(module, "AT_MOST", 10)
    with pytest.raises(CallError, match="has 20 rows, and here they are copied") as caught:
        _kept(photos)
    assert "&rows=" in caught.value.hint and _kept(f"{photos}&rows=15").rows == 15
    assert not [one for one in (tmp_path / "home/data").iterdir() if one.name.startswith(".part")]


def test_clouds_are_kept_as_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGHTLINE_HOME", str(tmp_path / "home"))
    cloud = np.random.default_rng(0).normal(size=(9, 3))
    pq.write_table(pa.table({"points": [(cloud + 5e6).tolist()], "label": [1]}), tmp_path / "x.parquet")
    (row,) = _rows(_kept(f"parquet:{tmp_path}/x.parquet", "points", needed=("label",)))
    centre = row["points"].mean(axis=0) - cloud.mean(axis=0)
    np.testing.assert_allclose(row["points"] - centre, cloud, atol=1e-5)
    assert row["label"] == 1
