"""Rank 0's uploads to the storage, in a thread beside the training, which never waits for them except at its end."""

from __future__ import annotations

import threading
import time

from tenacity import Retrying, retry_if_not_result, stop_before_delay, wait_exponential

from sightline.platform.core.redaction import safe_line

from .remote import Storage
from .retention import Retention

LAST_UPLOAD_TIMEOUT_SECONDS = 300.0
"""For the upload of a training's last checkpoint."""


class Uploader:
    """Uploads the newest checkpoint in the background."""

    def __init__(self, storage: Storage, retention: Retention) -> None:
        self.storage, self.retention = storage, retention
        self._thread = threading.Thread()
        self._problem: str | None = None
        self._told: str | None = None

    def begin(self) -> None:
        """Start an upload, where none is running. Called for each new checkpoint, so one whose upload failed is skipped for the next."""
        if not self._thread.is_alive():
            self._thread = threading.Thread(target=self._push, name="sightline-upload", daemon=True)
            self._thread.start()

    def finish(self, timeout: float | None = None) -> None:
        """Return when the newest checkpoint is uploaded, or after `timeout` seconds (by default `LAST_UPLOAD_TIMEOUT_SECONDS`)."""
        timeout = LAST_UPLOAD_TIMEOUT_SECONDS if timeout is None else timeout
        deadline = time.monotonic() + timeout
        if self._thread.is_alive():  # it may be uploading an older checkpoint
            self._thread.join(timeout)

        def upload() -> bool:
            self.begin()
            self._thread.join(max(0.0, deadline - time.monotonic()))
            if self._thread.is_alive():
                self._problem = "the upload takes too long"
            return self._problem is None

        def give_up(state: object) -> None:
            self._told = None  # so that `news` tells the problem again

        left = max(0.0, deadline - time.monotonic())
        Retrying(
            retry=retry_if_not_result(bool), stop=stop_before_delay(left), wait=wait_exponential(max=30), retry_error_callback=give_up
        )(upload)

    def news(self) -> list[str]:
        """What changed since the last call, as sentences for a person."""
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
            self.storage.push(self.retention)
            self._problem = None
        except Exception as error:  # the libraries behind fsspec raise many types
            self._problem = safe_line(error)
