"""What all sources share: items that become rows, safe reading of files, and natural order."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sightline.methods.errors import BrokenSampleError, CallError
from sightline.platform.data.images import MAX_BYTES, Resize
from sightline.platform.data.kinds import Row

Skip = Callable[[str, str], None]
"""(what, why)"""
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


class Item(Protocol):
    """Something in files that becomes one row."""

    @property
    def id(self) -> str: ...

    @property
    def scene(self) -> str | None: ...

    @property
    def label(self) -> int | None: ...

    @property
    def frames(self) -> tuple[int, ...]:
        """The places of its files in the sequence of their scene, -1 where there is none."""
        ...

    def row(self, resize: Resize) -> Row:
        """The row, its images cut, resized and encoded. Raises `BrokenSampleError` with `reason: detail`."""
        ...


@dataclass(frozen=True)
class ItemRows:
    """The rows of one shard: its items, read, cut, resized and encoded."""

    items: tuple[Item, ...]
    resize: Resize

    @property
    def count(self) -> int:
        return len(self.items)

    def rows(self, skip: Skip) -> Iterator[Row]:
        for item in self.items:
            try:
                yield item.row(self.resize)
            except BrokenSampleError as error:
                skip_broken(skip, item.id, error)


def skip_broken(skip: Skip, what: str, error: BrokenSampleError) -> None:
    """Count the error by its reason alone; its detail goes with the name."""
    reason, _, detail = str(error).partition(": ")
    skip(f"{what} ({detail})" if detail else what, reason)


def read_file(path: str) -> bytes:
    try:
        if Path(path).stat().st_size > MAX_BYTES:
            raise BrokenSampleError(f"file larger than {MAX_BYTES:,} bytes: {Path(path).name}")
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise BrokenSampleError(f"file is missing: {Path(path).name}") from None
    except OSError as error:
        raise BrokenSampleError(f"file cannot be read: {Path(path).name}, {error.strerror}") from None


def natural(name: str | Path) -> tuple[object, ...]:
    """A sort key that puts `frame2` before `frame10`. Of a path only the name counts."""
    text = name if isinstance(name, str) else name.name
    return tuple((1, int(part), "") if part.isdecimal() else (0, 0, part) for part in re.split(r"(\d+)", text))


def images_in(folder: Path) -> list[Path]:
    return sorted((p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()), key=natural)


def images_below(folder: Path) -> list[str]:
    """The images in a folder and in all folders below it, as relative paths in natural order; hidden ones are left out."""
    return files_below(folder, IMAGE_SUFFIXES)


def files_below(folder: Path, suffixes: tuple[str, ...]) -> list[str]:
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.suffix.lower() in suffixes and path.is_file())
    return sorted((path.as_posix() for path in found if not any(part.startswith(".") for part in path.parts)), key=natural)


def existing_file(place: str | Path) -> Path:
    """Raises `CallError` where there is no such file."""
    path = Path(place).expanduser().resolve()
    if not path.is_file():
        raise CallError(f"there is no file {place}", "name the file that holds the clouds")
    return path


def existing_folder(place: str | Path) -> Path:
    """Raises `CallError` where there is no such folder."""
    folder = Path(place).expanduser().resolve()
    if not folder.is_dir():
        raise CallError(f"there is no folder {place}", "name the folder that holds the images")
    return folder


def folders_in(folder: Path) -> list[Path]:
    """The folders in a folder, hidden ones left out, in the order of their names."""
    return sorted((sub for sub in folder.iterdir() if sub.is_dir() and not sub.name.startswith(".")), key=lambda sub: sub.name)


def below(name: str, path: str) -> str:
    """The scene of a file at the relative `path` of source `name`: its folder."""
    parent = Path(path).parent.as_posix()
    return name if parent == "." else f"{name}/{parent}"


def is_inside(name: str) -> bool:
    """Whether a relative path stays in its folder; lists of files are not trusted."""
    return not Path(name).is_absolute() and ".." not in Path(name).parts


def lines_of(path: Path) -> list[str]:
    """The lines of a text file that are not empty. Raises `CallError` where it is missing or is no text."""
    try:
        return [line.strip() for line in existing_file(path).read_text("utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise CallError(f"{path} is no list of names: it is not text", "get the file again") from None


def inside(lines: list[str], skips: list[tuple[str, str]]) -> Iterator[str]:
    """The paths that stay in their folder; the others are added to `skips`."""
    for line in lines:
        if is_inside(line):
            yield line
        else:
            skips.append((line, "a path that leaves the folder"))
