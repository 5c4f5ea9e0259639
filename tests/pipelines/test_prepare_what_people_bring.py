"""The small folders that failed once, prepared by the command as a person would: what it stores and what it says."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from made_images import DATA

from sightline.pipelines.__main__ import main
from sightline.platform.data.dataset import Dataset

CASES = DATA.parent / "cases"
pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="../shared/cases is not here")


def _prepare(capsys: pytest.CaptureFixture[str], out: Path, *words: str) -> tuple[int, str]:
    code = main(["prepare", *words, "--out", str(out), "--local"])
    said = capsys.readouterr()
    return code, " ".join((said.out + said.err).split())


def test_what_a_mac_leaves_is_no_class(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = _prepare(capsys, tmp_path / "out", "images", "classes", str(CASES / "classes-macosx"))
    dataset = Dataset.open(tmp_path / "out")
    assert (code, dataset.rows, dataset.manifest.classes) == (0, 8, ("cat", "dog"))
    assert "8 in __MACOSX" in said


@pytest.mark.parametrize(("kind", "source", "rows"), [("pairs", "frames", 5), ("images", "folder", 6), ("images", "frames", 6)])
def test_depth_maps_beside_colour_are_no_photos(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, source: str, rows: int
) -> None:
    code, said = _prepare(capsys, tmp_path / "out", kind, source, str(CASES / "frames-colour-and-depth-in-one-folder"))
    table = Dataset.open(tmp_path / "out").scan(["id"])
    ids = [row["id"] for part in table for row in part.to_pylist()]
    assert code == 0 and len(ids) == rows and not any(".depth" in one for one in ids)
    told = "as 7-Scenes" if source == "frames" else "6 depth map(s) or mask(s) by name (first: frame-000000.depth.png)"
    assert told in said
    assert source == "frames" or "6 .txt" in said


def test_formats_beyond_jpeg_png_and_webp_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = _prepare(capsys, tmp_path / "out", "images", "folder", str(CASES / "images-formats-left-out"))
    assert code == 0 and Dataset.open(tmp_path / "out").rows == 13
    assert all(words in said for words in ("5 TIFF image(s) stored as PNG", "3 BMP", "1 GIF"))


def test_a_name_that_is_not_utf8_is_skipped_and_printed_escaped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "in"
    shutil.copytree(CASES / "images-name-not-utf8", folder)
    shutil.copy(folder / "0.jpg", Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.jpg")))
    code, said = _prepare(capsys, tmp_path / "out", "images", "folder", str(folder), "--max-skipped", "0.3")
    assert code == 0 and Dataset.open(tmp_path / "out").rows == 3
    assert "skipped 1: a name that is not UTF-8: rename it (first: caf\\xe9.jpg)" in said


def test_an_image_that_is_too_large_is_told_with_size_and_limit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = _prepare(capsys, tmp_path / "out", "images", "folder", str(CASES / "images-too-large-message"), "--max-skipped", "0.5")
    assert code == 0 and "image exceeds the limit of 64,000,000 pixels" in said and "20000 x 10000" in said


def test_pairs_txt_is_read_as_its_authors_read_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = _prepare(capsys, tmp_path / "out", "pairs", "habitat", str(CASES / "pairs-list-spaces"))
    assert code == 0 and Dataset.open(tmp_path / "out").rows == 4
    assert "1 line(s) of pairs.txt have more than two columns" in said and "skipped" not in said
