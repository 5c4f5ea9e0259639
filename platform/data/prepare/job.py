"""Writes the shards of one or several data sets in parallel, and then their manifests. It can be stopped and continued.

A shard depends only on its task, so a finished one is never made again: its record is kept in `OUT/.staging` until the end.
`workers.py` says where.
"""

from __future__ import annotations

import hashlib
import json
import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Protocol

import numpy as np
from pyarrow import fs

from sightline.methods.contract import Kind
from sightline.methods.errors import CallError, SightlineError
from sightline.methods.random import keyed_rng
from sightline.platform.core.filesystem import exists, is_local, open_place, read_bytes, write_bytes
from sightline.platform.core.locks import exclusive_lock
from sightline.platform.core.ray_checks import check_ray
from sightline.platform.data.displacement import MAPS
from sightline.platform.data.images import Resize
from sightline.platform.data.kinds import Row, find_kind
from sightline.platform.data.manifest import MANIFEST_NAME, Manifest, Skipped, Source
from sightline.platform.data.remarks import collected
from sightline.platform.data.shard_stats import ShardStats, merge_skipped, reasons, total
from sightline.platform.data.writer import GROUP_BYTES, ROWS_PER_GROUP, SHARD_BYTES, claim_folder, write_manifest, write_shard

from .items import Item, ItemRows, Skip
from .packed import dealt
from .workers import Where, must_stop, start_workers

STAGING, PLAN = ".staging", "plan.json"
FEW_ROWS = 1000
"""Below this many, starting processes takes longer than it saves."""
PROBED = 8
_LATER = re.compile(
    r", (?:depth_scale=None|photo=None|code=None|reduced=False|lens[12]=None|crop[12]=None"
    r"|meshes=None|pictures=None|clutter=0|views=None)\b"
)


class RowSource(Protocol):
    """The rows of one shard. A small frozen dataclass: its `repr` is its identity, and it travels to Ray tasks."""

    @property
    def count(self) -> int: ...

    def rows(self, skip: Skip) -> Iterator[Row]: ...


@dataclass(frozen=True)
class Output:
    """One data set to make: its folder, its shards and its sources."""

    folder: str
    shards: Sequence[RowSource]
    sources: tuple[Source, ...]
    skips: tuple[Skipped, ...] = ()
    classes: tuple[str, ...] = ()
    ignore_index: int | None = None
    notes: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    palette: tuple[tuple[int, int, int], ...] = ()


class Stopped(BaseException):
    """Raised in a thread that makes a shard, after Ctrl-C."""


def item_shards(items: Sequence[Item], resize: Resize, seed: int) -> list[ItemRows]:
    """The items in one random order, cut into shards of about 96 MB; at least 8 shards where there are enough row groups."""
    count, order = len(items), keyed_rng("rows", seed).permutation(len(items))
    weights, maps = [], False
    for place in order[:PROBED].tolist():
        try:
            row = items[place].row(resize)
            weights.append(sum(len(value) for value in row.values() if isinstance(value, bytes)))
            maps = maps or any(row.get(name) for name in MAPS)
        except ValueError:  # a broken sample; the job names it
            continue
    weight = sum(weights) // len(weights) if weights else SHARD_BYTES // ROWS_PER_GROUP
    if maps:  # whose row groups have as many rows as fit
        rows = max(1, min(SHARD_BYTES // weight, max(GROUP_BYTES // weight, -(-count // 8))))
    else:
        groups = -(-count // ROWS_PER_GROUP)
        rows = ROWS_PER_GROUP * max(1, min(SHARD_BYTES // weight // ROWS_PER_GROUP, -(-groups // 8)))
    return [ItemRows(part.held, resize, part.places) for part in dealt(items, order, rows)]


def run_job(
    outputs: Sequence[Output],
    kind: Kind,
    *,
    command: str = "",
    workers: int | None = None,
    local: bool = False,
    overwrite: bool = False,
    max_skipped: float = 0.05,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Manifest]:
    """Makes every data set and returns the manifests. Calls `progress(rows done, rows in all)` after every shard.

    Raises `CallError` where a finished data set or the beginning of another one lies in a folder; `SightlineError` where more than
    the share `max_skipped` of the rows had to be skipped (what is done is kept); `KeyboardInterrupt` after Ctrl-C, likewise.
    """
    where = Where(workers, local)
    if where.on_ray:
        check_ray()
    with ExitStack() as alone:
        for output in outputs:
            alone.enter_context(_alone(output.folder, overwrite))
        if not overwrite:
            _refuse_finished(outputs)
        return _run(outputs, kind, command, where, overwrite, max_skipped, progress)


def _run(
    outputs: Sequence[Output],
    kind: Kind,
    command: str,
    where: Where,
    overwrite: bool,
    max_skipped: float,
    progress: Callable[[int, int], None],
) -> list[Manifest]:
    for output in outputs:
        _begin(output, overwrite)
    tasks = [(output.folder, index, source) for output in outputs for index, source in enumerate(output.shards)]
    rows = sum(source.count for _, _, source in tasks)
    contents = _Contents(len(outputs) > 1)
    parts = {(folder, index): contents.noted(folder, _recorded(folder, index, kind)) for folder, index, _ in tasks}
    todo = [(folder, index, source) for folder, index, source in tasks if parts[folder, index] is None]
    done = rows - sum(source.count for _, _, source in todo)
    progress(done, rows)
    if todo:
        few = sum(source.count for _, _, source in todo) < FEW_ROWS
        with start_workers(where, len(todo), threads=few) as workers:
            for task, stats in workers.as_finished(partial(make_shard, kind), todo):
                parts[task[0], task[1]] = contents.noted(task[0], stats)
                done += task[2].count
                progress(done, rows)
    made = {output.folder: [part for (folder, _), part in parts.items() if folder == output.folder and part] for output in outputs}
    skipped = merge_skipped([*(output.skips for output in outputs), *(part.skipped for own in made.values() for part in own)])
    _judge(skipped, sum(part.shard.rows for own in made.values() for part in own if part.shard), max_skipped)
    shared = contents.shared()
    warnings = [f"in more than one of these splits, byte for byte: {shared:,} sample(s)"] if shared else []
    manifests = [
        write_manifest(
            output.folder,
            kind,
            made[output.folder],
            sources=output.sources,
            command=command,
            skipped=output.skips,
            classes=output.classes,
            ignore_index=output.ignore_index,
            notes=(*output.notes, *_remarks(made[output.folder]), *_without_pixels(output, made[output.folder]), *warnings),
            part_names=output.parts,
            palette=output.palette,
        )
        for output in outputs
    ]
    _delete_staging([output.folder for output in outputs])
    return manifests


def _delete_staging(folders: Sequence[str]) -> None:
    """First all plans: as long as there is one, all records are there, and a command that was killed here goes on (`_refuse_finished`)."""
    for name in (f"{STAGING}/{PLAN}", STAGING):
        for folder in folders:
            _delete(folder, name)


def _delete(folder: str, name: str) -> None:
    """A file or a folder, where it is there."""
    system, path = open_place(folder)
    path = f"{path}/{name}"
    what = system.get_file_info(path).type
    if what == fs.FileType.File:
        system.delete_file(path)
    elif what == fs.FileType.Directory:
        system.delete_dir(path)


def _refuse_finished(outputs: Sequence[Output]) -> None:
    """Raises `CallError` where one of them is finished, unless this same job was killed between its manifests and its end."""
    finished = [output for output in outputs if _is_finished(output.folder)]
    ending = bool(finished) and any(_planned(output.folder) == job_digest(output) for output in outputs)
    for output in finished:
        system, path = open_place(output.folder)
        if ending and exists(system, _record(path, 0)):
            continue
        _delete(output.folder, STAGING)  # what such a kill left, or the lock alone
        claim_folder(output.folder)


@contextmanager
def _alone(folder: str, overwrite: bool) -> Iterator[None]:
    """Keeps other processes out of a local folder. Raises `SightlineError` where one prepares a data set there."""
    system, path = open_place(folder)
    if not overwrite and not exists(system, f"{path}/{STAGING}"):
        claim_folder(folder)  # a finished data set is refused before anything is made
    if not is_local(system):
        yield
        return
    with exclusive_lock(Path(path) / STAGING / "lock", f"{folder} is being prepared", timeout=0):
        yield


Task = tuple[str, int, RowSource]
"""Folder, number and rows of a shard."""


def make_shard(kind: Kind, task: Task) -> ShardStats:
    """Writes one shard and, after it, its record."""
    folder, index, source = task
    skips: list[tuple[str, str]] = []

    def rows() -> Iterator[Row]:
        for row in source.rows(lambda what, why: skips.append((what, why))):
            if must_stop():
                raise Stopped
            yield row

    with collected() as remarks:
        stats = write_shard(folder, index, kind, rows(), skips).model_copy(update={"remarks": dict(remarks)})
    system, path = open_place(folder)
    write_bytes(system, _record(path, index), stats.model_dump_json().encode())
    return stats


def job_digest(output: Output) -> str:
    """SHA-256 of what decides the content of a data set: a preparation that was stopped is continued only by a job with the same one."""
    # `Resize` and the field that holds it go by their first names, so that a preparation which an older Sightline began is continued.
    # Fields that came later are left out where they hold their default.
    identity = (_LATER.sub("", repr(source)).replace("resize=Resize(", "fit=Fit(") for source in output.shards)
    told = [repr((output.classes, output.ignore_index, *([output.parts] if output.parts else [])))] if output.classes else []
    digest = hashlib.sha256()
    for number, part in enumerate(chain(identity, told)):  # one by one: all together are 300 bytes a file
        digest.update(("\n" * (number > 0) + part).encode())
    return digest.hexdigest()


def _begin(output: Output, overwrite: bool) -> None:
    """Claim the folder: it must be empty or hold the beginning of this same job. Raises `CallError`."""
    system, path = open_place(output.folder)
    digest, begun = job_digest(output), _planned(output.folder)
    if overwrite or not _is_finished(output.folder):
        claim_folder(output.folder, overwrite)
    if begun not in (None, digest):
        if not overwrite:
            raise CallError(
                f"the beginning of another preparation lies in {output.folder}: its command had other words, or found other files",
                "run that command again to finish it, choose another --out, or start anew with --overwrite",
            )
        system.delete_dir(f"{path}/{STAGING}")
        for info in system.get_file_info(fs.FileSelector(path)):
            if info.path.endswith(".parquet"):
                system.delete_file(info.path)
    if begun != digest:
        system.create_dir(f"{path}/{STAGING}", recursive=True)
        write_bytes(system, _plan(path), json.dumps({"digest": digest, "shards": len(output.shards)}).encode())


def _is_finished(folder: str) -> bool:
    system, path = open_place(folder)
    return exists(system, f"{path}/{MANIFEST_NAME}")


def _planned(folder: str) -> str | None:
    """The digest of the job that was begun in a folder."""
    system, path = open_place(folder)
    return json.loads(read_bytes(system, _plan(path))).get("digest", "") if exists(system, _plan(path)) else None


def _plan(path: str) -> str:
    return f"{path}/{STAGING}/{PLAN}"


def _recorded(folder: str, index: int, kind: Kind) -> ShardStats | None:
    """A finished shard; None where there is none, or an older Sightline wrote it in another form."""
    system, path = open_place(folder)
    if not exists(system, _record(path, index)):
        return None
    stats = ShardStats.model_validate_json(read_bytes(system, _record(path, index)))
    whole = stats.shard is None or system.get_file_info(f"{path}/{stats.shard.name}").size == stats.shard.bytes
    return stats if whole and stats.schema_version == find_kind(kind).schema_version(stats.columns) else None


class _Contents:
    """What images and clouds each data set holds, in 8 bytes each, where there are several."""

    def __init__(self, several: bool) -> None:
        self._of: dict[str, array[int]] | None = {} if several else None

    def noted(self, folder: str, stats: ShardStats | None) -> ShardStats | None:
        """The statistics without the digests."""
        if stats is None:
            return None
        if self._of is not None:
            self._of.setdefault(folder, array("Q")).extend(int(digest, 16) for digest in stats.digests)
        return stats.model_copy(update={"digests": ()})

    def shared(self) -> int:
        """How many are in more than one data set, byte for byte."""
        each = [np.unique(np.asarray(own, np.uint64)) for own in (self._of or {}).values()]
        return int((np.unique(np.concatenate(each), return_counts=True)[1] > 1).sum()) if each else 0


def _remarks(parts: Sequence[ShardStats]) -> list[str]:
    return [f"{count:,} {text}" for text, count in total(part.remarks for part in parts).items()]


def _without_pixels(output: Output, parts: Sequence[ShardStats]) -> list[str]:
    """A note where masks never hold a class; 0 and 255 alone mostly mean that 255 is the object."""
    pixels = total(part.pixels for part in parts)
    absent = [f"{name} (index {index})" for index, name in enumerate(output.classes) if index not in pixels]
    if not pixels or not absent:
        return []
    told = f"no mask has a pixel of class {', '.join(absent[:5])}{f' and {len(absent) - 5} more' if len(absent) > 5 else ''}"
    if output.ignore_index == 255 and set(pixels) == {0, 255}:
        told += "; the masks hold 0 and 255 alone, and 255 is ignored: if 255 means the object, leave --ignore out and store it as 1"
    return [told]


def _record(path: str, index: int) -> str:
    return f"{path}/{STAGING}/shard-{index:05d}.json"


def _judge(skipped: Sequence[Skipped], rows: int, limit: float) -> None:
    count = sum(item.count for item in skipped)
    if count and count / (rows + count) > limit:
        raise SightlineError(
            f"{count} of {rows + count} rows had to be skipped, more than the share of {limit:g} that is allowed: {reasons(skipped)}",
            "correct the source, or allow it: the same command with --max-skipped and a larger share goes on from here",
        )
