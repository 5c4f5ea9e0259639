"""Lists are read as people write them, and every line that is not read is counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from sightline.platform.data.prepare.image_sources.listed import ListedImages
from sightline.platform.data.prepare.lists import path_and_label, two_paths
from sightline.platform.data.prepare.pair_sources.crops import Crops
from sightline.platform.data.prepare.pair_sources.habitat import Habitat

THERE = {"a.jpg", "b.jpg", "my a.jpg", "my b.jpg", "d/x y.jpg"}


@pytest.mark.parametrize(
    ("line", "read"),
    [
        ("a.jpg b.jpg", ("a.jpg", "b.jpg", False)),
        ("a.jpg  b.jpg", ("a.jpg", "b.jpg", False)),
        ("a.jpg\tb.jpg", ("a.jpg", "b.jpg", False)),
        ("a.jpg\t b.jpg\t0.53", ("a.jpg", "b.jpg", True)),
        ("a.jpg b.jpg 0.53 7", ("a.jpg", "b.jpg", True)),
        ("my a.jpg my b.jpg", ("my a.jpg", "my b.jpg", False)),
        ("my a.jpg b.jpg", ("my a.jpg", "b.jpg", False)),
        ("my a.jpg d/x y.jpg 0.5", ("my a.jpg", "d/x y.jpg", True)),
        ("my a.jpg\tmy b.jpg", ("my a.jpg", "my b.jpg", False)),
        ("my a.jpg\tmy b.jpg\t1", ("my a.jpg", "my b.jpg", True)),
        ('"my a.jpg" "my b.jpg"', ("my a.jpg", "my b.jpg", False)),
        ("a.jpg,b.jpg", ("a.jpg", "b.jpg", False)),
        ("my a.jpg, my b.jpg, 0.5", ("my a.jpg", "my b.jpg", True)),
        ("gone.jpg lost.jpg 0.5", ("gone.jpg", "lost.jpg", True)),
        ("a.jpg", None),
    ],
)
def test_two_paths(line: str, read: tuple[str, str, bool] | None) -> None:
    assert two_paths(line, THERE.__contains__) == read


@pytest.mark.parametrize(
    ("line", "read"),
    [
        ("a.jpg", ("a.jpg", None)),
        ("my a.jpg", ("my a.jpg", None)),
        ("a.jpg 3", ("a.jpg", "3")),
        ("a.jpg   3", ("a.jpg", "3")),
        ("a.jpg\t\t3", ("a.jpg", "3")),
        ("my a.jpg\tred fox\t0.9", ("my a.jpg", "red fox")),
        ("my a.jpg red fox", ("my a.jpg", "red fox")),
        ("a.jpg,fox", ("a.jpg", "fox")),
        ('"my a.jpg", fox', ("my a.jpg", "fox")),
        ("gone.jpg 3", ("gone.jpg", "3")),
        ("gone.jpg", ("gone.jpg", None)),
    ],
)
def test_path_and_label(line: str, read: tuple[str, str | None]) -> None:
    assert path_and_label(line, THERE.__contains__) == read


def test_a_list_of_pairs_with_a_byte_order_mark_and_every_kind_of_space(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / f"{number}.jpg").touch()
    lines = ["0.jpg  1.jpg", "1.jpg 2.jpg 0.53", "2.jpg\t3.jpg", "# a comment", "", "alone.jpg", "../x.jpg 0.jpg"]
    (tmp_path / "pairs.txt").write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    found = Habitat().find(str(tmp_path), "h")
    assert [(Path(pair.image1).name, Path(pair.image2).name) for pair in found.items] == [
        *(("0.jpg", "1.jpg"), ("1.jpg", "2.jpg"), ("2.jpg", "3.jpg"))
    ]
    assert found.skips == [("pairs.txt line 6", "a line is not two paths"), ("pairs.txt line 7", "a path leaves the folder")]
    assert any("1 line(s) of pairs.txt have more than two columns" in note for note in found.notes)


def test_habitat_tells_of_other_views_and_suffixes(tmp_path: Path) -> None:
    names = ["r/0_1.jpeg", "r/0_2.jpeg", "r/0_3.jpeg", "r/0_4.jpeg", "r/1_1.png", "r/1_2.png", "r/2_1.jpg", "map.png", "r/0_1_depth.exr"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = Habitat().find(str(tmp_path), "h")
    assert [pair.id for pair in found.items] == ["h/r/0", "h/r/1"]
    assert found.skips == [("r/2_1.jpg", "the other image of the pair (_2.jpg) is missing")]
    told = " ".join(found.notes)
    assert all(words in told for words in ("1 _3.jpeg", "1 _4.jpeg", "1 .png without _1 or _2", "1 .exr"))


def test_lists_of_crops_and_of_images_may_have_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "listing.txt").write_bytes("\ufeff# made\r\nroom/0\r\nroom/1\r\n".encode())
    assert [pair.id for pair in Crops().find(str(tmp_path), "c").items] == ["c/room/0", "c/room/1"]
    (tmp_path / "list.txt").write_bytes("0.jpg a\r\n1.jpg  b\r\n".encode("utf-16"))
    for name in ("0.jpg", "1.jpg"):
        (tmp_path / name).touch()
    found = ListedImages().find(str(tmp_path / "list.txt"), "l")
    assert [(Path(image.image).name, image.label) for image in found.items] == [("0.jpg", 0), ("1.jpg", 1)]
