"""How much two posed photos share: by depth, by the points of a model, or by geometry. Overlaps come one by one, so that few are held."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from sightline.methods.errors import BrokenSampleError
from sightline.platform.data.geometry import relative_pose, visible_share

from ..captures.cameras import Cameras, camera_of, skip_of
from ..formats.sights import Sights
from ..packed import Packed
from ..progress import follow
from ..workers import Workers
from .posed import Posed
from .rgbd import View
from .windows import compared

V = TypeVar("V", bound=Posed)
Two = tuple[int, int]
"""Numbers of two frames, the smaller first."""
ALL_PAIRS = 200
"""Up to so many frames every two are compared by depth; of more those `windows.GAPS` apart. Shared points are always found."""
_GRID, _DEPTHS = (9, 12), 8
"""Rows and columns of pixels, and depths, from which the overlap by geometry is computed."""
_ROWS = 1000
"""Photos whose shared points are counted together."""


class Shares(NamedTuple):
    """Pairs of frames and what they share, each an array."""

    ones: np.ndarray
    twos: np.ndarray
    """The larger number of each two."""
    ious: np.ndarray


class Directions:
    """Where each of some frames looks, in the world."""

    def __init__(self) -> None:
        self._numbers = array("d")

    def add(self, view: Posed) -> None:
        self._numbers.extend(view.pose[:3, 2].tolist())

    def cosine(self, one: int, two: int) -> float:
        """Of the angle between two of them."""
        first, second = (np.array(self._numbers[3 * number : 3 * number + 3]) for number in (one, two))
        return float(np.clip(first @ second, -1, 1))


def gathered(shares: Iterable[tuple[Two, float]]) -> Iterator[Shares]:
    """Those that come one by one, some thousand at a time."""
    shares = iter(shares)
    while some := list(islice(shares, _ROWS)):
        ones, twos = np.array([two for two, _ in some]).T
        yield Shares(ones, twos, np.array([share for _, share in some]))


def by_depth(views: Iterator[View], total: int, workers: Workers) -> Iterator[Shares]:
    """Of many frames few depth maps are held."""
    return gathered(_two_by_two(compared(_depth_iou, views, total, workers, ALL_PAIRS)))


def _two_by_two(found: Iterable[tuple[int, list[tuple[int, float]]]]) -> Iterator[tuple[Two, float]]:
    return (((one, two), share) for one, others in found for two, share in others)


def _depth_iou(one: View, two: View) -> float | None:
    """Intersection over union, in pixels of either; None where nothing is seen in both."""
    transform = relative_pose(one.pose, two.pose)
    if transform[2, 2] <= 0:
        return None
    forth = visible_share(one.depth, one.K, two.depth, two.K, transform)
    both = (forth + visible_share(two.depth, two.K, one.depth, one.K, np.linalg.inv(transform))) / 2 if forth > 0 else 0.0
    return both / (2 - both) if both > 0 else None


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
        yield Posed.of(frame, camera)


@dataclass(frozen=True)
class _Ranged(Posed):
    """A frame with what lies between its nearest and its farthest depth."""

    depths: tuple[float, float]

    @cached_property
    def points(self) -> np.ndarray:
        """3 x n, in the world: pixels of a grid at depths as even as disparity is."""
        height, width = self.camera.at.original
        rows, columns = (np.ravel(side) for side in np.mgrid[: _GRID[0], : _GRID[1]])
        pixels = np.stack([(columns + 0.5) * width / _GRID[1] - 0.5, (rows + 0.5) * height / _GRID[0] - 0.5, np.ones(len(rows))])
        depths = 1 / np.linspace(1 / self.depths[0], 1 / self.depths[1], _DEPTHS)
        local = (np.linalg.inv(self.camera.K) @ pixels)[:, None] * depths[:, None]  # type: ignore[arg-type]
        found: np.ndarray = self.pose[:3, :3] @ local.reshape(3, -1) + self.pose[:3, 3:]
        return found


def by_geometry(frames: Packed[Posed], ranges: Sequence[tuple[float, float]], workers: Workers) -> Iterator[Shares]:
    """The share of what lies before either photo that lies before both."""
    ranged = (_Ranged(view.frame, view.camera, depths) for view, depths in zip(frames, ranges, strict=True))
    return gathered(_two_by_two(compared(_geometry_iou, ranged, len(frames), workers, ALL_PAIRS)))


def _geometry_iou(one: _Ranged, other: _Ranged) -> float | None:
    if one.pose[:3, 2] @ other.pose[:3, 2] <= 0:
        return None
    both = (_inside_share(one.points, other, other.depths) + _inside_share(other.points, one, one.depths)) / 2
    return both / (2 - both) if both > 0 else None


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


def by_points(frames: Iterable[Posed], seen: Sights) -> Iterator[Shares]:
    """Of the points that either sees, the share that both see. A sight takes 12 bytes while they are counted."""
    from scipy.sparse import csr_matrix

    points, ends = array("i") if seen.small else array("q"), array("q", [0])
    for one in frames:
        points.frombytes(seen[one.frame.file].astype(points.typecode).tobytes())
        ends.append(len(points))
    count, rows = len(ends) - 1, np.asarray(ends)
    columns = np.asarray(points)
    if len(columns) and not 0 <= columns.min() <= columns.max() < 4 * len(columns) + _ROWS:
        _, columns = np.unique(columns, return_inverse=True)
    shape = count, int(columns.max(initial=-1)) + 1
    matrix = csr_matrix((np.ones(len(columns), np.int32), columns, rows), shape)
    transposed = matrix.T.tocsr()
    counts = np.diff(rows)
    for start in follow(range(0, count, _ROWS), "comparing thousands of photos", -(-count // _ROWS)):
        shared = (matrix[start : start + _ROWS] @ transposed).tocoo()
        one, two = shared.row.astype(np.int64) + start, shared.col.astype(np.int64)
        later = one < two
        one, two, both = one[later], two[later], shared.data[later]
        yield Shares(one, two, both / (counts[one] + counts[two] - both))
