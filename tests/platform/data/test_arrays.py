from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sightline.methods.errors import SightlineError
from sightline.platform.data.arrays import RAY_NAME, ArrayForm
from sightline.platform.data.clouds import encode_parts, encode_points
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.kinds import POINTS
from sightline.platform.data.manifest import Manifest, Shard, fingerprint
from sightline.platform.data.writer import ShardWriter

RNG = np.random.default_rng(0)
CLOUDS = [RNG.normal(size=(count, 3)).astype("<f4") for count in (5, 3, 5)]
ROWS: list[dict[str, Any]] = [
    {"id": "a", "points": encode_points(CLOUDS[0]), "normals": None, "label": 1, "part": encode_parts(np.arange(-1, 4), 5)},
    {"id": "b", "points": encode_points(CLOUDS[1]), "normals": encode_points(-CLOUDS[1]), "label": None, "part": None},
    {"id": "c", "points": encode_points(CLOUDS[2]), "normals": None, "label": 0, "part": encode_parts(np.zeros(5, int), 5)},
]


@pytest.fixture
def clouds(tmp_path: Path) -> Dataset:
    with ShardWriter(tmp_path / "set", "points") as writer:
        for row in ROWS:
            writer.write(row)
    return Dataset.open(tmp_path / "set")


@pytest.fixture
def without_ray() -> Iterator[None]:
    """Arrow as in a process that has not imported Ray Data, which tells it of types of its own."""
    try:
        pa.unregister_extension_type(RAY_NAME)
    except pa.ArrowKeyError:
        yield
        return
    yield
    from ray.data._internal.tensor_extensions.arrow import ArrowVariableShapedTensorType

    pa.register_extension_type(ArrowVariableShapedTensorType(pa.int64(), 0))


def _shard(dataset: Dataset) -> Path:
    return Path(dataset.uri) / dataset.manifest.shards[0].name


def test_rows_come_back_as_they_were_written(clouds: Dataset) -> None:
    assert clouds.manifest.schema_version == 2
    assert [{**{"scene": None}, **row} for row in ROWS] == clouds.read(0, 0).to_pylist()
    assert clouds.read(0, 0, rows=[2, 1], columns=["points"])["points"].to_pylist() == [ROWS[2]["points"], ROWS[1]["points"]]
    clouds.verify()


def test_other_readers_find_arrays_with_their_shape(clouds: Dataset, without_ray: None) -> None:
    table = pq.read_table(_shard(clouds))
    for cloud, held in zip(CLOUDS, table["points"].to_pylist(), strict=True):
        assert held["shape"] == [len(cloud), 3]
        np.testing.assert_array_equal(np.asarray(held["data"], "f4").reshape(held["shape"]), cloud)
    none = {"data": [], "shape": [0]}
    assert table["part"].to_pylist() == [{"data": [-1, 0, 1, 2, 3], "shape": [5]}, none, {"data": [0] * 5, "shape": [5]}]
    assert [held["shape"] for held in table["normals"].to_pylist()] == [[0, 3], [3, 3], [0, 3]]


def test_the_file_names_the_type_that_ray_data_has_for_them(clouds: Dataset, without_ray: None) -> None:
    named = {field.name: field.metadata for field in pq.read_schema(_shard(clouds)) if field.metadata}
    assert {name: (m[b"ARROW:extension:name"], m[b"ARROW:extension:metadata"]) for name, m in named.items()} == {
        "points": (RAY_NAME.encode(), b"2"),
        "normals": (RAY_NAME.encode(), b"2"),
        "part": (RAY_NAME.encode(), b"1"),
    }


def _stand_in(dataset: Dataset, table: pa.Table, version: int) -> Dataset:
    """The data set with another shard, whose manifest vouches for it."""
    path = _shard(dataset)
    pq.write_table(table, path, store_schema=False)
    data = path.read_bytes()
    shard = Shard(name=path.name, rows=3, bytes=len(data), sha256=hashlib.sha256(data).hexdigest(), row_groups=(3,))
    prints = fingerprint("points", [shard], schema_version=version)
    raw = json.loads(dataset.manifest.to_json()) | {"shards": [shard.model_dump()], "fingerprint": prints, "schema_version": version}
    (path.parent / "manifest.json").write_text(Manifest.model_validate(raw).to_json())
    return Dataset.open(dataset.uri)


def test_a_data_set_of_the_first_version_is_read_as_before(clouds: Dataset) -> None:
    old = _stand_in(clouds, pa.Table.from_pylist(ROWS, schema=POINTS.schema), 1)
    assert old.manifest.schema_version == 1 and old.read(0, 0).to_pylist() == [{**{"scene": None}, **row} for row in ROWS]


GOOD: list[Any] = [{"data": [0.0] * 6, "shape": [2, 3]}] * 3


@pytest.mark.parametrize(
    ("held", "word"),
    [
        ([*GOOD[:2], {"data": [0.0] * 5, "shape": [2, 3]}], "do not fit"),
        ([*GOOD[:2], {"data": [0.0] * 6, "shape": [3, 2]}], "do not fit"),
        ([*GOOD[:2], {"data": [0.0] * 6, "shape": [6]}], "do not fit"),
        ([*GOOD[:2], {"data": [0.0] * 6, "shape": [-2, 3]}], "do not fit"),
        ([*GOOD[:2], {"data": [0.0] * 5 + [None], "shape": [2, 3]}], "no arrays of float"),
        ([*GOOD[:2], {"data": None, "shape": [2, 3]}], "do not fit"),
        ([[0.0] * 6] * 3, "no column of arrays"),
        (["text"] * 3, "no column of arrays"),
    ],
)
def test_what_is_no_array_is_refused(clouds: Dataset, held: list[Any], word: str) -> None:
    numbers = pa.list_(pa.float32())
    kind = pa.struct([("data", numbers), ("shape", pa.list_(pa.int64()))]) if isinstance(held[0], dict) else None
    points = pa.array(held, kind or (numbers if isinstance(held[0], list) else pa.string()))
    with pytest.raises(SightlineError, match=rf"points-00000\.parquet.*{word}"):
        _stand_in(clouds, pa.table({"id": ["a", "b", "c"], "points": points}), 2).read(0, 0)


def test_what_is_absent_comes_back_as_absent() -> None:
    form = ArrayForm(pa.int16(), (-1,))
    column = pa.chunked_array([form.stored([None, b"\1\0"]), form.stored([]), form.stored([b"\2\0\3\0"])])
    assert form.as_bytes(column).to_pylist() == [None, b"\1\0", b"\2\0\3\0"]
    assert form.as_bytes(pa.chunked_array([], column.type)).to_pylist() == []
