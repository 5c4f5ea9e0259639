"""Locks between processes, also of several machines where they share the folder and its file system has locks."""

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
from typing import Any

from sightline.methods.errors import SightlineError

DRIVER, TRAINING = ".driver.lock", ".training.lock"
"""In a folder that one driver at a time carries out, and in a run's folder, which one process at a time trains."""
POLL_SECONDS = 0.2
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)
"""What a file system answers that has none: there nobody is kept out."""


@contextlib.contextmanager
def alone(path: Path, doing: str, hint: str = "wait for it, or stop it", patience: float = math.inf) -> Iterator[None]:
    """Hold the lock file at `path`, which one process at a time can; its end frees it, whatever ends it.

    Raises `SightlineError`, "`doing` by process PID on HOST", where another still holds it after `patience` seconds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        until = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno in NO_LOCKS:
                    break
                if not isinstance(error, BlockingIOError):
                    raise
            if time.monotonic() >= until:
                raise SightlineError(f"{doing} by {_holder(path)}", hint)
            time.sleep(POLL_SECONDS)
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        file.flush()
        yield


def by_one_driver(execute: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """`execute(record, ...)`, refused at once where another process carries the record's folder out."""

    @functools.wraps(execute)
    def locked(record: Any, *rest: Any) -> dict[str, Any]:
        with alone(record.folder / DRIVER, f"{record.name} is being carried out", patience=0):
            return execute(record, *rest)

    return locked


def _holder(path: Path) -> str:
    try:
        says = json.loads(path.read_text())
        return f"process {says['pid']} on {says['host']}"
    except (OSError, ValueError, KeyError, TypeError):  # it holds the lock and has not written yet
        return "another process"
