"""Pairs of images by file, and how one of them becomes a row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sightline.platform.data.images import Resize
from sightline.platform.data.kinds import Row
from sightline.platform.data.lenses import Lens

from .crop import Crop
from .files import read_file
from .views import companion, stored_view


@dataclass(frozen=True, slots=True)
class Pair:
    """Two images by file, and what is known of them. Matrices are flat, row-major, for the upright images before any resize."""

    id: str
    scene: str
    image1: str
    image2: str
    frame1: int = -1
    """Place in the sequence of its scene; -1 where there is none."""
    frame2: int = -1
    time: float | None = None
    K1: tuple[float, ...] | None = None
    K2: tuple[float, ...] | None = None
    T_2from1: tuple[float, ...] | None = None
    depth1: str | None = None
    depth2: str | None = None
    overlap: float | None = None
    depth_scale: float | None = None
    """Units of the depth maps in a metre; None for the usual ones (`read_depth`)."""
    lens1: Lens | None = None
    """Is undone in the stored image; `K1` is that of the file."""
    lens2: Lens | None = None
    crop1: Crop | None = None
    """Of the straightened photo; None for the whole of it."""
    crop2: Crop | None = None

    @property
    def label(self) -> None:
        """A pair has no class."""
        return None

    @property
    def frames(self) -> tuple[int, ...]:
        return self.frame1, self.frame2

    def row(self, resize: Resize) -> Row:
        """One row of kind `pairs`; intrinsics and depth follow the image. Raises `BrokenSampleError` with `reason: detail`."""
        row: dict[str, Any] = {"id": self.id, "scene": self.scene, "overlap": self.overlap, "time": self.time, "T_2from1": self.T_2from1}
        views = (
            ("1", self.image1, self.K1, self.lens1, self.depth1, self.crop1),
            ("2", self.image2, self.K2, self.lens2, self.depth2, self.crop2),
        )
        for view, image, K, lens, depth, crop in views:
            stored = stored_view(
                read_file(image),
                resize,
                K=None if K is None else np.reshape(K, (3, 3)),
                lens=lens,
                depth=companion(depth),
                depth_scale=self.depth_scale,
                crop=crop,
            )
            row[f"image{view}"], row[f"depth{view}"] = stored.image, stored.depth
            row[f"K{view}"] = None if stored.K is None else stored.K.ravel()
        return row
