"""Rows that Ray Data reads as a prepared data set: what is measured again and again, or has labels, needs the same rows every time.

They are read once, and kept under their fingerprint, so that equal rows are kept once. A run names that folder from then on.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from sightline.methods.errors import BrokenSampleError, CallError, SightlineError
from sightline.methods.random import keyed_rng
from sightline.platform.core.files import make_folder, telling
from sightline.platform.core.filesystem import exists, open_place, write_bytes
from sightline.platform.core.paths import home
from sightline.platform.core.redaction import redact

from .clouds import encode_points
from .dataset import Dataset
from .foreign_rows import as_text, decode, rows_of
from .images import encode_png, storable
from .kinds import ID, DataKind, Row, find_kind
from .loader.fixed import read_rows, spread
from .manifest import MANIFEST_NAME, Source
from .ray_source import RaySource, cannot_read
from .writer import ROWS_PER_GROUP, ShardWriter

FOLDER = "data"
"""In a home, or in `train.storage`: where they are kept."""
AT_MOST = 100_000
"""Rows that are copied unasked."""
HELD_BYTES = 1 << 29
"""Of rows in memory while they are shuffled: the more, the fewer times the data are read."""
MOST_CLASSES = 100_000
LABEL = "label"


def materialize(
    source: RaySource,
    setting: str,
    *,
    needed: Sequence[str] = (),
    classes: Sequence[str] = (),
    shuffle: bool = False,
    max_broken: float = 0.05,
    storage: str | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Dataset:
    """The rows of the source that a setting names as a prepared data set, in the home or in `storage`, where workers read it.

    All rows in the order of the source, or shuffled; with `rows=N` so many, evenly spaced where their number is known, else the first.
    `needed`: columns besides those of a sample and those that the source names. `classes`: the names of labels; without them those of
    Hugging Face's metadata, or the names that occur, sorted, or 0, 1, 2 ... `say` tells the person. Needs a connection to Ray where the
    source does. Raises `SightlineError` where the source fails, has too many rows or broken ones, or lacks a column.
    """
    kind, location = find_kind(source.kind), source.location
    _check_size(source)
    say(f"{setting}: reading {source.name} once, because the same rows are needed again and again")
    columns = tuple(dict.fromkeys((*kind.samples, *needed, *(name for name in location.columns if name != ID.name))))
    if LABEL in columns and location.reader == "images":
        raise CallError(
            f"{source.name} has no labels", f"of folders that are classes: sightline prepare images classes {location.place} --out DIR"
        )
    labels = _Labels(source, tuple(classes))
    root = Path(home() / FOLDER)
    with telling(root):
        make_folder(root)
        part = Path(tempfile.mkdtemp(prefix=".part-", dir=root))
        try:
            made = Source(where=source.name, licence="unknown", reader=location.reader)
            with ShardWriter(part / "rows", kind.name, sources=[made]) as writer:
                for row in _rows(source, columns):
                    try:
                        writer.write(_stored(row, kind, labels))
                    except BrokenSampleError as error:
                        what, _, why = str(error).partition(": ")
                        writer.skip(what, why)
                writer.classes = labels.names
            dataset = Dataset.open(part / "rows")
            _check_broken(source, dataset, max_broken)
            dataset = _shuffled(dataset, part / "shuffled") if shuffle else dataset
            placed = _placed(dataset, root, storage)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    skipped = sum(one.count for one in placed.manifest.provenance.skipped)
    size = sum(shard.bytes for shard in placed.manifest.shards) / 1e6
    broken = f" ({skipped:,} broken ones left out)" if skipped else ""
    say(f"{setting}: {placed.rows:,} {placed.kind}{broken} are kept in {redact(placed.uri)} ({size:,.1f} MB)")
    return placed


def _check_size(source: RaySource) -> None:
    if source.location.rows in (None, source.counted) and source.rows > AT_MOST:
        raise CallError(
            f"{source.name} has {source.rows:,} rows, and here they are copied, because the same ones are needed again and again",
            f"say how many: {'&' if source.location.columns else '?'}rows=5000 behind it (evenly spaced)",
        )


def _check_broken(source: RaySource, dataset: Dataset, limit: float) -> None:
    skipped = dataset.manifest.provenance.skipped
    count = sum(one.count for one in skipped)
    if count > limit * (count + dataset.rows):
        raise SightlineError(
            f"{count} of {count + dataset.rows} rows of {source.name} are broken, more than data.max_broken = {limit:g}; "
            f"the first: {skipped[0].examples[0]}: {skipped[0].reason}",
            "correct the source, or raise data.max_broken",
        )


def _rows(source: RaySource, columns: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """The rows that are kept, as `rows_of` gives them."""
    failures: tuple[type[BaseException], ...] = (ValueError, TypeError, OSError, pa.ArrowException)
    if source.needs_ray:
        from ray.exceptions import RayError

        failures = (*failures, RayError)
    asked, found = source.location.rows, source.counted
    chosen: set[int] | None = None
    if asked is not None and asked < found:
        if source.location.reader == "images":
            source = replace(source, files=tuple(source.files[index] for index in spread(found, asked)))
        else:
            chosen = set(spread(found, asked))
    ours, place, kept = None, 0, 0
    most = asked if asked is not None else AT_MOST
    try:
        for table in source.in_order(ROWS_PER_GROUP):
            ours = ours or source.columns(table.schema, columns)
            for row in rows_of(table, ours):
                place += 1
                if chosen is not None and place - 1 not in chosen:
                    continue
                if kept == most and asked is None:
                    raise CallError(
                        f"{source.name} has more than {AT_MOST:,} rows, and here they are copied",
                        f"say how many: {'&' if source.location.columns else '?'}rows=5000 behind it",
                    )
                yield row
                kept += 1
                if kept == asked:
                    return
    except failures as error:
        raise cannot_read(source.name, error, "correct the source") from error
    if not kept:
        raise SightlineError(f"{source.name} has no rows", "name a source that has some")


def _stored(row: Mapping[str, Any], kind: DataKind, labels: _Labels) -> Row:
    """A row of `rows_of` as a shard holds it. Raises `BrokenSampleError` naming the row."""
    seen = decode({name: value for name, value in row.items() if name != LABEL}, kind)
    stored: dict[str, Any] = {ID.name: row[ID.name]}
    for name, value in seen.items():
        column = kind.column(name)
        if column is not None and column.content == "image":
            stored[name] = storable(row[name], value) if isinstance(row[name], bytes) else encode_png(value)
        elif column is not None and column.content == "cloud":
            stored[name] = encode_points(value)
    if LABEL in row:
        try:
            stored[LABEL] = labels.index(row[LABEL])
        except BrokenSampleError as error:
            raise BrokenSampleError(f"{row[ID.name]}: {LABEL}: {error}") from None
    return stored


def _shuffled(dataset: Dataset, folder: Path) -> Dataset:
    """The data set with its rows in one random order: a source may hold one class after the other."""
    manifest, order = dataset.manifest, keyed_rng("rows", 0).permutation(dataset.rows)
    step = max(ROWS_PER_GROUP, HELD_BYTES * dataset.rows // sum(shard.bytes for shard in manifest.shards))
    known = manifest.provenance
    with ShardWriter(folder, dataset.kind, sources=known.sources, classes=manifest.classes, skipped=known.skipped) as writer:
        for start in range(0, dataset.rows, step):
            held = dict(read_rows(dataset, sorted(order[start : start + step].tolist())))
            for row in order[start : start + step].tolist():
                writer.write(held[row])
    return Dataset.open(folder)


class _Labels:
    """What labels mean: whole numbers, or one of the names, which are read before the rows."""

    def __init__(self, source: RaySource, names: tuple[str, ...]) -> None:
        self._source, self._largest = source, -1
        self._names = names or source.class_names
        self._known: dict[str, int] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return self._names or tuple(map(str, range(self._largest + 1)))

    def index(self, value: Any) -> int:
        """Raises `BrokenSampleError` for a row without a label, or with one that is none of the classes."""
        if value is None:
            raise BrokenSampleError("is empty")
        text = as_text(value)
        try:
            number = int(text)
        except ValueError:
            number = self._of_name(text)
        if not 0 <= number < (len(self._names) or MOST_CLASSES):
            known = f"the {len(self._names)} classes" if self._names else f"0 to {MOST_CLASSES:,}"
            raise BrokenSampleError(f"{text[:40]!r} is none of {known}")
        self._largest = max(self._largest, number)
        return number

    def _of_name(self, text: str) -> int:
        if self._known is None:
            if not self._names and self._largest < 0:
                self._names = self._source.label_names(MOST_CLASSES)
            self._known = {name: index for index, name in enumerate(self._names)}
        return self._known.get(text, -1)


def _placed(dataset: Dataset, root: Path, storage: str | None) -> Dataset:
    """The data set under its fingerprint; one that is there already is the same."""
    name = f"{dataset.kind}-{dataset.fingerprint[:16]}"
    if storage is None:
        target = root / name
        if not (target / MANIFEST_NAME).is_file():
            Path(dataset.uri).rename(target)
        return Dataset.open(target, dataset.kind)
    target_uri = f"{storage.rstrip('/')}/{FOLDER}/{name}"
    system, path = open_place(target_uri)
    if not exists(system, f"{path}/{MANIFEST_NAME}"):
        system.create_dir(path, recursive=True)
        for file in (*(shard.name for shard in dataset.manifest.shards), MANIFEST_NAME):  # the manifest last
            write_bytes(system, f"{path}/{file}", (Path(dataset.uri) / file).read_bytes())
    return Dataset.open(target_uri, dataset.kind)
