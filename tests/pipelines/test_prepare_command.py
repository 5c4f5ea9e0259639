"""`sightline prepare` and `sightline inspect` from the words a person types to the answer they get."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sightline.pipelines.__main__ import main
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.images import decode_image


def _run(words: str, capfd: pytest.CaptureFixture[str]) -> tuple[int, Any]:
    code = main([*words.split(), "--json"])
    return code, json.loads(capfd.readouterr().out)


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data") / "rooms"
    words = ["pairs", "rendered", "--scenes", "3", "--pairs-per-scene", "2", "--size", "64", "--split", "train=0.7,val=0.3"]
    assert main(["prepare", *words, "--out", str(out)]) == 0
    return out


def test_rendered_rooms_are_split_by_scene(rooms: Path) -> None:
    train, val = (Dataset.open(rooms / name, "pairs") for name in ("train", "val"))
    assert (train.rows, val.rows) == (4, 2)
    assert not set(train.manifest.scenes) & set(val.manifest.scenes)
    assert {"K1", "T_2from1", "depth2", "overlap"} < set(train.manifest.columns)


def test_inspect_tells_what_is_in_it(rooms: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["inspect", str(rooms / "train"), "--verify", "--contact-sheet", str(tmp_path / "sheet.png")]) == 0
    text = capfd.readouterr().out
    for expected in (
        "rows         4 in",
        "every one verified",
        "height 64, width 64",
        "overlap      mean",
        "room0",
        str(tmp_path / "sheet.png"),
    ):
        assert expected in text
    assert decode_image((tmp_path / "sheet.png").read_bytes()).std() > 10


def test_inspect_answers_scripts(rooms: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, answer = _run(f"inspect {rooms}/val", capfd)
    assert code == 0
    assert (answer["rows"], answer["kind"], answer["image_max"]) == (2, "pairs", [64, 64])
    assert answer["provenance"]["sources"][0]["reader"] == "rendered"


def test_merge_is_prepared_from_the_command_line(rooms: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, answer = _run(f"prepare merge {rooms}/train {rooms}/val --out {tmp_path}/all", capfd)
    assert code == 0 and answer["datasets"][0]["rows"] == 6
    assert Dataset.open(tmp_path / "all").rows == 6


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("prepare pairs rgbd {there} --out {tmp}/x", "cameras.json"),
        ("prepare pairs frames {tmp}/nowhere --out {tmp}/x", "there is no folder"),
        ("prepare pairs rendered --out {rooms}/train", "finished data set"),
        ("prepare pairs rendered --scenes 1 --split train=0.5,val=0.5 --out {tmp}/x", "cannot be split 2 ways"),
        ("inspect {tmp}", "no manifest.json"),
        ("inspect {rooms}/train --contact-sheet {tmp}/no/such/folder.png", "cannot write"),
    ],
)
def test_a_wrong_call_is_answered_with_the_thing_and_the_hint(
    words: str, said: str, rooms: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code, answer = _run(words.format(tmp=tmp_path, rooms=rooms, there=rooms), capfd)
    assert code == 2 and said in answer["error"] and answer["hint"]


@pytest.mark.parametrize("words", ["--gap 0", "--gap x", "--gap 3..1", "--size 0"])
def test_a_number_that_makes_no_sense_is_refused_by_name(words: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code = main(["prepare", "pairs", "frames", str(tmp_path), "--out", "x", *words.split()])
    assert code == 2 and words.split()[0] in capfd.readouterr().err
