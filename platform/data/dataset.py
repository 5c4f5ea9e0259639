"""Reads a data set: opened by its manifest, read by row group, nothing trusted that the manifest does not vouch for."""

from __future__ import annotations

import hashlib
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from sightline.methods.errors import CallError, SightlineError

from .manifest import MANIFEST_NAME, Manifest, Shard, parse_manifest
from .storage import is_local, open_place, read_bytes

_MEND = "copy the shard again from where the data set came from, or run `sightline prepare` again with --overwrite"
_MAX_FOOTER = 64 * 2**20
_SCALARS = (pa.string(), pa.binary(), pa.bool_(), pa.int32(), pa.int64(), pa.uint8(), pa.float32(), pa.float64())


@dataclass(frozen=True)
class Dataset:
    """A finished data set. Holds its place and its manifest only, so it travels to workers as it is."""

    uri: str
    manifest: Manifest

    @classmethod
    def open(cls, uri: str | Path, kind: str | None = None) -> Dataset:
        """Opens the data set at a local path or URI and checks that every shard is there with its size.

        Raises `CallError` where there is no finished data set, where it is not of `kind`, and where a newer Sightline wrote it;
        `SightlineError` naming the shard where one is missing or has another size.
        """
        uri = str(uri) if "://" in str(uri) else str(Path(uri).expanduser().resolve())  # workers have another current directory
        system, path = open_place(uri)
        place = f"{path}/{MANIFEST_NAME}"
        try:
            text = read_bytes(system, place)
        except FileNotFoundError:
            if system.get_file_info(path).type == fs.FileType.NotFound:
                raise CallError(f"there is no data set at {uri}: the folder does not exist", "see `sightline prepare --help`") from None
            raise CallError(
                f"there is no data set at {uri}: it has no {MANIFEST_NAME}",
                "the manifest is written last: this data set was never finished; run prepare again",
            ) from None
        except OSError as error:
            raise CallError(f"cannot read {uri}/{MANIFEST_NAME}: {error}", "check the address and your access to it") from None
        dataset = cls(uri, parse_manifest(text, f"{uri}/{MANIFEST_NAME}"))
        if kind is not None and dataset.kind != kind:
            raise CallError(f"{uri} holds {dataset.kind}, but {kind} are needed", f"name a data set of kind {kind}")
        infos = system.get_file_info([f"{path}/{shard.name}" for shard in dataset.manifest.shards])
        for shard, info in zip(dataset.manifest.shards, infos, strict=True):
            dataset._check_size(shard, info)
        return dataset

    @property
    def kind(self) -> str:
        return self.manifest.kind

    @property
    def fingerprint(self) -> str:
        return self.manifest.fingerprint

    @property
    def rows(self) -> int:
        return self.manifest.rows

    @cached_property
    def row_groups(self) -> list[tuple[int, int, int]]:
        """(shard index, row group index, rows) of every row group, in the order of the manifest."""
        return [(s, g, rows) for s, shard in enumerate(self.manifest.shards) for g, rows in enumerate(shard.row_groups)]

    def read(
        self, shard_index: int, row_group_index: int, rows: Sequence[int] | None = None, columns: Sequence[str] | None = None
    ) -> pa.Table:
        """Rows of one row group (all of them, or those named in the order named), all columns or those named.

        Raises `SightlineError` naming the shard where it is missing, truncated, altered or holds a type that is not allowed.
        """
        shard = self.manifest.shards[shard_index]
        try:
            file = self._file(shard)
            names = [name for name in columns if name in file.schema_arrow.names] if columns is not None else None
            table = file.read_row_group(row_group_index, columns=names, use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise self._broken(shard, f"is damaged in row group {row_group_index} ({_first_line(error)})") from None
        if table.num_rows != shard.row_groups[row_group_index]:
            raise self._broken(shard, f"has {table.num_rows} rows in row group {row_group_index}, not {shard.row_groups[row_group_index]}")
        return table if rows is None else table.take(pa.array(rows, pa.int64()))

    def scan(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Every row group in order."""
        for shard_index, row_group_index, _ in self.row_groups:
            yield self.read(shard_index, row_group_index, columns=columns)

    def sample_ids(self) -> list[str]:
        """The `id` of every row, in stored order."""
        return [value for table in self.scan(["id"]) for value in table["id"].to_pylist()]

    def verify(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Reads every byte and compares SHA-256. Calls `progress(bytes done, bytes in all)`. Raises `SightlineError` naming a bad shard."""
        system, path = open_place(self.uri)
        total, done = sum(shard.bytes for shard in self.manifest.shards), 0
        for shard in self.manifest.shards:
            digest = hashlib.sha256()
            try:
                with system.open_input_stream(f"{path}/{shard.name}", compression=None) as stream:
                    while chunk := stream.read(4 * 2**20):
                        digest.update(chunk)
                        done += len(chunk)
                        if progress:
                            progress(done, total)
            except OSError as error:
                raise self._broken(shard, f"cannot be read ({_first_line(error)})") from None
            if digest.hexdigest() != shard.sha256:
                raise self._broken(shard, "was altered: its SHA-256 is not that of the manifest")

    def _file(self, shard: Shard) -> pq.ParquetFile:
        system, path = open_place(self.uri)
        version = 0
        if is_local(system):  # a file replaced under a running process must not be read through an old handle
            info = system.get_file_info(f"{path}/{shard.name}")
            self._check_size(shard, info)
            version = info.mtime_ns
        return _open_shard(self.uri, shard, version, threading.get_ident())

    def _check_size(self, shard: Shard, info: fs.FileInfo) -> None:
        if info.type == fs.FileType.NotFound:
            raise self._broken(shard, "is missing")
        if info.size != shard.bytes:
            raise self._broken(shard, f"has {info.size:,} bytes instead of {shard.bytes:,}: it was truncated or replaced")

    def _broken(self, shard: Shard, what: str) -> SightlineError:
        return SightlineError(f"shard {shard.name} of {self.uri} {what}", _MEND)


@lru_cache(maxsize=64)
def _open_shard(uri: str, shard: Shard, version: int, thread: int) -> pq.ParquetFile:
    """An opened shard, kept per thread (a Parquet reader is not safe to share). `version` and `thread` are there for the key.

    Types are checked before the file reaches the Parquet reader: on opening, it would restore the types named in the
    `ARROW:schema` entry of the footer, and for a registered extension type (Ray registers some) that runs code chosen by the file.
    Our shards are written without that entry, and key and value lie uncompressed in the footer.
    """
    system, path = open_place(uri)
    place = f"{path}/{shard.name}"

    def refuse(what: str) -> SightlineError:
        return SightlineError(f"shard {shard.name} of {uri} {what}", _MEND)

    source = pa.memory_map(place) if is_local(system) else system.open_input_file(place)
    if shard.bytes < 12:
        raise refuse("is not a Parquet file")
    source.seek(shard.bytes - 8)
    length, magic = struct.unpack("<I4s", source.read(8))
    if magic != b"PAR1" or length > min(_MAX_FOOTER, shard.bytes - 8):
        raise refuse("is not a Parquet file (pickles and other formats are never read)")
    source.seek(shard.bytes - 8 - length)
    if b"ARROW:" in source.read(length):
        raise refuse("carries Arrow type metadata, which Sightline never writes and does not trust")
    file = pq.ParquetFile(source, page_checksum_verification=True)
    for field in file.schema_arrow:
        kind = field.type.value_type if pa.types.is_list(field.type) else field.type
        if kind not in _SCALARS:
            raise refuse(f"holds column {field.name!r} of type {field.type}, which is not allowed")
    rows = tuple(file.metadata.row_group(index).num_rows for index in range(file.metadata.num_row_groups))
    if rows != shard.row_groups:
        raise refuse("has other row groups than the manifest says")
    return file


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
