"""What a person reads when workers died."""

from __future__ import annotations

import ray
import torch

from sightline.platform.cluster import deaths, workers


def test_a_death_is_told_with_its_cause_and_the_failures_that_follow_are_not() -> None:
    out_of_memory = ray.exceptions.OutOfMemoryError("Task was killed due to the node running low on memory.")
    errors = {0: RuntimeError("Connection closed by peer"), 1: out_of_memory, 2: ray.exceptions.ActorDiedError()}
    text = deaths.describe(errors)
    assert text.startswith("worker 1 was killed by Ray because the machine ran out of memory; worker 2 died: it crashed or was killed")
    assert text.endswith(f"; {deaths.MEMORY}") and text.count(deaths.MEMORY) == 1 and "worker 0" not in text
    assert deaths.describe({0: errors[0]}) == ""


def test_memory_that_a_worker_asked_for_in_vain_is_told_as_that_of_the_machine_or_of_the_gpu() -> None:
    cpu = RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to allocate 4503599 bytes."
    )
    gpu = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 16 GiB.\nMore of it.")
    for error, cause, hint in (
        (cpu, "you tried to allocate 4503599 bytes", deaths.MEMORY),
        (gpu, "Tried to allocate 2.00 GiB", deaths.GPU_MEMORY),
        (MemoryError(), "MemoryError", deaths.MEMORY),
    ):
        text = deaths.describe({3: error})
        assert text.startswith("worker 3 asked for more memory than there is (") and cause in text and text.endswith(f"; {hint}")
    assert workers._permanent_failure(MemoryError()) is None
