"""Workers that hang are found, whichever way; workers that are slow are left alone."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from heads import WAIT, until

from sightline.platform.cluster import watchdog
from sightline.platform.cluster.watchdog import Pulse, Signs, describe


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(watchdog.time, "monotonic", lambda: now[0])
    return now


def ask(signs: Signs, clock: list[float], seconds: int, moving: tuple[int, ...] = (), there: tuple[int, ...] = (0, 1)) -> list[int]:
    """The ranks that are to be ended, asked twice a second, when `there` give signs and `moving` move."""
    for half in range(2 * seconds):
        clock[0] += 0.5
        for rank in there if half % 10 == 0 else ():
            signs.take(rank, 70 + rank, "here", "node", f"file.py:{rank}", rank in moving)
        if found := signs.stalled(60):
            return [each.rank for each in found]
    return []


def test_one_that_is_halted_is_named_and_one_that_waits_for_it_is_not(clock: list[float]) -> None:
    signs = Signs()
    assert ask(signs, clock, 300, moving=(0, 1)) == []
    assert ask(signs, clock, 300, moving=(1,)) == [], "one still moves, such as in an upload that the other waits for"
    assert ask(signs, clock, 10, moving=(0, 1)) == []
    assert ask(signs, clock, 50, there=(0,)) == []
    assert ask(signs, clock, 15, there=(0,)) == [1]
    assert ask(signs, clock, 300, there=()) == [], "told once"


def test_all_that_wait_for_each_other_are_named_with_their_places(clock: list[float]) -> None:
    signs = Signs()
    ask(signs, clock, 10, moving=(0, 1))
    assert ask(signs, clock, 70) == [0, 1]
    ask(signs, clock, 1)
    text = describe(list(signs.of.values()), 60)
    assert "no worker has moved for 60 s (train.stall_timeout): worker 0 (process 70 on here) is in file.py:0; worker 1" in text


def test_a_machine_that_slept_and_a_worker_that_came_anew_have_lost_no_time(clock: list[float]) -> None:
    signs = Signs()
    ask(signs, clock, 50, moving=())
    clock[0] += 86_400  # the driver was halted, too
    assert signs.stalled(60) == []
    signs.take(0, 99, "here", "node", "", True)  # a restart
    signs.take(1, 98, "here", "node", "", True)
    signs.forget(1, 71)  # of the process before it
    assert len(signs.of) == 2 and ask(signs, clock, 50) == []
    ended = Signs()
    ended.take(0, 99, "here", "node", "", True)
    ended.forget(0, 99)
    assert ended.of == {}


def recorder_of(take: Callable[[tuple[Any, ...]], None]) -> Any:
    """The actor, to which signs are given and which is told to forget."""
    one = SimpleNamespace(remote=lambda *words: take(words))
    return SimpleNamespace(sign=one, forget=one)


def test_no_sign_comes_after_the_end() -> None:
    """Else the driver would know the worker again, and end it for saying nothing while it uploads."""
    giving, told = threading.Event(), list[int]()

    def take(words: tuple[Any, ...]) -> None:
        if len(words) > 2:
            giving.set()
            time.sleep(0.05)
        told.append(len(words))

    pulse = Pulse(1, recorder_of(take), "node")
    pulse.start()
    assert giving.wait(WAIT)
    pulse.end()
    pulse.join()
    assert told == [6, 2]


def test_a_pulse_tells_a_thread_that_waits_from_one_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "PULSE_SECONDS", 0.05)
    told: list[tuple[Any, ...]] = []
    recorder = recorder_of(told.append)
    wait, working = threading.Event(), threading.Event()
    pulses: list[Pulse] = []

    def hang_then_work() -> None:
        pulses.append(Pulse(1, recorder, "node"))
        pulses[0].start()
        wait.wait(WAIT)
        while not working.is_set():
            sum(range(1000))

    thread = threading.Thread(target=hang_then_work)
    thread.start()
    until(lambda: len(told) >= 6 and not any(moved for *_, moved in told[-4:]), 0.01)  # it waits at one place
    before = len(told)
    wait.set()
    until(lambda: any(moved for *_, moved in told[before:]), 0.01)
    working.set()
    pulses[0].end()
    pulses[0].end()
    thread.join()
    assert told[0][:2] == (1, os.getpid()) and told[-1] == (1, os.getpid())
