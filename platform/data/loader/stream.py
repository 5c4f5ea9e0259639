"""The stream turns a plan into microbatches of fixed-shape arrays, in exact order; every position is checked.

Each rank runs the blocks of its own slots through its own Ray Data pipeline, *window* after window (a Ray dataset cannot hold a long
plan), while the trainer consumes. A block is one task: read its row groups, shuffle, decode, `views`, one contiguous array a column.
Without `StreamResources` a thread of this process makes the same blocks: sweep trials and tests with one worker need no second process.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice, repeat
from typing import TYPE_CHECKING

import numpy as np

from sightline.methods.contract import Stage, Views
from sightline.methods.errors import SightlineError
from sightline.methods.random import key
from sightline.platform.data.dataset import Dataset

from .blocks import Columns, Made, load_block, staged
from .cache import Cache
from .plan import Block, Plan

if TYPE_CHECKING:
    import ray.data

WINDOWS = (8, 32, 128, 256)
"""Blocks in the first, second, third and every later Ray dataset. Making one costs the driver 4 ms a block. The first is short so that the
first step need not wait for it, the next ones so that a short run does not pay for blocks it never reads; the last is so large that
a start-up of 0.15 s vanishes."""
OVERLAP_BLOCKS = 3
"""Blocks before the end of a window at which the next one starts, so that its start-up (a second) is not waited for."""
QUEUE_BLOCKS = 2
"""Finished blocks that wait in this process, besides those in Ray's object store."""


@dataclass(frozen=True)
class Microbatch:
    """One microbatch of one step. `arrays` are the views, samples first; `broken` are the errors of samples that were replaced."""

    step: int
    slot: int
    arrays: Columns
    ids: tuple[str, ...]
    broken: tuple[str, ...]

    @property
    def digest(self) -> int:
        """64 bits over the ids, in order: what this microbatch contributes to a run's effective history."""
        return key(self.step, self.slot, *self.ids) >> 1


@dataclass(frozen=True)
class StreamResources:
    """Logical CPUs of one rank's pipeline: for one task, and for all tasks together. The `actors` of a stage have their own."""

    task_cpus: float = 1.0
    cpus: float = 1.0
    actors: int = 0
    actor_cpus: float = 1.0
    actor_gpus: float = 0.0


@dataclass
class BrokenSamples:
    """The broken samples among those of one rank: a share above `limit` is an error."""

    limit: float
    rows: int
    """Of the data set; 0 where unknown."""
    samples: int = 0
    reasons: dict[str, str] = field(default_factory=dict)
    """By id."""

    def add(self, broken: Sequence[str]) -> None:
        """Count samples, each with its reason or ''. Raises `SightlineError` above the limit."""
        self.samples += len(broken)
        for reason in filter(None, broken):
            self.reasons[reason.partition(": ")[0]] = reason  # an id may be an address
        share = len(self.reasons) / max(1, min(self.samples, self.rows or self.samples))
        if self.reasons and self.samples >= 100 and share > self.limit:
            first = next(iter(self.reasons.values()))
            raise SightlineError(
                f"{len(self.reasons)} of {self.samples} samples are broken, more than data.max_broken = {self.limit:g}; the first: {first}",
                "fix or drop them with `sightline prepare`, or raise data.max_broken",
            )


def taken(held: deque[Columns], count: int, key: str) -> Columns:
    """The next `count` samples of the blocks that are held; `key` names a column that every block has."""
    parts: list[Columns] = []
    while count:
        head = held[0]
        some = min(count, len(head[key]))
        parts.append({name: column[:some] for name, column in head.items()})
        if some == len(head[key]):
            held.popleft()
        else:
            held[0] = {name: column[some:] for name, column in head.items()}
        count -= some
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@dataclass
class Stream:
    """The microbatches of `slots` for the steps `[first_step, steps)`, step after step, slots in order. One stream per rank."""

    dataset: Dataset
    views: Views
    plan: Plan
    slots: Sequence[int]
    first_step: int
    steps: int
    seed: int
    resources: StreamResources | None = None
    """None: a thread of this process makes the blocks. Otherwise Ray Data makes them with these CPUs."""
    max_broken: float = 0.05
    make_stage: Callable[[], Stage] | None = None
    """Makes the stage that runs on the views of every block. It is called where the stage runs: in this process, or in Ray actors."""
    variants: int = 0
    """Above 0: the number of fixed draws of every row, see `blocks.Made`."""
    cache: Cache | None = None
    """A cache of these variants: samples are read from it, and no stage runs."""
    name: str = "stream"
    """Of its Ray datasets, on the dashboard."""
    broken: BrokenSamples = field(init=False)

    def __post_init__(self) -> None:
        self.broken = BrokenSamples(self.max_broken, self.dataset.rows)

    def __iter__(self) -> Iterator[list[Microbatch]]:
        """For each step the microbatches of this rank. Raises `SightlineError` at a gap in the positions or too many broken samples."""
        source = Background(self._blocks())
        held: dict[int, deque[Columns]] = {slot: deque() for slot in self.slots}
        counts = dict.fromkeys(self.slots, 0)
        try:
            for step in range(self.first_step, self.steps):
                for slot in self.slots:
                    while counts[slot] < self.plan.microbatch:
                        columns = next(source)
                        owner = int(columns["position"][0]) % self.plan.batch // self.plan.microbatch
                        held[owner].append(columns)
                        counts[owner] += len(columns["position"])
                yield [self._microbatch(step, slot, held[slot], counts) for slot in self.slots]
        finally:
            source.close()

    def _microbatch(self, step: int, slot: int, held: deque[Columns], counts: dict[int, int]) -> Microbatch:
        columns = taken(held, self.plan.microbatch, "position")
        counts[slot] -= self.plan.microbatch
        first = step * self.plan.batch + slot * self.plan.microbatch
        position = columns.pop("position")
        if not np.array_equal(position, np.arange(first, first + self.plan.microbatch)):
            raise SightlineError(
                f"the stream broke its order at step {step}: expected position {first}, got {position[0]}", "please report this"
            )
        ids, broken = columns.pop("id").tolist(), columns.pop("broken").tolist()
        self.broken.add(broken)
        return Microbatch(step, slot, columns, tuple(ids), tuple(b for b in broken if b))

    def _blocks(self) -> Iterator[Columns]:
        schedule = self.plan.schedule(self.slots, self.first_step, self.steps)
        first_row = self.first_step * self.plan.microbatch
        samples = self.cache or Made(self.dataset, self.views, self.seed, self.variants)
        load = partial(load_block, first_row=first_row, samples=samples, plan=self.plan)
        yield from run_blocks(schedule, load, None if self.cache else self.make_stage, self.resources, name=self.name)


def run_blocks(
    blocks: Iterator[Block],
    load: partial[Columns],
    make_stage: Callable[[], Stage] | None,
    resources: StreamResources | None,
    windows: Sequence[int] = WINDOWS,
    name: str = "stream",
) -> Iterator[Columns]:
    """The columns of each block, in order: `load`, then the stage. In this process where `resources` is None, else by Ray Data.

    `name`: of the Ray datasets.
    """
    if resources is None:
        stage = make_stage() if make_stage else None
        yield from (staged(load(block), stage) for block in blocks)
    else:
        yield from _in_windows(blocks, load, make_stage, resources, windows, name)


def _in_windows(
    schedule: Iterator[Block],
    load: partial[Columns],
    make_stage: Callable[[], Stage] | None,
    resources: StreamResources,
    windows: Sequence[int],
    name: str,
) -> Iterator[Columns]:
    """Window after window, each started a few blocks before the one in front of it ends."""
    runs: list[Background] = []
    sizes = chain(windows, repeat(windows[-1]))

    def start() -> int:
        window = list(islice(schedule, next(sizes)))
        if window:
            runs.append(Background(_run_window(window, load, make_stage, resources, name)))
        return len(window)

    try:
        count = start()
        while count:
            following = 0
            for index in range(count):
                if index == max(0, count - OVERLAP_BLOCKS):
                    following = start()
                yield next(runs[0])
            runs.pop(0).close()
            count = following
    finally:
        for run in runs:
            run.close()


class StageActor:
    """A stage in a process of its own, made once a window. Errors are returned as data, as those of tasks are."""

    def __init__(self, make_stage: Callable[[], Stage]) -> None:
        self.failure: Columns = {}
        try:
            self.stage = make_stage()
        except SightlineError as error:
            self.failure = failure(error)

    def __call__(self, columns: Columns) -> Columns:
        if self.failure or "failure" in columns:
            return self.failure or columns
        try:
            return staged(columns, self.stage)
        except SightlineError as error:
            return failure(error)


def failure(error: SightlineError) -> Columns:
    return {"failure": np.asarray([str(error)], object), "hint": np.asarray([error.hint], object)}


def _run_window(
    blocks: list[Block], load: partial[Columns], make_stage: Callable[[], Stage] | None, resources: StreamResources, name: str
) -> Iterator[Columns]:
    """One window as one Ray dataset of one task a block, in order. Options are set here because a driver's have no effect in a worker."""
    import logging

    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    context.execution_options.verbose_progress = False
    cpus, gpus = max(resources.cpus, resources.task_cpus), 0.0
    if make_stage is not None:
        cpus, gpus = cpus + resources.actors * resources.actor_cpus, resources.actors * resources.actor_gpus
    context.execution_options.resource_limits = ray.data.ExecutionResources(cpu=cpus, gpu=gpus)
    context.target_max_block_size = 1 << 31  # a block leaves its task as one piece

    def make(batch: dict[str, np.ndarray]) -> Columns:
        try:
            return load(blocks[int(batch["item"][0])])
        except SightlineError as error:  # returned as data, because Ray Data wraps what a task raises and loses its cause
            return failure(error)

    # `from_items` needs no read tasks, which would be processes of their own with a whole CPU each.
    items = ray.data.from_items(list(range(len(blocks))), override_num_blocks=len(blocks))
    dataset = items.map_batches(make, batch_size=None, num_cpus=resources.task_cpus)
    if make_stage is not None:
        dataset = with_stage(dataset, make_stage, resources)
    dataset.set_name(name)
    for columns in dataset.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=1):
        if "failure" in columns:
            raise SightlineError(str(columns["failure"][0]), str(columns["hint"][0]))
        yield columns


def with_stage(dataset: ray.data.Dataset, make_stage: Callable[[], Stage], resources: StreamResources) -> ray.data.Dataset:
    """The dataset of samples with what the stage adds, in actors."""
    import ray.data

    return dataset.map_batches(
        StageActor,
        fn_constructor_args=(make_stage,),
        batch_size=None,
        compute=ray.data.ActorPoolStrategy(size=resources.actors),
        num_cpus=resources.actor_cpus,
        num_gpus=resources.actor_gpus,
        memory=1,  # a byte: where both operators ask for the same, Ray Data merges them and loads the blocks in the actors, too
    )


class Background:
    """An iterator run by a thread, a few items ahead, so that the gap between two windows is not felt."""

    def __init__(self, items: Iterator[Columns]) -> None:
        self._items = items
        self._queue: queue.Queue[Columns | BaseException | None] = queue.Queue(QUEUE_BLOCKS)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sightline-stream", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            for item in self._items:
                if not self._put(item):
                    return
            self._put(None)
        except BaseException as error:
            self._put(error)
        finally:
            self._items.close()  # type: ignore[attr-defined]  # a generator: stops the Ray pipeline behind it

    def _put(self, item: Columns | BaseException | None) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.2)
                return True
            except queue.Full:
                continue
        return False

    def __next__(self) -> Columns:
        item = self._queue.get()
        if isinstance(item, BaseException):
            raise item
        if item is None:
            raise StopIteration
        return item

    def close(self) -> None:
        self._stop.set()
        self._thread.join(timeout=10)
