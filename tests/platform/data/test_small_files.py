"""Small files of data that unpack to much are refused by name, whatever their format; the limit is lowered so that the tests are quick."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sightline.methods.errors import BrokenSampleError, CallError, SightlineError
from sightline.platform.core import budget
from sightline.platform.data.manifest import Shard
from sightline.platform.data.prepare.clouds import entry, read_array
from sightline.platform.data.prepare.formats import gltf
from sightline.platform.data.prepare.formats.polygons import Polygons, triangulated
from sightline.platform.data.prepare.formats.scans import read_las
from sightline.platform.data.shards import ShardFolder


@pytest.fixture(autouse=True)
def low(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "UNPACKED", 100_000)


def zeros(path: Path) -> None:
    np.savez_compressed(path, data=np.zeros((100, 1000, 3), np.float32))


def filled(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("data", (100, 1000, 3), "f4")


def gzipped(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("data", data=np.zeros((100, 1000, 3), np.float32), chunks=(50, 1000, 3), compression="gzip", compression_opts=9)


def wide_chunk(path: Path) -> None:
    """One entry, in a chunk that has room for a hundred."""
    with h5py.File(path, "w") as file:
        file.create_dataset("data", (1, 1000, 3), "f4", maxshape=(None, 1000, 3), chunks=(100, 1000, 3), compression="gzip")[0] = 0


@pytest.mark.parametrize(
    ("make", "suffix"), [(zeros, ".npz"), (filled, ".h5"), (gzipped, ".h5"), (wide_chunk, ".h5")], ids=lambda value: str(value)[:20]
)
@pytest.mark.parametrize("read", [read_array, lambda file, key: entry(file, key, 0)], ids=["whole", "entry"])
def test_arrays_of_zeros_are_not_unpacked(
    make: Callable[[Path], None], suffix: str, read: Callable[[str, str], np.ndarray], tmp_path: Path
) -> None:
    path = tmp_path / f"x{suffix}"
    make(path)
    with pytest.raises(
        CallError, match=r"x\.(npz|h5) cannot be read as .*: the array 'data' takes .* bytes in the file and 1,200,\d+ in memory"
    ):
        read(str(path), "data")


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_arrays_that_hold_what_they_say_are_read(suffix: str, tmp_path: Path) -> None:
    path, values = tmp_path / f"x{suffix}", np.random.default_rng(0).normal(size=(20, 1000, 3)).astype(np.float32)
    if suffix == ".npz":
        np.savez_compressed(path, data=values)
    else:
        with h5py.File(path, "w") as file:
            file.create_dataset("data", data=values, compression="gzip")
    np.testing.assert_array_equal(entry(str(path), "data", 3), values[3])


def test_a_header_of_las_that_says_many_records_is_refused() -> None:
    header = bytearray(227)
    header[:4], header[24:26] = b"LASF", bytes([1, 2])
    struct.pack_into("<H", header, 94, 227)
    struct.pack_into("<I", header, 100, 4_000_000_000)
    with pytest.raises(BrokenSampleError, match=r"4,000,000,000 records in 227 bytes"):
        read_las(bytes(header), "x.las")
    with pytest.raises(BrokenSampleError, match="shorter than a header"):
        read_las(bytes(header[:100]), "x.las")


@pytest.mark.parametrize("dictionary", [True, False])
def test_a_shard_whose_dictionary_or_zeros_grow_is_refused(dictionary: bool, tmp_path: Path) -> None:
    path = tmp_path / "images-00000.parquet"
    rows = 64
    column = pa.array([bytes(20_000)] * rows, pa.binary())
    pq.write_table(
        pa.table({"image": column}), path, use_dictionary=dictionary, compression="zstd", store_schema=False, write_statistics=False
    )
    data = path.read_bytes()
    assert len(data) < 10_000
    shard = Shard(name=path.name, rows=rows, bytes=len(data), sha256=hashlib.sha256(data).hexdigest(), row_groups=(rows,))
    with pytest.raises(SightlineError, match=r"images-00000\.parquet .* asks for more memory than it may in row group 0: column 'image'"):
        ShardFolder(str(tmp_path), (shard,), "prepare it again").read(0, 0)


def test_one_list_of_vertices_in_many_primitives_counts_as_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gltf, "MAX_SCENE", 9)
    corners = np.eye(3, dtype="<f4").tobytes()

    def glb(primitives: int) -> bytes:
        document = {
            "asset": {"version": "2.0"},
            "nodes": [{"mesh": 0}],
            "meshes": [{"primitives": [{"attributes": {"POSITION": 0}}] * primitives}],
            "buffers": [{"byteLength": 36}],
            "bufferViews": [{"buffer": 0, "byteLength": 36}],
            "accessors": [{"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3"}],
        }
        text = json.dumps(document).encode()
        chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", 36, b"BIN\0") + corners
        return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks

    assert len(gltf.read_gltf(glb(3), "x.glb", lambda name: b"").vertices) == 9
    read = 0

    def counted(*arguments: object) -> tuple[np.ndarray, np.ndarray]:
        nonlocal read
        read += 1
        return primitive(*arguments)  # type: ignore[arg-type]

    primitive = gltf._Scene._primitive
    monkeypatch.setattr(gltf._Scene, "_primitive", counted)
    with pytest.raises(BrokenSampleError, match="a scene of more than 9 vertices"):
        gltf.read_gltf(glb(1000), "x.glb", lambda name: b"")
    assert read == 4, "no more are made than are needed to know"


def test_a_polygon_of_a_million_corners_is_refused() -> None:
    polygons = Polygons(np.tile(np.arange(3), 333_334), np.array([1_000_002]))
    with pytest.raises(BrokenSampleError, match="more than 100,000 corners: it has 1,000,002"):
        triangulated(np.eye(3), polygons)
