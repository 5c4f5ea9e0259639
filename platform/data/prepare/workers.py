"""Where the tasks of a preparation run, those that find records and those that write shards: as Ray tasks where `RAY_ADDRESS` names a
cluster, else in processes of this machine, or in threads where there is little to do or the work is done in C++.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

from sightline.methods.errors import MachineError, SightlineError
from sightline.platform.core.processes import begin_helper
from sightline.platform.core.ray_checks import check_ray, names_cluster

T = TypeVar("T")
R = TypeVar("R")


class Where(NamedTuple):
    workers: int | None = None
    """Tasks at one time; None for one a CPU."""
    local: bool = False
    """Here, also where `RAY_ADDRESS` names a cluster."""
    tell: Callable[[str], None] = lambda text: None
    """Says what is begun."""

    @property
    def on_ray(self) -> bool:
        return names_cluster() and not self.local


USUAL = Where()


class Workers(ABC):
    """Runs tasks. Functions must be importable; what they take and return travels to other processes."""

    count: int
    """Tasks at one time."""

    def in_order(self, function: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
        """The result of every task, in their order. Tasks are taken when there is room, so few are held."""
        running: deque[Any] = deque()
        try:
            for task in tasks:
                running.append(self._begin(function, task))
                if len(running) > 2 * self.count:
                    yield self._result(running.popleft())
            while running:
                yield self._result(running.popleft())
        finally:
            self._cancel(running)

    def as_finished(self, function: Callable[[T], R], tasks: Iterable[T]) -> Iterator[tuple[T, R]]:
        """(task, its result), whichever is ready first."""
        running: dict[Any, T] = {}
        try:
            for task in tasks:
                running[self._begin(function, task)] = task
                while len(running) >= self.count:
                    for done in self._first(list(running)):
                        yield running.pop(done), self._result(done)
            while running:
                for done in self._first(list(running)):
                    yield running.pop(done), self._result(done)
        finally:
            self._cancel(running)

    @abstractmethod
    def _begin(self, function: Callable[[T], R], task: T) -> Any: ...

    @abstractmethod
    def _first(self, running: list[Any]) -> Iterable[Any]: ...

    @abstractmethod
    def _result(self, running: Any) -> Any: ...

    @abstractmethod
    def _cancel(self, running: Iterable[Any]) -> None: ...


@contextmanager
def start_workers(where: Where, most: int, *, threads: bool = False) -> Iterator[Workers]:
    """At most `most` of them. `threads`: processes of this machine would cost more than they save.

    Raises `MachineError` where a process is killed.
    """
    if where.on_ray:
        with _on_ray(where.workers) as found:
            yield found
        return
    count = max(1, min(where.workers or os.cpu_count() or 1, most))
    with (_threads if threads or count == 1 else _processes)(count) as pool:
        yield _Here(count, pool)


def run_each(function: Callable[[T], R], tasks: list[T], where: Where) -> Iterator[R]:
    """The result of every task, in their order. Threads suffice here: the work is in C++ and BLAS."""
    if tasks:
        with start_workers(where, len(tasks), threads=True) as workers:
            yield from workers.in_order(function, tasks)


def must_stop() -> bool:
    """In a long task: whether the command was stopped meanwhile, so that the task should end too."""
    stop = getattr(_OWN, "stop", None)
    return stop is not None and bool(stop.is_set())


_OWN = threading.local()


class _Here(Workers):
    def __init__(self, count: int, pool: Executor) -> None:
        self.count, self._pool = count, pool

    def _begin(self, function: Callable[[T], R], task: T) -> Future[R]:
        return self._pool.submit(function, task)

    def _first(self, running: list[Future[R]]) -> Iterable[Future[R]]:
        return wait(running, return_when=FIRST_COMPLETED).done

    def _result(self, running: Future[R]) -> R:
        return running.result()

    def _cancel(self, running: Iterable[Future[R]]) -> None:
        for future in running:
            future.cancel()


@contextmanager
def _threads(count: int) -> Iterator[Executor]:
    stop = threading.Event()
    with ThreadPoolExecutor(count, initializer=_begin_thread, initargs=(stop,)) as pool:
        try:
            yield pool
        finally:
            stop.set()


@contextmanager
def _processes(count: int) -> Iterator[Executor]:
    context = multiprocessing.get_context("forkserver")  # imports once, and goes on for the next workers of this command
    context.set_forkserver_preload([f"{__package__}.source"])
    stop = context.Event()
    with ProcessPoolExecutor(count, context, _begin_process, (stop,)) as pool:
        try:
            yield pool
        except BrokenProcessPool as error:
            raise MachineError(
                "a process of the preparation was killed, perhaps because the memory was used up",
                "the same command goes on from the finished shards; --workers 1 needs the least memory",
            ) from error
        finally:
            stop.set()


def _begin_thread(stop: Any) -> None:
    _OWN.stop = stop


def _begin_process(stop: Any) -> None:
    _OWN.stop = stop
    begin_helper()


@contextmanager
def _on_ray(count: int | None) -> Iterator[Workers]:
    import ray

    from sightline.platform.core.ray_init import end_ray, start_ray

    check_ray()
    started = not ray.is_initialized()
    start_ray(hint="run the same command again, which goes on from what is done, or add --local")
    try:
        yield _OnRay(count or max(1, int(ray.cluster_resources().get("CPU", 1))))  # type: ignore[no-untyped-call]
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, SightlineError):
            raise error.cause from None
        raise
    finally:
        if started:
            end_ray()


class _OnRay(Workers):
    def __init__(self, count: int) -> None:
        import ray

        self.count = count
        self._remote: Any = ray.remote(num_cpus=1, max_retries=3)(_call)

    def _begin(self, function: Callable[[T], R], task: T) -> Any:
        return self._remote.remote(function, task)

    def _first(self, running: list[Any]) -> Iterable[Any]:
        import ray

        return ray.wait(running, num_returns=1)[0]

    def _result(self, running: Any) -> Any:
        import ray

        return ray.get(running)

    def _cancel(self, running: Iterable[Any]) -> None:
        import ray

        for reference in running:
            ray.cancel(reference)


def _call(function: Callable[[T], R], task: T) -> R:
    return function(task)
