"""The peak of memory, in words: of all processes here, or of each worker on a cluster."""

from __future__ import annotations

import pytest

from sightline.platform.runs.events import MemoryPeak, TrainingStarted
from sightline.platform.training.memory import MemoryMeter, peak_of_process


def test_here_all_processes_count_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    meter = MemoryMeter()
    meter.peak = 3 << 30
    assert meter.words([MemoryPeak(0, 1 << 30)]) == "3.0 GiB, all processes together"


def test_on_a_cluster_the_workers_of_the_last_attempt_tell_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    meter = MemoryMeter()
    meter.peak = 1 << 30
    started = TrainingStarted("cpu", "fp32", 1, 0, 9, 2)
    events = [started, *(MemoryPeak(rank, 9 << 30) for rank in range(3)), started, MemoryPeak(1, 2 << 30), MemoryPeak(0, 4 << 30)]
    assert meter.words(events) == "1.0 GiB here, 4.0 GiB a worker; data tasks not counted"
    assert meter.words([started]) == "1.0 GiB here, not known of the workers; data tasks not counted"


def test_the_peak_of_a_process_is_at_least_what_it_holds() -> None:
    held = bytearray(64 << 20)
    held[:: 1 << 12] = b"1" * len(held[:: 1 << 12])
    assert peak_of_process() > len(held)
