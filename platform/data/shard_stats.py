"""What the manifest says of the rows: counted shard by shard while rows are written, then added up."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict

from .clouds import count_parts, decode_parts, decode_points, distinct
from .displacement import MAPS, decode_disparity, decode_flow, decode_occluded
from .images import count_indices, decode_segmentation, open_image, plain_jpeg_size
from .kinds import Row, find_kind
from .manifest import Map, Overlap, Shard, Skipped

OFFSET = "offset"
"""Of a row that is written: what was taken from its coordinates. No column: the manifest has it."""
REASONS = 5
"""Reasons that an error tells."""
EXAMPLES = 5
"""Names that are kept of what was skipped for one reason."""
T = TypeVar("T", int, float)
K = TypeVar("K", int, str)


class ShardStats(BaseModel):
    """A finished shard and what the manifest says of its rows. Kept as JSON beside the shard while a preparation runs."""

    model_config = ConfigDict(frozen=True)
    shard: Shard | None
    """None where every row was skipped."""
    schema_version: int = 1
    columns: tuple[str, ...] = ()
    scenes: dict[str, int] = {}
    image_min: tuple[int, int] | None = None
    image_max: tuple[int, int] | None = None
    overlap: tuple[int, float, float, float] = (0, 1.0, 0.0, 0.0)
    """count, min, sum, max"""
    overlap_histogram: tuple[int, ...] = (0,) * 10
    labels: dict[int, int] = {}
    pixels: dict[int, int] = {}
    points: tuple[int, int] | None = None
    """Fewest and most of a cloud."""
    distinct: tuple[int, int] | None = None
    extent: tuple[float, float] | None = None
    part_points: dict[int, int] = {}
    digests: tuple[str, ...] = ()
    """Of every single image or cloud, to find those that are in two splits; not kept for pairs, whose rows share images."""
    skipped: tuple[Skipped, ...] = ()
    remarks: dict[str, int] = {}
    """What was said of samples that are stored -> how many (`remarks.remark`)."""
    maps: dict[str, Map] = {}
    offsets: dict[str, tuple[float, float, float]] = {}
    """By id, of clouds that lie far from the origin."""


class StatsCollector:
    """Collects the statistics of one shard, row by row."""

    def __init__(self, kind: str) -> None:
        found = find_kind(kind)
        self._images, self._clouds = found.holding("image"), [name for name in found.holding("cloud") if name in found.samples]
        self._only = found.samples[0] if len(found.samples) == 1 else None
        self.columns: set[str] = set()
        """Those that a row had."""
        self._scenes: Counter[str] = Counter()
        self._sizes: list[tuple[int, int]] = []
        self._overlaps: list[float] = []
        self._labels: Counter[int] = Counter()
        self._pixels: Counter[int] = Counter()
        self._points: list[int] = []
        self._distinct: list[int] = []
        self._extents: list[float] = []
        self._part_points: Counter[int] = Counter()
        self._digests: list[str] = []
        self._maps: dict[str, Map] = {}
        self._offsets: dict[str, tuple[float, float, float]] = {}

    def add(self, row: Row) -> None:
        """Count one stored row."""
        self.columns.update(name for name, value in row.items() if value is not None)
        if row.get(OFFSET) is not None:
            self._offsets[row["id"]] = row[OFFSET]
        if row.get("scene") is not None:
            self._scenes[row["scene"]] += 1
        if row.get("overlap") is not None:
            self._overlaps.append(float(row["overlap"]))
        if row.get("label") is not None:
            self._labels[int(row["label"])] += 1
        if row.get("segmentation") is not None:
            self._pixels.update(count_indices(decode_segmentation(row["segmentation"])))
        if row.get("part") is not None:
            self._part_points.update(count_parts(decode_parts(row["part"])))
        for name in MAPS:
            if row.get(name) is not None:
                self._maps[name] = _added(self._maps.get(name), measured(name, row[name]))
        for name in self._images:
            self._sizes.append(plain_jpeg_size(row[name]) or open_image(row[name]).size[::-1])
        for name in self._clouds:
            cloud = decode_points(row[name])
            self._points.append(len(cloud))
            self._distinct.append(distinct(cloud))
            self._extents.append(float(np.ptp(cloud.astype(np.float64), axis=0).max()))
        if self._only and isinstance(row[self._only], bytes):
            self._digests.append(hashlib.blake2b(row[self._only], digest_size=8).hexdigest())

    def stats(self, shard: Shard, skipped: tuple[Skipped, ...]) -> ShardStats:
        """The statistics of all rows so far, which make up `shard`."""
        values = np.asarray(self._overlaps)
        histogram = np.histogram(values.clip(0, 1), bins=10, range=(0, 1))[0] if len(values) else np.zeros(10, int)
        return ShardStats(
            shard=shard,
            columns=tuple(sorted(self.columns)),
            scenes=dict(self._scenes),
            image_min=extreme(self._sizes, min),
            image_max=extreme(self._sizes, max),
            overlap=(len(values), float(values.min()), float(values.sum()), float(values.max())) if len(values) else (0, 1.0, 0.0, 0.0),
            overlap_histogram=tuple(int(n) for n in histogram),
            labels=dict(self._labels),
            pixels=dict(self._pixels),
            points=_range(self._points),
            distinct=_range(self._distinct),
            extent=_range(self._extents),
            part_points=dict(self._part_points),
            digests=tuple(self._digests),
            skipped=skipped,
            maps=self._maps,
            offsets=self._offsets,
        )


def total(counts: Iterable[Mapping[K, int]]) -> dict[K, int]:
    """The sum of the counts of all shards, in the order of the keys."""
    sums: Counter[K] = Counter()
    for one in counts:
        sums.update(one)
    return dict(sorted(sums.items()))


def measured(name: str, data: bytes) -> Map:
    """One disparity, flow or occlusion."""
    if name == "occluded":
        occluded = decode_occluded(data)
        return Map(rows=1, pixels=occluded.size, known=int(occluded.sum()), total=0.0, largest=0.0)
    length = decode_disparity(data) if name == "disparity" else np.hypot(*np.moveaxis(decode_flow(data), -1, 0))
    known = length[np.isfinite(length)].astype(np.float64)
    return Map(rows=1, pixels=length.size, known=known.size, total=float(known.sum()), largest=float(known.max(initial=0.0)))


def total_maps(parts: Sequence[ShardStats]) -> dict[str, Map]:
    """Of all shards, by column."""
    sums: dict[str, Map] = {}
    for part in parts:
        for name, own in part.maps.items():
            sums[name] = _added(sums.get(name), own)
    return {name: sums[name] for name in MAPS if name in sums}


def _added(one: Map | None, other: Map) -> Map:
    if one is None:
        return other
    sums = {name: getattr(one, name) + getattr(other, name) for name in ("rows", "pixels", "known", "total")}
    return Map(**sums, largest=max(one.largest, other.largest))


def total_overlap(parts: Sequence[ShardStats]) -> Overlap | None:
    """The overlap of all pairs that have one, None where no pair has."""
    known = [part for part in parts if part.overlap[0]]
    if not known:
        return None
    count = sum(part.overlap[0] for part in known)
    return Overlap(
        count=count,
        min=min(part.overlap[1] for part in known),
        mean=sum(part.overlap[2] for part in known) / count,
        max=max(part.overlap[3] for part in known),
        histogram=tuple(int(n) for n in np.sum([part.overlap_histogram for part in known], axis=0)),
    )


def extreme(sizes: Iterable[tuple[int, int] | None], pick: Callable[[Iterable[int]], int]) -> tuple[int, int] | None:
    """The smallest or largest height and width, each by itself."""
    known = [size for size in sizes if size is not None]
    return (pick(h for h, _ in known), pick(w for _, w in known)) if known else None


def total_range(ranges: Iterable[tuple[T, T] | None]) -> tuple[T, T] | None:
    """The (least, most) of all ranges."""
    return _range([end for ends in ranges if ends is not None for end in ends])


def _range(values: Sequence[T]) -> tuple[T, T] | None:
    return (min(values), max(values)) if values else None


def skipped_table(skips: Iterable[tuple[str, str]]) -> tuple[Skipped, ...]:
    """(what, why) pairs counted by reason, with the first examples of each."""
    examples: dict[str, list[str]] = {}
    counts: Counter[str] = Counter()
    for what, why in skips:
        counts[why] += 1
        if len(examples.setdefault(why, [])) < EXAMPLES:
            examples[why].append(what)
    return tuple(Skipped(reason=why, count=count, examples=tuple(examples[why])) for why, count in counts.most_common())


def merge_skipped(tables: Iterable[Sequence[Skipped]]) -> tuple[Skipped, ...]:
    """Several tables as one, the most frequent reason first."""
    merged: dict[str, Skipped] = {}
    for item in (item for table in tables for item in table):
        old = merged.get(item.reason)
        if old is not None:
            item = Skipped(reason=item.reason, count=old.count + item.count, examples=(*old.examples, *item.examples)[:EXAMPLES])
        merged[item.reason] = item
    return tuple(sorted(merged.values(), key=lambda item: -item.count))


def reasons(skipped: Sequence[Skipped]) -> str:
    """Why rows were skipped, in one line, the most frequent reasons first."""
    told = [f"{item.count} x {item.reason} ({', '.join(item.examples[:2])})" for item in skipped[:REASONS]]
    more = len(skipped) - REASONS
    return "; ".join([*told, *([f"and {more} other reason(s)"] if more > 0 else [])])
