"""`sightline prepare images` from the words a person types to the data sets and the answers they get."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sightline.pipelines.__main__ import main
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.images import decode_image


def _run(words: str, capfd: pytest.CaptureFixture[str]) -> tuple[int, Any]:
    code = main([*words.split(), "--json"])
    return code, json.loads(capfd.readouterr().out)


def _image(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 48, 3), dtype=np.uint8)).save(path)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`pets/` with two classes, `drive/` with images, masks and classes, `list.txt`."""
    root = tmp_path_factory.mktemp("source")
    for i in range(20):
        _image(root / f"pets/{'cat' if i % 2 else 'dog'}/{i}.png", i)
        name = f"{'AB'[i // 10]}_{i:03d}"
        _image(root / f"drive/images/{name}.png", 100 + i)
        (root / "drive/masks").mkdir(exist_ok=True)
        Image.fromarray(np.full((40, 48), i % 3, np.uint8)).save(root / f"drive/masks/{name}.png")
    (root / "drive/classes.txt").write_text("road\ncar\nnothing\n")
    (root / "list.txt").write_text("".join(f"pets/cat/{i}.png\t{i % 3}\n" for i in range(1, 20, 2)))
    return root


def test_classes_are_split_alike_and_inspect_names_them(source: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, answer = _run(f"prepare images classes {source}/pets --split train=0.8,val=0.2 --size 36 --out {tmp_path}/pets", capfd)
    assert code == 0 and [(one["rows"], one["classes"]) for one in answer["datasets"]] == [(16, 2), (4, 2)]
    val = Dataset.open(tmp_path / "pets/val", "images")
    assert val.manifest.labels == {0: 2, 1: 2} and val.manifest.image_max == (36, 43)
    assert main(["inspect", str(tmp_path / "pets/val"), "--contact-sheet", str(tmp_path / "sheet.png")]) == 0
    assert "classes      2: cat (2), dog (2)" in capfd.readouterr().out
    assert decode_image((tmp_path / "sheet.png").read_bytes()).std() > 10


def test_masks_are_split_by_the_scenes_in_their_names(source: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = f"prepare images masks {source}/drive --ignore 2 --scenes ^(.)_(\\d+) --split train=0.5,val=0.5 --split-by scene"
    code, _ = _run(f"{words} --out {tmp_path}/drive", capfd)
    train, val = (Dataset.open(tmp_path / "drive" / part).manifest for part in ("train", "val"))
    assert code == 0 and {*train.scenes, *val.scenes} == {"drive/A", "drive/B"} and not {*train.scenes} & {*val.scenes}
    assert train.classes == ("road", "car") and train.ignore_index == 2 and sum(train.pixels.values()) == 10 * 40 * 48
    assert main(["inspect", str(tmp_path / "drive/train"), "--contact-sheet", str(tmp_path / "sheet.png")]) == 0
    text = capfd.readouterr().out
    assert "segmentation 2 classes" in text and "(ignored)" in text
    assert text.count("%") == 3


def test_a_list_and_a_folder_are_prepared_and_a_pair_set_too(source: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert _run(f"prepare images list {source}/list.txt --out {tmp_path}/list", capfd)[0] == 0
    assert Dataset.open(tmp_path / "list").manifest.classes == ("0", "1", "2")
    code, answer = _run(f"prepare images folder {source}/pets {source}/drive/images --out {tmp_path}/all", capfd)
    assert code == 0 and answer["datasets"][0]["rows"] == 40
    assert _run(f"prepare pairs frames {source}/drive/images --out {tmp_path}/pairs", capfd)[0] == 0
    code, answer = _run(f"prepare images pairs {tmp_path}/pairs --out {tmp_path}/frames", capfd)
    assert code == 0 and answer["datasets"][0]["rows"] == 20
    code, answer = _run(f"prepare images frames {source}/drive/images --split train=0.7,val=0.3 --split-gap 2 --out {tmp_path}/seq", capfd)
    assert [one["rows"] for one in answer["datasets"]] == [12, 6] and answer["left_out_between_splits"] == 2


def test_merging_images_asks_for_equal_classes(source: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert _run(f"prepare images classes {source}/pets --out {tmp_path}/a", capfd)[0] == 0
    assert _run(f"prepare images list {source}/list.txt --out {tmp_path}/b", capfd)[0] == 0
    code, answer = _run(f"prepare merge {tmp_path}/a {tmp_path}/b --out {tmp_path}/c", capfd)
    assert code == 2 and "class 0 is 'cat'" in answer["error"]
    assert _run(f"prepare images folder {source}/drive/images --out {tmp_path}/d", capfd)[0] == 0
    assert _run(f"prepare merge {tmp_path}/a {tmp_path}/d --out {tmp_path}/e", capfd)[0] == 0
    assert main(["inspect", str(tmp_path / "e")]) == 0
    assert "no label     20 of 40 rows (50.0%)" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("images classes {in}/pets/cat", "no class folders"),
        ("images folder {tmp}", "no images were found"),
        ("images folder {tmp}/nowhere", "there is no folder"),
        ("images masks {in}/drive --classes {tmp}/none.txt", "there is no file"),
        ("images masks {in}/pets", "no folders of images and masks"),
        ("images list {in}/none.txt", "there is no list"),
        ("images folder {in}/pets --split train=0.5,val=0.5 --split-by time-blocks", "no place in time"),
        ("images classes {in}/pets --split train=0.5,val=0.5 --split-by scene", "have no scenes"),
        ("images pairs {tmp}", "no manifest.json"),
        ("images folder {in}/pets {in}/pets", "two sources would have one name"),
        ("images folder {in}/pets --scenes (", "no regular expression"),
    ],
)
def test_a_wrong_call_is_answered_with_the_thing_and_the_hint(
    words: str, said: str, source: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code, answer = _run(f"prepare {words.replace('{in}', str(source)).replace('{tmp}', str(tmp_path))} --out {tmp_path}/x", capfd)
    assert code == 2 and said in answer["error"]
    assert answer["hint"]
