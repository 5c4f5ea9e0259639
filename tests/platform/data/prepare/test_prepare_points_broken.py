"""What strangers' clouds can be: skipped and counted with the reason, or refused with the hint; nothing crashes, nothing is lost unsaid."""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from sightline.methods.errors import BrokenSampleError
from sightline.pipelines.__main__ import main
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.prepare import meshes
from sightline.platform.data.prepare.formats import gltf, lists
from sightline.platform.data.schema import decode_row

CORNERS = [[0, 0, 0], [3, 0, 0], [3, 1, 0], [0, 1, 0]]
FACES = [(0, 1, 2), (0, 2, 3)]
HEADER = "ply\nformat {}\nelement vertex {}\nproperty float x\nproperty float y\nproperty float z\n{}end_header\n"
LIST = "element face 2\nproperty list uchar int vertex_indices\n"
BIG_ENDIAN = (
    HEADER.format("binary_big_endian 1.0", 4, LIST).encode()
    + np.array(CORNERS, ">f4").tobytes()
    + b"".join(struct.pack(">Biii", 3, *face) for face in FACES)
)
STL = "solid a\nfacet normal 0 0 1\nouter loop\nvertex 0 0 0\nvertex 1 0 0\nvertex 0 1 0\nendloop\nendfacet\nendsolid a\n"


def glb(document: dict[str, object]) -> bytes:
    text = json.dumps({"asset": {"version": "2.0"}, **document}).encode()
    text += b" " * (-len(text) % 4)
    return b"glTF" + struct.pack("<II", 2, 20 + len(text)) + struct.pack("<I", len(text)) + b"JSON" + text


OUTSIDE = glb(
    {
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}}]}],
        "buffers": [{"uri": "../secret.bin", "byteLength": 36}],
        "bufferViews": [{"buffer": 0, "byteLength": 36}],
        "accessors": [{"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3"}],
    }
)


def read(path: Path, content: str | bytes) -> meshes.Cloud:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return meshes.read_cloud(str(path), 200, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.ply", BIG_ENDIAN),
        ("a.stl", STL),
        ("a.pts", "2\n0 0 0\n1 1 0\n"),
        ("a.off", "OFF\n4 1 0\n0 0 0\n3 0 0\n3 1 0\n0 1 0\n4 0 1 2 3\n"),
    ],
)
def test_less_common_forms_are_read(name: str, content: str | bytes, tmp_path: Path) -> None:
    points = read(tmp_path / name, content).points
    assert points.shape == ((2, 3) if name == "a.pts" else (200, 3)) and (points[:, 2] == 0).all() and np.ptp(points[:, 0]) > 0.5


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.ply", BIG_ENDIAN[:-9], "cannot be read as PLY"),
        ("a.ply", BIG_ENDIAN[:40], "cannot be read as PLY"),
        ("a.ply", HEADER.format("binary_little_endian 1.0", 2_000_000_000, "") + "0" * 100, "100 bytes, at least 24,000,000,000"),
        ("a.ply", HEADER.format("ascii 1.0", 5, "") + "0 0 0\n1 1 1\n", "cut short"),
        ("a.off", "OFF\n400 200 0\n0 0 0\n1 0 0\n", "cannot be read as OFF"),
        ("a.off", "OFF\n2000000000 1 0\n0 0 0\n", "cannot be read as OFF"),
        ("a.off", "OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 -9\n", "cannot be read as OFF"),
        ("a.off", "OFF\n3 1 0\n0 0 0\n1e200 0 0\n0 1e200 0\n3 0 1 2\n", "not finite: 2 vertices"),
        ("a.obj", "v 0 0 0\nv 1 1 1\n", "without faces"),
        ("a.obj", "# nothing\n", "empty mesh"),
        ("a.obj", "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 9\n", "cannot be read as OBJ"),
        ("a.stl", STL[:90], "cut short"),
        ("a.stl", b"x" * 80 + struct.pack("<I", 2**31) + b"1" * 100, "cut short: a.stl has 184 bytes"),
        ("a.glb", b"glTF" + struct.pack("<II", 2, 1000), "cannot be read as GLB"),
        ("a.glb", OUTSIDE, "numbers in a file outside its folder: a.glb names '../secret.bin'"),
        ("a.txt", "1 2 3\n4 5\n", "cannot be read as TXT"),
        ("a.txt", b"1 2 3\n4 5 \xff\n", "cannot be read as TXT"),
        ("a.csv", "x,y,name\n1,2,3\n", "points without x, y and z"),
        ("a.npz", b"PK\x03\x04cut", "cannot be read as NPZ"),
    ],
)
def test_files_that_are_cut_or_lie_are_skipped_with_the_reason(name: str, content: str | bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(np.eye(3, dtype="f4").tobytes())
    with pytest.raises(BrokenSampleError, match=says):
        read(tmp_path / name, content)


def test_nothing_is_unpacked_or_repeated_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "huge.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (10**13, 3)})
    with pytest.raises(BrokenSampleError, match="cannot be read as NPY"):
        meshes.read_cloud(str(tmp_path / "huge.npy"), 10, np.random.default_rng(0))
    np.savez_compressed(tmp_path / "bomb.npz", points=np.zeros((5000, 3)))
    monkeypatch.setattr(lists, "MAX_ARRAYS", 50_000)
    with pytest.raises(BrokenSampleError, match="arrays of more than 50,000 bytes"):
        meshes.read_cloud(str(tmp_path / "bomb.npz"), 10, np.random.default_rng(0))
    import trimesh

    scene = trimesh.Scene()
    box = trimesh.creation.box()
    for _ in range(9):
        scene.add_geometry(box, geom_name="box", transform=np.eye(4))
    monkeypatch.setattr(gltf, "MAX_SCENE", 60)
    with pytest.raises(BrokenSampleError, match="a scene of more than 60 vertices"):
        read(tmp_path / "many.glb", scene.export(file_type="glb"))


def prepare(*words: str | Path) -> int:
    return main(["prepare", "points", *[str(word) for word in words]])


def test_what_a_folder_loses_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    g = np.random.default_rng(0)
    for index in range(4):
        np.save(folder / f"good{index}.npy", g.random((50, 3)))
    for name, points in {"same": np.ones((9, 3)), "nan": np.full((9, 3), np.nan), "five": g.random((9, 5))}.items():
        np.save(folder / f"{name}.npy", points)
    (folder / "modelnet40_train_8192pts_fps.dat").write_bytes(pickle.dumps([1]))
    (folder / "0.pkl").write_bytes(pickle.dumps([1]))
    assert prepare("folder", folder, "--out", tmp_path / "out", "--max-skipped", "0.6") == 0
    made = Dataset.open(tmp_path / "out")
    reasons = {item.reason: item.count for item in made.manifest.provenance.skipped}
    assert made.rows == 4 and reasons == {
        "a pickle, which is never opened; convert it to .npy, .npz or .ply": 2,
        "all points are in one place": 1,
        "coordinates that are not finite": 1,
        "not 3, 4, 6, 7, 9 or 10 columns of numbers": 1,
    }
    capsys.readouterr()
    (tmp_path / "caches").mkdir()
    (tmp_path / "caches" / "cache.dat").write_bytes(pickle.dumps([1]))
    assert prepare("folder", tmp_path / "caches", "--out", tmp_path / "none") == 2
    assert "a pickle, which is never opened; convert it to .npy, .npz or .ply (cache.dat)" in capsys.readouterr().err


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    g = np.random.default_rng(0)
    for sub, ending in clouds_of_variants():
        (tmp_path / "scan" / sub).mkdir(parents=True, exist_ok=True)
        for theirs, count in (("training", 6), ("test", 3)):
            with h5py.File(tmp_path / "scan" / sub / f"{theirs}{ending}", "w") as file:
                file["data"] = g.random((count, 40, 3)).astype("f4")
                file["label"] = np.arange(count) % 15
                file["mask"] = np.zeros((count, 40))
    return tmp_path / "scan"


def clouds_of_variants() -> list[tuple[str, str]]:
    from sightline.platform.data.prepare.cloud_sources.scanobjectnn import VARIANTS

    return list(VARIANTS.values())


@pytest.mark.parametrize("variant", ["obj_bg", "obj_only", "pb_t50_rs"])
def test_scanobjectnn(scans: Path, tmp_path: Path, variant: str) -> None:
    assert prepare("scanobjectnn", scans, "--variant", variant, "--out", tmp_path / "out") == 0
    train = Dataset.open(tmp_path / "out" / "train")
    assert train.rows == 6 and len(train.manifest.classes) == 15 and train.manifest.labels == dict.fromkeys(range(6), 1)
    sub, ending = dict(zip(["obj_bg", "obj_only", "pb_t50_rs"], clouds_of_variants(), strict=True))[variant]
    with h5py.File(scans / sub / f"training{ending}") as file:
        whole = {points.tobytes() for points in np.asarray(file["data"])}
    rows = [decode_row(row, "points") for table in train.scan(["id", "points"]) for row in table.to_pylist()]
    assert {row["points"].tobytes() for row in rows} == whole, "as they are stored: neither drawn, centred nor scaled"


def test_hdf5_without_what_is_needed_is_refused_by_name(scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = scans / "main_split" / "training_objectdataset.h5"
    data = np.random.default_rng(0).random((6, 40, 3)).astype("f4")
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["data"] = data
    for content, said in (
        ({"data": data}, "no array 'label'; it has data"),
        ({"label": np.arange(6), "points": data}, "no array 'data'; it has label, points"),
        ({"data": h5py.ExternalLink(str(secret), "data"), "label": np.arange(6)}, "no array 'data'; it has label"),
        ({"data": data[0], "label": np.arange(6)}, "array 'data' of {path} has shape (40, 3)"),
        ({"data": data, "label": np.arange(4)}, "4 values of int64 for 6 clouds"),
        ({"data": data, "label": np.arange(6) + 12}, "has values from 12 to 17; there are 15 classes"),
    ):
        with h5py.File(path, "w") as file:
            for key, value in content.items():
                file[key] = value
        assert prepare("scanobjectnn", scans, "--out", tmp_path / "out") == 2
        assert said.format(path=path) in capsys.readouterr().err
    path.write_bytes(path.read_bytes()[:700])
    assert prepare("scanobjectnn", scans, "--out", tmp_path / "out") == 2
    assert "cannot be read as HDF5" in capsys.readouterr().err


def test_arrays_that_do_not_go_together_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    xyz = np.random.default_rng(0).random((4, 30, 3))
    path = tmp_path / "a.npz"
    for arrays, said in (
        ({"xyz": xyz[0]}, "has shape (30, 3)"),
        ({"xyz": xyz, "label": [0, 1]}, "2 values of int64 for 4 clouds"),
        ({"xyz": xyz, "label": [0, 1, 0, 5], "classes": ["a", "b"]}, "from 0 to 5; there are 2 classes"),
        ({"xyz": xyz, "split": [0, 1, 2, 0]}, "array 'split'"),
        ({"xyz": xyz, "label": [0.5, 1, 0, 1]}, "one whole number a cloud"),
        ({"xyz": xyz, "classes": np.array([{}], dtype=object)}, "cannot be read as an .npz"),
    ):
        np.savez(path, **arrays)
        assert prepare("arrays", path, "--out", tmp_path / "out") == 2, said
        assert said in capsys.readouterr().err
    np.savez(path, xyz=xyz, part=np.full((4, 30), 3), parts=["a", "b"])
    assert prepare("arrays", path, "--out", tmp_path / "out") == 1
    assert "part numbers beyond the list of parts" in capsys.readouterr().err
    path.write_bytes(path.read_bytes()[:200])
    assert not zipfile.is_zipfile(path)
    assert prepare("arrays", path, "--out", tmp_path / "out2") == 2
    assert "cannot be read as an .npz" in capsys.readouterr().err


def test_lists_of_files_stay_in_their_folder_and_name_known_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "part"
    (root / "train_test_split").mkdir(parents=True)
    (root / "02773838").mkdir()
    np.savetxt(root / "02773838" / "a.txt", np.column_stack([np.random.default_rng(0).random((10, 6)), np.repeat([4, 5], 5)]))
    np.savetxt(root / "02773838" / "odd.txt", np.column_stack([np.random.default_rng(0).random((10, 6)), np.repeat([4, 9], 5)]))
    (root / "synsetoffset2category.txt").write_text("Bag\t02773838\n")
    listed = ["shape_data/02773838/a", "shape_data/02773838/odd", "shape_data/../../etc/x", "/etc/passwd", "shape_data/0999/a"]
    for split in ("train", "val", "test"):
        (root / "train_test_split" / f"shuffled_{split}_file_list.json").write_text(json.dumps(listed))
    assert prepare("shapenetpart", root, "--out", tmp_path / "out", "--max-skipped", "0.9") == 0
    train = Dataset.open(tmp_path / "out" / "train").manifest
    reasons = {item.reason: item.count for item in train.provenance.skipped}
    assert train.rows == 1 and train.part_points == {4: 5, 5: 5}
    assert reasons["a path that leaves the folder"] == 6 and reasons["a class that synsetoffset2category.txt does not list"] == 3
    assert reasons["part numbers that the class does not have"] == 1
    for text, said in (("Bagg 1\n", "'Bagg 1' is no class of ShapeNetPart"), ("Bag\n", "'Bag' is no class")):
        (root / "synsetoffset2category.txt").write_text(text)
        assert prepare("shapenetpart", root, "--out", tmp_path / "x") == 2
        assert said in capsys.readouterr().err
