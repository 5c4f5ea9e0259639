"""How much memory a run takes, with all processes that it started."""

from __future__ import annotations

import resource
import threading
import time
from collections.abc import Iterable
from contextlib import suppress

from sightline.platform.core import kept_ray
from sightline.platform.core.ray_checks import names_cluster
from sightline.platform.runs.events import MemoryPeak, RunEvent, TrainingStarted


def peak_of_process() -> int:
    """Most bytes of memory that this process has held since it started (RSS, shared memory included)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class MemoryMeter(threading.Thread):
    """Peak proportional set size (PSS) of this process, all it started and a kept Ray that it uses; shared memory counts once."""

    EVERY = 3.0
    SHARE = 0.01
    """Of one core, at most: the kernel counts the pages of a process for some milliseconds."""

    def __init__(self) -> None:
        super().__init__(name="sightline-memory", daemon=True)
        self.peak = 0
        self._stop_asked = threading.Event()

    def run(self) -> None:
        import psutil

        me = psutil.Process()
        spent = 0.0
        while not self._stop_asked.wait(max(self.EVERY, spent / self.SHARE)):
            began = time.thread_time()
            with suppress(psutil.Error):
                total = 0
                kept = kept_ray.used()
                roots = [me, *([psutil.Process(kept.pid)] if kept else [])]
                for process in [each for root in roots for each in (root, *root.children(recursive=True))]:
                    with suppress(psutil.Error):
                        total += process.memory_full_info().pss
                self.peak = max(self.peak, total)
            spent = time.thread_time() - began

    def words(self, events: Iterable[RunEvent]) -> str:
        """Such as `3.0 GiB, all processes together`. On a cluster the workers are no children of this process: their own peaks come from
        the `events` of the run."""
        if not names_cluster():
            return f"{_gib(self.peak)}, all processes together"
        workers: dict[int, int] = {}
        for event in events:
            match event:
                case TrainingStarted():
                    workers = {}
                case MemoryPeak():
                    workers[event.rank] = event.bytes
        of_workers = f"{_gib(max(workers.values()))} a worker" if workers else "not known of the workers"
        return f"{_gib(self.peak)} here, {of_workers}; data tasks not counted"

    def stop(self) -> None:
        self._stop_asked.set()


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
