"""Tells a person why workers died: Ray Train starts others and says nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ray
import torch
from ray.train import UserCallback

from sightline.methods.errors import first_line, out_of_memory
from sightline.platform.runs.events import NOTICES, ClusterNote

MEMORY = "train with fewer train.workers or on a machine with more; batch.microbatch can be lowered for a new run"
GPU_MEMORY = "lower batch.microbatch for a new run, or use a GPU with more"


class Deaths(UserCallback):
    """In the process of Ray Train's controller: posts a note for each death of workers."""

    def __init__(self, recorder: Any) -> None:
        self.recorder = recorder

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        if text := describe(worker_exceptions):
            self.recorder.post.remote(ClusterNote(text), NOTICES)


def describe(errors: Mapping[int, BaseException]) -> str:
    """What ended workers, by rank; empty where none was killed or short of memory. The others fail because they lost one."""
    told, hints = [], dict[str, None]()
    for rank, error in sorted(errors.items()):
        causes = [error, *filter(None, (error.__cause__, getattr(error, "cause", None)))]
        if any(map(_killed_for_memory, causes)):
            told.append(f"worker {rank} was killed by Ray because the machine ran out of memory")
            hints[MEMORY] = None
        elif refused := next(filter(out_of_memory, causes), None):
            told.append(f"worker {rank} asked for more memory than there is ({first_line(refused)})")
            hints[GPU_MEMORY if isinstance(refused, torch.OutOfMemoryError) else MEMORY] = None
        elif any(isinstance(each, ray.exceptions.RayActorError) for each in causes):
            told.append(f"worker {rank} died: it crashed or was killed, perhaps by the system for want of memory (`dmesg` tells)")
            hints[MEMORY] = None
    return "; ".join([*told, *hints])


def describe_end(error: BaseException | None) -> str:
    """The same of what Ray Train raised at its end; empty where that is of another kind."""
    if is_death(error) and _killed_for_memory(getattr(error, "controller_failure", error)):
        return f"Ray killed processes that the training needs because the machine ran out of memory; {MEMORY}"
    return describe(getattr(error, "worker_failures", {}))


def is_death(error: BaseException | None) -> bool:
    """Whether Ray Train ended because a process died that it needs beside its workers: its controller, or an actor that this one asks."""
    failure = getattr(error, "controller_failure", error)
    return isinstance(failure, ray.exceptions.RayActorError | ray.exceptions.OutOfMemoryError)


def _killed_for_memory(error: BaseException | None) -> bool:
    """By Ray, which ends several of the newest processes at once, not only the largest."""
    return isinstance(error, ray.exceptions.OutOfMemoryError) or "running low on memory" in str(error)
