"""A place that is no data set is answered with what it is, and a command that helps."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest
from asking import Ask

from sightline.methods.errors import CallError
from sightline.pipelines.__main__ import parse
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.images import encode_image
from sightline.platform.data.writer import ShardWriter
from sightline.platform.evaluation.probes.catalog import find_probe
from sightline.platform.evaluation.probes.dataset_pairs import find_dataset_pairs

JPEG = encode_image(np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8))


def files(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(JPEG)
    return folder


def dataset(folder: Path) -> Path:
    with ShardWriter(folder, "images") as writer:
        writer.write({"id": "a", "image": JPEG})
    return folder


def hint(place: Path, kind: str | None = None) -> str:
    with pytest.raises(CallError) as refused:
        Dataset.open(place, kind)
    return refused.value.hint


@pytest.mark.parametrize(
    ("names", "kind", "command"),
    [
        (("a.jpg", "b.png"), "images", "images folder"),
        (("deep/er/a.jpg", "deep/b.jpg"), None, "images folder"),
        (("cat/a.jpg", "dog/b.jpg"), "images", "images classes"),
        (("a.jpg", "b.jpg"), "pairs", "pairs frames"),
        (("images/a.jpg", "cameras.json"), "pairs", "pairs rgbd"),
        (("a.ply", "b.OBJ"), "points", "points folder"),
        (("cup/a.off", "jug/b.off"), "points", "points classes"),
        (("a.npy", "preview.jpg"), "points", "points folder"),
    ],
)
def test_a_folder_of_files_gets_the_command_that_prepares_it(
    names: tuple[str, ...], kind: str | None, command: str, tmp_path: Path
) -> None:
    said = hint(files(tmp_path / "my photos", *names), kind)
    assert said.startswith("it is a folder of ") and f"sightline prepare {command} " in said
    words = shlex.split(said.partition("sightline ")[2])
    assert parse(words).places == [str(tmp_path / "my photos")], "the command is one that is taken"


def test_what_is_neither_prepared_nor_a_folder_of_files_is_told_apart(tmp_path: Path) -> None:
    dataset(tmp_path / "set" / "train")
    dataset(tmp_path / "set" / "val")
    assert hint(tmp_path / "set") == f"name one of them: {tmp_path / 'set' / 'train'}"
    (tmp_path / "set" / "train" / "manifest.json").unlink()
    assert "was never finished" in hint(tmp_path / "set" / "train")
    assert "name a folder" in hint(tmp_path), "shards far below are no data set of this folder"
    assert hint(Path("/dev/null")) == "name the folder that `sightline prepare` made"
    (tmp_path / "begun" / ".staging").mkdir(parents=True)
    assert "was never finished" in hint(tmp_path / "begun")
    (tmp_path / "empty").mkdir()
    assert "name a folder that `sightline prepare` made" in hint(tmp_path / "empty")
    assert hint(tmp_path / "set" / "val" / "manifest.json") == "name the folder that `sightline prepare` made"
    assert hint(tmp_path / "absent") == "see `sightline prepare --help`"


def test_prepare_never_writes_beside_splits_of_another_command(ask: Ask, tmp_path: Path) -> None:
    photos = files(tmp_path / "photos", *(f"{number}.jpg" for number in range(8)))
    source, out = ("prepare", "images", "folder", photos), tmp_path / "set"
    assert ask(*source, "--split", "train=0.5,val=0.5", "--out", out)[0] == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    for words in (("--split", "train=0.5,test=0.5"), ("--split", "a=0.5,b=0.5"), (), ("--overwrite", "--split", "train=0.5,test=0.5")):
        code, _, err = ask(*source, *words, "--out", out)
        assert code == 2 and "of another command: splits are made together" in err, words
    code, _, err = ask(*source, "--split", "a=0.5,b=0.5", "--out", out / "train")
    assert code == 2 and "is a data set itself, so splits cannot lie in it" in err
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert ask(*source, "--split", "train=0.5,val=0.5", "--out", out, "--overwrite")[0] == 0
    assert ask(*source, "--out", tmp_path / "other")[0] == 0


def test_data_to_evaluate_on_is_a_folder_of_splits(tmp_path: Path) -> None:
    with pytest.raises(CallError, match="is one data set, and --data names a folder") as refused:
        find_dataset_pairs([str(dataset(tmp_path / "one"))])
    assert refused.value.hint.startswith(f"use --test {tmp_path / 'one'}")
    with pytest.raises(CallError, match="there is no data set at") as refused:
        find_dataset_pairs([str(files(tmp_path / "photos", "cat/a.jpg", "dog/b.jpg"))])
    assert "sightline prepare images classes" in refused.value.hint


def test_a_probe_that_needs_labels_says_what_makes_them(tmp_path: Path) -> None:
    unlabelled = Dataset.open(dataset(tmp_path / "one"))
    assert "`sightline prepare images classes ...` makes data with it" in find_probe("knn").lacks(unlabelled)
    assert "`sightline prepare images masks ...` makes data with it" in find_probe("segmentation").lacks(unlabelled)
