"""Reads the Parquet files that a manifest lists. Files that were altered, and types that could run code, are refused."""

from __future__ import annotations

import hashlib
import struct
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from sightline.methods.errors import SightlineError, first_line
from sightline.platform.core.budget import OverBudgetError, check_unpacked
from sightline.platform.core.filesystem import is_local, open_place

from .arrays import ArrayForm, ArrayFormError
from .manifest import Shard

HIDDEN = b"hidden:types"
"""What the footer's `ARROW:schema` is called before Arrow sees it: as long as that."""
_MAGIC = b"PAR1"
_MAX_FOOTER = 64 * 2**20
_SCALARS = (pa.string(), pa.binary(), pa.bool_(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.float32(), pa.float64())


@dataclass(frozen=True)
class ShardFolder:
    """The listed files in the folder `uri`. Methods raise `SightlineError`, with `hint`, naming the file that is wrong."""

    uri: str
    shards: tuple[Shard, ...]
    hint: str

    def check_sizes(self) -> None:
        """Check that every file exists and has its size."""
        system, path = open_place(self.uri)
        infos = system.get_file_info([f"{path}/{shard.name}" for shard in self.shards])
        for shard, info in zip(self.shards, infos, strict=True):
            self._check_size(shard, info)

    def read(
        self,
        shard_index: int,
        row_group_index: int,
        columns: Sequence[str] | None = None,
        arrays: Mapping[str, ArrayForm] = MappingProxyType({}),
    ) -> pa.Table:
        """One row group, all columns or those named, those in `arrays` as bytes in whatever form the shard holds them.

        Raises where it is missing, truncated, altered or holds a type that is not allowed.
        """
        shard = self.shards[shard_index]
        try:
            file = self._file(shard)
            self._check_size_in_memory(file, row_group_index)
            names = [name for name in columns if name in file.schema_arrow.names] if columns is not None else None
            table = _with_bytes(file.read_row_group(row_group_index, columns=names, use_threads=False), arrays)
        except OverBudgetError as error:
            raise self.broken(shard, f"asks for more memory than it may in row group {row_group_index}: {error}") from None
        except (OSError, pa.ArrowException, ArrayFormError) as error:
            raise self.broken(shard, f"is damaged in row group {row_group_index} ({first_line(error)})") from None
        if table.num_rows != shard.row_groups[row_group_index]:
            raise self.broken(shard, f"has {table.num_rows} rows in row group {row_group_index}, not {shard.row_groups[row_group_index]}")
        return table

    def verify(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Reads every byte and compares SHA-256. Calls `progress(bytes done, bytes in all)`."""
        system, path = open_place(self.uri)
        total, done = sum(shard.bytes for shard in self.shards), 0
        for shard in self.shards:
            digest = hashlib.sha256()
            try:
                with system.open_input_stream(f"{path}/{shard.name}", compression=None) as stream:
                    while chunk := stream.read(4 * 2**20):
                        digest.update(chunk)
                        done += len(chunk)
                        if progress:
                            progress(done, total)
            except OSError as error:
                raise self.broken(shard, f"cannot be read ({first_line(error)})") from None
            if digest.hexdigest() != shard.sha256:
                raise self.broken(shard, "was altered: its SHA-256 is not that of the manifest")

    def broken(self, shard: Shard, what: str) -> SightlineError:
        return SightlineError(f"shard {shard.name} of {self.uri} {what}", self.hint)

    @staticmethod
    def _check_size_in_memory(file: pq.ParquetFile, row_group_index: int) -> None:
        """A dictionary can stand for a value as often as there are rows, and zeros unpack a thousandfold. Raises `OverBudgetError`."""
        group = file.metadata.row_group(row_group_index)
        for index in range(group.num_columns):
            column = group.column(index)
            size = column.total_uncompressed_size
            if column.has_dictionary_page or any("DICTIONARY" in encoding for encoding in column.encodings):
                size *= max(1, group.num_rows)
            check_unpacked(column.total_compressed_size, max(size, 8 * column.num_values), f"column {column.path_in_schema!r}")

    def _file(self, shard: Shard) -> pq.ParquetFile:
        system, path = open_place(self.uri)
        version = 0
        if is_local(system):  # a file replaced under a running process must not be read through an old handle
            info = system.get_file_info(f"{path}/{shard.name}")
            self._check_size(shard, info)
            version = info.mtime_ns
        return _open_shard(self.uri, shard, self.hint, version, threading.get_ident())

    def _check_size(self, shard: Shard, info: fs.FileInfo) -> None:
        if info.type == fs.FileType.NotFound:
            raise self.broken(shard, "is missing")
        if info.size != shard.bytes:
            raise self.broken(shard, f"has {info.size:,} bytes instead of {shard.bytes:,}: it was truncated or replaced")


def _with_bytes(table: pa.Table, arrays: Mapping[str, ArrayForm]) -> pa.Table:
    """The table with its arrays as bytes. Raises `ArrayFormError`."""
    for index, field in enumerate(table.schema):
        if field.name in arrays and not pa.types.is_binary(field.type):
            table = table.set_column(index, field.name, arrays[field.name].as_bytes(table[field.name]))
    return table


def _is_plain(kind: pa.DataType) -> bool:
    """Whether a column of this type holds numbers, text or bytes, alone, in lists or with a shape."""
    if pa.types.is_struct(kind):
        return [field.name for field in kind] == ["data", "shape"] and all(
            pa.types.is_list(field.type) and _is_plain(field.type) for field in kind
        )
    kind = kind.value_type if pa.types.is_list(kind) else kind
    return kind in _SCALARS or pa.types.is_fixed_size_binary(kind)


@lru_cache(maxsize=64)
def _open_shard(uri: str, shard: Shard, hint: str, version: int, thread: int) -> pq.ParquetFile:
    """An opened shard, kept per thread (a Parquet reader is not safe to share). `version` and `thread` are there for the key.

    It is read by its plain Parquet types alone (`plain_metadata`).
    """
    system, path = open_place(uri)
    place = f"{path}/{shard.name}"
    refuse = ShardFolder(uri, (shard,), hint).broken
    source = pa.memory_map(place) if is_local(system) else system.open_input_file(place)
    metadata = plain_metadata(source, shard.bytes)
    if metadata is None:
        raise refuse(shard, "is not a Parquet file (pickles and other formats are never read)")
    file = pq.ParquetFile(source, metadata=metadata, page_checksum_verification=True)
    for field in file.schema_arrow:
        if not _is_plain(field.type):
            raise refuse(shard, f"holds column {field.name!r} of type {field.type}, which is not allowed")
    rows = tuple(file.metadata.row_group(index).num_rows for index in range(file.metadata.num_row_groups))
    if rows != shard.row_groups:
        raise refuse(shard, "has other row groups than the manifest says")
    return file


def plain_metadata(source: pa.NativeFile, size: int) -> pq.FileMetaData | None:
    """The footer of a Parquet file of `size` bytes, its Arrow types under the key `HIDDEN`; None where it is no Parquet file.

    On opening, Arrow would restore the types named in the `ARROW:schema` entry of the footer, and for a registered extension type (Ray
    registers some) that runs code chosen by the file. Key and value lie uncompressed in the footer, so the entry gets another key before
    Arrow sees it. Raises what Arrow raises for a damaged footer.
    """
    if size < 12:
        return None
    source.seek(size - 8)
    length, magic = struct.unpack("<I4s", source.read(8))
    if magic != _MAGIC or length > min(_MAX_FOOTER, size - 8):
        return None
    source.seek(size - 8 - length)
    footer = source.read(length).replace(b"ARROW:schema", HIDDEN)
    return pq.read_metadata(pa.BufferReader(_MAGIC + footer + struct.pack("<I4s", length, _MAGIC)))
