"""Writes shards and, last of all, the manifest that makes them a data set."""

from __future__ import annotations

import datetime
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs
from pydantic import BaseModel, ConfigDict

from sightline.methods.contract import Kind
from sightline.methods.errors import CallError, SightlineError
from sightline.platform.core.filesystem import exists, open_place, write_bytes

from .clouds import count_parts, decode_parts, decode_points, distinct
from .images import count_indices, decode_segmentation, open_image
from .manifest import MANIFEST_NAME, Manifest, Overlap, Provenance, Shard, Skipped, Source, fingerprint
from .schema import CLOUD_COLUMNS, DEPTH_COLUMNS, IMAGE_COLUMNS, schema_of

ROWS_PER_GROUP = 64
"""The stream shuffles row groups and reads whole ones: small enough to mix well, large enough that a read is not all overhead."""
SHARD_BYTES = 96 * 2**20
"""Large enough for object stores, small enough to hold in memory while it is written and to hash in under a second."""
EXAMPLES = 5
T = TypeVar("T", int, float)


class ShardStats(BaseModel):
    """A finished shard and what the manifest wants to know of its rows. Kept as JSON beside the shard while a preparation runs."""

    model_config = ConfigDict(frozen=True)
    shard: Shard | None
    """None where every row was skipped."""
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


def skipped_table(skips: Iterable[tuple[str, str]]) -> tuple[Skipped, ...]:
    """(what, why) pairs counted by reason, the first examples kept."""
    examples: dict[str, list[str]] = {}
    counts: Counter[str] = Counter()
    for what, why in skips:
        counts[why] += 1
        if len(examples.setdefault(why, [])) < EXAMPLES:
            examples[why].append(what)
    return tuple(Skipped(reason=why, count=count, examples=tuple(examples[why])) for why, count in counts.most_common())


def merge_skipped(tables: Iterable[Sequence[Skipped]]) -> tuple[Skipped, ...]:
    merged: dict[str, Skipped] = {}
    for item in (item for table in tables for item in table):
        old = merged.get(item.reason)
        merged[item.reason] = (
            item
            if old is None
            else Skipped(reason=item.reason, count=old.count + item.count, examples=(*old.examples, *item.examples)[:EXAMPLES])
        )
    return tuple(sorted(merged.values(), key=lambda item: -item.count))


def write_shard(folder: str, index: int, kind: str, rows: Iterable[Mapping[str, Any]], skips: Sequence[tuple[str, str]] = ()) -> ShardStats:
    """Writes shard number `index` of the data set in `folder`. `skips` may grow while `rows` is consumed; it is read at the end.

    The shard is built in memory and lands whole. Images are stored as they are (they are compressed already), every page with a
    checksum, and without Arrow's own type metadata (see `shards._open_shard`).
    """
    system, path = open_place(folder)
    schema = schema_of(kind)
    raw = {*IMAGE_COLUMNS[kind], *DEPTH_COLUMNS[kind], *CLOUD_COLUMNS, "segmentation"}
    sink = pa.BufferOutputStream()
    groups: list[int] = []
    seen = _Seen(kind)
    writer = pq.ParquetWriter(
        sink,
        schema,
        compression={_leaf(field): "none" if field.name in raw else "zstd" for field in schema},
        use_dictionary=["scene"],
        write_statistics=False,  # they would store the largest image twice more
        write_page_checksum=True,
        store_schema=False,
    )
    with writer:
        for block in _blocks(rows, ROWS_PER_GROUP):
            for row in block:
                seen.add(row)
            writer.write_table(pa.Table.from_pylist([dict(row) for row in block], schema=schema), row_group_size=ROWS_PER_GROUP)
            groups.append(len(block))
    if not groups:
        return ShardStats(shard=None, skipped=skipped_table(skips))
    data = sink.getvalue()
    name = f"{kind}-{index:05d}.parquet"
    system.create_dir(path, recursive=True)
    try:
        write_bytes(system, f"{path}/{name}", data)
    except OSError as error:
        raise SightlineError(f"cannot write {folder}/{name}: {error}", "make room or check your access, then run it again") from None
    shard = Shard(name=name, rows=sum(groups), bytes=data.size, sha256=hashlib.sha256(data).hexdigest(), row_groups=tuple(groups))
    return seen.stats(shard, skipped_table(skips))


def write_manifest(
    folder: str,
    kind: Kind,
    parts: Sequence[ShardStats],
    sources: Sequence[Source],
    command: str = "",
    skipped: Sequence[Skipped] = (),
    classes: Sequence[str] = (),
    ignore_index: int | None = None,
    notes: Sequence[str] = (),
    part_names: Sequence[str] = (),
) -> Manifest:
    """Writes the manifest of the shards in `parts`: from here on the data set exists. Raises `SightlineError` for no rows at all."""
    full = [part for part in parts if part.shard is not None]
    if not full:
        raise SightlineError(f"nothing could be stored in {folder}: every row was skipped", "see the reasons above")
    shards = tuple(part.shard for part in full if part.shard is not None)
    scenes: Counter[str] = Counter()
    labels: Counter[int] = Counter()
    pixels: Counter[int] = Counter()
    part_points: Counter[int] = Counter()
    for part in full:
        scenes.update(part.scenes)
        labels.update(part.labels)
        pixels.update(part.pixels)
        part_points.update(part.part_points)
    count = sum(part.overlap[0] for part in full)
    with_overlap = [part for part in full if part.overlap[0]]
    overlap = (
        Overlap(
            count=count,
            min=min(part.overlap[1] for part in with_overlap),
            mean=sum(part.overlap[2] for part in with_overlap) / count,
            max=max(part.overlap[3] for part in with_overlap),
            histogram=tuple(int(n) for n in np.sum([part.overlap_histogram for part in with_overlap], axis=0)),
        )
        if count
        else None
    )
    used = {name for part in full for name in part.columns}
    manifest = Manifest(
        kind=kind,
        rows=sum(shard.rows for shard in shards),
        columns=tuple(name for name in schema_of(kind).names if name in used),
        shards=shards,
        fingerprint=fingerprint(kind, shards, classes, ignore_index, part_names),
        provenance=Provenance(
            sources=tuple(sources),
            command=command,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            sightline_version=version("sightline"),
            skipped=merge_skipped([skipped, *(part.skipped for part in parts)]),
            notes=tuple(notes),
        ),
        image_min=_extreme([part.image_min for part in full], min),
        image_max=_extreme([part.image_max for part in full], max),
        scenes=dict(sorted(scenes.items())),
        overlap=overlap,
        classes=tuple(classes),
        ignore_index=ignore_index,
        labels=dict(sorted(labels.items())),
        pixels=dict(sorted(pixels.items())),
        points=_extremes([part.points for part in full]),
        distinct=_extremes([part.distinct for part in full]),
        extent=_extremes([part.extent for part in full]),
        part_points=dict(sorted(part_points.items())),
        parts=tuple(part_names),
    )
    system, path = open_place(folder)
    write_bytes(system, f"{path}/{MANIFEST_NAME}", manifest.to_json().encode())
    return manifest


def claim_folder(folder: str, overwrite: bool = False) -> None:
    """Makes `folder` ready for shards. Raises `CallError` where a finished data set lies there, unless `overwrite`.

    On `overwrite` the old manifest goes first, so that what is left of the old data set is never taken for one.
    """
    system, path = open_place(folder)
    if exists(system, f"{path}/{MANIFEST_NAME}"):
        if not overwrite:
            raise CallError(f"a finished data set lies in {folder} already", "choose another --out, or replace it with --overwrite")
        system.delete_file(f"{path}/{MANIFEST_NAME}")
        for info in system.get_file_info(fs.FileSelector(path)):
            if info.path.endswith(".parquet"):
                system.delete_file(info.path)
    try:
        system.create_dir(path, recursive=True)
    except OSError as error:
        raise CallError(f"cannot make the folder {folder}: {error}", "choose another --out") from None


class ShardWriter:
    """Rows in, data set out, for data that is made in one go: shards of about 96 MB, the manifest on a clean exit.

    `with ShardWriter(out, "pairs", sources=[...]) as writer: writer.write(row)`; an exception inside leaves no manifest.
    """

    def __init__(
        self,
        folder: str | Path,
        kind: Kind,
        *,
        sources: Sequence[Source] = (),
        command: str = "",
        overwrite: bool = False,
        classes: Sequence[str] = (),
        ignore_index: int | None = None,
        parts: Sequence[str] = (),
    ) -> None:
        self.folder, self.kind = str(folder), kind
        self._classes, self._ignore_index, self._part_names = classes, ignore_index, parts
        self.manifest: Manifest | None = None
        self._sources, self._command = sources, command
        self._rows: list[Mapping[str, Any]] = []
        self._bytes = 0
        self._parts: list[ShardStats] = []
        self._skips: list[tuple[str, str]] = []
        schema_of(kind)
        claim_folder(self.folder, overwrite)

    def write(self, row: Mapping[str, Any]) -> None:
        self._rows.append(row)
        self._bytes += sum(len(value) for value in row.values() if isinstance(value, bytes))
        if self._bytes >= SHARD_BYTES and len(self._rows) % ROWS_PER_GROUP == 0:
            self._flush()

    def skip(self, what: str, why: str) -> None:
        """Records that `what` did not enter the data set."""
        self._skips.append((what, why))

    def _flush(self) -> None:
        if self._rows:
            self._parts.append(write_shard(self.folder, len(self._parts), self.kind, self._rows))
            self._rows, self._bytes = [], 0

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            self._flush()
            skipped = skipped_table(self._skips)
            self.manifest = write_manifest(
                self.folder,
                self.kind,
                self._parts,
                self._sources,
                self._command,
                skipped,
                self._classes,
                self._ignore_index,
                part_names=self._part_names,
            )


class _Seen:
    """What the manifest wants to know, gathered while rows go by."""

    def __init__(self, kind: str) -> None:
        self._images = IMAGE_COLUMNS[kind]
        self._columns: set[str] = set()
        self._scenes: Counter[str] = Counter()
        self._sizes: list[tuple[int, int]] = []
        self._overlaps: list[float] = []
        self._labels: Counter[int] = Counter()
        self._pixels: Counter[int] = Counter()
        self._points: list[tuple[int, int]] = []
        self._distinct: list[tuple[int, int]] = []
        self._extents: list[tuple[float, float]] = []
        self._part_points: Counter[int] = Counter()
        self._digests: list[str] = []

    def add(self, row: Mapping[str, Any]) -> None:
        self._columns.update(name for name, value in row.items() if value is not None)
        if row.get("scene") is not None:
            self._scenes[row["scene"]] += 1
        if row.get("overlap") is not None:
            self._overlaps.append(float(row["overlap"]))
        if row.get("label") is not None:
            self._labels[int(row["label"])] += 1
        if row.get("segmentation") is not None:
            self._pixels.update(count_indices(decode_segmentation(row["segmentation"])))
        for name in self._images:
            width, height = open_image(row[name]).size
            self._sizes.append((height, width))
        single = row["points"] if "points" in row else row[self._images[0]] if len(self._images) == 1 else None
        if "points" in row:
            cloud = decode_points(row["points"])
            counts, side = (len(cloud), distinct(cloud)), float(np.ptp(cloud.astype(np.float64), axis=0).max())
            self._points.append((counts[0],) * 2)
            self._distinct.append((counts[1],) * 2)
            self._extents.append((side, side))
        if row.get("part") is not None:
            self._part_points.update(count_parts(decode_parts(row["part"])))
        if single is not None:
            self._digests.append(hashlib.blake2b(single, digest_size=8).hexdigest())

    def stats(self, shard: Shard, skipped: tuple[Skipped, ...]) -> ShardStats:
        values = np.asarray(self._overlaps)
        histogram = np.histogram(values.clip(0, 1), bins=10, range=(0, 1))[0] if len(values) else np.zeros(10, int)
        return ShardStats(
            shard=shard,
            columns=tuple(sorted(self._columns)),
            scenes=dict(self._scenes),
            image_min=_extreme(self._sizes, min),
            image_max=_extreme(self._sizes, max),
            overlap=(len(values), float(values.min()), float(values.sum()), float(values.max())) if len(values) else (0, 1.0, 0.0, 0.0),
            overlap_histogram=tuple(int(n) for n in histogram),
            labels=dict(self._labels),
            pixels=dict(self._pixels),
            points=_extremes(self._points),
            distinct=_extremes(self._distinct),
            extent=_extremes(self._extents),
            part_points=dict(self._part_points),
            digests=tuple(self._digests),
            skipped=skipped,
        )


def _extreme(sizes: Sequence[tuple[int, int] | None], pick: Any) -> tuple[int, int] | None:
    known = [size for size in sizes if size is not None]
    return (pick(h for h, _ in known), pick(w for _, w in known)) if known else None


def _extremes(ranges: Sequence[tuple[T, T] | None]) -> tuple[T, T] | None:
    """(least, most) of all."""
    known = [pair for pair in ranges if pair is not None]
    return (min(low for low, _ in known), max(high for _, high in known)) if known else None


def _leaf(field: pa.Field) -> str:
    """The name of a column as Parquet knows it."""
    return f"{field.name}.list.element" if pa.types.is_list(field.type) else str(field.name)


def _blocks(rows: Iterable[Mapping[str, Any]], size: int) -> Iterator[list[Mapping[str, Any]]]:
    block: list[Mapping[str, Any]] = []
    for row in rows:
        block.append(row)
        if len(block) == size:
            yield block
            block = []
    if block:
        yield block
