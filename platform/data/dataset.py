"""Reads a data set through its manifest, one row group at a time. A file that the manifest does not describe is not read."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from sightline.methods.errors import CallError
from sightline.platform.config.location import parse_one
from sightline.platform.core.filesystem import open_place, read_bytes

from .kinds import find_kind
from .manifest import MANIFEST_NAME, Manifest, parse_manifest
from .shards import ShardFolder
from .share import Share
from .unprepared import no_dataset

_HINT = "copy the shard again from where the data set came from, or run `sightline prepare` again with --overwrite"


@dataclass(frozen=True)
class Dataset:
    """A finished data set. It holds only its URI and its manifest, so it is cheap to send to workers.

    With a `share` it is those rows alone, as if the others were not stored. The manifest tells of the whole.
    """

    uri: str
    manifest: Manifest
    share: Share | None = None

    @classmethod
    def open(cls, uri: str | Path, kind: str | None = None) -> Dataset:
        """Opens the data set at a local path or URI and checks that every shard is there with its size.

        Raises `CallError` where there is no finished data set, where it is not of `kind`, and where a newer Sightline wrote it;
        `SightlineError` naming the shard where one is missing or has another size.
        """
        if not parse_one(str(uri)).prepared:
            raise CallError(f"{uri} is read by Ray Data, and a prepared data set is needed here", "make one: sightline prepare --help")
        uri = str(uri) if "://" in str(uri) else str(Path(uri).expanduser().resolve())  # workers have another current directory
        system, path = open_place(uri)
        place = f"{path}/{MANIFEST_NAME}"
        try:
            text = read_bytes(system, place)
        except (FileNotFoundError, NotADirectoryError):
            raise no_dataset(uri, system, path, kind) from None
        except OSError as error:
            raise CallError(f"cannot read {uri}/{MANIFEST_NAME}: {error}", "check the address and your access to it") from None
        dataset = cls(uri, parse_manifest(text, f"{uri}/{MANIFEST_NAME}"))
        if kind is not None and dataset.kind != kind:
            raise CallError(f"{uri} holds {dataset.kind}, but {kind} are needed", f"name a data set of kind {kind}")
        dataset._files.check_sizes()
        return dataset

    @property
    def kind(self) -> str:
        return self.manifest.kind

    @property
    def fingerprint(self) -> str:
        whole = self.manifest.fingerprint
        return whole if self.share is None else hashlib.sha256(self.share.named(whole).encode()).hexdigest()

    @property
    def promises_order(self) -> bool:
        """Whether a plan orders the rows, so that a resume repeats their history."""
        return True

    @property
    def described(self) -> str:
        """How many samples, for reports."""
        if self.share is not None:
            return f"{self.rows:,} of {self.manifest.rows:,} {self.kind} (fraction {self.share.fraction:g}, seed {self.share.seed})"
        scenes = len(self.manifest.scenes)
        return f"{self.rows:,} {self.kind}" + (f" from {scenes:,} scene{'s' if scenes > 1 else ''}" if scenes else "")

    @property
    def provenance(self) -> list[str]:
        """A line for each source: where it came from, and its licence."""
        return [f"{source.where} (read as {source.reader}): {source.licence}" for source in self.manifest.provenance.sources]

    @property
    def rows(self) -> int:
        return self.manifest.rows if self.share is None else sum(rows for _, _, rows in self.row_groups)

    @property
    def labels(self) -> dict[int, int]:
        """Rows of each label that occurs."""
        if self.share is None or not self.manifest.labels:
            return self.manifest.labels
        found = Counter(label for table in self.scan(["label"]) for label in table["label"].to_pylist())
        return {label: count for label, count in found.items() if label is not None}

    def part(self, share: Share | None) -> Dataset:
        """The same data set with this share of its rows; None for all."""
        return replace(self, share=share)

    @property
    def _files(self) -> ShardFolder:
        return ShardFolder(self.uri, self.manifest.shards, _HINT)

    @cached_property
    def row_groups(self) -> list[tuple[int, int, int]]:
        """(shard index, row group index, rows) of every row group that has any, in the order of the manifest."""
        if self.share is not None:
            return [(*group, len(rows)) for group, rows in self._kept.items() if len(rows)]
        return [(s, g, rows) for s, shard in enumerate(self.manifest.shards) for g, rows in enumerate(shard.row_groups)]

    @cached_property
    def _kept(self) -> dict[tuple[int, int], np.ndarray]:
        """(shard index, row group index) -> numbers of the rows of the share in it. Reads the ids and labels of all rows once."""
        assert self.share is not None
        whole, places, labels = self.part(None), [], []
        for table in whole.scan(["id", "label"]):
            places.append(self.share.places(table["id"].to_pylist()))
            named = table["label"].to_pylist() if "label" in table.column_names else [None] * table.num_rows
            labels.append(np.asarray([-1 if label is None else label for label in named], np.int64))
        kept = self.share.kept(np.concatenate(places), np.concatenate(labels))
        parts = np.split(kept, np.cumsum([len(one) for one in places])[:-1])
        return {(s, g): np.flatnonzero(part) for (s, g, _), part in zip(whole.row_groups, parts, strict=True)}

    def read(
        self, shard_index: int, row_group_index: int, rows: Sequence[int] | np.ndarray | None = None, columns: Sequence[str] | None = None
    ) -> pa.Table:
        """Rows of one row group (all of them, or those named in the order named), all columns or those named.

        Raises `SightlineError` naming the shard where it is missing, truncated, altered or holds a type that is not allowed.
        """
        table = self._files.read(shard_index, row_group_index, columns, find_kind(self.kind).arrays)
        if self.share is not None:
            kept = self._kept[shard_index, row_group_index]
            rows = kept if rows is None else kept[np.asarray(rows, np.int64)]
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
        self._files.verify(progress)
