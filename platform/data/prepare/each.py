"""Small tasks of a source, such as the features of a photo, run where its shards are made: as Ray tasks, or in threads here."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypeVar

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


USUAL = Where()


def run_each(function: Callable[[T], R], tasks: Sequence[T], where: Where) -> Iterator[R]:
    """The result of every task, in their order. Threads suffice here: the work is in C++ and BLAS."""
    if not tasks:
        return
    yield from (_on_ray if names_cluster() and not where.local else _here)(function, tasks, where.workers)


def _here(function: Callable[[T], R], tasks: Sequence[T], workers: int | None) -> Iterator[R]:
    count = max(1, min(workers or os.cpu_count() or 1, len(tasks)))
    running: deque[Future[R]] = deque()
    with ThreadPoolExecutor(count) as pool:
        try:
            for task in tasks:
                running.append(pool.submit(function, task))
                if len(running) > 2 * count:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            for future in running:
                future.cancel()


def _on_ray(function: Callable[[T], R], tasks: Sequence[T], workers: int | None) -> Iterator[R]:
    import ray

    from sightline.platform.core.ray_init import end_ray, start_ray

    check_ray()
    started = not ray.is_initialized()
    start_ray(hint="run the same command again, which goes on from what is done, or add --local")
    remote = ray.remote(num_cpus=1, max_retries=3)(function)
    limit = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))  # type: ignore[no-untyped-call]
    running: deque[ray.ObjectRef[R]] = deque()
    try:
        for task in tasks:
            running.append(remote.remote(task))
            if len(running) > 2 * limit:
                yield ray.get(running.popleft())
        while running:
            yield ray.get(running.popleft())
    finally:
        for reference in running:
            ray.cancel(reference)
        if started:
            end_ray()
