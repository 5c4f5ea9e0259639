"""Writes the shards of a data set and, at the end, its manifest."""

from __future__ import annotations

import datetime
import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from sightline.methods.contract import Kind
from sightline.methods.errors import CallError, SightlineError
from sightline.platform.core.filesystem import exists, open_place, write_bytes
from sightline.platform.core.version import installed_version

from .displacement import MAPS
from .kinds import Column, DataKind, Row, find_kind
from .manifest import MANIFEST_NAME, Manifest, Provenance, Shard, Skipped, Source, fingerprint
from .shard_stats import (
    ShardStats,
    StatsCollector,
    extreme,
    merge_skipped,
    reasons,
    skipped_table,
    total,
    total_maps,
    total_overlap,
    total_range,
)

ROWS_PER_GROUP = 64
"""The stream shuffles row groups and reads whole ones: small enough to mix well, large enough that a read is not all overhead."""
GROUP_BYTES = 32 * 2**20
"""Of disparity, flow and occlusion in a row group: they are unpacked with it, and are several times as large as their images."""
SHARD_BYTES = 96 * 2**20
"""Large enough for object stores, small enough to hold in memory while it is written and to hash in under a second."""


def write_shard(folder: str, index: int, kind: str, rows: Iterable[Row], skips: Sequence[tuple[str, str]] = ()) -> ShardStats:
    """Writes shard number `index` of the data set in `folder`. `skips` may grow while `rows` is consumed; it is read at the end.

    The shard is built in memory and written in one go. Images are stored as they are (they are compressed already), every page with a
    checksum. Arrow's own type metadata are there for the readers of arrays alone, and ours does not look at them (`shards._open_shard`).
    """
    system, path = open_place(folder)
    found = find_kind(kind)
    sink = pa.BufferOutputStream()
    collector = StatsCollector(kind)
    tables: deque[pa.Table] = deque()
    for block in _blocks(rows, ROWS_PER_GROUP):
        for row in block:
            collector.add(row)
        tables.append(_table(block, found))
    groups = [table.num_rows for table in tables]
    held = found.held(collector.columns)
    stored = tables[0].schema if tables else found.schema
    stored = pa.schema([stored.field(column.name) for column in held])
    writer = pq.ParquetWriter(
        sink,
        stored,
        compression={_leaf(column): "none" if column.compressed else "zstd" for column in held},
        use_dictionary=["scene"],
        use_byte_stream_split=[_leaf(column) for column in held if column.content in ("disparity", "flow")] or False,
        write_statistics=False,  # they would store the largest image twice more
        write_page_checksum=True,
        store_schema=any(column.array is not None for column in held),
    )
    with writer:
        while tables:  # what is written is let go, so that a shard is in memory once
            writer.write_table(tables.popleft().select(stored.names), row_group_size=ROWS_PER_GROUP)
    if not groups:
        return ShardStats(shard=None, schema_version=found.schema_version(()), skipped=skipped_table(skips))
    data = sink.getvalue()
    name = f"{kind}-{index:05d}.parquet"
    system.create_dir(path, recursive=True)
    try:
        write_bytes(system, f"{path}/{name}", data)
    except OSError as error:
        raise SightlineError(f"cannot write {folder}/{name}: {error}", "make room or check your access, then run it again") from None
    shard = Shard(name=name, rows=sum(groups), bytes=data.size, sha256=hashlib.sha256(data).hexdigest(), row_groups=tuple(groups))
    version = found.schema_version(collector.columns)
    return collector.stats(shard, skipped_table(skips)).model_copy(update={"schema_version": version})


def write_manifest(
    folder: str,
    kind: Kind,
    parts: Sequence[ShardStats],
    *,
    sources: Sequence[Source] = (),
    command: str = "",
    skipped: Sequence[Skipped] = (),
    classes: Sequence[str] = (),
    ignore_index: int | None = None,
    notes: Sequence[str] = (),
    part_names: Sequence[str] = (),
    palette: Sequence[tuple[int, int, int]] = (),
) -> Manifest:
    """Writes the manifest of the shards in `parts`, which makes the data set exist. Raises `SightlineError` where there are no rows."""
    full = [part for part in parts if part.shard is not None]
    if not full:
        why = reasons(merge_skipped([skipped, *(part.skipped for part in parts)]))
        raise SightlineError(f"nothing could be stored in {folder}: every row was skipped{f': {why}' if why else ''}", "correct the source")
    shards = tuple(part.shard for part in full if part.shard is not None)
    used = {name for part in full for name in part.columns}
    version = find_kind(kind).schema_version(used)
    manifest = Manifest(
        schema_version=version,
        kind=kind,
        rows=sum(shard.rows for shard in shards),
        columns=tuple(name for name in find_kind(kind).schema.names if name in used),
        shards=shards,
        fingerprint=fingerprint(kind, shards, classes, ignore_index, part_names, version),
        provenance=_provenance(sources, command, merge_skipped([skipped, *(part.skipped for part in parts)]), notes),
        image_min=extreme((part.image_min for part in full), min),
        image_max=extreme((part.image_max for part in full), max),
        scenes=total(part.scenes for part in full),
        overlap=total_overlap(full),
        classes=tuple(classes),
        ignore_index=ignore_index,
        palette=tuple(palette),
        labels=total(part.labels for part in full),
        pixels=total(part.pixels for part in full),
        points=total_range(part.points for part in full),
        distinct=total_range(part.distinct for part in full),
        extent=total_range(part.extent for part in full),
        part_points=total(part.part_points for part in full),
        parts=tuple(part_names),
        maps=total_maps(full),
        offsets={name: offset for part in full for name, offset in part.offsets.items()},
    )
    system, path = open_place(folder)
    write_bytes(system, f"{path}/{MANIFEST_NAME}", manifest.to_json().encode())
    return manifest


def _provenance(sources: Sequence[Source], command: str, skipped: tuple[Skipped, ...], notes: Sequence[str]) -> Provenance:
    return Provenance(
        sources=tuple(sources),
        command=command,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        sightline_version=installed_version(),
        skipped=skipped,
        notes=tuple(notes),
    )


def claim_folder(folder: str, overwrite: bool = False) -> None:
    """Makes `folder` ready for shards. Raises `CallError` where a finished data set lies there, unless `overwrite`.

    With `overwrite` the old manifest is deleted first, so that a half-deleted data set is never opened.
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


def refuse_other_splits(out: str, folders: Sequence[str]) -> None:
    """Raises `CallError` where `out` holds data sets that are not among `folders`, those that are to be written.

    Splits that two commands made overlap, and a folder that is a data set has none below it.
    """
    system, root = open_place(out)
    own = {open_place(folder)[1] for folder in folders}
    if own != {root} and exists(system, f"{root}/{MANIFEST_NAME}"):
        raise CallError(f"{out} is a data set itself, so splits cannot lie in it", "choose another --out")
    if system.get_file_info(root).type != fs.FileType.Directory:
        return
    below = [
        info.path for info in system.get_file_info(fs.FileSelector(root)) if info.type == fs.FileType.Directory and info.path not in own
    ]
    others = [Path(path).name for path in sorted(below) if exists(system, f"{path}/{MANIFEST_NAME}")]
    if others:
        raise CallError(
            f"{out} holds the data set{'s' * (len(others) > 1)} {', '.join(others)} of another command: splits are made together, "
            "or samples may be in several of them",
            "choose another --out, or delete the folder first",
        )


class ShardWriter:
    """Writes a data set row by row, in one go: shards of about 96 MB, and the manifest on a clean exit.

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
        skipped: Sequence[Skipped] = (),
    ) -> None:
        self.folder, self.kind = str(folder), kind
        self.classes, self._ignore_index, self._part_names = classes, ignore_index, parts
        self.manifest: Manifest | None = None
        self._sources, self._command, self._skipped = sources, command, tuple(skipped)
        self._rows: list[Row] = []
        self._bytes = 0
        self._parts: list[ShardStats] = []
        self._skips: list[tuple[str, str]] = []
        find_kind(kind)
        claim_folder(self.folder, overwrite)

    def write(self, row: Row) -> None:
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
            self.manifest = write_manifest(
                self.folder,
                self.kind,
                self._parts,
                sources=self._sources,
                command=self._command,
                skipped=merge_skipped([self._skipped, skipped_table(self._skips)]),
                classes=self.classes,
                ignore_index=self._ignore_index,
                part_names=self._part_names,
            )


def _table(rows: Sequence[Row], kind: DataKind) -> pa.Table:
    """Rows as a shard holds them, with all columns of their kind."""
    table = pa.Table.from_pylist([dict(row) for row in rows], schema=kind.schema)
    for index, field in enumerate(kind.schema):
        if (form := kind.arrays.get(field.name)) is not None:
            stored = form.stored(table[field.name].to_pylist())
            table = table.set_column(index, form.field(field.name, field.nullable), stored)
    return table


def _leaf(column: Column) -> str:
    """The name of a column as Parquet knows it."""
    if column.array is not None:
        return f"{column.name}.data.list.element"
    return f"{column.name}.list.element" if pa.types.is_list(column.type) else column.name


def _blocks(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    block: list[Row] = []
    held = 0
    for row in rows:
        block.append(row)
        held += sum(len(row[name]) for name in MAPS if row.get(name) is not None)
        if len(block) == size or held >= GROUP_BYTES:
            yield block
            block, held = [], 0
    if block:
        yield block
