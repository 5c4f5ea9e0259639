"""Pairs of images by file, and how one of them becomes a row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sightline.platform.data.geometry import scale_intrinsics, shift_intrinsics
from sightline.platform.data.images import Resize, resized_depth, resized_image
from sightline.platform.data.kinds import Row

from .files import read_file


@dataclass(frozen=True, slots=True)
class Pair:
    """Two images by file, and what is known of them. Matrices are flat, row-major, for the images as they lie on disk."""

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
        for view, image, K, depth in (("1", self.image1, self.K1, self.depth1), ("2", self.image2, self.K2, self.depth2)):
            row[f"image{view}"], at = resized_image(read_file(image), resize)
            if K is not None:
                moved = shift_intrinsics(np.reshape(K, (3, 3)), at.left, at.top)
                row[f"K{view}"] = scale_intrinsics(moved, at.stored[1] / at.cut[1], at.stored[0] / at.cut[0]).ravel()
            if depth is not None:
                row[f"depth{view}"] = resized_depth(read_file(depth), at)
        return row
