"""A step's data on their way to the GPU while the step before computes: pinned memory, a copy on a CUDA stream of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch

from sightline.methods.contract import Batch
from sightline.platform.data.loader.stream import Microbatch

Step = list[Microbatch]
Copied = tuple[Step, Callable[[], Any]]
"""The microbatches of a step, and what waits for their copies where they are used."""


@dataclass(frozen=True)
class DeviceMicrobatch(Microbatch):
    """A microbatch whose views are on the training device, too."""

    batch: Batch = field(kw_only=True)


def prefetched(stream: Iterator[Step], device: torch.device) -> Iterator[Step]:
    """The steps of `stream`, on a GPU copied one step ahead; on a CPU there is nothing to copy."""
    return ahead(stream, _GpuCopies(device)) if device.type == "cuda" else stream


def ahead(stream: Iterator[Step], copy: Callable[[Step], Copied]) -> Iterator[Step]:
    """The steps of `stream`, each taken and copied by a thread while the one before is used. Errors come where the step would have come."""

    def take() -> Copied | None:
        step = next(stream, None)
        return None if step is None else copy(step)

    with ThreadPoolExecutor(1, "sightline-prefetch") as thread:
        try:
            following = thread.submit(take)
            while (copied := following.result()) is not None:
                following = thread.submit(take)
                step, wait = copied
                wait()
                yield step
        finally:
            following.cancel()
            thread.shutdown()
            stream.close()  # type: ignore[attr-defined]  # a generator: this stops the pipeline behind it


class _GpuCopies:
    """Copies microbatches to a GPU beside its computing."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def __call__(self, step: Step) -> Copied:
        with torch.cuda.stream(self.stream):
            copied = [self._copied(microbatch) for microbatch in step]
            done = self.stream.record_event()

        def wait() -> None:
            current = torch.cuda.current_stream(self.device)
            current.wait_event(done)
            for microbatch in copied:
                for tensor in microbatch.batch.values():
                    tensor.record_stream(current)  # its memory is not handed out again before the step has used it

        return list(copied), wait

    def _copied(self, microbatch: Microbatch) -> DeviceMicrobatch:
        pinned = {name: torch.tensor(column).pin_memory() for name, column in microbatch.arrays.items()}
        batch = {name: tensor.to(self.device, non_blocking=True) for name, tensor in pinned.items()}
        return DeviceMicrobatch(**vars(microbatch), batch=batch)
