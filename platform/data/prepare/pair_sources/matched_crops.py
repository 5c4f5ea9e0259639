"""Crops of two photos that show the same part of a scene at a similar scale, as CroCo v2 learns from them.

The authors cut crops on a grid of image 1 and found those of image 2 through 3-D points; their code and its numbers were never released.
Here a cell of the grid is matched by the similarity (scale, turn, shift) that fits best from its points to where image 2 shows them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sightline.platform.data.geometry import agreeing, relative_pose, reproject

from ..crop import Crop, Points
from .posed import Posed
from .rgbd import View

FEWEST = 8
"""Points that two crops must share."""


@dataclass(frozen=True)
class Seen:
    """Points of the scene that image 1 shows: where, which of them image 2 shows, and where that is."""

    one: Points
    both: np.ndarray
    """bool n."""
    two: Points
    """Of all n; only those of `both` mean something."""


@dataclass(frozen=True)
class Cropper:
    """`size`: of the stored crops in pixels, below which none is cut. `side`: of those of image 1, in its short sides. `least`: overlap."""

    size: int
    side: float
    least: float

    def pairs(self, seen: Seen, one: Posed, two: Posed, most: int, rng: np.random.Generator) -> tuple[list[tuple[Crop, Crop, float]], str]:
        """(at most `most` crops of both images with what they share, by falling share; why there is none)."""
        (height, width), other = one.camera.at.original, two.camera.at.original
        side = max(self.size, round(self.side * min(height, width)))
        if side > min(height, width) or self.size > min(other):
            return [], f"a photo is smaller than a crop of {side} px"
        columns, rows = width // side, height // side
        left, top = (int(rng.integers(free + 1)) for free in (width - columns * side, height - rows * side))
        found, few = [], 0
        for cell in range(columns * rows):
            first = Crop(top + cell // columns * side, left + cell % columns * side, side)
            inside = first.holds(seen.one)
            if (inside & seen.both).sum() < FEWEST:
                few += 1
                continue
            second = self._match(first, seen.one[inside & seen.both], seen.two[inside & seen.both], other)
            there = seen.both & second.holds(seen.two)
            share = float((inside & there).sum() / (inside | there).sum())
            if share >= self.least:
                found.append((first, second, share))
        found.sort(key=lambda pair: -pair[2])
        return found[:most], f"crops share fewer than {FEWEST} points" if few == columns * rows else f"crops share less than {self.least:g}"

    def _match(self, crop: Crop, one: Points, two: Points, size: tuple[int, int]) -> Crop:
        """The square of an image of this size that shows what the crop shows; as near to it as the image allows."""
        z1, z2 = one @ [1, 1j], two @ [1, 1j]
        turn = np.vdot(z1 - z1.mean(), z2 - z2.mean()) / max(np.vdot(z1 - z1.mean(), z1 - z1.mean()).real, 1e-9)
        middle = complex(crop.left + (crop.side - 1) / 2, crop.top + (crop.side - 1) / 2)
        centre = turn * (middle - z1.mean()) + z2.mean()
        side = int(np.clip(round(abs(turn) * crop.side), self.size, min(size)))
        places = [round(along - (side - 1) / 2) for along in (centre.imag, centre.real)]
        top, left = (int(np.clip(place, 0, whole - side)) for place, whole in zip(places, size, strict=True))
        return Crop(top, left, side)


def seen_by_depth(one: View, two: View) -> Seen:
    """The pixels of the small depth map of view 1 that have a depth."""
    index, x, y, z = reproject(one.depth, one.K, two.K, relative_pose(one.pose, two.pose))
    rows, columns = np.divmod(index, one.depth.shape[1])
    both = agreeing(two.depth, x, y, z)
    return Seen(_whole(one, np.stack([columns, rows], 1)), both, _whole(two, np.stack([x, y], 1)))


def _whole(view: View, xy: np.ndarray) -> Points:
    """Pixels of the small depth map as pixels of the photo."""
    scale = np.array(view.camera.at.original[::-1]) / view.depth.shape[::-1]
    found: np.ndarray = (xy + 0.5) * scale - 0.5
    return found


def seen_by_points(one: Posed, two: Posed, ids: tuple[np.ndarray, np.ndarray], places: Mapping[int, np.ndarray]) -> Seen:
    """The points of a model that both photos see: `ids` of those that either sees, and their `places` in the world."""
    shared = np.intersect1d(*ids)
    world = np.array([places[number] for number in shared.tolist() if number in places]).reshape(-1, 3)
    xy = [_projected(view, world) for view in (one, two)]
    there = np.isfinite(xy[0]).all(axis=1) & np.isfinite(xy[1]).all(axis=1)
    return Seen(xy[0][there], np.ones(int(there.sum()), bool), xy[1][there])


def _projected(view: Posed, world: np.ndarray) -> Points:
    """Where a photo, straightened, shows points of the world, n x 3; NaN where they are behind it."""
    K = view.camera.K
    assert K is not None
    if view.camera.lens is not None:
        K = view.camera.lens.pinhole(view.camera.at.original[::-1], K)
    x, y, z = K @ (view.pose[:3, :3].T @ (world - view.pose[:3, 3]).T)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(z > 0, [x / z, y / z], np.nan).T
