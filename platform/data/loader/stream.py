"""The stream turns a plan into microbatches of fixed-shape arrays, in exact order; every position is checked.

Each rank has the blocks of its own slots made by Ray tasks while the trainer consumes, a few blocks ahead. A block is one task: read its
row groups, shuffle, decode, `views`, one contiguous array a column. Ray Data is not used for this: its executor waits a tenth of a second
between two tasks (docs/notes/stream.md).
Without `StreamResources` a thread of this process makes the same blocks: sweep trials and tests with one worker need no second process.
"""

from __future__ import annotations

import queue
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from sightline.methods.contract import Stage, Views
from sightline.methods.errors import SightlineError
from sightline.methods.random import key
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.mixed_data import MixedData

from .blocks import Columns, Made, Samples, Several, load_block, staged
from .cache import Cache
from .mixed_plan import MixedPlan
from .plan import Block, Plan

if TYPE_CHECKING:
    import ray
    import ray.data

T = TypeVar("T")

AHEAD_BLOCKS = 2
"""Blocks that are finished or being made, besides one a task, while the consumer waits for the first of them."""
QUEUE_BLOCKS = 2
"""Finished blocks that wait in this process; of Ray tasks as many again wait as references."""


@dataclass(frozen=True)
class Microbatch:
    """One microbatch of one step. `arrays` are the views, samples first; `broken` are the errors of samples that were replaced."""

    step: int
    slot: int
    arrays: Columns
    ids: tuple[str, ...]
    broken: tuple[str, ...]
    sources: np.ndarray | None = None
    """The data set of each sample, where a run has several."""

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
    """The next `count` samples of the blocks that are held; `key` names a column that every block has. A part of one block is a view."""
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
    return parts[0] if len(parts) == 1 else {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def together(parts: Sequence[Columns], first: int) -> Columns:
    """The columns of parts as one, each sample at its `position` less `first`. Raises `SightlineError` where one is missing."""
    if len(parts) == 1:
        return parts[0]
    position = np.concatenate([part["position"] for part in parts])
    if not np.array_equal(np.sort(position), np.arange(first, first + len(position))):
        raise broke_order(first, int(position.min()))
    made = {name: np.empty((len(position), *column.shape[1:]), column.dtype) for name, column in parts[0].items()}
    for part in parts:
        for name, column in made.items():
            column[part["position"] - first] = part[name]
    return made


def broke_order(expected: int, got: int) -> SightlineError:
    return SightlineError(f"the stream broke its order: expected position {expected}, got {got}", "please report this")


@dataclass
class Stream:
    """The microbatches of `slots` for the steps `[first_step, steps)`, step after step, slots in order. One stream per rank."""

    dataset: Dataset | MixedData
    views: Views
    plan: Plan | MixedPlan
    slots: Sequence[int]
    first_step: int
    steps: int
    seed: int
    resources: StreamResources | None = None
    """None: a thread of this process makes the blocks. Otherwise Ray tasks make them with these CPUs."""
    max_broken: float = 0.05
    make_stage: Callable[[], Stage] | None = None
    """Makes the stage that runs on the views of every block. It is called where the stage runs: in this process, or in Ray actors."""
    variants: int = 0
    """Above 0: the number of fixed draws of every row, see `blocks.Made`."""
    cache: Cache | None = None
    """A cache of these variants: samples are read from it, and no stage runs."""
    name: str = "stream"
    """Of its Ray tasks, on the dashboard."""
    broken: BrokenSamples = field(init=False)

    def __post_init__(self) -> None:
        self.broken = BrokenSamples(self.max_broken, self.dataset.rows)

    def __iter__(self) -> Iterator[list[Microbatch]]:
        """For each step the microbatches of this rank. Raises `SightlineError` at a gap in the positions or too many broken samples."""
        source = Background(self._blocks())
        held: dict[tuple[int, int], deque[Columns]] = defaultdict(deque)
        counts: dict[tuple[int, int], int] = defaultdict(int)
        try:
            for step in range(self.first_step, self.steps):
                needed = {slot: self.plan.counts(slot, step) for slot in self.slots}
                for slot in self.slots:
                    while any(counts[slot, of] < count for of, count in enumerate(needed[slot])):
                        columns = next(source)
                        owner = int(columns["position"][0]) % self.plan.batch // self.plan.microbatch, int(columns["source"][0])
                        held[owner].append(columns)
                        counts[owner] += len(columns["position"])
                yield [self._microbatch(step, slot, needed[slot], held, counts) for slot in self.slots]
        finally:
            source.close()

    def _microbatch(
        self, step: int, slot: int, needed: list[int], held: dict[tuple[int, int], deque[Columns]], counts: dict[tuple[int, int], int]
    ) -> Microbatch:
        first = step * self.plan.batch + slot * self.plan.microbatch
        parts = [taken(held[slot, of], count, "position") for of, count in enumerate(needed) if count]
        for of, count in enumerate(needed):
            counts[slot, of] -= count
        columns = together(parts, first)
        position, sources = columns.pop("position"), columns.pop("source")
        if not np.array_equal(position, np.arange(first, first + self.plan.microbatch)):
            raise broke_order(first, int(position[0]))
        ids, broken = columns.pop("id").tolist(), columns.pop("broken").tolist()
        self.broken.add(broken)
        several = sources if isinstance(self.dataset, MixedData) else None
        return Microbatch(step, slot, columns, tuple(ids), tuple(b for b in broken if b), several)

    def _blocks(self) -> Iterator[Columns]:
        schedule = self.plan.schedule(self.slots, self.first_step, self.steps)
        load = partial(load_block, first_step=self.first_step, samples=self._samples(), plan=self.plan)
        yield from run_blocks(schedule, load, None if self.cache else self.make_stage, self.resources, name=self.name)

    def _samples(self) -> Samples:
        if self.cache is not None:
            return self.cache
        if isinstance(self.dataset, MixedData):
            return Several(tuple(Made(one, self.views, self.seed, self.variants) for one in self.dataset.sets))
        return Made(self.dataset, self.views, self.seed, self.variants)


def run_blocks(
    blocks: Iterator[Block],
    load: partial[Columns],
    make_stage: Callable[[], Stage] | None,
    resources: StreamResources | None,
    name: str = "stream",
) -> Iterator[Columns]:
    """The columns of each block, in order: `load`, then the stage. In this process where `resources` is None, else as Ray tasks.

    `name`: of the tasks. Arrays that Ray tasks made are read-only.
    """
    if resources is None:
        stage = make_stage() if make_stage else None
        yield from (staged(load(block), stage) for block in blocks)
        return
    import ray

    finished = Background(_finished(blocks, load, make_stage, resources, name))
    try:
        for reference in finished:
            columns = ray.get(reference)
            if "failure" in columns:
                raise SightlineError(str(columns["failure"][0]), str(columns["hint"][0]))
            yield columns
    finally:
        finished.close()


def _finished(
    blocks: Iterator[Block],
    load: partial[Columns],
    make_stage: Callable[[], Stage] | None,
    resources: StreamResources,
    name: str,
) -> Iterator[ray.ObjectRef[Columns]]:
    """What `run_blocks` gives, as references to finished objects. A task begins as soon as another ends, while there are not too many."""
    import ray

    most = max(1, int(resources.cpus / resources.task_cpus + 1e-6))
    task = ray.remote(loaded).options(name=name, num_cpus=resources.task_cpus, max_retries=3, scheduling_strategy="SPREAD")
    shared = ray.put(load)
    actors = _stage_actors(make_stage, resources) if make_stage else []
    loading: list[ray.ObjectRef[Columns]] = []
    ordered: deque[ray.ObjectRef[Columns]] = deque()
    stages = cycle(actors)
    try:
        while True:
            while len(loading) < most and len(ordered) < most + len(actors) + AHEAD_BLOCKS:
                if (block := next(blocks, None)) is None:
                    break
                loading.append(task.remote(shared, block))
                ordered.append(next(stages).add.remote(loading[-1]) if actors else loading[-1])
            if not ordered:
                return
            ready, _ = ray.wait(list({ordered[0]: None} | dict.fromkeys(loading)), num_returns=1, fetch_local=False)
            loading = [reference for reference in loading if reference not in ready]
            if ordered[0] in ready:
                yield ordered.popleft()
    finally:
        for reference in {*loading, *ordered}:
            ray.cancel(reference)
        for actor in actors:
            ray.kill(actor)


def loaded(load: partial[Columns], block: Block) -> Columns:
    """A block, or the error as data: what a task raises is wrapped by Ray."""
    try:
        return load(block)
    except SightlineError as error:
        return failure(error)


def _stage_actors(make_stage: Callable[[], Stage], resources: StreamResources) -> list[Any]:
    """Actors to which blocks are dealt in turn."""
    import ray

    options = {"num_cpus": resources.actor_cpus, "num_gpus": resources.actor_gpus, "max_restarts": 3, "max_task_retries": 3}
    return [ray.remote(StageActor).options(**options).remote(make_stage) for _ in range(resources.actors)]


class StageActor:
    """A stage in a process of its own. Errors are returned as data, as those of tasks are."""

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

    add = __call__
    """The name by which Ray calls it; Ray Data calls the object."""


def failure(error: SightlineError) -> Columns:
    return {"failure": np.asarray([str(error)], object), "hint": np.asarray([error.hint], object)}


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


class Background(Generic[T]):
    """An iterator run by a thread, a few items ahead."""

    def __init__(self, items: Iterator[T]) -> None:
        self._items = items
        self._queue: queue.Queue[T | BaseException | None] = queue.Queue(QUEUE_BLOCKS)
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

    def _put(self, item: T | BaseException | None) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.2)
                return True
            except queue.Full:
                continue
        return False

    def __iter__(self) -> Background[T]:
        return self

    def __next__(self) -> T:
        item = self._queue.get()
        if isinstance(item, BaseException):
            raise item
        if item is None:
            raise StopIteration
        return item

    def close(self) -> None:
        self._stop.set()
        self._thread.join(timeout=10)
