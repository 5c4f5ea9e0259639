"""The files whose cost `budgets.py` measures: of every kind that SECURITY.md limits, the largest and the worst that we could think of."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

MIB = 2**20
SMALL, LARGE = 64 * MIB, 256 * MIB
"""The limits of one file: meshes, text and images, and points in binary."""


@dataclass(frozen=True)
class HostileFile:
    """`name` ends with the suffix that the file needs, and maybe a remark in brackets; `reader` is one of `budgets.READERS`."""

    name: str
    reader: str
    make: Callable[[Path], None]


FILES: list[HostileFile] = []


def file(name: str, reader: str) -> Callable[[Callable[[Path], None]], Callable[[Path], None]]:
    """Notes how the file of this name is made."""

    def note(make: Callable[[Path], None]) -> Callable[[Path], None]:
        FILES.append(HostileFile(name, reader, make))
        return make

    return note


# Text


@file("aliases.yaml", "YAML")
def _(path: Path) -> None:
    path.write_text("a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9)))


@file("long.yaml", "YAML")
def _(path: Path) -> None:
    path.write_text("[" + ",".join("0" * 65_000) + "]")


@file("deep.json", "JSON")
def _(path: Path) -> None:
    path.write_bytes(b"[" * 400 * MIB)


@file("lists.json", "JSON")
def _(path: Path) -> None:
    path.write_bytes(b"[" + b"[]," * 10_000_000 + b"[]]")


@file("keys.json", "JSON")
def _(path: Path) -> None:
    with path.open("w") as file:
        file.write("{" + ",".join(f'"k{i}":{i + 1000}' for i in range(8_600_000)) + "}")


@file("small maps.json", "JSON")
def _(path: Path) -> None:
    path.write_bytes(b"[" + b'{"a":1.5},' * 5_600_000 + b"{}]")


@file("text with an emoji.json", "JSON")
def _(path: Path) -> None:
    path.write_bytes(b'["' + b"x" * 480 * MIB + "\N{GRINNING FACE}".encode() + b'"]')


@file("short lines.txt (a list of names)", "list")
def _(path: Path) -> None:
    path.write_bytes(b"a\n" * (256 * MIB))


# Clouds in binary


def _records(path: Path, head: bytes, record: np.ndarray, limit: int) -> None:
    count = (limit - len(head)) // record.itemsize
    with path.open("wb") as file:
        file.write(head.replace(b"COUNT", str(count).encode()))
        rng = np.random.default_rng(0)
        for start in range(0, count, MIB):
            some = np.repeat(record, min(MIB, count - start))
            for key in ("x", "y", "z"):
                some[key] = rng.normal(0, 20, len(some))
            file.write(some.tobytes())


def _points(*others: tuple[str, str], form: str = "<f4") -> np.ndarray:
    return np.ones(1, [("x", form), ("y", form), ("z", form), *others])


PLY = b"ply\nformat binary_little_endian 1.0\nelement vertex COUNT\n%send_header\n"
PCD = b"VERSION .7\nFIELDS %s\nSIZE %s\nTYPE %s\nCOUNT %s\nWIDTH COUNT\nHEIGHT 1\nPOINTS COUNT\nDATA binary\n"


@file("points.ply", "cloud")
def _(path: Path) -> None:
    _records(path, PLY % b"property float x\nproperty float y\nproperty float z\n", _points(), limit_of_ply())


@file("points with normals.ply", "cloud")
def _(path: Path) -> None:
    names = b"".join(b"property float %s\n" % name for name in (b"x", b"y", b"z", b"nx", b"ny", b"nz"))
    record = _points(("nx", "<f4"), ("ny", "<f4"), ("nz", "<f4"))
    record["ny"] = record["nz"] = 0
    _records(path, PLY % names, record, limit_of_ply())


def limit_of_ply() -> int:
    return SMALL


@file("points.pcd", "cloud")
def _(path: Path) -> None:
    count = 20_000_000
    head = b"VERSION .7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nWIDTH %d\nHEIGHT 1\nPOINTS %d\nDATA binary\n" % (count, count)
    _records(path, head, _points(), len(head) + count * 12)


@file("points with normals.pcd", "cloud")
def _(path: Path) -> None:
    count = (LARGE - 300) // 24
    names = b"FIELDS x y z normal_x normal_y normal_z\nSIZE 4 4 4 4 4 4\nTYPE F F F F F F\nCOUNT 1 1 1 1 1 1"
    head = b"VERSION .7\n%s\nWIDTH %d\nHEIGHT 1\nPOINTS %d\nDATA binary\n" % (names, count, count)
    record = _points(("nx", "<f4"), ("ny", "<f4"), ("nz", "<f4"))
    record["ny"] = record["nz"] = 0
    _records(path, head, record, len(head) + count * 24)


@file("zeros, packed.pcd", "cloud")
def _(path: Path) -> None:
    count = 20_000_000
    head = b"VERSION .7\nFIELDS x y z\nSIZE 8 8 8\nTYPE F F F\nCOUNT 1 1 1\nWIDTH %d\nHEIGHT 1\nPOINTS %d\n" % (count, count)
    size, run = count * 24, 264
    repeats, left = divmod(size - 1, run)
    packed = b"\x00\x01" + b"\xe0\xff\x00" * repeats + (bytes([left - 1]) + b"\x01" * left if 0 < left <= 32 else b"")
    if left > 32:
        packed += bytes([(7 << 5), left - 9, 0])
    path.write_bytes(head + b"DATA binary_compressed\n" + np.array([len(packed), size], "<u4").tobytes() + packed)


@file("points.bin (KITTI)", "cloud")
def _(path: Path) -> None:
    record = _points(("intensity", "<f4"))
    _records(path, b"", record, LARGE)


def _las(path: Path, count: int, format: int = 0) -> None:
    import laspy

    header = laspy.LasHeader(point_format=format, version="1.4")
    header.scales, header.offsets = [0.001] * 3, [0.0] * 3
    with laspy.open(path, mode="w", header=header) as file:
        rng = np.random.default_rng(0)
        for start in range(0, count, MIB):
            record = laspy.ScaleAwarePointRecord.zeros(min(MIB, count - start), header=header)
            for key in ("x", "y", "z"):
                record[key] = rng.normal(0, 20, len(record))
            file.write_points(record)


@file("points.las", "cloud")
def _(path: Path) -> None:
    _las(path, (LARGE - 500) // 20)


@file("points.laz", "cloud")
def _(path: Path) -> None:
    _las(path, 20_000_000)


@file("points.npy", "cloud")
def _(path: Path) -> None:
    np.save(path, np.random.default_rng(0).normal(0, 20, (20_000_000, 3)).astype(np.float32))


@file("points with normals.npy", "cloud")
def _(path: Path) -> None:
    table = np.random.default_rng(0).normal(0, 20, ((LARGE - 200) // 24, 6)).astype(np.float32)
    table[:, 3:] = (1, 0, 0)
    np.save(path, table)


@file("zeros.npz", "cloud")
def _(path: Path) -> None:
    np.savez_compressed(path, np.zeros((20_000_000, 6), np.float32))


@file("half precision with normals and colours.npz", "cloud")
def _(path: Path) -> None:
    table = np.zeros((20_000_000, 10), np.float16)
    table[:, 3], table[:, 0] = 1, np.arange(20_000_000) % 7
    np.savez_compressed(path, table)


# Text with numbers


def _repeat(path: Path, head: bytes, line: bytes, tail: bytes = b"", limit: int = SMALL) -> None:
    count = (limit - len(head) - len(tail) - 64) // len(line)
    path.write_bytes(head.replace(b"COUNT", str(count).encode()) + line * count + tail)


@file("points.xyz", "cloud")
def _(path: Path) -> None:
    _repeat(path, b"", b"1 2 3\n" + b"4 5 6\n")


@file("decimal commas.txt", "cloud")
def _(path: Path) -> None:
    _repeat(path, b"", b"1,5 2,5 3,5\n")


@file("points in text.pcd", "cloud")
def _(path: Path) -> None:
    head = b"VERSION .7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nWIDTH COUNT\nHEIGHT 1\nPOINTS COUNT\nDATA ascii\n"
    count = (SMALL - 200) // 6
    path.write_bytes(head.replace(b"WIDTH COUNT", b"WIDTH %d" % count).replace(b"POINTS COUNT", b"POINTS %d" % count) + b"1 2 3\n" * count)


@file("points in text.ply", "cloud")
def _(path: Path) -> None:
    head = b"ply\nformat ascii 1.0\nelement vertex COUNT\nproperty float x\nproperty float y\nproperty float z\nend_header\n"
    _repeat(path, head, b"1 2 3\n")


@file("faces in text.ply", "cloud")
def _(path: Path) -> None:
    head = b"ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\n"
    head += b"element face %d\nproperty list uchar int vertex_indices\nend_header\n0 0 0\n0 0 1\n0 1 0\n"
    path.write_bytes(head % MOST_FACES + b"3 0 1 2\n" * MOST_FACES)


TRIANGLES = b"ply\nformat binary_little_endian 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\n"
TRIANGLES += b"element face COUNT\nproperty list uchar uchar vertex_indices\nend_header\n"
TRIANGLES += np.array([[0, 0, 0], [0, 0, 1], [0, 1, 0]], "<f4").tobytes()
MOST_FACES = 6_000_000
"""That a header may name."""


@file("triangles, too many.ply", "cloud")
def _(path: Path) -> None:
    _repeat(path, TRIANGLES, b"\x03\0\1\2")


@file("triangles.ply", "cloud")
def _(path: Path) -> None:
    path.write_bytes(TRIANGLES.replace(b"COUNT", b"%d" % MOST_FACES) + b"\x03\0\1\2" * MOST_FACES)


@file("mixed polygons.ply", "cloud")
def _(path: Path) -> None:
    head = b"ply\nformat binary_little_endian 1.0\nelement vertex 4\nproperty float x\nproperty float y\nproperty float z\n"
    head += b"element face %d\nproperty list uchar uchar vertex_indices\nend_header\n"
    corners = np.array([[0, 0, 0], [0, 1, 0], [1, 1, 0], [1, 0, 0]], "<f4").tobytes()
    path.write_bytes(head % MOST_FACES + corners + b"\x03\0\1\2\x04\0\1\2\3" * (MOST_FACES // 2))


@file("polygons of a thousand corners.ply", "cloud")
def _(path: Path) -> None:
    count, polygon = SMALL // 1004 - 1, (1000).to_bytes(4, "little") + bytes(i % 3 for i in range(1000))
    path.write_bytes(TRIANGLES.replace(b"COUNT", b"%d" % count).replace(b"list uchar", b"list uint") + polygon * count)


@file("faces.off", "cloud")
def _(path: Path) -> None:
    path.write_bytes(b"OFF\n3 %d 0\n0 0 0\n0 0 1\n0 1 0\n" % MOST_FACES + b"3 0 1 2\n" * MOST_FACES)


@file("vertices.off", "cloud")
def _(path: Path) -> None:
    count = (SMALL - 100) // 6
    path.write_bytes(b"OFF\n%d 1 0\n" % count + b"0 0 1\n" * (count - 1) + b"0 1 0\n3 0 1 2\n")


@file("faces.obj", "cloud")
def _(path: Path) -> None:
    _repeat(path, b"v 0 0 0\nv 0 0 1\nv 0 1 0\n", b"f 1 2 3\n")


@file("lines of two kinds.obj", "cloud")
def _(path: Path) -> None:
    _repeat(path, b"v 0 0 0\nv 0 0 1\nv 0 1 0\n", b"f 1 2 3\nv 0 1 2\n")


@file("polygons of two kinds.obj", "cloud")
def _(path: Path) -> None:
    _repeat(path, b"v 0 0 0\nv 0 0 1\nv 0 1 1\nv 0 1 0\n", b"f 1 2 3\nf 1 2 3 4\n")


@file("empty lines.obj", "cloud")
def _(path: Path) -> None:
    _repeat(path, b"v 0 0 0\nv 0 0 1\nv 0 1 0\nf 1 2 3\n", b"\n")


@file("facets in text.stl", "cloud")
def _(path: Path) -> None:
    facet = b"facet normal 0 0 1\nouter loop\nvertex 0 0 0\nvertex 0 0 1\nvertex 0 1 0\nendloop\nendfacet\n"
    _repeat(path, b"solid x\n", facet, b"endsolid x\n")


@file("empty lines.stl", "cloud")
def _(path: Path) -> None:
    _repeat(path, b"solid x\n", b"\n")


@file("bare vertices.stl", "cloud")
def _(path: Path) -> None:
    _repeat(path, b"solid x\n", b"vertex 0 0 0\nvertex 0 0 1\nvertex 0 1 0\n", b"endsolid x\n")


@file("facets.stl", "cloud")
def _(path: Path) -> None:
    count = (SMALL - 84) // 50
    facet = np.zeros(1, [("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
    facet["corners"] = [[0, 0, 0], [0, 0, 1], [0, 1, 0]]
    path.write_bytes(bytes(80) + np.uint32(count).tobytes() + facet.tobytes() * count)


def _glb(path: Path, document: dict[str, Any], binary: bytes) -> None:
    text = json.dumps({"asset": {"version": "2.0"}, "buffers": [{"byteLength": len(binary)}], **document}).encode()
    text += b" " * (-len(text) % 4)
    binary += b"\0" * (-len(binary) % 4)
    chunks = len(text).to_bytes(4, "little") + b"JSON" + text + len(binary).to_bytes(4, "little") + b"BIN\0" + binary
    path.write_bytes(b"glTF" + (2).to_bytes(4, "little") + (12 + len(chunks)).to_bytes(4, "little") + chunks)


def _mesh(count: int) -> tuple[dict[str, Any], bytes]:
    """`count` vertices, all triangles among themselves."""
    binary = np.random.default_rng(0).random((count, 3), np.float32).tobytes()
    accessor = {"bufferView": 0, "componentType": 5126, "count": count, "type": "VEC3"}
    meshes = [{"primitives": [{"attributes": {"POSITION": 0}}]}]
    return {"meshes": meshes, "accessors": [accessor], "bufferViews": [{"buffer": 0, "byteLength": len(binary)}]}, binary


@file("triangles.glb", "cloud")
def _(path: Path) -> None:
    document, binary = _mesh((SMALL - 1000) // 36 * 3)
    _glb(path, {**document, "nodes": [{"mesh": 0}], "scenes": [{"nodes": [0]}]}, binary)


@file("a mesh in many places.glb", "cloud")
def _(path: Path) -> None:
    document, binary = _mesh(19_800)
    _glb(path, {**document, "nodes": [{"mesh": 0}] * 1000, "scenes": [{"nodes": [*range(1000)]}]}, binary)


@file("nodes that double.gltf", "cloud")
def _(path: Path) -> None:
    document, _binary = _mesh(3)
    nodes: list[dict[str, Any]] = [{"children": [i + 1, i + 1]} for i in range(40)]
    path.write_text(json.dumps({"asset": {"version": "2.0"}, **document, "nodes": [*nodes, {"mesh": 0}], "scenes": [{"nodes": [0]}]}))


@file("an accessor without bytes.gltf", "cloud")
def _(path: Path) -> None:
    accessor = {"componentType": 5126, "count": 19_999_998, "type": "VEC3"}
    meshes = [{"primitives": [{"attributes": {"POSITION": 0}}]}]
    document = {"asset": {"version": "2.0"}, "meshes": meshes, "accessors": [accessor], "nodes": [{"mesh": 0}], "scenes": [{"nodes": [0]}]}
    path.write_text(json.dumps(document))


# Arrays of many clouds


@file("zeros in gzip.h5", "arrays")
def _(path: Path) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        array = file.create_dataset("xyz", (44, 1_000_000, 3), "f4", chunks=(44, 1_000_000, 3), compression="gzip", fillvalue=0)
        array[0, 0, 0] = 1


@file("zeros in gzip, too many.h5", "arrays")
def _(path: Path) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        array = file.create_dataset("xyz", (100, 1_000_000, 3), "f4", chunks=(25, 1_000_000, 3), compression="gzip", fillvalue=0)
        array[:, 0, 0] = 1


@file("a giant shape.h5", "arrays")
def _(path: Path) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        file.create_dataset("xyz", (10**9, 2048, 3), "f4", chunks=(1, 2048, 3), compression="gzip")


@file("zeros of many clouds.npz", "arrays")
def _(path: Path) -> None:
    np.savez_compressed(path, xyz=np.zeros((44, 1_000_000, 3), np.float32))


@file("a giant shape.npz", "arrays")
def _(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive, archive.open("xyz.npy", "w") as member:
        np.lib.format.write_array_header_1_0(member, {"descr": "<f4", "fortran_order": False, "shape": (10**9, 2048, 3)})


def _members(path: Path, count: int) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(count):
            archive.writestr(f"{i}.npy", b"")


@file("members.npz", "arrays")
def _(path: Path) -> None:
    _members(path, 249_999)


# Shards


@file("dictionary.parquet", "shard")
def _(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = pa.DictionaryArray.from_arrays(pa.array(np.zeros(2000, np.int32)), pa.array([os.urandom(5 * MIB)]))
    pq.write_table(pa.table({"image": rows}), path, use_dictionary=["image"], dictionary_pagesize_limit=8 * MIB, store_schema=False)


@file("dictionary-read.parquet", "shard")
def _(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = pa.DictionaryArray.from_arrays(pa.array(np.zeros(100, np.int32)), pa.array([os.urandom(5 * MIB)]))
    pq.write_table(pa.table({"image": rows}), path, use_dictionary=["image"], dictionary_pagesize_limit=8 * MIB, store_schema=False)


@file("zeros.parquet", "shard")
def _(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = pa.array([bytes(500 * MIB)], pa.binary())
    options: dict[str, Any] = {"use_dictionary": False, "write_statistics": False, "compression": "zstd", "store_schema": False}
    pq.write_table(pa.table({"image": rows}), path, **options)


# Images


def _image(mode: str, **options: Any) -> Callable[[Path], None]:
    """64 million pixels, uniform: a few kilobytes."""

    def make(path: Path) -> None:
        from PIL import Image

        Image.MAX_IMAGE_PIXELS = None
        image = Image.new(mode, (8000, 8000), 1)
        if options.pop("turned", False):
            exif = image.getexif()
            exif[0x0112] = 6
            options["exif"] = exif
        image.save(path, **options)

    return make


file("64 million pixels.jpg", "image")(_image("RGB"))
file("64 million pixels, progressive and turned.jpg", "image")(_image("RGB", progressive=True, turned=True))
file("64 million pixels in CMYK.jpg", "image")(_image("CMYK"))
file("64 million pixels.png", "image")(_image("RGB"))
file("64 million pixels with alpha.png", "image")(_image("RGBA"))
file("64 million pixels of 16 bits.png", "image")(_image("I;16"))
file("64 million pixels with alpha.webp", "image")(_image("RGBA", lossless=True, method=0))
file("64 million pixels.avif", "image")(_image("RGB", speed=10))
file("64 million pixels.tif", "image")(_image("RGB", compression="tiff_adobe_deflate"))
file("64 million pixels.gif", "image")(_image("P"))


@file("80 million pixels.png", "image")
def _(path: Path) -> None:
    from PIL import Image

    Image.new("L", (10_000, 8000)).save(path)


# Weights


@file("shared lists.pth", "weights")
def _(path: Path) -> None:
    import torch

    inner: list[Any] = []
    for _level in range(40):
        inner = [inner] * 10
    torch.save({"model": {"w": torch.ones(2)}, "more": inner}, path)


def _pickle(path: Path, content: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", content)
        archive.writestr("a/version", b"3\n")
        archive.writestr("a/byteorder", b"little")


@file("steps of a pickle.pth", "weights")
def _(path: Path) -> None:
    _pickle(path, b"\x80\x02}X\x01\x00\x00\x00a](" + b"}" * 1_999_980 + b"es.")


@file("too many steps.pth", "weights")
def _(path: Path) -> None:
    _pickle(path, b"\x80\x02}X\x01\x00\x00\x00a](" + b"}" * 30_000_000 + b"es.")


@file("a tensor that repeats.pth", "weights")
def _(path: Path) -> None:
    import torch

    torch.save({"model": {"w": torch.ones(1).expand(1 << 36)}}, path)


@file("zeros of weights.npz", "weights")
def _(path: Path) -> None:
    np.savez_compressed(path, a=np.zeros(120 * MIB, np.float32))


@file("values.msgpack", "weights")
def _(path: Path) -> None:
    count = 1_999_990
    path.write_bytes(b"\x81\xa1a\xdd" + (count // 2).to_bytes(4, "big") + b"\x80" * (count // 2))


@file("tensors.safetensors", "weights")
def _(path: Path) -> None:
    head = json.dumps({f"w{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(100_000)}).encode()
    path.write_bytes(len(head).to_bytes(8, "little") + head)


@file("a million layers.json (settings)", "settings of weights")
def _(path: Path) -> None:
    path.write_text(json.dumps({"depth": 1_000_000}))


@file("wide layers.json (settings)", "settings of weights")
def _(path: Path) -> None:
    path.write_text(json.dumps({"dim": 100_000, "heads": 100}))
