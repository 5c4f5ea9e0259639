"""Rank 0's way into the storage: beside the training, which goes on whatever becomes of it."""

from __future__ import annotations

import threading
import time

from sightline.platform.core.redaction import safe_line

from .remote import Storage

LAST_PATIENCE = 300.0
"""Seconds that the last checkpoint of a training has to be put there."""


class Uploader:
    """Puts the newest checkpoint into the storage beside the training, which never waits for it but at its end."""

    def __init__(self, storage: Storage, keep: int) -> None:
        self.storage, self.keep = storage, keep
        self._thread = threading.Thread()
        self._problem: str | None = None
        self._told: str | None = None

    def begin(self) -> None:
        """Called when there is a new checkpoint: one whose upload failed is no more the newest, and is left out."""
        if not self._thread.is_alive():
            self._thread = threading.Thread(target=self._push, name="sightline-upload", daemon=True)
            self._thread.start()

    def finish(self, patience: float | None = None) -> None:
        """Returns when the newest checkpoint is there, or after `patience` seconds (by default `LAST_PATIENCE`) of trying."""
        until, pause = time.monotonic() + (LAST_PATIENCE if patience is None else patience), 1.0
        if self._thread.is_alive():  # perhaps with an older one
            self._thread.join(until - time.monotonic())
        while True:
            self.begin()
            self._thread.join(max(0.0, until - time.monotonic()))
            if self._thread.is_alive():
                self._problem = "the upload takes too long"
            if self._problem is None:
                return
            if time.monotonic() + pause > until:
                self._told = None  # said again
                return
            time.sleep(pause)
            pause = min(2 * pause, 30.0)

    def news(self) -> list[str]:
        """What a person should know and was not told yet."""
        problem = self._problem
        if problem == self._told:
            return []
        self._told = problem
        if problem is None:
            return [f"{self.storage} answers again; the newest checkpoint is there"]
        return [
            f"the newest checkpoint is not in {self.storage}: {problem}; it lies in {self.storage.folder}, and the next one is tried again"
        ]

    def _push(self) -> None:
        try:
            self.storage.push(self.keep)
            self._problem = None
        except Exception as error:  # whatever the libraries behind fsspec raise
            self._problem = safe_line(error)
