"""`sightline examples`: files as people have them, which `prepare` reads without an option that a newcomer would not know."""

from __future__ import annotations

from pathlib import Path

import pytest
from asking import Ask

from sightline.platform.data.dataset import Dataset
from sightline.platform.data.synthetic import examples


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PHOTOS": 3, "FRAMES": 24, "FRAME_SIZE": 48, "SHAPES": 3}.items():
        monkeypatch.setattr(examples, name, value)


@pytest.mark.slow  # renders
def test_each_example_becomes_a_data_set(ask: Ask, tmp_path: Path) -> None:
    folder = tmp_path / "examples"
    assert ask("examples", folder)[0] == 0
    jobs = {
        "labelled": ("images", "classes", folder / "photos", "--split", "train=0.7,val=0.3"),
        "unlabelled": ("images", "folder", folder / "photos", "--split", "train=0.7,val=0.3"),
        "paired": ("pairs", "rgbd", folder / "room", "--overlap", "0.2..0.95"),
        "filmed": ("pairs", "frames", folder / "room"),
        "clouds": ("points", "classes", folder / "shapes", "--points", "256", "--split", "train=0.7,test=0.3"),
    }
    for name, words in jobs.items():
        code, out, err = ask("prepare", *words, "--out", tmp_path / name)
        assert code == 0 and "skipped" not in out, out + err
    assert Dataset.open(tmp_path / "labelled" / "train").manifest.classes == tuple(examples.MATERIALS)
    paired = Dataset.open(tmp_path / "paired").manifest
    assert paired.overlap is not None and paired.overlap.mean > 0.4 and {"depth1", "T_2from1", "K1"} <= set(paired.columns)
    assert len(Dataset.open(tmp_path / "clouds" / "train").manifest.classes) == 6


def test_the_same_files_every_time_and_only_into_a_new_folder(ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examples, "_room", lambda folder: 0)  # rooms are rendered the same every time: tests/platform/data/synthetic
    monkeypatch.setattr(examples, "MATERIALS", {"bricks": examples.MATERIALS["bricks"]})
    for name in ("one", "two"):
        assert ask("examples", tmp_path / name)[0] == 0
    one, two = ({p.relative_to(tmp_path / n): p.read_bytes() for p in (tmp_path / n).rglob("*") if p.is_file()} for n in ("one", "two"))
    assert one == two and len(one) == 3 + 6 * 3
    code, _, err = ask("examples", tmp_path / "one")
    assert code == 2 and "is no empty folder" in err
