"""What all sources share: items that become rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from sightline.methods.errors import BrokenSampleError
from sightline.platform.data.images import Resize
from sightline.platform.data.kinds import Row

Skip = Callable[[str, str], None]
"""(what, why)"""


class Item(Protocol):
    """Something in files that becomes one row."""

    @property
    def id(self) -> str: ...

    @property
    def scene(self) -> str | None: ...

    @property
    def label(self) -> int | None: ...

    @property
    def frames(self) -> tuple[int, ...]:
        """The places of its files in the sequence of their scene, -1 where there is none."""
        ...

    def row(self, resize: Resize) -> Row:
        """The row, its images cut, resized and encoded. Raises `BrokenSampleError` with `reason: detail`."""
        ...


@dataclass(frozen=True)
class ItemRows:
    """The rows of one shard: its items, read, cut, resized and encoded."""

    held: Sequence[Item]
    resize: Resize
    order: np.ndarray | None = None
    """The place among these of the item of each row; None: they are in order."""

    @property
    def count(self) -> int:
        return len(self.held)

    @property
    def items(self) -> tuple[Item, ...]:
        found = tuple(self.held)
        return found if self.order is None else tuple(found[place] for place in self.order.tolist())

    def __repr__(self) -> str:
        return f"ItemRows(items={self.items!r}, resize={self.resize!r})"

    def rows(self, skip: Skip) -> Iterator[Row]:
        for item in self.items:
            try:
                yield item.row(self.resize)
            except BrokenSampleError as error:
                skip_broken(skip, item.id, error)


def skip_broken(skip: Skip, what: str, error: BrokenSampleError) -> None:
    """Count the error by its reason alone; its detail goes with the name."""
    reason, _, detail = str(error).partition(": ")
    skip(f"{what} ({detail})" if detail else what, reason)
