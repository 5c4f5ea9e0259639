"""The stream of a source that Ray Data reads: rows in Ray's order become microbatches, epoch after epoch.

Tasks of Ray Data make the samples, and Ray deals them to the ranks, as many to each (`streaming_split`), so that all ranks come to the
end of an epoch at the same step. Rows that are left over from the last microbatch of an epoch begin the next one: no microbatch is short.
Random draws are new at every visit: without a plan there is no position that could key them.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa

from sightline.methods.contract import Stage, Views
from sightline.methods.errors import BrokenSampleError, SightlineError
from sightline.methods.random import keyed_rng
from sightline.platform.data.foreign_rows import made, rows_of
from sightline.platform.data.kinds import find_kind
from sightline.platform.data.ray_source import Look, RaySource, cannot_read

from .blocks import Columns, put
from .stream import Background, BrokenSamples, Microbatch, StreamResources, failure, taken, with_stage

if TYPE_CHECKING:
    import ray.data

ROWS = 64
"""Rows whose samples are made together."""


class Batches(Protocol):
    """What a rank reads: `ray.data.DataIterator`."""

    def iter_batches(self, **options: Any) -> Any: ...


def samples_dataset(
    source: RaySource, views: Views, resources: StreamResources, make_stage: Callable[[], Stage] | None = None
) -> ray.data.Dataset:
    """The source as a Ray dataset of samples: the arrays of `views` and of the stage, `id` and `broken`. Needs a connection to Ray.

    Raises `SightlineError` where the first rows show that it will not do.
    """
    look = source.look(views)
    make = partial(make_samples, kind=source.kind, views=views, look=look)
    rows = source.dataset(resources.task_cpus)
    samples = rows.map_batches(make, batch_size=ROWS, batch_format="pyarrow", num_cpus=resources.task_cpus)
    return samples if make_stage is None else with_stage(samples, make_stage, resources)


def make_samples(table: pa.Table, kind: str, views: Views, look: Look) -> Columns:
    """The samples of a few rows. A broken row is replaced by the next usable one, or by the first of the source where there is none."""
    rng = keyed_rng("samples", os.urandom(16).hex())
    try:
        rows = list(rows_of(table, look.columns))
        samples: list[Columns | None] = []
        broken = [""] * len(rows)
        for place, row in enumerate(rows):
            try:
                samples.append(made(row, find_kind(kind), views, rng))
            except BrokenSampleError as error:
                broken[place] = str(error)
                samples.append(None)
        ids = [str(row["id"]) for row in rows]
        arrays: Columns = {}
        for place, sample in enumerate(samples):
            if sample is None:
                usable = [other for other in (*range(place + 1, len(rows)), *range(place)) if not broken[other]]
                row = rows[usable[0]] if usable else look.example
                sample, ids[place] = made(row, find_kind(kind), views, rng), str(row["id"])
            put(arrays, place, sample, len(rows))
    except SightlineError as error:  # returned as data, because Ray Data wraps what a task raises and loses its cause
        return failure(error)
    return {**arrays, "id": np.asarray(ids, object), "broken": np.asarray(broken, object)}


@dataclass
class RayStream:
    """The microbatches of `slots` for the steps `[first_step, steps)`. One stream per rank, all of them over shares of one dataset."""

    source: RaySource
    batches: Batches
    slots: Sequence[int]
    first_step: int
    steps: int
    batch: int
    microbatch: int
    max_broken: float = 0.05
    world: int = 1
    broken: BrokenSamples = field(init=False)

    def __post_init__(self) -> None:
        self.broken = BrokenSamples(self.max_broken, self.source.rows)

    def __iter__(self) -> Iterator[list[Microbatch]]:
        """For each step the microbatches of this rank. Raises `SightlineError` where the source ends, fails or has too many broken rows."""
        source = Background(self._columns())
        held: deque[Columns] = deque()
        count = 0
        try:
            for step in range(self.first_step, self.steps):
                microbatches = []
                for slot in self.slots:
                    while count < self.microbatch:
                        held.append(next(source))
                        count += len(held[-1]["id"])
                    columns = taken(held, self.microbatch, "id")
                    count -= self.microbatch
                    ids, broken = columns.pop("id").tolist(), columns.pop("broken").tolist()
                    self.broken.add(broken)
                    microbatches.append(Microbatch(step, slot, columns, tuple(ids), tuple(reason for reason in broken if reason)))
                yield microbatches
        finally:
            source.close()

    def _columns(self) -> Iterator[Columns]:
        """This rank's samples of epoch after epoch, without end."""
        from ray.exceptions import RayError, RayTaskError

        while True:
            rows = 0
            try:
                for columns in self.batches.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=1):
                    if "failure" in columns:
                        raise SightlineError(str(columns["failure"][0]), str(columns["hint"][0]))
                    rows += len(columns["id"])
                    if len(columns["id"]):
                        yield columns
            except (RayTaskError, ValueError, TypeError, OSError, pa.ArrowException) as error:
                raise cannot_read(self.source.name, error) from error
            except RayError as error:
                if type(error).__name__ in ("UserCodeException", "RaySystemError"):
                    raise cannot_read(self.source.name, error) from error
                raise
            if rows * self.world < self.batch:
                raise SightlineError(
                    f"{self.source.name} gave {rows * self.world:,} rows, and one batch needs {self.batch:,}"
                    + (f" (each of {self.world} workers gets as many rows)" if self.world > 1 else ""),
                    "set a smaller batch.size, or add data",
                )
