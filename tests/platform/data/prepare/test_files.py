"""A folder is walked once, and every file in it is listed, named or counted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sightline.methods.errors import CallError
from sightline.platform.data.prepare.files import Tree, lines_of, natural, printable, suffix_of


def _touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def test_natural_order_counts_and_is_total() -> None:
    assert sorted(["f10", "f2", "f02", "f1", "a"], key=natural) == ["a", "f1", "f02", "f2", "f10"]
    assert sorted(["f02", "f2"], key=natural) == sorted(["f2", "f02"], key=natural)


def test_every_file_is_taken_or_counted(tmp_path: Path) -> None:
    _touch(tmp_path, "a10.jpg", "a2.JPG", "sub/x.jpg", "b.tif", "sub/c.TIF", "notes.txt", "README", "list.csv")
    _touch(tmp_path, "__MACOSX/._a10.jpg", "sub/._x.jpg", ".DS_Store", "Thumbs.db", "@eaDir/a/t.jpg", ".cache/1", ".cache/2")
    tree = Tree.of(tmp_path)
    assert tree.take((".jpg",), deep=False) == ["a2.JPG", "a10.jpg"]
    tree.use("list.csv")
    unread, elsewhere, left = tree.notes
    assert unread.endswith(": 2 .tif, 1 without suffix, 1 .txt") or unread.endswith(": 2 .tif, 1 .txt, 1 without suffix")
    assert elsewhere.endswith("1 .jpg in sub")
    assert all(word in left for word in ("1 in __MACOSX", "1 ._*", "1 .DS_Store", "1 Thumbs.db", "1 in @eaDir", "2 hidden"))
    assert tree.take((".jpg",), "sub") == ["x.jpg"]
    assert not tree.skips


def test_linked_folders_are_followed_once_and_loops_end(tmp_path: Path) -> None:
    _touch(tmp_path, "data/real/1.jpg", "far/2.jpg")
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "far")
    (tmp_path / "far" / "round").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "again").symlink_to(tmp_path / "data" / "real")
    (tmp_path / "data" / "up").symlink_to(tmp_path)
    (tmp_path / "data" / "dead.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "data" / "circle.jpg").symlink_to("circle.jpg")
    tree = Tree.of(tmp_path / "data")
    assert tree.take((".jpg",)) == ["linked/2.jpg", "real/1.jpg"]
    assert [what for what, _ in tree.skips] == ["circle.jpg", "dead.jpg"]
    assert any("3 linked folder(s)" in note for note in tree.notes)


def test_names_that_are_not_utf8_are_skipped_and_escaped(tmp_path: Path) -> None:
    for name in (b"caf\xe9.jpg", b"ok.jpg", b"caf\xe9.txt"):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(b"x")
    tree = Tree.of(tmp_path)
    assert tree.take((".jpg",)) == ["ok.jpg"]
    assert tree.skips == [("caf\\xe9.jpg", "a name that is not UTF-8: rename it")]
    assert any("1 .txt" in note for note in tree.notes)
    assert printable(os.fsdecode(b"caf\xe9")) == "caf\\xe9"


def test_what_is_no_file_is_named_and_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    tree = Tree.of(tmp_path)
    assert tree.take((".jpg",)) == []
    assert tree.skips == [("pipe.jpg", "neither a file nor a folder")]


@pytest.mark.parametrize(("name", "suffix"), [("a.JPG", ".jpg"), ("b/c.tar.gz", ".gz"), (".hidden", ""), ("v1.2 final", ""), ("a.", "")])
def test_suffixes(name: str, suffix: str) -> None:
    assert suffix_of(name) == suffix


@pytest.mark.parametrize("data", ["a\nb c\n".encode("utf-8-sig"), "a\r\nb c\r".encode("utf-16"), b"\n a \n\nb c"])
def test_lists_are_read_as_people_save_them(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "list.txt").write_bytes(data)
    assert lines_of(tmp_path / "list.txt") == ["a", "b c"]


def test_a_list_in_another_encoding_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"ok\ncaf\xe9\n")
    with pytest.raises(CallError, match=r"line 2 is not UTF-8"):
        lines_of(tmp_path / "list.txt")
    (tmp_path / "list.txt").write_bytes("a.jpg".encode("utf-16-le"))
    with pytest.raises(CallError, match="as UTF-16 without a byte order mark"):
        lines_of(tmp_path / "list.txt")


def test_images_of_other_formats_are_told_with_what_to_do(tmp_path: Path) -> None:
    _touch(tmp_path, "a.HEIC", "b.cr2", "c.jpg")
    tree = Tree.of(tmp_path)
    tree.take((".jpg",))
    (note,) = tree.notes
    assert "pip install 'sightline-pretext[heic]' reads .heic" in note and "convert .cr2 to PNG or JPEG" in note
