"""Tells a person why workers died: Ray Train starts others and says nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ray
from ray.train import UserCallback

from sightline.platform.runs.events import NOTICES, ClusterNote

MEMORY = "train with fewer train.workers or on a machine with more; batch.microbatch can be lowered for a new run"


class Deaths(UserCallback):
    """In the process of Ray Train's controller: posts a note for each death of workers."""

    def __init__(self, recorder: Any) -> None:
        self.recorder = recorder

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        if text := describe(worker_exceptions):
            self.recorder.post.remote(ClusterNote(text), NOTICES)


def describe(errors: Mapping[int, BaseException]) -> str:
    """What killed workers, by rank; empty where none was killed. The others fail because they lost one."""
    told = []
    for rank, error in sorted(errors.items()):
        causes = [error, *filter(None, (error.__cause__, getattr(error, "cause", None)))]
        text = " ".join(str(each) for each in causes)
        if "OutOfMemory" in " ".join([text, *(type(each).__name__ for each in causes)]) or "running low on memory" in text:
            told.append(f"worker {rank} was killed by Ray because the machine ran out of memory; {MEMORY}")
        elif any(isinstance(each, ray.exceptions.RayActorError) for each in causes):
            told.append(f"worker {rank} died: it crashed or was killed, perhaps by the system for want of memory (`dmesg` tells; {MEMORY})")
    return "; ".join(told)
