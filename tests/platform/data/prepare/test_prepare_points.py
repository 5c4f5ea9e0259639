"""`prepare points`: what a file gives, what is refused and why, and the layouts of the community."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from sightline.methods.errors import BrokenSampleError
from sightline.pipelines.__main__ import main
from sightline.platform.data.clouds import decode_parts, decode_points, encode_points
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.prepare import meshes
from sightline.platform.data.schema import decode_row

DATA = Path(__file__).resolve().parents[4].parent / "shared" / "data"
SQUARE = "OFF\n4 2 0\n0 0 0\n3 0 0\n3 1 0\n0 1 0\n3 0 1 2\n3 0 2 3\n"
TETRA = "v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 2 3\nf 1 2 4\nf 1 3 4\nf 2 3 4\n"


def unit(count: int) -> np.ndarray:
    """Directions, as normals are."""
    vectors = np.random.default_rng(2).normal(size=(count, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def read(path: Path, content: str | bytes, count: int = 500) -> meshes.Cloud:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return meshes.read_cloud(str(path), count, rng())


def test_a_mesh_is_sampled_by_area(tmp_path: Path) -> None:
    """A thin third of the square gets a third of the points, whatever its triangles are; normals are those of the faces."""
    cloud = read(tmp_path / "a.off", SQUARE, 6000)
    assert cloud.points.shape == (6000, 3) and (cloud.points[:, 2] == 0).all()
    assert np.mean(cloud.points[:, 0] < 1) == pytest.approx(1 / 3, abs=0.02)
    assert cloud.points[:, 1].min() >= 0 and cloud.points[:, 1].max() <= 1
    assert cloud.normals is not None
    np.testing.assert_allclose(np.abs(cloud.normals), [[0, 0, 1]] * 6000)
    again = meshes.read_cloud(str(tmp_path / "a.off"), 6000, rng())
    assert np.array_equal(again.points, cloud.points)


def test_modelnets_first_line_is_corrected(tmp_path: Path) -> None:
    assert np.array_equal(read(tmp_path / "a.off", SQUARE.replace("OFF\n", "OFF")).points, read(tmp_path / "b.off", SQUARE).points)


@pytest.mark.parametrize("suffix", ["obj", "ply", "stl", "glb"])
def test_other_formats_and_scenes_of_several_geometries(suffix: str, tmp_path: Path) -> None:
    import trimesh

    box = trimesh.creation.box((1, 1, 1))
    far = trimesh.creation.box((1, 1, 1)).apply_translation((10, 0, 0))
    shown = trimesh.Scene([box, far]) if suffix == "glb" else trimesh.util.concatenate([box, far])
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(data if isinstance(data := shown.export(file_type=suffix), bytes) else data.encode())
    points = meshes.read_cloud(str(path), 2000, rng()).points
    assert np.mean(points[:, 0] > 5) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.off", "OFF\n0 0 0\n", "mesh"),
        ("a.off", "OFF\n3 1 0\n0 0 0\n1 0 0\n2 0 0\n3 0 1 2\n", "without area"),
        ("a.off", "OFF\n3 0 0\n0 0 0\n1 0 0\n2 0 0\n", "mesh"),
        ("a.obj", "v 0 0 0\nv 1 0 0\nv 0 nan 0\nf 1 2 3\n", "not finite|cannot be read"),
        ("a.off", "nonsense", "cannot be read as OFF|mesh"),
        ("a.glb", b"\0" * 40, "cannot be read as GLB"),
        ("a.txt", "1 2\n3 4\n", "not 3, 4, 6, 7, 9 or 10 columns"),
        ("a.txt", "1 2 x\n", "cannot be read as TXT"),
        ("a.txt", "", "columns|cannot be read"),
        ("a.npy", b"not an array", "cannot be read as NPY"),
        ("a.npy", pickle.dumps([1, 2]), "cannot be read as NPY"),
        ("a.pkl", pickle.dumps([1, 2]), "a pickle, which is never opened"),
        ("a.dat", pickle.dumps([1, 2]), "a pickle, which is never opened"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_file_that_is_no_cloud_is_skipped_with_the_reason(name: str, content: str | bytes, says: str, tmp_path: Path) -> None:
    with pytest.raises(BrokenSampleError, match=says):
        read(tmp_path / name, content)


def test_lists_of_points_keep_what_they_have(tmp_path: Path) -> None:
    rows = np.random.default_rng(1).random((40, 7))
    rows[:, 3:6] = unit(40)
    rows[:, 6] = np.arange(40) % 3
    np.savetxt(tmp_path / "a.txt", rows)
    np.savetxt(tmp_path / "b.txt", rows[:, :6], delimiter=",")
    np.save(tmp_path / "c.npy", rows[:, :3])
    np.savez(tmp_path / "d.npz", other=np.zeros(3), points=rows[:, :4])
    whole = meshes.read_cloud(str(tmp_path / "a.txt"), 100, rng())
    np.testing.assert_allclose(whole.points, rows[:, :3])
    assert whole.part is not None and whole.part.tolist() == rows[:, 6].tolist()
    assert meshes.read_cloud(str(tmp_path / "b.txt"), 100, rng()).part is None
    fewer = meshes.read_cloud(str(tmp_path / "c.npy"), 10, rng())
    assert len(fewer.points) == 10 and {tuple(p) for p in fewer.points} < {tuple(p) for p in rows[:, :3]}
    assert meshes.read_cloud(str(tmp_path / "d.npz"), 100, rng()).normals is None
    np.savez(tmp_path / "e.npz", one=rows, two=rows)
    with pytest.raises(BrokenSampleError, match="arrays without a cloud: one, two"):
        meshes.read_cloud(str(tmp_path / "e.npz"), 100, rng())


def test_stored_clouds_are_finite_lists_of_points() -> None:
    points = np.arange(12, dtype=np.float64).reshape(4, 3)
    assert np.array_equal(decode_points(encode_points(points)), points.astype(np.float32))
    for wrong in (np.full((2, 3), np.inf), np.full((2, 3), 1e39), np.zeros((0, 3)), np.zeros((2, 2))):
        with pytest.raises(BrokenSampleError):
            encode_points(wrong)
    for data in (b"", b"x" * 11, np.full(3, np.nan, "<f4").tobytes()):
        with pytest.raises(BrokenSampleError):
            decode_points(data)
    with pytest.raises(BrokenSampleError):
        decode_parts(b"x")


def prepare(*words: str | Path) -> int:
    return main(["prepare", "points", *[str(word) for word in words]])


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """ModelNet's way: CLASS/train and CLASS/test; one mesh is broken."""
    for one in ("chair", "table"):
        for split, count in (("train", 3), ("test", 2)):
            folder = tmp_path / "net" / one / split
            folder.mkdir(parents=True)
            for i in range(count):
                (folder / f"{one}_{i:04d}.off").write_text(SQUARE)
    return tmp_path / "net"


def test_class_folders_as_modelnet_has_them(classes: Path, tmp_path: Path) -> None:
    assert prepare("classes", classes, "--points", "64", "--out", tmp_path / "out", "--licence", "MIT") == 0
    train = Dataset.open(str(tmp_path / "out" / "train"), "points")
    assert train.manifest.classes == ("chair", "table") and train.manifest.labels == {0: 3, 1: 3} and train.manifest.points == (64, 64)
    rows = [row for table in train.scan(["id", "points", "normals", "label"]) for row in table.to_pylist()]
    sample = decode_row(rows[0], "points")
    assert sample["points"].shape == sample["normals"].shape == (64, 3) and sample["points"].dtype == np.float32
    assert {row["id"].split("/")[1] for row in rows} == {"chair", "table"}
    assert Dataset.open(str(tmp_path / "out" / "test")).rows == 4


def test_what_is_broken_is_counted_and_too_much_is_refused(classes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (classes / "chair" / "train" / "broken.off").write_text("OFF\n3 1 0\n0 0 0\n1 0 0\n2 0 0\n3 0 1 2\n")
    assert prepare("classes", classes, "--out", tmp_path / "out") == 1
    assert "more than the share" in capsys.readouterr().err
    assert prepare("classes", classes, "--out", tmp_path / "out", "--max-skipped", "0.5") == 0
    assert "a mesh without area" in capsys.readouterr().out


def test_wrong_calls_name_the_thing_and_the_hint(classes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "one" / "chair").mkdir(parents=True)
    (tmp_path / "none").mkdir()
    np.savez(tmp_path / "odd.npz", abc=np.zeros(3))
    (tmp_path / "cache.dat").write_bytes(pickle.dumps([1]))
    for words, said in (
        (["classes", tmp_path / "one"], "a single class folder: chair"),
        (["folder", tmp_path / "none"], "no clouds were found"),
        (["folder", tmp_path / "absent"], "there is no folder"),
        (["arrays", tmp_path / "odd.npz"], "no array of clouds; it has abc"),
        (["arrays", tmp_path / "cache.dat"], "a pickle, which is never opened"),
        (["classes", classes, "--split", "train=0.5,val=0.5"], "has its own splits"),
        (["depth", tmp_path / "none"], "no cameras.json"),
        (["shapenet55", tmp_path / "none"], "shapenet_pc/"),
        (["modelnet40", tmp_path / "none"], "there is no file"),
        (["scanobjectnn", tmp_path / "none"], "there is no file"),
    ):
        assert prepare(*words, "--out", tmp_path / "out") == 2, words
        assert said in capsys.readouterr().err


def test_arrays_side_by_side_with_parts_and_splits(tmp_path: Path) -> None:
    g = np.random.default_rng(0)
    np.savez(
        tmp_path / "a.npz",
        xyz=g.random((6, 50, 3)).astype(np.float16),
        label=[0, 1, 0, 1, 0, 1],
        part=g.integers(0, 3, (6, 50)),
        split=[0, 0, 0, 1, 1, 0],
        classes=["cup", "lamp"],
        parts=["cup/a", "cup/b", "lamp/c"],
    )
    assert prepare("arrays", tmp_path / "a.npz", "--points", "40", "--out", tmp_path / "out") == 0
    train = Dataset.open(str(tmp_path / "out" / "train"))
    assert (train.rows, train.manifest.classes, train.manifest.parts) == (4, ("cup", "lamp"), ("cup/a", "cup/b", "lamp/c"))
    rows = [decode_row(row, "points") for table in train.scan(["id", "points", "part", "label"]) for row in table.to_pylist()]
    assert all(row["part"].shape == (40,) and set(row["part"].tolist()) <= {0, 1, 2} for row in rows)
    np.savez(tmp_path / "b.npz", train_xyz=g.random((3, 9, 3)), train_label=[0, 1, 1], test_xyz=g.random((2, 9, 3)), classes=["a", "b"])
    assert prepare("arrays", tmp_path / "b.npz", "--out", tmp_path / "b") == 0
    assert Dataset.open(str(tmp_path / "b" / "test")).manifest.labels == {}


def test_shapenet55_and_modelnet40(tmp_path: Path) -> None:
    g = np.random.default_rng(0)
    net = tmp_path / "sn"
    (net / "shapenet_pc").mkdir(parents=True)
    (net / "ShapeNet-55").mkdir()
    names = [f"{synset}-{i}.npy" for synset in ("02691156", "03001627") for i in range(3)]
    for name in names:
        np.save(net / "shapenet_pc" / name, g.random((30, 3)))
    (net / "ShapeNet-55" / "train.txt").write_text("\n".join(names[:5]) + "\n../outside.npy\n")
    (net / "ShapeNet-55" / "test.txt").write_text(names[5])
    assert prepare("shapenet55", net, "--out", tmp_path / "a", "--max-skipped", "0.5") == 0
    train = Dataset.open(str(tmp_path / "a" / "train"))
    assert train.rows == 5 and train.manifest.classes == ("02691156", "03001627")
    m40 = tmp_path / "m40"
    (m40 / "air_plane").mkdir(parents=True)
    (m40 / "modelnet40_shape_names.txt").write_text("air_plane\n")
    for part, count in (("train", 2), ("test", 1)):
        ids = [f"air_plane_{part}{i}" for i in range(count)]
        (m40 / f"modelnet40_{part}.txt").write_text("\n".join(ids))
        for one in ids:
            np.savetxt(m40 / "air_plane" / f"{one}.txt", np.column_stack([g.random((20, 3)), unit(20)]), delimiter=",")
    assert prepare("modelnet40", m40, "--out", tmp_path / "b") == 0
    assert "normals" in Dataset.open(str(tmp_path / "b" / "train")).manifest.columns


def test_shapenetpart_numbers_its_parts_by_class(tmp_path: Path) -> None:
    g = np.random.default_rng(0)
    root = tmp_path / "part"
    (root / "train_test_split").mkdir(parents=True)
    (root / "synsetoffset2category.txt").write_text("Bag 02773838\nCap 02954340\n")
    files: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for synset, parts in (("02773838", (4, 5)), ("02954340", (6, 7))):
        (root / synset).mkdir()
        for split, entries in files.items():
            rows = np.concatenate([g.random((10, 6)), g.choice(parts, (10, 1))], axis=1)
            rows[:2, 6] = parts
            np.savetxt(root / synset / f"{split}.txt", rows)
            entries.append(f"shape_data/{synset}/{split}")
    for split, entries in files.items():
        (root / "train_test_split" / f"shuffled_{split}_file_list.json").write_text(json.dumps(entries))
    assert prepare("shapenetpart", root, "--out", tmp_path / "out") == 0
    made = Dataset.open(str(tmp_path / "out" / "train"))
    assert len(made.manifest.parts) == 50 and made.manifest.parts[4:8] == ("Bag/4", "Bag/5", "Cap/6", "Cap/7")
    for table in made.scan(["id", "part", "label"]):
        for row in table.to_pylist():
            assert set(decode_parts(row["part"]).tolist()) == ({4, 5} if row["label"] == 0 else {6, 7})


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "shapes20").is_dir(), reason="../shared/data/shapes20 is not here")
def test_real_shapes(tmp_path: Path) -> None:
    root = DATA / "shapes20"
    assert prepare("arrays", root / "shapes20.npz", "--points", "2048", "--out", tmp_path / "out") == 0
    train = Dataset.open(str(tmp_path / "out" / "train"))
    assert (train.rows, len(train.manifest.classes), train.manifest.points) == (560, 20, (2048, 2048))
    assert prepare("folder", root / "obj", "--points", "256", "--out", tmp_path / "obj") == 0
    assert Dataset.open(str(tmp_path / "obj")).rows == 20
