"""A data set is read by row group, and a shard that is not what the manifest says is an error that names it."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sightline.methods.errors import BrokenSampleError, CallError, SightlineError
from sightline.platform.data.contact_sheet import _ending, contact_sheet, drawn_rows
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.images import decode_image, encode_depth, encode_image
from sightline.platform.data.manifest import fingerprint
from sightline.platform.data.schema import decode_row
from sightline.platform.data.writer import ShardWriter

SHARD = "pairs-00000.parquet"


def _row(i: int, rng: np.random.Generator) -> dict[str, Any]:
    image = np.kron(rng.integers(0, 255, (6, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    return {
        "id": f"room/{i:03d}",
        "scene": "room",
        "image1": encode_image(image),
        "image2": encode_image(image[:, ::-1]),
        "K1": (np.eye(3) * (i + 1)).ravel(),
        "depth1": encode_depth(np.full((48, 64), i / 100)),
        "overlap": i / 150,
    }


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    rng = np.random.default_rng(0)
    with ShardWriter(tmp_path / "set", "pairs", command="test") as writer:
        for i in range(150):
            writer.write(_row(i, rng))
        writer.skip("room/x", "broken")
    return Dataset.open(tmp_path / "set", "pairs")


def test_what_was_written_is_read_back_by_row_group(dataset: Dataset) -> None:
    assert dataset.row_groups == [(0, 0, 64), (0, 1, 64), (0, 2, 22)]
    assert dataset.sample_ids() == [f"room/{i:03d}" for i in range(150)]
    table = dataset.read(0, 1, rows=[5, 0], columns=["id", "overlap"])
    assert table["id"].to_pylist() == ["room/069", "room/064"]
    assert dataset.read(0, 0, columns=["id", "flow"]).column_names == ["id"], "a column the data set lacks is left out"


def test_the_manifest_says_what_the_rows_hold(dataset: Dataset) -> None:
    manifest = dataset.manifest
    assert dataset.described == "150 pairs from 1 scene"
    assert manifest.columns == ("id", "scene", "image1", "image2", "K1", "depth1", "overlap")
    assert (manifest.image_min, manifest.image_max, manifest.scenes) == ((48, 64), (48, 64), {"room": 150})
    assert manifest.overlap is not None and sum(manifest.overlap.histogram) == manifest.overlap.count == 150
    assert manifest.provenance.skipped[0].examples == ("room/x",)


def test_a_row_becomes_a_sample(dataset: Dataset) -> None:
    row = dataset.read(0, 0, rows=[7]).to_pylist()[0]
    sample = decode_row(row, "pairs", depth=True)
    assert sample["image1"].shape == (48, 64, 3) and sample["image1"].dtype == np.uint8 and sample["image1"].flags.writeable
    np.testing.assert_array_equal(sample["K1"], np.eye(3) * 8)
    np.testing.assert_allclose(sample["depth1"], 0.07, atol=1e-6)
    assert "T_2from1" not in sample
    assert "depth1" not in decode_row(row, "pairs")
    with pytest.raises(BrokenSampleError, match=r"room/007: image2: not a readable image"):
        decode_row(row | {"image2": b"nonsense"}, "pairs")
    with pytest.raises(BrokenSampleError, match="room/007: K1"):
        decode_row(row | {"K1": [1.0, 2.0]}, "pairs")


def test_it_travels_small(dataset: Dataset) -> None:
    packed = pickle.dumps(dataset)
    assert len(packed) < 4096
    assert pickle.loads(packed).read(0, 2).num_rows == 22


def test_a_relative_place_is_found_from_another_directory(dataset: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    opened = Dataset.open("set")
    monkeypatch.chdir("/")
    assert opened.read(0, 2).num_rows == 22


def test_a_data_set_opens_through_a_uri(dataset: Dataset) -> None:
    opened = Dataset.open(f"file://{dataset.uri}")
    opened.verify()
    assert opened.read(0, 0).equals(dataset.read(0, 0))


def test_any_fsspec_uri_will_do(dataset: Dataset) -> None:
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    for file in Path(dataset.uri).iterdir():
        memory.pipe(f"/sightline-test/{file.name}", file.read_bytes())
    opened = Dataset.open("memory://sightline-test")
    opened.verify()
    assert opened.read(0, 0).equals(dataset.read(0, 0))


def test_the_wrong_kind_is_named(dataset: Dataset) -> None:
    with pytest.raises(CallError, match="holds pairs, but images are needed"):
        Dataset.open(dataset.uri, "images")


def test_a_missing_folder_and_an_unfinished_data_set_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(CallError, match="does not exist"):
        Dataset.open(tmp_path / "nowhere")
    with pytest.raises(CallError, match=r"no manifest\.json") as caught:
        (tmp_path / ".staging").mkdir()
        Dataset.open(tmp_path)
    assert caught.value.hint == "the manifest is written last: this data set was never finished; run prepare again"


def test_an_unknown_scheme_is_a_wrong_call() -> None:
    with pytest.raises(CallError, match="cannot open nosuch://"):
        Dataset.open("nosuch://bucket/data")


def test_a_finished_data_set_is_not_overwritten_unless_told(dataset: Dataset) -> None:
    with pytest.raises(CallError, match="finished data set"):
        ShardWriter(dataset.uri, "pairs")
    with ShardWriter(dataset.uri, "pairs", overwrite=True) as writer:
        writer.write(_row(0, np.random.default_rng(1)))
    assert Dataset.open(dataset.uri).rows == 1


def test_an_exception_while_writing_leaves_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), ShardWriter(tmp_path, "pairs") as writer:
        writer.write(_row(0, np.random.default_rng(1)))
        raise RuntimeError
    with pytest.raises(CallError, match="no manifest"):
        Dataset.open(tmp_path)


def test_an_empty_data_set_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(SightlineError, match="every row was skipped"), ShardWriter(tmp_path, "pairs"):
        pass


def test_the_contact_sheet_shows_samples(dataset: Dataset) -> None:
    sheet = decode_image(contact_sheet(dataset, rows=6, height=32))
    assert sheet.shape[1] >= 400 and sheet.std() > 10


def test_the_contact_sheet_has_as_many_rows_as_asked_for_and_names_their_ends(tmp_path: Path) -> None:
    picture = encode_image(np.full((40, 50, 3), 200, np.uint8))
    with ShardWriter(tmp_path, "images") as writer:
        for i in range(66):  # row groups of 64 and of 2
            writer.write({"id": f"a/long/way/{i:03d}", "image": picture})
    assert len({row["id"] for row in drawn_rows(Dataset.open(tmp_path), 24)}) == 24
    assert [_ending("a/long/way/007", letters) for letters in (20, 9, 5, 4)] == ["a/long/way/007", "way/007", "007", "007"]
    assert _ending("kitchen/frame-000123", 8) == "..000123"


def test_single_images_with_labels_are_a_kind_too(tmp_path: Path) -> None:
    picture = encode_image(np.full((40, 50, 3), 200, np.uint8))
    with ShardWriter(tmp_path, "images") as writer:
        for i in range(3):
            writer.write({"id": str(i), "image": picture, "label": i, "depth": encode_depth(np.ones((40, 50)))})
    dataset = Dataset.open(tmp_path, "images")
    sample = decode_row(dataset.read(0, 0, [2]).to_pylist()[0], "images", depth=True)
    assert (sample["label"], sample["image"].shape, sample["depth"].shape) == (2, (40, 50, 3), (40, 50))
    assert decode_image(contact_sheet(dataset, rows=3)).shape[2] == 3
    with pytest.raises(CallError, match="unknown kind of data"):
        ShardWriter(tmp_path / "meshes", "meshes")  # type: ignore[arg-type]


# Faults ------------------------------------------------------------------------------------------------------------------------------


def _read_all(dataset: Dataset) -> None:
    for shard, group, _ in dataset.row_groups:
        dataset.read(shard, group)


def test_a_missing_shard_is_named(dataset: Dataset) -> None:
    (Path(dataset.uri) / SHARD).unlink()
    for act in (lambda: Dataset.open(dataset.uri), lambda: _read_all(dataset), dataset.verify):
        with pytest.raises(SightlineError, match=SHARD) as caught:
            act()
        assert "prepare" in caught.value.hint and not isinstance(caught.value, CallError)


def test_a_truncated_shard_is_named(dataset: Dataset) -> None:
    path = Path(dataset.uri) / SHARD
    _read_all(dataset)  # also when it was open already
    path.write_bytes(path.read_bytes()[:-1000])
    for act in (lambda: Dataset.open(dataset.uri), lambda: _read_all(dataset), dataset.verify):
        with pytest.raises(SightlineError, match=rf"{SHARD}.*(bytes instead of|altered)"):
            act()


def test_altered_bytes_are_found_by_reading_and_by_verifying(dataset: Dataset) -> None:
    path = Path(dataset.uri) / SHARD
    content = path.read_bytes()
    needle = dataset.read(0, 1, [3])["image1"][0].as_py()
    place = content.index(needle) + len(needle) // 2
    path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    opened = Dataset.open(dataset.uri)
    with pytest.raises(SightlineError, match=rf"{SHARD}.*altered"):
        opened.verify()
    with pytest.raises(SightlineError, match=rf"{SHARD}.*damaged in row group 1"):
        _read_all(opened)


def _replace(dataset: Dataset, content: bytes) -> Dataset:
    """Puts other bytes in the place of the shard, with a manifest that vouches for them."""
    folder = Path(dataset.uri)
    (folder / SHARD).write_bytes(content)
    shard = dataset.manifest.shards[0].model_copy(update={"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()})
    raw = json.loads(dataset.manifest.to_json())
    raw["shards"], raw["fingerprint"] = [shard.model_dump(mode="json")], fingerprint("pairs", [shard])
    (folder / "manifest.json").write_text(json.dumps(raw))
    return Dataset.open(folder)


class _Loud(pa.ExtensionType):
    """Deserialising this type is the moment at which a file would run code of its choice."""

    called = 0

    def __init__(self) -> None:
        super().__init__(pa.binary(), "sightline.test.loud")

    def __arrow_ext_serialize__(self) -> bytes:
        return b"payload"

    @classmethod
    def __arrow_ext_deserialize__(cls, storage: pa.DataType, serialized: bytes) -> _Loud:
        _Loud.called += 1
        return cls()


def _parquet(columns: dict[str, Any], path: Path) -> bytes:
    pq.write_table(pa.table(columns), path, row_group_size=64)
    return path.read_bytes()


def test_an_extension_type_is_read_as_plain_bytes_and_its_code_never_runs(dataset: Dataset, tmp_path: Path) -> None:
    pa.register_extension_type(_Loud())
    try:
        storage = pa.array([b"x"] * 150)
        content = _parquet({"id": ["a"] * 150, "image1": pa.ExtensionArray.from_storage(_Loud(), storage)}, tmp_path / "x.parquet")
        _Loud.called = 0
        pq.ParquetFile(tmp_path / "x.parquet")
        assert _Loud.called, "a plain reader does run it on opening"
        _Loud.called = 0
        table = _replace(dataset, content).read(0, 0)
        assert not _Loud.called and table["image1"].to_pylist() == [b"x"] * 64
    finally:
        pa.unregister_extension_type("sightline.test.loud")


def _nested(path: Path) -> bytes:
    pq.write_table(pa.table({"id": ["a"] * 150, "image1": [{"a": 1}] * 150}), path, store_schema=False)
    return path.read_bytes()


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda path: pickle.dumps({"weights": list(range(1000))}), "not a Parquet file"),
        (lambda path: b"PAR1", "not a Parquet file"),
        (lambda path: b"x" * 100 + b"\xff\xff\xff\x7fPAR1", "not a Parquet file"),
        (lambda path: b"PAR1" + b"\x15" * 200 + b"\x40\x00\x00\x00PAR1", "damaged"),
        (_nested, "not allowed"),
    ],
)
def test_what_is_no_shard_of_ours_is_refused(dataset: Dataset, tmp_path: Path, make: Callable[[Path], bytes], word: str) -> None:
    with pytest.raises(SightlineError, match=rf"{SHARD}.*{word}"):
        _read_all(_replace(dataset, make(tmp_path / "other.parquet")))
