"""Zip and tar archives, and recordings in one file, as folders: what they hold is listed and read where it lies, nothing is unpacked.

`ArchivePath` is a path below an archive file, such as `photos.zip/cat/1.jpg`, that answers as a path of the file system does. Members are
found by an index that is made once a process. A compressed tar has no index, so it is decompressed once, to a tar in the home. Nothing of
an archive is trusted: paths that leave it, links, encrypted members and what unpacks to far more than it is are not read.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import shutil
import stat
import struct
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path, PosixPath
from typing import IO, Any, BinaryIO, cast
from zlib import error as zlib_error

from sightline.methods.errors import CallError, first_line
from sightline.platform.core.budget import OverBudgetError, check_members, check_unpacked
from sightline.platform.core.files import make_folder, telling
from sightline.platform.core.paths import home

from .formats.sens import members_of

SUFFIXES = (".zip", ".r3d", ".sens", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
_ZIPS = (".zip", ".r3d")
"""Record3D's captures are zip archives."""
NOT_READ = (".7z", ".rar", ".tar.zst", ".tar.lz4", ".gz", ".bz2", ".xz", ".zst")
MEMBERS = 2_000_000
"""Of a tar archive."""
_OPENED: dict[str, Any] = {".gz": gzip.open, ".tgz": gzip.open, ".bz2": bz2.open, ".tbz2": bz2.open, ".xz": lzma.open, ".txz": lzma.open}
_CHUNK = 2**20
_UNICODE_NAME = 0x7075
"""The extra field of a zip in which Info-ZIP writes a name as UTF-8."""


def is_archive(place: str | Path) -> bool:
    """Whether this is a file with the name of an archive."""
    return str(place).lower().endswith(SUFFIXES) and Path(place).is_file()


def stem_of(path: Path) -> str:
    """The name of an archive without its suffixes."""
    suffix = next(one for one in sorted(SUFFIXES, key=len, reverse=True) if path.name.lower().endswith(one))
    return path.name[: -len(suffix)]


def archive_root(place: str | Path) -> ArchivePath:
    """The folder that an archive is: its only folder, where all members lie in one, as in an archive of a folder. Raises `CallError`."""
    path = Path(place).expanduser().resolve()
    top = index_of(path).top
    return ArchivePath(path / top if top else path)


def archive_name(path: Path) -> str:
    """What an archive is called as a source: its only folder, else the file without its suffixes. Raises `CallError`."""
    return index_of(path).top or stem_of(path)


def as_path(path: str | Path) -> Path:
    """The path, or the one in an archive that it leads into."""
    plain = Path(path)
    within = next((above for above in plain.parents if above.name.lower().endswith(SUFFIXES) and above.is_file()), None)
    return ArchivePath(plain) if within else plain


@dataclass
class Index:
    """What an archive holds."""

    path: Path
    files: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Member -> (place, bytes); the place is an offset, or of a zip the number of the member."""
    odd: list[tuple[str, str]] = field(default_factory=list)
    """(member, why it is not read)"""
    members: list[zipfile.ZipInfo] = field(default_factory=list)
    archive: zipfile.ZipFile | None = None
    plain: Path | None = None
    """The tar whose offsets these are."""
    made: Callable[[str, bytes], bytes] = lambda name, data: data
    """What a member is, of the bytes at its place."""
    folders: dict[str, dict[str, bool]] = field(default_factory=dict)
    """Folder, empty for the root -> name -> whether it is a folder."""

    def add(self, name: str, place: int, size: int) -> None:
        """A member, unless its path leaves the archive. One that is there twice is the last, as when it is unpacked."""
        parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
        if name.startswith("/") or ".." in parts or not parts or ":" in parts[0]:
            self.odd.append((name, "a path that leaves the archive"))
            return
        path = "/".join(parts)
        self.files[path] = place, size
        for depth in range(len(parts)):
            self.folders.setdefault("/".join(parts[:depth]), {})[parts[depth]] = depth < len(parts) - 1

    @property
    def top(self) -> str:
        """The only folder at the top, where there is no file beside it."""
        seen = {name: folder for name, folder in self.folders.get("", {}).items() if name != "__MACOSX" and not name.startswith(".")}
        return next(iter(seen)) if len(seen) == 1 and all(seen.values()) else ""

    def open(self, name: str) -> BinaryIO:
        """A member, to be read. Raises `OSError` where there is none, and where it is damaged."""
        if name not in self.files:
            raise FileNotFoundError(2, "no such member", f"{self.path}/{name}")
        place, size = self.files[name]
        if self.archive is None:
            with cast(Path, self.plain).open("rb") as file:
                file.seek(place)
                data = file.read(size)
            try:
                return io.BytesIO(self.made(name, data))
            except (ValueError, zlib_error) as error:
                raise OSError(5, f"damaged in its archive: {first_line(error)}", name) from None
        try:
            with self.archive.open(self.members[place]) as member:
                data = member.read(size + 1)
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError, lzma.LZMAError, zlib_error) as error:
            raise OSError(5, f"damaged in its archive: {first_line(error)}", name) from None
        if len(data) != size:
            raise OSError(5, "another size than its archive says", name)
        return io.BytesIO(data)


@lru_cache(maxsize=16)
def _index(path: Path, size: int, changed: int) -> Index:
    del size, changed
    try:
        if path.name.lower().endswith(".sens"):
            return _index_of_sens(path)
        return _index_of_zip(path) if path.name.lower().endswith(_ZIPS) else _index_of_tar(path)
    except OverBudgetError as error:
        raise CallError(f"{path} is not read: {error}", "unpack it yourself, if you trust it") from None
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, ValueError, NotImplementedError, struct.error) as error:
        raise CallError(
            f"{path} is damaged, or no archive: {first_line(error)}", "get it again, or unpack it with its own program"
        ) from None
    except OSError as error:
        raise CallError(f"{path} cannot be read: {error.strerror or first_line(error)}", "check the file and your access to it") from None


def index_of(path: Path) -> Index:
    """Raises `CallError` for what is no archive, is damaged, encrypted, or would unpack to far more than it is."""
    status = path.stat()
    return _index(path, status.st_size, status.st_mtime_ns)


def _index_of_zip(path: Path) -> Index:
    with path.open("rb") as file:
        check_members(file)
    archive = zipfile.ZipFile(path)
    index = Index(path, members=archive.infolist(), archive=archive)
    check_unpacked(path.stat().st_size, sum(one.file_size for one in index.members), "all of it")
    if locked := next((one.filename for one in index.members if one.flag_bits & 1), None):
        raise CallError(f"{path} is encrypted ({locked})", "unpack it with its password first")
    for number, one in enumerate(index.members):
        if one.is_dir():
            continue
        if stat.S_ISLNK(one.external_attr >> 16):
            index.odd.append((_zip_name(one), "a link in an archive: not followed"))
            continue
        index.add(_zip_name(one), number, one.file_size)
    return index


def _index_of_sens(path: Path) -> Index:
    files, made = members_of(path)
    index = Index(path, plain=path, made=made)
    for name, (place, size) in files.items():
        index.add(name, place, size)
    return index


def _zip_name(one: zipfile.ZipInfo) -> str:
    """UTF-8 where the member says so, in Info-ZIP's field, or where its bytes can be nothing else by chance; else code page 437."""
    if one.flag_bits & 0x800:
        return one.filename
    at = 0
    while at + 4 <= len(one.extra):
        kind, length = struct.unpack_from("<HH", one.extra, at)
        if kind == _UNICODE_NAME and length > 5:
            return one.extra[at + 9 : at + 4 + length].decode("utf-8", "replace")
        at += 4 + length
    try:
        return one.orig_filename.encode("cp437").decode("utf-8")
    except UnicodeError:
        return one.filename


def _index_of_tar(path: Path) -> Index:
    plain = path if path.name.lower().endswith(".tar") else _decompressed(path)
    index, count = Index(path, plain=plain), 0
    with tarfile.open(plain, "r:") as archive:
        for one in archive:
            archive.members.clear()  # type: ignore[attr-defined]  # else every header stays in memory
            count += 1
            if count > MEMBERS:
                raise OverBudgetError(f"an archive of more than {MEMBERS:,} members")
            if one.isdir():
                continue
            if one.issparse() or not one.isreg():
                index.odd.append((one.name, "a link in an archive: not followed" if one.issym() or one.islnk() else "no ordinary file"))
                continue
            index.add(one.name, one.offset_data, one.size)
    return index


def _decompressed(path: Path) -> Path:
    """The tar in a compressed one, kept in the home by size and time of the file. Raises `OverBudgetError` for one that grows too much."""
    status = path.stat()
    key = hashlib.sha256(repr((str(path), status.st_size, status.st_mtime_ns)).encode()).hexdigest()[:16]
    folder = home() / "data" / f"tar-{key}"
    done = folder / "archive.tar"
    if done.is_file():
        return done
    with telling(folder):
        make_folder(folder)
        handle, part = tempfile.mkstemp(prefix=".part-", dir=folder)
        try:
            with os.fdopen(handle, "wb") as file, cast(IO[bytes], _OPENED[path.suffix.lower()](path)) as source:
                while chunk := source.read(_CHUNK):
                    file.write(chunk)
                    check_unpacked(status.st_size, file.tell(), path.name)
            Path(part).replace(done)
        except (OverBudgetError, EOFError, lzma.LZMAError, zlib_error, gzip.BadGzipFile) as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise error if isinstance(error, OverBudgetError) else ValueError(first_line(error)) from None
        finally:
            Path(part).unlink(missing_ok=True)
    return done


class ArchivePath(PosixPath):
    """A path of an archive or of something in it. What it makes (`/`, `parent`, `iterdir`) are such paths, too."""

    def split(self) -> tuple[Index, str]:
        """(what the archive holds, the path in it). Raises `FileNotFoundError`."""
        plain = Path(self)
        for above in (plain, *plain.parents):
            if above.name.lower().endswith(SUFFIXES) and above.is_file():
                inside = str(plain)[len(str(above)) + 1 :]
                return index_of(above), inside
        raise FileNotFoundError(2, "no such archive", str(self))

    def is_file(self, **options: Any) -> bool:
        index, name = self._within()
        return Path(self).is_file() if index is None else name in index.files

    def is_dir(self, **options: Any) -> bool:
        index, name = self._within()
        return Path(self).is_dir() if index is None else name == "" or name in index.folders

    def exists(self, **options: Any) -> bool:
        return self.is_file() or self.is_dir()

    def is_symlink(self) -> bool:
        return False

    def iterdir(self) -> Iterator[ArchivePath]:  # type: ignore[override]
        index, name = self._within()
        if index is None:  # above the archive
            yield from (ArchivePath(one) for one in Path(self).iterdir())
            return
        yield from (self / one for one in sorted(index.folders.get(name, {})))

    def glob(self, pattern: str, **options: Any) -> Iterator[ArchivePath]:  # type: ignore[override]
        head, _, rest = str(pattern).partition("/")
        if not self.is_dir():
            return
        for one in self.iterdir():
            if fnmatchcase(one.name, head):
                yield from one.glob(rest) if rest else (one,)

    def resolve(self, strict: bool = False) -> ArchivePath:
        return self

    def stat(self, **options: Any) -> os.stat_result:
        index, name = self._within()
        if index is None:
            return Path(self).stat(**options)
        status = index.path.stat()
        kind, size = (stat.S_IFREG | 0o444, index.files[name][1]) if name in index.files else (stat.S_IFDIR | 0o555, 0)
        if not (name in index.files or name in index.folders or name == ""):
            raise FileNotFoundError(2, "no such member", str(self))
        return os.stat_result((kind, 0, status.st_dev, 1, 0, 0, size, int(status.st_atime), int(status.st_mtime), int(status.st_ctime)))

    def open(self, mode: str = "r", *args: Any, **options: Any) -> Any:
        if "w" in mode or "a" in mode or "+" in mode:
            raise OSError(30, "archives are only read", str(self))
        index, name = self._within()
        if index is None:
            return Path(self).open(mode, *args, **options)
        data = index.open(name)
        return data if "b" in mode else io.TextIOWrapper(data, encoding=options.get("encoding") or "utf-8", errors=options.get("errors"))

    def read_bytes(self) -> bytes:
        with self.open("rb") as file:
            return cast(bytes, file.read())

    def read_text(self, encoding: str | None = None, errors: str | None = None, **options: Any) -> str:
        return self.read_bytes().decode(encoding or "utf-8", errors or "strict")

    def _within(self) -> tuple[Index | None, str]:
        try:
            return self.split()
        except FileNotFoundError:
            return None, ""
