"""Writes checkpoints beside the training: a copy in host memory, which a thread serialises, hashes, syncs and publishes."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from . import local
from .local import Note, TrainState
from .retention import Retention, prune

if TYPE_CHECKING:
    import torch

Named = Mapping[str, Mapping[str, "torch.Tensor"]]
"""File stem -> name -> tensor."""


@dataclass(frozen=True)
class Written:
    """A checkpoint that is whole on disk."""

    step: int
    path: Path
    seconds: float
    """Of writing, beside the training."""


class HostCopy:
    """Copies of tensors in host memory. The memory is kept for the next copy, because to get it from the system anew costs more than to
    copy."""

    def __init__(self) -> None:
        self._held: dict[str, dict[str, torch.Tensor]] = {}

    def take(self, tensors: Named) -> Named:
        """The tensors as they are now. The former copy is overwritten."""
        import torch

        held: dict[str, dict[str, torch.Tensor]] = {}
        for stem, named in tensors.items():
            before = self._held.get(stem, {})
            held[stem] = {}
            for name, value in named.items():
                copy = before.get(name)
                if copy is None or copy.shape != value.shape or copy.dtype != value.dtype:
                    copy = torch.empty(value.shape, dtype=value.dtype)
                held[stem][name] = copy.copy_(value.detach())  # of a GPU: waits for what is queued there
        self._held = held
        return held


class BackgroundWriter:
    """Writes checkpoints one at a time. Its methods belong to the thread that trains."""

    def __init__(self, folder: Path, retention: Retention) -> None:
        self.folder, self.retention = folder, retention
        self._copy = HostCopy()
        self._thread: threading.Thread | None = None
        self._outcome: Written | Exception | None = None

    def start(self, state: TrainState, tensors: Named, note: Note) -> None:
        """Copy the tensors and return; they are written meanwhile. Called when the former checkpoint is written, and told by `take`."""
        assert self._thread is None, "one write at a time"
        copy = self._copy.take(tensors)
        self._thread = threading.Thread(target=self._write, args=(state, copy, note), name="sightline-checkpoint", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Return when nothing is being written."""
        if self._thread is not None:
            self._thread.join()

    def take(self) -> Written | None:
        """The checkpoint that was written since the last call; None where there is none, or it is still being written.

        Raises what its writing raised: `MachineError` where the disk is full, and other errors.
        """
        if self._thread is None or self._thread.is_alive():
            return None
        self._thread, outcome, self._outcome = None, self._outcome, None
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def _write(self, state: TrainState, tensors: Named, note: Note) -> None:
        began = time.perf_counter()
        try:
            path = local.write(self.folder, state, tensors, note)
            prune(self.folder, self.retention)
            self._outcome = Written(state.step, path, time.perf_counter() - began)
        except Exception as error:
            self._outcome = error
