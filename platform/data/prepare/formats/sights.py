"""Which points of a reconstructed model photos see, by the ids of the points."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np

from sightline.methods.random import key

_TOGETHER = 4096
"""Photos whose ids are put into one array."""


class Sights:
    """Photo -> the ids of the points that it sees, each once, rising. It takes 4 bytes a sight where ids fit into them."""

    def __init__(self) -> None:
        self._keys: list[int] = []
        self._ends = [0]
        self._new: list[np.ndarray] = []
        self._parts: list[np.ndarray] = []

    @classmethod
    def of(cls, photos: Iterable[str], ids: Iterable[Sequence[int] | np.ndarray]) -> Sights:
        seen = cls()
        for photo, own in zip(photos, ids, strict=True):
            seen.add(photo, np.asarray(own, np.int64))
        return seen

    def add(self, photo: str, ids: np.ndarray) -> None:
        own = np.unique(ids)
        self._keys.append(key(photo))
        self._ends.append(self._ends[-1] + len(own))
        self._new.append(own.astype(np.int32) if not len(own) or own[-1] < 2**31 > -own[0] else own)
        if len(self._new) == _TOGETHER:
            self._close()

    def rename(self, photos: Iterable[str]) -> None:
        """Other names of all photos, in the order in which they were added."""
        self._keys = [key(photo) for photo in photos]

    def _close(self) -> None:
        if self._new:
            self._parts.append(np.concatenate(self._new))
            self._new = []

    @cached_property
    def _ids(self) -> np.ndarray:
        self._close()
        ids = np.concatenate(self._parts) if self._parts else np.zeros(0, np.int32)
        self._parts = []
        return ids

    @cached_property
    def _rows(self) -> tuple[np.ndarray, np.ndarray]:
        keys = np.array(self._keys, np.uint64)
        order = np.argsort(keys, kind="stable")
        return keys[order], order

    @property
    def small(self) -> bool:
        """Whether ids fit into 4 bytes."""
        return self._ids.dtype == np.int32

    def __len__(self) -> int:
        """Sights of all photos together."""
        return self._ends[-1]

    def __getitem__(self, photo: str) -> np.ndarray:
        keys, rows = self._rows
        wanted = np.uint64(key(photo))
        at = int(np.searchsorted(keys, wanted))
        if at == len(keys) or keys[at] != wanted:
            raise KeyError(photo)
        row = int(rows[at])
        return self._ids[self._ends[row] : self._ends[row + 1]]
