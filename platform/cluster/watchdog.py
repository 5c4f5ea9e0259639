"""Finds workers that hang: halted, or waiting for something that never comes. Ray sees only processes that die.

In each worker a thread tells an actor, again and again, whether the thread that trains has moved: whether it is at another place of the
code, or has used the CPU. The driver asks the actor. All workers of a group wait for one that hangs, so they have stalled where none moves.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.actor import ActorHandle

PULSE_SECONDS = 5.0
"""Between two signs of a worker."""
BUSY = 0.1
"""Share of the time for which the thread must have used a CPU to have moved where its place in the code is the same."""
CODE = str(Path(__file__).parents[2])


@dataclass
class Sign:
    """What is known of a worker. Seconds are counted while somebody asks, so that a machine that slept has lost no time."""

    rank: int
    pid: int
    host: str
    node: str
    where: str = ""
    silent: float = 0.0
    """Seconds without any sign."""
    still: float = 0.0
    """Seconds in which it has not moved."""

    @property
    def name(self) -> str:
        return f"worker {self.rank} (process {self.pid} on {self.host})"


class Signs:
    """The signs of all workers of an attempt, as the actor keeps them."""

    def __init__(self) -> None:
        self.of: dict[int, Sign] = {}
        self._asked = time.monotonic()

    def take(self, rank: int, pid: int, host: str, node: str, where: str, moved: bool) -> None:
        known = self.of.get(rank)
        if known is None or known.pid != pid:
            self.of[rank] = known = Sign(rank, pid, host, node)
        known.where, known.silent = where, 0.0
        if moved:
            known.still = 0.0

    def forget(self, rank: int, pid: int) -> None:
        """Its training has ended; what it does now, such as an upload, may take as long as it likes."""
        if rank in self.of and self.of[rank].pid == pid:
            del self.of[rank]

    def stalled(self, timeout: float) -> list[Sign]:
        """The workers that are to be ended: those that give no sign, else all, where none has moved for `timeout` seconds."""
        now = time.monotonic()
        passed, self._asked = min(now - self._asked, PULSE_SECONDS), now
        for each in self.of.values():
            each.silent += passed
            each.still += passed
        if not self.of or any(each.still < timeout for each in self.of.values()):
            return []
        found = list(self.of.values())
        self.of = {}
        return [each for each in found if each.silent > 3 * PULSE_SECONDS] or found


class Pulse(threading.Thread):
    """Gives signs of the thread that makes it, until `end`."""

    def __init__(self, rank: int, recorder: ActorHandle[Any], node: str) -> None:
        super().__init__(name="sightline-pulse", daemon=True)
        self.rank, self.recorder, self.node = rank, recorder, node
        self.thread = threading.get_ident()
        self.clock = time.pthread_getcpuclockid(self.thread)
        self._ended = threading.Event()

    def run(self) -> None:
        before: tuple[Any, float] = ((), 0.0)
        while True:
            frames, used = _frames(self.thread), time.clock_gettime(self.clock)
            position = tuple((frame.f_code.co_filename, frame.f_lasti) for frame in frames)
            moved = position != before[0] or used - before[1] > BUSY * PULSE_SECONDS
            self.recorder.sign.remote(self.rank, os.getpid(), socket.gethostname(), self.node, _where(frames), moved)
            before = position, used
            del frames
            if self._ended.wait(PULSE_SECONDS):
                return

    def end(self) -> None:
        """No sign comes after it: who is forgotten would be known again, and ended for saying nothing."""
        if not self._ended.is_set():
            self._ended.set()
            if self.is_alive():
                self.join()
            self.recorder.forget.remote(self.rank, os.getpid())


def describe(stalled: list[Sign], timeout: float) -> str:
    """What hung, for a person."""
    named = "; ".join(f"{each.name} is in {each.where}" for each in stalled)
    if any(each.silent > 3 * PULSE_SECONDS for each in stalled):
        named = "; ".join(f"{each.name} gives no sign: it is halted, or its machine hangs" for each in stalled)
    end = "They are ended; another attempt goes on from the newest checkpoint"
    return f"no worker has moved for {timeout:g} s (train.stall_timeout): {named}. {end}"


def end(stalled: list[Sign]) -> None:
    """SIGKILL to the workers, each by a task on its node."""
    import ray

    kill = ray.remote(num_cpus=0, max_retries=0)(_kill)
    asked = [kill.options(label_selector={"ray.io/node-id": each.node}).remote(each.pid) for each in stalled]
    with contextlib.suppress(ray.exceptions.RayError):
        ray.wait(asked, num_returns=len(asked), timeout=60)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _frames(thread: int) -> list[FrameType]:
    """Of the thread, innermost first."""
    frame, found = sys._current_frames().get(thread), list[FrameType]()
    while frame is not None:
        found.append(frame)
        frame = frame.f_back
    return found


def _where(frames: list[FrameType]) -> str:
    """The innermost place in Sightline's code, such as `platform/training/step.py:120 (step)`."""
    ours = next((frame for frame in frames if frame.f_code.co_filename.startswith(CODE)), None)
    if ours is None:
        return "code of a library"
    return f"{ours.f_code.co_filename.removeprefix(CODE).lstrip('/')}:{ours.f_lineno} ({ours.f_code.co_name})"
