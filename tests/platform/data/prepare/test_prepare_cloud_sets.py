"""`prepare points` as a user calls it: several HDF5 files, far clouds, what is said of columns and files that are not stored."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from sightline.methods.errors import CallError
from sightline.pipelines.__main__ import main
from sightline.platform.core import budget
from sightline.platform.data.clouds import centred, decode_points
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.prepare.cloud_sources.arrays import split_in_name
from sightline.platform.data.prepare.clouds import entry
from sightline.platform.data.prepare.files import lines_of
from sightline.platform.data.remarks import collected
from sightline.platform.evaluation import encode_source

G = np.random.default_rng(0)
NORMALS = (lambda v: v / np.linalg.norm(v, axis=2, keepdims=True))(G.normal(size=(4, 20, 3)))


def prepare(*words: str | Path) -> int:
    return main(["prepare", "points", *[str(word) for word in words]])


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """The layout of modelnet40_ply_hdf5_2048."""
    folder = tmp_path / "net"
    folder.mkdir()
    for name in ("ply_data_train0", "ply_data_train1", "ply_data_test0"):
        with h5py.File(folder / f"{name}.h5", "w") as file:
            file["data"], file["normal"] = G.random((4, 20, 3)).astype("f4"), NORMALS
            file["label"], file["faceId"] = np.arange(4).reshape(4, 1).astype("u1") % 3, np.zeros((4, 20), "i4")
    (folder / "shape_names.txt").write_text("airplane\nbathtub\nbed\n")
    (folder / "train_files.txt").write_text("data/net/ply_data_train0.h5\ndata/net/ply_data_train1.h5\n")
    return folder


def test_several_hdf5_files_are_one_data_set_with_names_and_splits(
    release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, places in enumerate(([release], sorted(release.glob("*.h5")))):
        assert prepare("arrays", *places, "--out", tmp_path / f"out{number}") == 0
        train, test = (Dataset.open(tmp_path / f"out{number}" / split) for split in ("train", "test"))
        assert (train.rows, test.rows, train.manifest.classes) == (8, 4, ("airplane", "bathtub", "bed"))
        assert train.manifest.labels == {0: 4, 1: 2, 2: 2} and "normals" in train.manifest.columns
        assert "net/ply_data_train1/000003" in train.sample_ids()
        assert "arrays that are not taken: faceId (of 3 files)" in capsys.readouterr().out
    row = next(row for table in test.scan() for row in table.to_pylist() if row["id"].endswith("000002"))
    with h5py.File(release / "ply_data_test0.h5") as file:
        assert np.array_equal(decode_points(row["points"]), file["data"][2]) and row["label"] == 2
    assert prepare("arrays", release / "ply_data_test0.h5", "--out", tmp_path / "one") == 0
    assert Dataset.open(tmp_path / "one").manifest.classes == ("airplane", "bathtub", "bed"), "one file is no split"


def test_files_that_do_not_go_together_are_named(release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (release / "extra.h5").write_bytes((release / "ply_data_test0.h5").read_bytes())
    for words, said in (
        (["arrays", release], "extra.h5 has none"),
        (["arrays", tmp_path / "empty"], "holds no .npz or HDF5 file"),
        (["arrays", release / "extra.h5", release / "extra.h5"], "two files have one name: extra"),
        (["modelnet40", release], "sightline prepare points arrays"),
    ):
        assert prepare(*words, "--out", tmp_path / "out") == 2
        assert said in capsys.readouterr().err
    np.savez(tmp_path / "turned.npz", data=np.zeros((4, 3, 50)))
    np.savez(tmp_path / "single.npz", xyz=np.zeros((50, 3)))
    for name, said in (
        ("turned", "clouds x 3 x points\n  hint: store data.transpose(0, 2, 1)"),
        ("single", "store one cloud as xyz[None]"),
    ):
        assert prepare("arrays", tmp_path / f"{name}.npz", "--out", tmp_path / "out") == 2
        assert said in capsys.readouterr().err


def test_splits_are_words_in_the_names_of_files() -> None:
    names = ("ply_data_train0", "X-Test", "training_set", "val", "validation1", "trainer", "contest", "latest", "a")
    assert [split_in_name(Path(f"{name}.h5")) for name in names] == ["train", "test", "train", "val", "val", "", "", "", ""]


def test_entries_of_large_arrays_are_read_one_by_one(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = str(release / "ply_data_test0.h5")
    whole = entry(file, "data", 3)
    monkeypatch.setattr("sightline.platform.data.prepare.clouds.KEPT_ARRAY", 10)
    assert np.array_equal(entry(file, "data", 3), whole)


def test_clouds_far_from_the_origin_keep_their_precision(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Map coordinates: float32 has steps of half a metre there."""
    folder = tmp_path / "in"
    folder.mkdir()
    far = np.round(G.random((300, 3)) * [40, 40, 5] + np.array([451_000, 5_412_000, 200]), 3)
    near = G.random((300, 3)) + 10
    for name, points in (("far", far), ("near", near)):
        np.savetxt(folder / f"{name}.xyz", points, fmt="%.6f")
    assert prepare("folder", folder, "--out", tmp_path / "a") == 0
    assert "1 cloud(s) far from the origin" in capsys.readouterr().out
    assert main(["prepare", "merge", str(tmp_path / "a"), "--out", str(tmp_path / "merged")]) == 0
    for place in ("a", "merged"):
        made = Dataset.open(tmp_path / place)
        rows = {row["id"]: decode_points(row["points"]) for table in made.scan() for row in table.to_pylist()}
        assert set(made.manifest.offsets) == {"in/far.xyz"}
        np.testing.assert_allclose(rows["in/far.xyz"].astype(np.float64) + made.manifest.offsets["in/far.xyz"], far, atol=1e-4)
        assert np.array_equal(rows["in/near.xyz"], np.round(near, 6).astype(np.float32))
    for points in (near, far.astype(np.float32), np.full((3, 3), 1e9), np.array([[0, 0, np.inf], [1, 1, 1]]), np.zeros((0, 3))):
        assert centred(points)[1] is None


def test_what_is_not_stored_is_said_and_mac_folders_are_no_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for one in ("chair", "table"):
        for folder in (tmp_path / "set" / one, tmp_path / "set" / "__MACOSX" / one):
            folder.mkdir(parents=True)
        for i in range(2):
            np.savetxt(tmp_path / "set" / one / f"{i}.txt", np.concatenate([G.random((30, 3)), G.integers(0, 256, (30, 3))], axis=1))
            (tmp_path / "set" / "__MACOSX" / one / f"._{i}.txt").write_bytes(b"\0\5\x16\7")
    (tmp_path / "set" / "chair" / "a.dae").write_text("<COLLADA/>")
    assert prepare("classes", tmp_path / "set", "--out", tmp_path / "out") == 0
    made, said = Dataset.open(tmp_path / "out"), capsys.readouterr().out
    assert made.manifest.classes == ("chair", "table") and made.rows == 4 and "normals" not in made.manifest.columns
    for what in ("4 cloud(s), not stored: colour", "not read in set: 1 .dae", "4 in __MACOSX"):
        assert what in said


def test_hdf5_in_groups_in_links_and_with_unknown_filters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clouds = G.random((4, 20, 3)).astype("f4")
    with h5py.File(tmp_path / "groups.h5", "w") as file:
        file["train/points"], file["train/label"] = clouds, [1, 2, 1, 2]
    assert prepare("arrays", tmp_path / "groups.h5", "--out", tmp_path / "out") == 0
    assert "labels of groups.h5 begin with 1" in capsys.readouterr().out
    row = next(row for table in Dataset.open(tmp_path / "out/train").scan() for row in table.to_pylist() if row["id"].endswith("3"))
    assert np.array_equal(decode_points(row["points"]), clouds[3]) and row["label"] == 2
    with h5py.File(tmp_path / "links.h5", "w") as file:
        file["data"], file["scans/one"] = h5py.ExternalLink("groups.h5", "train/points"), clouds
    assert prepare("arrays", tmp_path / "links.h5", "--out", tmp_path / "none") == 2
    assert "what is not opened: data (a link, virtual, or too large), scans (a group)" in " ".join(capsys.readouterr().err.split())
    with h5py.File(tmp_path / "packed.h5", "w") as file:
        file.create_dataset("data", data=clouds, compression="gzip")
    monkeypatch.setattr(h5py.h5z, "filter_avail", lambda code: False)
    assert prepare("arrays", tmp_path / "packed.h5", "--out", tmp_path / "none") == 2
    assert "is packed with deflate (filter 1), which is not installed" in " ".join(capsys.readouterr().err.split())


def test_a_file_named_both_train_and_test_is_no_split() -> None:
    assert split_in_name(Path("train_test_0.h5")) == "" and split_in_name(Path("train_0_train.h5")) == "train"


def test_encode_tells_of_columns_that_it_does_not_use(tmp_path: Path) -> None:
    np.savetxt(tmp_path / "a.txt", np.hstack([G.random((50, 3)), G.integers(0, 255, (50, 3))]))
    with collected() as remarks:
        assert encode_source._file(tmp_path, "a.txt", True).shape == (50, 3)
    assert remarks == {"cloud(s), not used: colour": 1}


def test_a_list_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "list.txt").write_text("a\nb\n")
    monkeypatch.setattr(budget, "TEXT_BYTES", 3)
    with pytest.raises(CallError, match="it has 4 bytes; at most 3 of text are read"):
        lines_of(tmp_path / "list.txt")
