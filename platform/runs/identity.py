"""The identity of a run, a sweep or a comparison: written into its folder once, and the same ever after."""

from __future__ import annotations

import contextlib
import os
import uuid
from pathlib import Path

TOKEN = ".token"


def mark(folder: Path) -> str:
    """Write a new token into the run's `folder` and return it: the run's identity, which never changes, and that of this start."""
    token = f"{_identity(folder) or uuid.uuid4().hex} {uuid.uuid4().hex}"
    descriptor = os.open(folder / TOKEN, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, token.encode())  # over the old token of the same length, so a kill leaves no empty file
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return token


def identity(folder: Path) -> str:
    """The identity of the run in `folder`. Two runs differ, also where they have the same name."""
    return _identity(folder) or mark(folder).split()[0]


def _identity(folder: Path) -> str | None:
    with contextlib.suppress(OSError, IndexError):
        return (folder / TOKEN).read_text().split()[0]
    return None
