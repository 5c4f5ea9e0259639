"""Zip and tar archives are read where they lie, to the same rows as the folder that they were made of."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from made_images import rows_of, write_image, write_mask

from sightline.methods.errors import BrokenSampleError, CallError
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.prepare import archives
from sightline.platform.data.prepare.files import Tree, existing_folder, read_file
from sightline.platform.data.prepare.image_sources.classes import ImageClasses
from sightline.platform.data.prepare.image_sources.folder import ImageFolder
from sightline.platform.data.prepare.image_sources.masks import Masks
from sightline.platform.data.prepare.job import run_job
from sightline.platform.data.prepare.pair_sources.frames import Frames
from sightline.platform.data.prepare.pair_sources.habitat import Habitat
from sightline.platform.data.prepare.source import ItemSource, Request


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGHTLINE_HOME", str(tmp_path / "home"))


def fingerprint(source: ItemSource, place: Path, out: Path) -> dict[str, str]:
    outputs, _ = source.outputs(Request(str(out), (str(place),)))
    run_job(outputs, source.kind, local=True)
    return {output.folder.removeprefix(str(out)): Dataset.open(output.folder).fingerprint for output in outputs}


def packed(folder: Path, name: str) -> Path:
    """An archive of a folder, with the folder in it."""
    path = folder.parent / name
    if name.endswith(".zip"):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
            for file in sorted(folder.rglob("*")):
                made.write(file, file.relative_to(folder.parent))
    else:
        with tarfile.open(path, f"w:{name.rpartition('.')[2].replace('tar', '')}") as archive:
            archive.add(folder, folder.name)
    return path


def zipped(path: Path, *members: tuple[str, bytes], change: Callable[[zipfile.ZipInfo], None] = lambda info: None) -> Path:
    with zipfile.ZipFile(path, "w") as made:
        for name, data in members:
            info = zipfile.ZipInfo(name)
            change(info)
            made.writestr(info, data)
    return path


def jpeg(tmp_path: Path) -> bytes:
    write_image(tmp_path / "one.jpg")
    return (tmp_path / "one.jpg").read_bytes()


@pytest.mark.slow
def test_rows_are_those_of_the_folder(tmp_path: Path) -> None:
    pets, street = tmp_path / "pets", tmp_path / "street"
    for number in range(3):
        for part, name in (("train", "cat"), ("train", "dög"), ("val", "cat"), ("val", "dög")):
            write_image(pets / f"{part}/{name}/{number}.png", seed=number)
        write_image(street / f"images/{number}.jpg", seed=number)
        write_mask(street / f"masks/{number}.png", np.full((40, 60), number % 2, np.uint8))
    (street / "classes.txt").write_text("road\ncar\n")
    for source, folder, names in (
        (ImageClasses(), pets, ("pets.zip", "pets.tar.gz")),
        (Masks(), street, ("street.tar.xz",)),
        (Frames(), street / "images", ("images.tar",)),
    ):
        expected = fingerprint(source, folder, tmp_path / f"out-{source.reader}")
        for name in names:
            assert fingerprint(source, packed(folder, name), tmp_path / f"out-{source.reader}-{name}") == expected, name
    assert len(list((tmp_path / "home/data").glob("tar-*/archive.tar"))) == 2, "compressed tars are decompressed once"


def test_an_archive_without_a_folder_has_the_name_of_its_file(tmp_path: Path) -> None:
    data = jpeg(tmp_path)
    path = zipped(tmp_path / "holiday.zip", ("a.jpg", data), ("b/c.jpg", data), ("__MACOSX/._a.jpg", b"x"), ("more.tar", b"x"))
    out = tmp_path / "out"
    fingerprint(ImageFolder(), path, out)
    assert set(rows_of(Dataset.open(out))) == {"holiday/a.jpg", "holiday/b/c.jpg"}
    notes = " ".join(Dataset.open(out).manifest.provenance.notes)
    assert "1 in __MACOSX" in notes and "1 .tar (archives among other files are not opened" in notes
    with pytest.raises(CallError, match="is an archive, and `pairs habitat` reads folders"):
        Habitat().outputs(Request(str(out), (str(path),)))


def test_names_are_utf8_or_code_page_437(tmp_path: Path) -> None:
    data = jpeg(tmp_path)
    path = tmp_path / "names.zip"
    plain = {"caf\u00e9.jpg": "caf\u00e9.jpg".encode(), "r\u00e4d.jpg": "r\u00e4d.jpg".encode("cp437"), "\u732b.jpg": "\u732b.jpg".encode()}
    stand_ins = {name: f"zq{number}".ljust(len(raw), "_") for number, (name, raw) in enumerate(plain.items())}
    zipped(path, *((stand_ins[name], data) for name in plain))
    content = path.read_bytes()
    for name, raw in plain.items():
        content = content.replace(stand_ins[name].encode(), raw)
    path.write_bytes(content)
    assert set(Tree.of(existing_folder(path)).folders[""]) == set(plain)
    assert all(read_file(f"{path}/{name}") == data for name in plain)


def test_what_leaves_an_archive_or_leads_elsewhere_is_named_and_not_read(tmp_path: Path) -> None:
    data = jpeg(tmp_path)
    path = zipped(
        tmp_path / "bad.zip", ("../x.jpg", data), ("/etc/y.jpg", data), ("a/../../z.jpg", data), ("c:\\w.jpg", data), ("ok.jpg", data)
    )
    tree = Tree.of(existing_folder(path))
    assert tree.folders == {"": ["ok.jpg"]} and tree.take((".jpg",)) == ["ok.jpg"]
    assert {why for _, why in tree.skips} == {"a path that leaves the archive"} and len(tree.skips) == 4
    with tarfile.open(tmp_path / "links.tar", "w") as archive:
        for name, kind in (("a.jpg", tarfile.SYMTYPE), ("b.jpg", tarfile.LNKTYPE), ("c.jpg", tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        info = tarfile.TarInfo("d.jpg")
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    tree = Tree.of(existing_folder(tmp_path / "links.tar"))
    assert tree.take((".jpg",)) == ["d.jpg"] and len(tree.skips) == 3
    with pytest.raises(BrokenSampleError, match="file is missing"):
        read_file(f"{tmp_path}/links.tar/a.jpg")


def test_encrypted_damaged_and_huge_archives_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = jpeg(tmp_path)
    path = zipped(tmp_path / "locked.zip", ("a.jpg", data))
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(CallError, match="is encrypted"):
        existing_folder(path)
    for name in ("cut.zip", "cut.tar", "cut.tar.gz"):
        (tmp_path / name).write_bytes(b"PK\x03\x04 and no more")
        with pytest.raises(CallError, match="is damaged, or no archive"):
            existing_folder(tmp_path / name)
    (tmp_path / "some.7z").write_bytes(b"7z")
    with pytest.raises(CallError, match="an archive of a kind that is not read"):
        existing_folder(tmp_path / "some.7z")
    path = zipped(tmp_path / "crc.zip", ("a.jpg", data))
    content = bytearray(path.read_bytes())
    content[60] ^= 255
    path.write_bytes(content)
    with pytest.raises(BrokenSampleError, match="damaged in its archive"):
        read_file(f"{path}/a.jpg")
    monkeypatch.setattr("sightline.platform.core.budget.UNPACKED", 1000)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("a.png", b"\0" * 400_000)
    write_image(tmp_path / "many/a.png")
    (tmp_path / "many/zeros.bin").write_bytes(b"\0" * 4_000_000)
    for path in (tmp_path / "bomb.zip", packed(tmp_path / "many", "many.tar.gz")):
        with pytest.raises(CallError, match="at most 100 times its bytes"):
            existing_folder(path)
    assert not list((tmp_path / "home/data").glob("tar-*")), "nothing of it stays"
    monkeypatch.setattr(archives, "MEMBERS", 1)
    with pytest.raises(CallError, match="more than 1 members"):
        existing_folder(packed(tmp_path / "many", "many.tar"))
