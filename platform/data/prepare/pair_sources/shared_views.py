"""How much two posed photos share: by depth, by the points of a model, or by geometry. Overlaps come one by one, so that few are held."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, islice
from pathlib import Path
from typing import TypeVar

import numpy as np

from sightline.methods.errors import BrokenSampleError
from sightline.platform.data.geometry import relative_pose, visible_share

from ..captures.cameras import Cameras, camera_of, skip_of
from .rgbd import GAPS, Posed, View, depth_views

V = TypeVar("V", bound=Posed)
Two = tuple[int, int]
"""Numbers of two frames, the smaller first."""
ALL_PAIRS = 200
"""Up to so many frames every two are compared by depth; of more only those that lie `GAPS` apart. Shared points are always found."""
_GRID, _DEPTHS = (9, 12), 8
"""Rows and columns of pixels, and depths, from which the overlap by geometry is computed."""
_ROWS = 1000
"""Photos whose shared points are counted together."""


def cosine(one: Posed, two: Posed) -> float:
    """Of the angle between two viewing directions."""
    return float(np.clip(one.pose[:3, 2] @ two.pose[:3, 2], -1, 1))


def by_depth(
    cameras: Cameras, folder: Path, scale: float | None, skips: list[tuple[str, str]]
) -> tuple[list[Posed], Iterator[tuple[Two, float]]]:
    """(the frames, which fill the list while the overlaps are taken; the overlaps). Of many frames few depth maps are held."""
    frames: list[Posed] = []

    def overlaps() -> Iterator[tuple[Two, float]]:
        for two, one, other in together(depth_views(cameras, folder, scale, skips), frames):
            if (overlap := _depth_iou(one, other)) > 0:
                yield two, overlap

    return frames, overlaps()


def together(views: Iterator[V], frames: list[Posed]) -> Iterator[tuple[Two, V, V]]:
    """Every two of up to `ALL_PAIRS` views, and of more those that lie `GAPS` apart; all are added to `frames`, without their depth."""

    def kept() -> Iterator[V]:
        for view in views:
            frames.append(Posed(view.frame, view.camera, view.pose))
            yield view

    source = kept()
    held = deque(islice(source, ALL_PAIRS + 1))
    if len(held) <= ALL_PAIRS:
        for one, two in combinations(range(len(held)), 2):
            yield (one, two), held[one], held[two]
        return
    first = 0
    while held:
        held.extend(islice(source, GAPS[-1] + 1 - len(held)))
        for gap in GAPS:
            if gap < len(held):
                yield (first, first + gap), held[0], held[gap]
        held.popleft()
        first += 1


def _depth_iou(one: View, two: View) -> float:
    """Intersection over union, in pixels of either."""
    transform = relative_pose(one.pose, two.pose)
    if transform[2, 2] <= 0:
        return 0.0
    forth = visible_share(one.depth, one.K, two.depth, two.K, transform)
    both = (forth + visible_share(two.depth, two.K, one.depth, one.K, np.linalg.inv(transform))) / 2 if forth > 0 else 0.0
    return both / (2 - both)


def posed_frames(cameras: Cameras, folder: Path, skips: list[tuple[str, str]]) -> Iterator[Posed]:
    """The frames whose camera can be used; why others cannot is added to `skips`."""
    skips += cameras.repeated
    for frame in cameras.ordered:
        try:
            camera = camera_of(frame, folder, straighten=True)
            if camera.K is None or camera.pose is None:
                raise BrokenSampleError(camera.faults[0] if camera.faults else "a frame lacks K or pose")
        except BrokenSampleError as error:
            skips.append(skip_of(frame.file, str(error)))
            continue
        yield Posed(frame, camera, camera.pose)


@dataclass(frozen=True)
class _Ranged(Posed):
    """A frame with points before it, between its nearest and its farthest depth."""

    depths: tuple[float, float]
    points: np.ndarray
    """3 x n, in the world."""


def by_geometry(frames: Sequence[Posed], ranges: Sequence[tuple[float, float]]) -> Iterator[tuple[Two, float]]:
    """The share of what lies before either photo that lies before both, for pixels of a grid at depths as even as disparity is."""

    def ranged() -> Iterator[_Ranged]:
        for view, (near, far) in zip(frames, ranges, strict=True):
            height, width = view.camera.at.original
            rows, columns = (np.ravel(side) for side in np.mgrid[: _GRID[0], : _GRID[1]])
            pixels = np.stack([(columns + 0.5) * width / _GRID[1] - 0.5, (rows + 0.5) * height / _GRID[0] - 0.5, np.ones(len(rows))])
            depths = 1 / np.linspace(1 / near, 1 / far, _DEPTHS)
            local = (np.linalg.inv(view.camera.K) @ pixels)[:, None] * depths[:, None]  # type: ignore[arg-type]
            points = view.pose[:3, :3] @ local.reshape(3, -1) + view.pose[:3, 3:]
            yield _Ranged(view.frame, view.camera, view.pose, (near, far), points)

    for two, one, other in together(ranged(), []):
        if cosine(one, other) <= 0:
            continue
        both = (_inside_share(one.points, other, other.depths) + _inside_share(other.points, one, one.depths)) / 2
        if both > 0:
            yield two, both / (2 - both)


def _inside_share(world: np.ndarray, view: Posed, depths: tuple[float, float]) -> float:
    """Of points, 3 x n, those that fall in a view, from half the nearest to twice the farthest depth."""
    assert view.camera.K is not None
    x, y, z = view.camera.K @ (view.pose[:3, :3].T @ (world - view.pose[:3, 3:]))
    height, width = view.camera.at.original
    return float(
        (
            (z > depths[0] / 2) & (z < 2 * depths[1]) & (x > -z / 2) & (x < (width - 0.5) * z) & (y > -z / 2) & (y < (height - 0.5) * z)
        ).mean()
    )


def by_points(frames: Sequence[Posed], seen: Mapping[str, np.ndarray]) -> Iterator[tuple[Two, float]]:
    """Of the points that either sees, the share that both see."""
    from scipy.sparse import csr_matrix

    points = [np.unique(seen[one.frame.file]) for one in frames]
    counts = np.array([len(one) for one in points], np.int64)
    columns = np.concatenate(points) if points else np.zeros(0, np.int64)
    _, columns = np.unique(columns, return_inverse=True)
    rows = np.repeat(np.arange(len(points)), counts)
    matrix = csr_matrix((np.ones(len(rows), np.int32), (rows, columns)), (len(points), int(columns.max(initial=-1)) + 1))
    for start in range(0, len(points), _ROWS):
        shared = (matrix[start : start + _ROWS] @ matrix.T).tocoo()
        one, two = shared.row + start, shared.col
        later = one < two
        one, two, both = one[later], two[later], shared.data[later]
        yield from zip(zip(one.tolist(), two.tolist(), strict=True), (both / (counts[one] + counts[two] - both)).tolist(), strict=True)
