"""Records on disk: the one module that writes them. What a function here has written survives a kill and a loss of power.

A file is replaced: written under a hidden name beside it, synced, renamed, and its folder synced. So a reader finds the old or the new one.
A log is appended to and synced. An error of the machine (full, read-only or broken disk) is told as `MachineError`, with the place.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import msgspec

from sightline.methods.errors import MachineError, SightlineError

TROUBLES = {
    errno.ENOSPC: ("the disk is full", "free some space"),
    errno.EDQUOT: ("the disk quota is used up", "free some space, or ask for more"),
    errno.EROFS: ("the file system is read-only", "mount it for writing, or name another $SIGHTLINE_HOME"),
    errno.EACCES: ("permission denied", "see who owns the folder, or name another $SIGHTLINE_HOME"),
    errno.EPERM: ("permission denied", "see who owns the folder, or name another $SIGHTLINE_HOME"),
    errno.EIO: ("the disk reports an input/output error", "look at the system's log; the disk or its connection may be failing"),
    errno.ESTALE: ("the network file system has lost the file", "mount it again"),
}
"""Errors that are the machine's: what happened, and what to do."""
_writing = threading.RLock()
"""Two threads of a process may replace the same file: the driver and the thread that sends metrics both write `run.json`."""


def append_lines(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Append records as JSON lines, each with the `time` of its writing in seconds since 1970, unless it has one.

    A last line that a kill cut short is ended first, so that it damages no other.
    """
    if not records:
        return
    now = round(time.time(), 3)
    with telling(path):
        fresh = not path.exists()
        with path.open("a+b") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")
            file.write("".join(json.dumps({"time": now, **record}) + "\n" for record in records).encode())
            file.flush()
            os.fsync(file.fileno())
        if fresh:
            sync(path.parent)


def parse_lines(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """The records of complete lines. A line that a kill cut short, or that holds no JSON object, is skipped."""
    for line in lines:
        with suppress(ValueError, RecursionError):
            if line.endswith(b"\n") and isinstance(record := json.loads(line), dict):
                yield record


def write_record(path: Path, values: Mapping[str, Any]) -> None:
    """Replace a JSON file. Only its owner may read it."""
    with replacing(path) as part:
        part.touch(mode=0o600)
        part.write_text(json.dumps(values, indent=1, default=str))


def write_text(path: Path, text: str) -> Path:
    """Replace a text file. Returns its path."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")
    return path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A hidden name beside `path` to write to. Afterwards it is synced and renamed to `path`; an exception leaves `path` as it was.

    What is no file, such as `/dev/stdout`, is written to as it is; of a link, the file behind it is replaced.
    """
    if path.exists() and not path.is_file():
        yield path
        return
    path = path.resolve() if path.is_symlink() else path
    part = path.with_name(f".{path.name}.part")
    with _writing, telling(path):
        try:
            part.unlink(missing_ok=True)
            yield part
            sync(part)
            part.replace(path)
        except BaseException:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise
        sync(path.parent)


def make_folder(folder: Path, exist_ok: bool = True) -> Path:
    """Make a folder and those above it that are missing. Raises `FileExistsError` unless `exist_ok`."""
    with telling(folder):
        missing = [one for one in (folder, *folder.parents) if not one.exists()]
        folder.mkdir(parents=True, exist_ok=exist_ok)
        for one in reversed(missing):
            sync(one.parent)
    return folder


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A hidden folder beside `folder` to fill, which then gets its name: a kill leaves the whole folder or none.

    Raises `FileExistsError` where `folder` exists.
    """
    part = folder.with_name(f".{folder.name}.part")
    with telling(folder):
        if folder.exists():
            raise FileExistsError(folder)
        shutil.rmtree(part, ignore_errors=True)
        make_folder(part)
        try:
            yield part
            part.rename(folder)
        except BaseException as error:
            shutil.rmtree(part, ignore_errors=True)
            if isinstance(error, OSError) and error.errno == errno.ENOTEMPTY:
                raise FileExistsError(folder) from None
            raise
        sync(folder.parent)


def sync(path: Path) -> None:
    """Wait until the disk has the file, or the entries of the folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems cannot sync a folder
            raise
    finally:
        os.close(descriptor)


def read_record(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises `ValueError` where it holds anything else, and `OSError`."""
    try:
        values = json.loads(path.read_bytes())
    except RecursionError:
        raise ValueError("its JSON is nested too deeply") from None
    if not isinstance(values, dict):
        raise ValueError(f"it holds {type(values).__name__}, not a JSON object")
    return values


R = TypeVar("R")


def as_record(kind: type[R], values: Mapping[str, Any], **given: Any) -> R:
    """The dataclass `kind` with the fields of a JSON object, each of its annotated type, and those that are `given`.

    Raises `ValueError` that names the field.
    """
    hints = get_type_hints(kind)
    known = {one.name for one in fields(kind) if one.init}  # type: ignore[arg-type]
    if unknown := values.keys() - known - given.keys():
        raise ValueError(f"unknown field {sorted(unknown)[0]!r}: a newer version of Sightline may have written it")
    typed = dict(given)
    for name, value in values.items():
        if name not in given:
            try:
                typed[name] = msgspec.convert(value, hints[name])
            except msgspec.ValidationError as error:
                raise ValueError(f"{name}: {error}") from None
    try:
        return kind(**typed)
    except TypeError as error:  # a field is missing
        raise ValueError(str(error)) from None


@contextlib.contextmanager
def telling(path: Path) -> Iterator[None]:
    """Raise errors of the machine as `MachineError` that names `path`."""
    try:
        yield
    except Exception as error:
        if (problem := trouble(error)) is None:
            raise
        what, hint = problem
        raise MachineError(
            f"{what}: {path} could not be written", f"{hint}, then do the same again; what was written before is whole"
        ) from error


def trouble(error: BaseException) -> tuple[str, str] | None:
    """(what happened, what to do) of an error that is the machine's; None of any other.

    safetensors and pyarrow report a full disk in errors of their own types, which hold only the system's text.
    """
    if isinstance(error, SightlineError):
        return None
    if isinstance(error, OSError) and error.errno is not None:
        return TROUBLES.get(error.errno)
    return next((told for number, told in TROUBLES.items() if os.strerror(number) in str(error)), None)
