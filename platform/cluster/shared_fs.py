"""Whether a node sees the run's folder: the driver writes a new token into it at every start, which the workers look for."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

from tenacity import Retrying, retry_if_not_result, stop_after_delay, wait_fixed

from sightline.methods.errors import SightlineError
from sightline.platform.runs.identity import TOKEN

LOOK_SECONDS = 3.0
"""A network file system may take this long to show a file of another node."""


def sees(folder: Path, token: str) -> bool:
    """Whether this node has the folder in which the driver wrote `token`: the same folder, not a copy, nor that of another run."""

    def found() -> bool:
        with contextlib.suppress(OSError):
            return (folder / TOKEN).read_text() == token
        return False

    return Retrying(
        retry=retry_if_not_result(bool),
        stop=stop_after_delay(LOOK_SECONDS),
        wait=wait_fixed(0.1),
        retry_error_callback=lambda state: False,
    )(found)


def folder_here(folder: Path, token: str, storage: str | None) -> Path:
    """The run's folder; where this node does not see it and `train.storage` is set, a folder of the node's own beside it.

    Raises `SightlineError` where there is neither.
    """
    if sees(folder, token):
        return folder
    host = socket.gethostname()
    if storage is None:
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
