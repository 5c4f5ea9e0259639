"""Looks at every row of a data set, row group by row group, in processes where they are many.

About 60 bytes are kept of an image, whatever its size.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np

from sightline.methods.errors import BrokenSampleError, MachineError, SightlineError
from sightline.platform.core.processes import begin_helper
from sightline.platform.data.clouds import distinct
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.geometry import camera_matrix, camera_pose
from sightline.platform.data.kinds import Row, find_kind
from sightline.platform.data.schema import decode_row

from .looks import Look, look_at
from .rows import Rows

NO_LABEL = -1
IMAGE = np.dtype(
    [
        *(("row", "<i8"), ("view", "u1"), ("label", "<i4"), ("digest", "<u8"), ("phash", "<u8"), ("dhash", "<u8")),
        *((name, "<f4") for name in Look._fields[2:]),
    ]
)
"""Of each image: its row, which image of the row, its label, a digest of its bytes, its `Look`."""
CLOUD = np.dtype(
    [
        *(("row", "<i8"), ("label", "<i4"), ("digest", "<u8"), ("places", "<u8")),
        *(("points", "<i4"), ("distinct", "<i4"), ("extent", "<f4"), ("unit_normals", "<f4")),
    ]
)
"""Of each cloud; `places` is a digest of its points in any order, `unit_normals` the share of normals of length 1, NaN without normals."""
PAIR = np.dtype([("row", "<i8"), ("overlap", "<f4"), ("angle", "<f4")])
"""Of each pair that has one of them: co-visibility, and degrees between the viewing directions; NaN where unknown."""
EXAMPLES = 24
"""Broken rows that are named."""
BLOCK = 4
"""Row groups that are one piece of work."""
MANY = 16
"""Below so many pieces, starting processes takes longer than it saves."""
MOST = 16
"""Processes at most."""


@dataclass(frozen=True)
class Broken:
    """A row that cannot be used."""

    row: int
    id: str
    reason: str


@dataclass(frozen=True)
class Scan:
    """What was seen of one data set, or of one of its row groups."""

    rows: int = 0
    """Looked at."""
    images: np.ndarray = field(default_factory=lambda: np.zeros(0, IMAGE))
    clouds: np.ndarray = field(default_factory=lambda: np.zeros(0, CLOUD))
    pairs: np.ndarray = field(default_factory=lambda: np.zeros(0, PAIR))
    masks: int = 0
    holding: Counter[int] = field(default_factory=Counter)
    """How many masks hold a class at all."""
    broken: tuple[Broken, ...] = ()
    """The first ones."""
    faults: Counter[str] = field(default_factory=Counter)
    """Broken rows by reason, without what differs from row to row."""
    unreadable: tuple[str, ...] = ()
    """Row groups that could not be read at all."""

    @property
    def broken_rows(self) -> int:
        return self.faults.total()


def scan(dataset: Dataset, at_most: int | None = None, progress: Callable[[int], None] | None = None) -> Scan:
    """Every row, or those of random row groups (`Rows.drawn`). Calls `progress(rows just done)`.

    The rows of a row group that cannot be read are broken ones.
    """
    rows = Rows(dataset)
    groups = rows.drawn(at_most)
    blocks = [groups[start : start + BLOCK] for start in range(0, len(groups), BLOCK)]
    done: list[Scan] = []
    for part in _parts(rows, blocks):
        done.append(part)
        if progress:
            progress(part.rows)
        if len(done) == 256:  # few long arrays in place of many short ones
            done = [_joined(done)]
    return _joined(done)


def _parts(rows: Rows, blocks: Sequence[Sequence[int]]) -> Iterator[Scan]:
    """What each block of row groups holds, in order; only a few are under way at once. Raises `MachineError` where a process is killed."""
    workers = min(os.cpu_count() or 1, MOST, len(blocks))
    if workers < 2 or len(blocks) < MANY:
        yield from (_scan_block(rows, block) for block in blocks)
        return
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _begin, (rows.dataset,))
    waiting: deque[Future[Scan]] = deque()
    try:
        for block in blocks:
            waiting.append(pool.submit(_scan_here, block))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        hint = "give the same command again; --at-most reads fewer rows"
        raise MachineError("a process that read rows was killed, perhaps because the memory was used up", hint) from error
    finally:
        pool.shutdown(cancel_futures=True)


_rows: Rows | None = None
"""In a process that reads rows."""


def _begin(dataset: Dataset) -> None:
    global _rows
    begin_helper()
    _rows = Rows(dataset)


def _scan_here(groups: Sequence[int]) -> Scan:
    assert _rows is not None
    return _scan_block(_rows, groups)


def _scan_block(rows: Rows, groups: Sequence[int]) -> Scan:
    return _joined([_scan_group(rows, group) for group in groups])


def _joined(parts: Sequence[Scan]) -> Scan:
    return Scan(
        rows=sum(part.rows for part in parts),
        images=np.concatenate([np.zeros(0, IMAGE), *(part.images for part in parts)]),
        clouds=np.concatenate([np.zeros(0, CLOUD), *(part.clouds for part in parts)]),
        pairs=np.concatenate([np.zeros(0, PAIR), *(part.pairs for part in parts)]),
        masks=sum(part.masks for part in parts),
        holding=sum((part.holding for part in parts), Counter()),
        broken=tuple(chain.from_iterable(part.broken for part in parts))[:EXAMPLES],
        faults=sum((part.faults for part in parts), Counter()),
        unreadable=tuple(chain.from_iterable(part.unreadable for part in parts)),
    )


def _scan_group(rows: Rows, group: int) -> Scan:
    dataset, start = rows.dataset, int(rows.starts[group])
    shard, inside, count = dataset.row_groups[group]
    try:
        table = dataset.read(shard, inside)
    except SightlineError as error:
        return Scan(rows=count, faults=Counter({"row group that cannot be read": count}), unreadable=(str(error),))
    found = _Found(dataset.kind)
    for number, row in enumerate(table.to_pylist(), start):
        found.add(number, row)
    return found.scan(count)


class _Found:
    """Collects what is seen of the rows of one row group."""

    def __init__(self, kind: str) -> None:
        self.kind = find_kind(kind)
        self.images: list[tuple[Any, ...]] = []
        self.clouds: list[tuple[Any, ...]] = []
        self.pairs: list[tuple[Any, ...]] = []
        self.masks = 0
        self.holding: Counter[int] = Counter()
        self.broken: list[Broken] = []

    def add(self, number: int, row: Row) -> None:
        try:
            sample = decode_row(row, self.kind.name, depth=True)
            _check_cameras(row, sample)
            images = [(name, look_at(_large_enough(name, sample[name]))) for name in self.kind.holding("image") if name in sample]
            clouds = [_cloud(row[name], sample, name) for name in self.kind.holding("cloud") if name in self.kind.samples]
        except (BrokenSampleError, ValueError) as error:
            self.broken.append(Broken(number, str(row.get("id", "?")), str(error).removeprefix(f"{row.get('id')}: ")))
            return
        label = NO_LABEL if row.get("label") is None else int(row["label"])
        self.images += [(number, view, label, digest(row[name]), *look) for view, (name, look) in enumerate(images)]
        self.clouds += [(number, label, *cloud) for cloud in clouds]
        if sample.get("overlap") is not None or "T_2from1" in sample:
            overlap = sample.get("overlap")
            self.pairs.append((number, np.nan if overlap is None else overlap, viewing_angle(sample.get("T_2from1"))))
        for name in self.kind.holding("mask"):
            if name in sample:
                self.masks += 1
                self.holding.update(np.flatnonzero(np.bincount(sample[name].ravel())).tolist())

    def scan(self, rows: int) -> Scan:
        return Scan(
            rows=rows,
            images=np.array(self.images, IMAGE),
            clouds=np.array(self.clouds, CLOUD),
            pairs=np.array(self.pairs, PAIR),
            masks=self.masks,
            holding=self.holding,
            broken=tuple(self.broken),
            faults=Counter(_kind_of_fault(one.reason) for one in self.broken),
        )


def digest(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def viewing_angle(T_2from1: np.ndarray | None) -> float:
    """Degrees between the directions in which the two cameras look; NaN where the pose is unknown."""
    return float("nan") if T_2from1 is None else float(np.degrees(np.arccos(np.clip(T_2from1[2, 2], -1, 1))))


def _check_cameras(row: Row, sample: Mapping[str, Any]) -> None:
    """Raises `BrokenSampleError` for intrinsics and poses that are none."""
    for name, check in (("K1", camera_matrix), ("K2", camera_matrix), ("T_2from1", camera_pose)):
        if name in sample:
            try:
                check(sample[name])
            except BrokenSampleError as error:
                raise BrokenSampleError(f"{row.get('id')}: {name}: {error}") from None


def _large_enough(name: str, image: np.ndarray) -> np.ndarray:
    if min(image.shape[:2]) < 3:
        raise BrokenSampleError(f"{name}: tiny image: {image.shape[1]} x {image.shape[0]}")
    return image


def _cloud(data: bytes, sample: Mapping[str, Any], name: str) -> tuple[int, int, int, int, float, float]:
    points = sample[name]
    normals = sample.get("normals")
    unit = float("nan")
    if normals is not None:
        if len(normals) != len(points):
            raise BrokenSampleError(f"normals: {len(normals):,} of {len(points):,} points")
        unit = float((np.abs(np.linalg.norm(normals, axis=1) - 1) < 0.02).mean())
    part = sample.get("part")
    if part is not None and len(part) != len(points):
        raise BrokenSampleError(f"part: {len(part):,} of {len(points):,} points")
    extent = float(np.ptp(points.astype(np.float64), axis=0).max())
    return digest(data), _places(points), len(points), distinct(points), extent, unit


def _places(points: np.ndarray) -> int:
    """A digest of the points that is the same in any order: the sum of one of each."""
    x, y, z = (points + np.float32(0)).view("<u4").astype(np.uint64).T  # -0 becomes 0
    mixed = x * np.uint64(0x9E3779B97F4A7C15) ^ y * np.uint64(0xC2B2AE3D27D4EB4F) ^ z * np.uint64(0x165667B19E3779F9)
    mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    return int((mixed ^ (mixed >> np.uint64(32))).sum(dtype=np.uint64))


def _kind_of_fault(reason: str) -> str:
    """The reason without its figures, so that equal faults are counted together: `column: what is wrong`."""
    return ": ".join(reason.split(": ")[:2])
