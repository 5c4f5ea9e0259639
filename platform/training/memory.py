"""How much memory a run takes, with all processes that it started."""

from __future__ import annotations

import threading
from contextlib import suppress

from sightline.platform.core.ray_checks import names_cluster


class MemoryMeter(threading.Thread):
    """Peak proportional set size (PSS) of this process and all it started; shared memory counts once."""

    EVERY = 3.0

    def __init__(self) -> None:
        super().__init__(name="sightline-memory", daemon=True)
        self.peak = 0
        self._stop_asked = threading.Event()

    def run(self) -> None:
        import psutil

        me = psutil.Process()
        while not self._stop_asked.wait(self.EVERY):
            with suppress(psutil.Error):
                total = 0
                for process in [me, *me.children(recursive=True)]:
                    with suppress(psutil.Error):
                        total += process.memory_full_info().pss
                self.peak = max(self.peak, total)

    @property
    def words(self) -> str:
        peak = f"at most {self.peak / 2**30:.1f} GiB of memory"
        if names_cluster():
            return f"{peak} in this process and those it started; the cluster's workers are not counted"
        return f"{peak}, all processes together"

    def stop(self) -> None:
        self._stop_asked.set()
