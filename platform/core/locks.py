"""Locks between processes, also on several machines where they share the folder and its file system has locks.

By hand rather than filelock: that turns to lock files where a file system has no locks (a killed process would keep others out), fails on
ENOTSUP and ENOLCK, and does not say who holds a lock.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import json
import math
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol, TypeVar

from sightline.methods.errors import SightlineError

from .paths import check_writable, home_of

if TYPE_CHECKING:
    from .screen import Screen

DRIVER, TRAINING = ".driver.lock", ".training.lock"
"""Lock files: of the driver in the folder of a run, a sweep or a comparison, and of the process that trains in a run's folder."""
POLL_SECONDS = 0.2
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)
"""Errors of a file system without locks: there nobody is kept out."""


@contextlib.contextmanager
def exclusive_lock(path: Path, doing: str, hint: str = "wait for it, or stop it", timeout: float = math.inf) -> Iterator[None]:
    """Hold the lock file at `path`, which one process at a time can hold. The kernel frees it when the process ends.

    Raises `SightlineError`, "`doing` by process PID on HOST", where another process still holds it after `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while (file := try_lock(path)) is None:
        if time.monotonic() >= deadline:
            raise SightlineError(f"{doing} by {_holder(path)}", hint)
        time.sleep(POLL_SECONDS)
    with file:
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        file.flush()
        yield


def try_lock(path: Path) -> IO[str] | None:
    """The lock file at `path`, locked until it is closed or this process ends; None where another process holds it. Raises `OSError`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            file.close()
            if not isinstance(error, BlockingIOError):
                raise
            return None
    return file


class Record(Protocol):
    """A run, a sweep or a comparison."""

    name: str
    folder: Path


R = TypeVar("R", bound=Record)


def by_one_driver(execute: Callable[[R, Screen], dict[str, Any]]) -> Callable[[R, Screen], dict[str, Any]]:
    """`execute(record, console)`, refused at once where another process already drives the record."""

    @functools.wraps(execute)
    def locked(record: R, console: Screen) -> dict[str, Any]:
        check_writable(home_of(record.folder))
        with exclusive_lock(record.folder / DRIVER, f"{record.name} is being run", timeout=0):
            return execute(record, console)

    return locked


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_text())
        return f"process {holder['pid']} on {holder['host']}"
    except (OSError, ValueError, KeyError, TypeError):  # it holds the lock and has not written its name yet
        return "another process"
