"""Whether a node sees the run's folder, by a file that the driver writes into it anew for every start."""

from __future__ import annotations

import contextlib
import os
import socket
import time
import uuid
from pathlib import Path

from sightline.methods.errors import SightlineError
from sightline.platform.config import Experiment

TOKEN = ".token"
LOOK_SECONDS = 3.0
"""That a network file system may take to show a file of another node."""


def mark(folder: Path) -> str:
    """Write a new token into the run's `folder`: the run's identity, the same for ever, and that of this start."""
    token = f"{_identity(folder) or uuid.uuid4().hex} {uuid.uuid4().hex}"
    descriptor = os.open(folder / TOKEN, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, token.encode())  # over the old one, which is as long: never empty, whatever ends this
    finally:
        os.close(descriptor)
    return token


def identity(folder: Path) -> str:
    """Of the run in `folder`: two runs have two, also where they have one name."""
    return _identity(folder) or mark(folder).split()[0]


def _identity(folder: Path) -> str | None:
    with contextlib.suppress(OSError, IndexError):
        return (folder / TOKEN).read_text().split()[0]
    return None


def sees(folder: Path, token: str) -> bool:
    """Whether this node has the folder in which the driver wrote `token`: that one, no copy and none of another run."""
    until = time.monotonic() + LOOK_SECONDS
    while True:
        with contextlib.suppress(OSError):
            if (folder / TOKEN).read_text() == token:
                return True
        if time.monotonic() > until:
            return False
        time.sleep(0.1)


def folder_here(folder: Path, token: str, experiment: Experiment) -> Path:
    """The run's folder, or one of this node's own beside it where the node does not see it and `train.storage` has what is needed.

    Raises `SightlineError` where there is neither.
    """
    if sees(folder, token):
        return folder
    host = socket.gethostname()
    if experiment.train.storage is None:
        raise SightlineError(
            f"the node {host} does not see the run's folder {folder}",
            "put $SIGHTLINE_HOME on a folder that all nodes share, or set train.storage=URI",
        )
    own = folder.parent / f".copy-{token[:8]}" / folder.name
    try:
        own.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SightlineError(
            f"the node {host} can make no folder {own} for checkpoints: {error.strerror}", "set a $SIGHTLINE_HOME that all nodes can write"
        ) from None
    return own
