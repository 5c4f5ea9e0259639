"""Finds and reads files for every source: one walk of a folder, in which no file is lost without a count, and natural order.

`Tree.of` walks once, through linked folders too. A source takes what it reads with `take` and names its lists with `use`; the rest is told
by `notes` and `skips`. So every file is read, skipped with a reason, or counted.
"""

from __future__ import annotations

import codecs
import os
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import overload

import numpy as np

from sightline.methods.errors import BrokenSampleError, CallError
from sightline.methods.random import key
from sightline.platform.core.budget import OverBudgetError, check_lines, check_text
from sightline.platform.data.geometry import Placement
from sightline.platform.data.images import IMAGE_SUFFIXES, MAX_BYTES, read_placement

from .archives import NOT_READ, SUFFIXES, ArchivePath, archive_root, as_path, is_archive
from .formats.video import VIDEO_SUFFIXES
from .packed import Packed

SYSTEM_FOLDERS = frozenset(
    ("__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found", "__pycache__", ".ipynb_checkpoints")
)
"""Lower-case names of folders that a system, an archive or a tool left: what is in them is no data."""
SYSTEM_FILES = frozenset((".ds_store", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"))
HEIC_SUFFIXES = frozenset((".heic", ".heif", ".hif"))
OTHER_IMAGES = HEIC_SUFFIXES | frozenset(
    (".cr2", ".cr3", ".nef", ".arw", ".dng", ".raf", ".orf", ".psd", ".tga", ".exr", ".svg", ".jxl", ".ico", ".pcx")
)
"""Images that are not read, or only with another package."""
HEAD_BYTES = 2**16
_SECONDS = re.compile(r"\d+(\.0|\.\d*[1-9])?")
NAMED = 6
"""Suffixes and folders that a note names; the others are added up."""


def natural(name: str | Path) -> bytes:
    """A sort key that puts `frame2` before `frame10`. Of a path only the name counts. Names that differ only in zeros (`1`, `01`) go by
    their text."""
    text = name if isinstance(name, str) else name.name
    whole = text.encode("utf-8", "surrogatepass")  # which sorts as the text does
    words = re.split(r"(\d+)", text)
    key = bytearray(words[0].encode("utf-8", "surrogatepass"))
    for digits, word in zip(words[1::2], words[2::2], strict=True):
        number = b"%d" % int(digits)
        key += b"\0\1%c%c%b%b" % (*divmod(len(number), 256), number, word.encode("utf-8", "surrogatepass"))
    return bytes(key) + b"\0\0" + whole


def in_time(files: list[str]) -> list[str]:
    """Frames of one sequence in natural order, or by the seconds that their names are.

    Where names are numbers with as many decimals as each needs (0.1, 0.15, 0.2), as programs print seconds, natural order is wrong.
    Programs print no zero at the end; so 1.2 and 1.10 are frames two and ten of a first part, and stay.
    """
    stems = [name[: len(name) - len(suffix_of(name))] for name in (file.rpartition("/")[2] for file in files)]
    if not all(_SECONDS.fullmatch(stem) for stem in stems) or not any("." in stem for stem in stems):
        return files
    return [file for _, file in sorted(zip(map(float, stems), files, strict=True))]


def frame_names(files: Iterable[str]) -> Packed[str]:
    """What the frames of a sequence are called in ids: the stem, or the whole path where another frame has the same stem."""
    names = Packed(files)
    stems = np.fromiter((key(_stem(file)) for file in names), np.uint64, len(names))
    _, which, counts = np.unique(stems, return_inverse=True, return_counts=True)
    return Packed(_stem(file) if count == 1 else file for file, count in zip(names, counts[which].tolist(), strict=True))


def _stem(file: str) -> str:
    return Path(file).stem


@dataclass
class Tree:
    """The files below a folder and what else was met there.

    Hidden files and those that a system leaves are counted, not listed; so are names that are not UTF-8, links that lead nowhere, and what
    is neither file nor folder.
    """

    root: Path
    folders: dict[str, list[str]] = field(default_factory=dict)
    """Relative folder with a slash at its end, empty for the root -> the paths of its own files."""
    order: list[str] = field(default_factory=list)
    """The folders in the order of the alphabet."""
    left: Counter[str] = field(default_factory=Counter)
    """What was left out -> how many."""
    odd: list[tuple[str, str]] = field(default_factory=list)
    """(path, why it cannot be read); a path may be no UTF-8."""
    apart: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Why images were left out -> how many, and the first."""
    taken: set[str] = field(default_factory=set)
    readable: set[str] = field(default_factory=set)
    """Suffixes that were asked for."""

    @classmethod
    def of(cls, folder: Path) -> Tree:
        """Walk `folder`. A linked folder is followed, but none is read twice, so loops end. Never raises for what it meets."""
        tree = cls(folder)
        if isinstance(folder, ArchivePath):
            tree._read_archive(folder)
            return tree
        linked: list[tuple[str, str]] = []
        seen = {_identity(str(above)) for above in folder.parents}  # a link that leads above would lead round as well
        todo = [(os.fspath(folder), "")]
        while todo or linked:
            # Real folders first: a file that a link leads to as well has its own path.
            path, start = todo.pop() if todo else linked.pop(0)
            if start and _is_at(path, seen):
                tree.left["linked folder(s) that lead to a folder read already, or round in a circle"] += 1
            else:
                todo += tree._read_folder(path, start, linked, seen)
        tree.order = sorted(tree.folders)
        tree.odd.sort()
        return tree

    def _read_archive(self, folder: ArchivePath) -> None:
        """Note what lies below a folder of an archive."""
        index, below = folder.split()
        start = f"{below}/" if below else ""
        for member in index.files:
            if not member.startswith(start):
                self.left["beside the only folder of the archive"] += 1
                continue
            name = member[len(start) :]
            *above, last = name.split("/")
            system = next((part for part in above if part.lower() in SYSTEM_FOLDERS), None)
            low = last.lower()
            if system:
                self.left[f"in {system}"] += 1
            elif low in SYSTEM_FILES or low.startswith("._"):
                self.left["._*" if low.startswith("._") else last.strip()] += 1
            elif low.startswith(".") or any(part.startswith(".") for part in above):
                self.left["hidden"] += 1
            elif not is_text(name):
                self.odd.append((name, "a name that is not UTF-8: rename it"))
            else:
                self.folders.setdefault("".join(f"{part}/" for part in above), []).append(name)
        for names in self.folders.values():
            names.sort()
        self.order = sorted(self.folders)
        self.odd = sorted([*self.odd, *index.odd])

    def _read_folder(self, path: str, start: str, linked: list[tuple[str, str]], seen: set[tuple[int, int]]) -> list[tuple[str, str]]:
        """Note what lies in one folder; returns the folders in it and adds the linked ones to `linked`."""
        folders: list[tuple[str, str]] = []
        plain: list[str] = []  # of a million files in one folder the names alone are held
        try:
            seen.add(_identity(path))
            with os.scandir(path) as found:
                others = []
                for entry in found:
                    if _is_plain(entry):
                        plain.append(entry.name)
                    else:
                        others.append(entry)
        except OSError as error:
            self.odd.append((start.rstrip("/"), f"a folder cannot be read: {error.strerror}"))
            return folders
        for entry in sorted(others, key=lambda entry: entry.name):
            name, low, is_link = start + entry.name, entry.name.lower(), entry.is_symlink()
            is_folder = _is(entry.is_dir)
            if is_folder and low in SYSTEM_FOLDERS:
                self.left[f"in {entry.name}"] += _count(entry.path)
            elif low in SYSTEM_FILES or low.startswith("._"):
                self.left["._*" if low.startswith("._") else entry.name.strip()] += 1
            elif low.startswith("."):
                self.left["hidden"] += _count(entry.path) if is_folder and not is_link else 1
            elif is_folder:
                (linked if is_link else folders).append((entry.path, f"{name}/"))
            elif not _is(entry.is_file):
                self.odd.append((name, "a link that leads nowhere" if is_link else "neither a file nor a folder"))
            elif not is_text(name):
                self.odd.append((name, "a name that is not UTF-8: rename it"))
            else:
                plain.append(entry.name)
        if plain:
            plain.sort()
            self.folders[start] = [start + name for name in plain] if start else plain
        return folders

    def take(self, suffixes: Sequence[str], below: str = "", *, deep: bool = True) -> list[str]:
        """The files of these suffixes (lower case) in the folder `below` (empty for the root) and, where `deep`, in those below it.

        They count as read. Paths are relative to `below`, in natural order.
        """
        self.readable.update(suffixes)
        start = f"{below.strip('/')}/" if below.strip("/") else ""
        found = [path for folder in self._below(start, deep) for path in self.folders[folder] if suffix_of(path) in suffixes]
        self.taken.update(found)
        return sorted((path[len(start) :] for path in found), key=natural)

    def images(self) -> Iterator[str]:
        """The paths of all images, in no order; they do not count as read."""
        return (path for paths in self.folders.values() for path in paths if suffix_of(path) in IMAGE_SUFFIXES)

    def set_apart(self, why: str, count: int, first: str) -> None:
        """Files that were taken, but are left out."""
        before = self.apart.get(why, (0, first))
        self.apart[why] = before[0] + count, before[1]

    def use(self, *paths: str) -> None:
        """These files are read as well, such as a list of names."""
        self.taken.update(paths)

    def _below(self, start: str, deep: bool) -> Iterator[str]:
        if not deep:
            yield from (start,) if start in self.folders else ()
            return
        for place in range(bisect_left(self.order, start), len(self.order)):
            if not self.order[place].startswith(start):
                return
            yield self.order[place]

    @property
    def skips(self) -> list[tuple[str, str]]:
        """(what, why) of what a source would have read, but cannot."""
        return [(printable(path), why) for path, why in self.odd if self._wanted(path, why)]

    @property
    def notes(self) -> list[str]:
        """Sentences that count everything that nobody took."""
        rest = [path for paths in self.folders.values() for path in paths if path not in self.taken]
        rest += [path for path, why in self.odd if not self._wanted(path, why)]
        unread = Counter(suffix_of(path) or "without suffix" for path in rest if suffix_of(path) not in self.readable)
        places = Counter(f"{suffix_of(path)} in {folder_of(path)}" for path in rest if suffix_of(path) in self.readable)
        name, told = self.root.name, []
        if unread:
            told.append(f"not read in {name}: {counted(unread)}{_how_to_read(unread)}")
        if places:
            told.append(f"not read in {name}, because this source does not look there: {counted(places)}")
        if self.apart:
            parts = [f"{count:,} {why} (first: {printable(first)})" for why, (count, first) in self.apart.items()]
            told.append(f"left out in {name}, as they are no photos of their own: {', '.join(parts)}; --all-images reads them too")
        if self.left:
            told.append(f"left out in {name}: {counted(self.left)}")
        return told

    def _wanted(self, path: str, why: str) -> bool:
        return suffix_of(path) in self.readable or why.startswith("a folder")


def _how_to_read(suffixes: Iterable[str]) -> str:
    packed = sorted(set(suffixes) & {*(suffix for suffix in (*SUFFIXES, *NOT_READ) if suffix.count(".") == 1)})
    there = sorted(set(suffixes) & OTHER_IMAGES)
    heic = [suffix for suffix in there if suffix in HEIC_SUFFIXES]
    others = [suffix for suffix in there if suffix not in HEIC_SUFFIXES]
    ways = [f"pip install 'sightline-pretext[heic]' reads {', '.join(heic)}"] if heic else []
    ways += [f"convert {', '.join(others)} to PNG or JPEG first"] if others else []
    ways += ["a video is read where it is named itself, by `frames` and `mine`"] if set(VIDEO_SUFFIXES) & set(suffixes) else []
    ways += [f"archives among other files are not opened: name them one by one, or unpack {', '.join(packed)}"] if packed else []
    return f" ({'; '.join(ways)})" if ways else ""


def counted(counts: Counter[str]) -> str:
    """`30 .tif, 4 .heic and 3 of 2 others`, the most frequent first."""
    most = counts.most_common()
    words = [f"{count:,} {printable(name)}" for name, count in most[:NAMED]]
    others = most[NAMED:]
    return ", ".join(words) + (f" and {sum(count for _, count in others):,} of {len(others)} others" if others else "")


def suffix_of(path: str) -> str:
    """The suffix in lower case, empty where there is none."""
    name = path.rpartition("/")[2]
    suffix = name[name.rfind(".") + 1 :].lower() if name.rfind(".") > 0 else ""
    return f".{suffix}" if suffix.isalnum() else ""


def folder_of(path: str) -> str:
    """The folder of a relative path, in words at the root."""
    return path.rpartition("/")[0] or "the folder itself"


def is_text(name: str) -> bool:
    """Whether the bytes of a name are UTF-8."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def printable(name: str) -> str:
    """A name that can be printed and stored: bytes that are not UTF-8 are escaped, `caf\\xe9.jpg`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _is_plain(entry: os.DirEntry[str]) -> bool:
    """Whether it is a file and no link, of a name that says nothing else."""
    low = entry.name.lower()
    return not low.startswith(".") and low not in SYSTEM_FILES and is_text(low) and _is(partial(entry.is_file, follow_symlinks=False))


def _is(test: Callable[[], bool]) -> bool:
    """Whether an entry is what `test` says; links that lead round in a circle raise, and are neither."""
    try:
        return test()
    except OSError:
        return False


def _identity(path: str) -> tuple[int, int]:
    status = Path(path).stat()
    return status.st_dev, status.st_ino


def _is_at(path: str, seen: set[tuple[int, int]]) -> bool:
    try:
        return _identity(path) in seen
    except OSError:
        return False


def _count(path: str) -> int:
    """The files below a folder, links not followed; 1 for what is no folder."""
    return sum(len(files) for _, _, files in os.walk(path)) if Path(path).is_dir() else 1


def read_file(path: str, limit: int = MAX_BYTES) -> bytes:
    """The bytes of a file. Raises `BrokenSampleError` for one that is missing, cannot be read or is larger than `limit`."""
    try:
        file = Path(path)
        try:
            size = file.stat().st_size
        except NotADirectoryError:
            file = as_path(path)
            size = file.stat().st_size
        if size > limit:
            raise BrokenSampleError(f"file larger than {limit:,} bytes: {file.name}, {size:,} bytes")
        return file.read_bytes()
    except FileNotFoundError:
        raise BrokenSampleError(f"file is missing: {Path(path).name}") from None
    except OSError as error:
        raise BrokenSampleError(f"file cannot be read: {Path(path).name}, {error.strerror}") from None


def placement_of(path: Path) -> Placement:
    """The whole of a photo, from the beginning of its file where that is enough. Raises `BrokenSampleError`."""
    with suppress(OSError, BrokenSampleError), path.open("rb") as file:
        head = file.read(HEAD_BYTES)
        if not head.startswith(b"\x89PNG"):  # whose tag may come last
            return read_placement(head)
    return read_placement(read_file(str(path)))


class PathsBelow(Sequence[Path]):
    """Files in a folder: a `Path` takes three times the memory of its name, so it is made when it is asked for."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self._folder, self.names = folder, names

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> Path: ...
    @overload
    def __getitem__(self, index: slice) -> PathsBelow: ...
    def __getitem__(self, index: int | slice) -> Path | PathsBelow:
        if isinstance(index, slice):
            return PathsBelow(self._folder, self.names[index])
        return self._folder / self.names[index]


def images_in(folder: Path) -> list[Path]:
    """The images that lie in a folder itself, in natural order."""
    return sorted(
        (path for path in folder.iterdir() if suffix_of(path.name) in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()),
        key=natural,
    )


def is_file(path: Path) -> bool:
    """Whether there is such a file; a name that is too long is none."""
    return _is(path.is_file)


def existing_file(place: str | Path) -> Path:
    """Also one in an archive. Raises `CallError` where there is no such file."""
    path = as_path(Path(place).expanduser().resolve())
    if not path.is_file():
        raise CallError(f"there is no file {place}", "name the file that holds the clouds")
    return path


def existing_folder(place: str | Path) -> Path:
    """An archive is a folder, too (`ArchivePath`). Raises `CallError` where there is no such folder, or its name is not UTF-8."""
    folder = Path(place).expanduser().resolve()
    if is_archive(folder):
        folder = archive_root(folder)
    elif isinstance(within := as_path(folder), ArchivePath):
        folder = within
    elif folder.is_file() and folder.name.lower().endswith(NOT_READ):
        what = f"{printable(str(place))} is an archive of a kind that is not read"
        raise CallError(what, f"unpack it, or pack it as {', '.join(SUFFIXES[:3])}")
    elif folder.is_file():
        what = f"{printable(str(place))} is a file"
        raise CallError(what, "name the folder that holds the images; videos are read by `frames` and `mine`")
    if not folder.is_dir():
        raise CallError(f"there is no folder {printable(str(place))}", "name the folder that holds the images")
    if not is_text(str(folder)):
        raise CallError(f"the name of the folder {printable(str(folder))} is not UTF-8", "rename it")
    return folder


def folders_in(folder: Path) -> list[Path]:
    """The folders in a folder, in the order of their names; those that are hidden or that a system left are none."""
    subs = (sub for sub in folder.iterdir() if not sub.name.startswith(".") and sub.name.lower() not in SYSTEM_FOLDERS and sub.is_dir())
    return sorted(subs, key=lambda sub: sub.name)


def below(name: str, path: str) -> str:
    """The scene of a file at the relative `path` of source `name`: its folder."""
    parent = Path(path).parent.as_posix()
    return name if parent == "." else f"{name}/{parent}"


def is_inside(name: str) -> bool:
    """Whether a relative path stays in its folder; lists of files are not trusted."""
    return not Path(name).is_absolute() and ".." not in Path(name).parts


def read_text(path: Path, what: str = "list of names") -> str:
    """A text file as people save it: UTF-8, with or without a byte order mark, or UTF-16 with one. Raises `CallError` for anything else."""
    try:
        check_text(path)
        data = path.read_bytes()
        check_lines(data)
    except OverBudgetError as error:
        raise CallError(f"{path} is no {what}: {error}", f"name a text file: a {what}") from None
    except OSError as error:
        raise CallError(f"cannot read {path}: {error.strerror}", f"name a text file: a {what}") from None
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        if not wide and b"\0" in data:
            raise CallError(f"{path} is no {what}: it holds null bytes, as UTF-16 without a byte order mark does", "save it as UTF-8")
        return data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise CallError(f"{path} is no {what}: line {line} is not UTF-8 text", "save it as UTF-8") from None


def text_lines(text: str) -> list[str]:
    """The lines of a text, with the ends of any system; other separators may be part of a name."""
    return re.split(r"\r\n|\n|\r", text)


def lines_of(path: Path) -> list[str]:
    """The lines of a text file that are not empty. Raises `CallError` where it is missing or is no text."""
    return [line.strip() for line in text_lines(read_text(existing_file(path))) if line.strip()]


def inside(lines: list[str], skips: list[tuple[str, str]]) -> Iterator[str]:
    """The paths that stay in their folder; the others are added to `skips`."""
    for line in lines:
        if is_inside(line):
            yield line
        else:
            skips.append((line, "a path that leaves the folder"))
