"""A cache of samples: the output of views and stage for every row of a data set, in a fixed number of variants, as Parquet files.

One file holds one row group of the data set in one variant. An array is a column of fixed-size bytes; the manifest records its type and
shape. The manifest is written last, so a cache without one does not exist. The error of a broken row is stored in place of its arrays, so
that the same rows are replaced when the cache is read.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sightline.methods.errors import BrokenSampleError, SightlineError
from sightline.platform.core.filesystem import exists, open_place, read_bytes, write_bytes
from sightline.platform.data.manifest import MANIFEST_NAME, Shard
from sightline.platform.data.shards import ShardFolder

from .blocks import ROW_COLUMNS, Columns, Made, Sample, put
from .plan import Block, Piece, RowGroups

VERSION: Literal[1] = 1
"""Version of the files and of how random draws are keyed; part of the key."""
CHUNK_ROWS = 16
"""Rows that are read together. A slot of a small data set needs only a part of a row group."""


class Array(BaseModel):
    """The type of a column: little-endian numbers, and the `shape` of one sample."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    dtype: Literal["|b1", "|u1", "|i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8", "<f2", "<f4", "<f8"]
    shape: tuple[int, ...]

    @property
    def width(self) -> int:
        """Bytes of one sample."""
        return np.dtype(self.dtype).itemsize * math.prod(self.shape)


class CacheShard(BaseModel):
    """A finished file. `arrays` is empty where every row is broken."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    shard: Shard
    arrays: dict[str, Array]
    broken: int


class CacheManifest(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    version: Literal[1] = VERSION
    key: str
    ingredients: dict[str, Any]
    """Everything that decides the content; the key is its hash."""
    variants: int = Field(ge=1)
    broken: int
    """How many samples of all variants cannot be used."""
    arrays: dict[str, Array]
    shards: tuple[Shard, ...]
    """All row groups of the first variant, then all of the next one."""

    @model_validator(mode="after")
    def _consistent(self) -> CacheManifest:
        if key_of(self.ingredients) != self.key:
            raise ValueError("its key is not that of what it is made of: it was altered")
        return self


def key_of(ingredients: Mapping[str, Any]) -> str:
    """SHA-256 of everything that decides the content of a cache."""
    return hashlib.sha256(json.dumps(ingredients, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Cache:
    """A finished cache in the folder `uri`, as the `Samples` of a stream. It holds no data, so it is cheap to send to workers."""

    uri: str
    row_groups: RowGroups

    @classmethod
    def find(cls, uri: str, row_groups: RowGroups) -> Cache | None:
        """The cache in `uri`; None where none was finished. Raises `SightlineError` where a file is gone or has another size."""
        system, path = open_place(uri)
        if not exists(system, f"{path}/{MANIFEST_NAME}"):
            return None
        _read_manifest.cache_clear()
        cache = cls(uri, row_groups)
        cache._files.check_sizes()
        return cache

    @property
    def manifest(self) -> CacheManifest:
        return _read_manifest(self.uri, self.row_groups)

    @property
    def bytes(self) -> int:
        return sum(shard.bytes for shard in self.manifest.shards)

    def __call__(self, block: Block) -> Sample:
        """The samples of `block`, each piece in the variant of its epoch. Raises `SightlineError` naming a file that is damaged."""
        arrays = self.manifest.arrays
        rows: list[tuple[pa.Table, Columns, int]] = []
        for piece in block.pieces:
            shard = self._index[piece.shard, piece.row_group] + piece.epoch % self.manifest.variants * len(self.row_groups)
            for chunk in range(piece.start // CHUNK_ROWS, -(-piece.stop // CHUNK_ROWS)):
                table = self._files.read(shard, chunk)
                first = chunk * CHUNK_ROWS
                held = {name: self._array(table, name, arrays[name], shard) for name in table.column_names if name in arrays}
                numbers = range(max(piece.start, first), min(piece.stop, first + CHUNK_ROWS))
                rows += [(table, held, number - first) for number in numbers]

        def sample(index: int, position: int) -> tuple[str, Columns]:
            table, held, row = rows[index]
            if reason := table["broken"][row].as_py():
                raise BrokenSampleError(reason)
            return table["id"][row].as_py(), {name: held[name][row] for name in arrays}

        return sample

    def _array(self, table: pa.Table, name: str, array: Array, shard: int) -> np.ndarray:
        column = table[name].combine_chunks()
        if column.type != pa.binary(array.width) or column.null_count:
            raise self._files.broken(self._files.shards[shard], f"holds other data in column {name!r} than the manifest says")
        _, data = column.buffers()
        return (
            np.frombuffer(data, np.uint8, len(column) * array.width, column.offset * array.width)
            .view(array.dtype)
            .reshape(-1, *array.shape)
        )

    @cached_property
    def _index(self) -> dict[tuple[int, int], int]:
        return {(shard, row_group): index for index, (shard, row_group, _) in enumerate(self.row_groups)}

    @property
    def _files(self) -> ShardFolder:
        return ShardFolder(self.uri, self.manifest.shards, how_to_rebuild(self.uri))


def how_to_rebuild(uri: str) -> str:
    """The hint of an error about the cache in this folder."""
    return f"delete the folder {uri}: the next start of a run that needs the cache makes it anew"


@lru_cache(maxsize=4)
def _read_manifest(uri: str, row_groups: RowGroups) -> CacheManifest:
    """Read once in a process, because the manifest of thousands of files is long."""
    system, path = open_place(uri)
    try:
        manifest = CacheManifest.model_validate_json(read_bytes(system, f"{path}/{MANIFEST_NAME}"))
    except (OSError, ValidationError, ValueError) as error:
        what = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise SightlineError(f"{uri}/{MANIFEST_NAME} is not a valid manifest of a cache: {what}", how_to_rebuild(uri)) from None
    if [shard.row_groups for shard in manifest.shards] != [_chunks(rows) for _, _, rows in row_groups] * manifest.variants:
        raise SightlineError(f"the cache in {uri} does not hold the row groups of the data set, each in every variant", how_to_rebuild(uri))
    return manifest


def _chunks(rows: int) -> tuple[int, ...]:
    return tuple(min(CHUNK_ROWS, rows - start) for start in range(0, rows, CHUNK_ROWS))


def parts(row_groups: RowGroups, variants: int) -> list[Block]:
    """The parts of a cache in the order of the manifest: each is one row group in one variant, as a block of its own."""
    pieces = (Piece(shard, row_group, 0, rows, variant) for variant in range(variants) for shard, row_group, rows in row_groups)
    return [Block(0, 0, (piece,), (0, 0, 0)) for piece in pieces]


def part_name(part: Block) -> str:
    (piece,) = part.pieces
    return f"v{piece.epoch:03d}-s{piece.shard:05d}-g{piece.row_group:05d}.parquet"


def load_part(part: Block, *, samples: Made) -> Columns:
    """Every row in stored order: its arrays, `id` and `broken`. The arrays of a broken row are filled with those of a usable row."""
    sample = samples(part)
    arrays: Columns = {}
    ids, broken = [""] * part.rows, [""] * part.rows
    for row in range(part.rows):
        try:
            ids[row], made = sample(row, 0)
            put(arrays, row, made, part.rows)
        except BrokenSampleError as error:
            broken[row] = str(error)
    if usable := [row for row in range(part.rows) if not broken[row]]:
        for column in arrays.values():
            column[[row for row in range(part.rows) if broken[row]]] = column[usable[0]]
    return {**arrays, "id": np.asarray(ids, object), "broken": np.asarray(broken, object)}


def write_part(uri: str, part: Block, columns: Columns) -> CacheShard:
    """Write the file of a part, whole or not at all."""
    arrays = {
        name: Array.model_validate({"dtype": column.dtype.str, "shape": column.shape[1:]})
        for name, column in columns.items()
        if name not in ROW_COLUMNS
    }
    fields = [pa.field(name, pa.string(), nullable=False) for name in ("id", "broken")]
    fields += [pa.field(name, pa.binary(array.width), nullable=False) for name, array in arrays.items()]
    held = [pa.array(columns[name].tolist(), pa.string()) for name in ("id", "broken")]
    for name, array in arrays.items():
        data = pa.py_buffer(np.ascontiguousarray(columns[name]))
        held.append(pa.Array.from_buffers(pa.binary(array.width), part.rows, [None, data]))
    sink, schema = pa.BufferOutputStream(), pa.schema(fields)
    options: dict[str, Any] = {"use_dictionary": False, "write_statistics": False, "write_page_checksum": True, "store_schema": False}
    with pq.ParquetWriter(sink, schema, compression="none", **options) as writer:
        writer.write_table(pa.Table.from_arrays(held, schema=schema), row_group_size=CHUNK_ROWS)
    data, name = sink.getvalue(), part_name(part)
    system, path = open_place(uri)
    write_bytes(system, f"{path}/{name}", data)
    shard = Shard(name=name, rows=part.rows, bytes=data.size, sha256=hashlib.sha256(data).hexdigest(), row_groups=_chunks(part.rows))
    return CacheShard(shard=shard, arrays=arrays, broken=sum(map(bool, columns["broken"])))


def write_cache_manifest(uri: str, ingredients: Mapping[str, Any], variants: int, made: list[CacheShard]) -> None:
    """Write the manifest, which makes the cache exist. Raises `SightlineError` where its files hold arrays of different shapes, or none."""
    kinds = {json.dumps(one.model_dump()["arrays"], sort_keys=True): one.arrays for one in made if one.arrays}
    if len(kinds) != 1:
        what = "arrays of different shapes" if kinds else "no usable sample"
        raise SightlineError(f"the files of the cache in {uri} hold {what}", "look at the data with `sightline inspect DATASET`")
    manifest = CacheManifest(
        key=key_of(ingredients),
        ingredients=dict(ingredients),
        variants=variants,
        broken=sum(one.broken for one in made),
        arrays=next(iter(kinds.values())),
        shards=tuple(one.shard for one in made),
    )
    system, path = open_place(uri)
    write_bytes(system, f"{path}/{MANIFEST_NAME}", (manifest.model_dump_json(indent=1) + "\n").encode())
