"""Runs the training loop in real processes joined by gloo, without Ray: quick enough for many small comparisons.

The processes are forked from a server that has imported torch already: a new interpreter would need seconds for that, each time.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
import uuid
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from functools import cache
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from sightline.platform.core.event_log import append_events
from sightline.platform.runs.events import EVENTS, RunEvent
from sightline.platform.runs.record import Run
from sightline.platform.training.job import TrainJob
from sightline.platform.training.loop import train

PRETEXTS = [f"sightline.methods.{name}.pretext" for name in ("croco", "conmim", "loca", "i2p_mae")]


@cache
def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch.distributed", "sightline.platform.training.loop", *PRETEXTS])
    return context


def _rank(values: dict[str, Any], rank: int, world: int, store: str, errors: str, environment: Mapping[str, str]) -> None:
    """One rank of a real gloo group. What it says on standard error goes to the file `errors`."""
    import torch.distributed as dist

    os.environ.update(environment)
    file = os.open(errors, os.O_WRONLY | os.O_CREAT)
    os.dup2(file, 2)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world, timeout=timedelta(seconds=120))

    job = TrainJob.from_values(values)

    def post(event: RunEvent) -> None:
        if rank == 0:
            append_events(job.folder / EVENTS, [event])

    train(job, post, lambda: False)
    dist.destroy_process_group()
    sys.stderr.flush()


def train_in_processes(run: Run, world: int, kill_at: int = 0, elsewhere: Path | None = None) -> None:
    """Train `run` on `world` ranks from wherever it stands to its end, or until SIGKILL: of every rank, at the first checkpoint from step
    `kill_at` on. `elsewhere`: the folder that all but rank 0 take for the run's."""
    folder = Path(run.folder)
    job = TrainJob(run.experiment, folder, run.fingerprint)
    other = replace(job, folder=elsewhere or folder)
    store = str(folder / f"store-{uuid.uuid4().hex}")
    environment = {"SIGHTLINE_HOME": os.environ["SIGHTLINE_HOME"]}
    files = [folder / f"rank-{rank}.err" for rank in range(world)]
    values = [(other if rank else job).to_values() for rank in range(world)]
    ranks = [
        _context().Process(target=_rank, args=(values[rank], rank, world, store, str(files[rank]), environment)) for rank in range(world)
    ]
    for process in ranks:
        process.start()
    if kill_at:
        _kill(ranks, folder, kill_at)
        return
    problems = []
    for process, file in zip(ranks, files, strict=True):
        process.join(timeout=240)
        if process.exitcode is None:
            process.kill()
            process.join()
        if process.exitcode:
            problems.append(f"exit code {process.exitcode}: {file.read_text()[-2000:] if file.exists() else ''}")
    assert not problems, "\n".join(problems)


def _kill(ranks: list[BaseProcess], folder: Path, step: int) -> None:
    deadline = time.monotonic() + 240
    while not any(int(path.parent.name.rpartition("-")[2]) >= step for path in folder.glob("checkpoints/step-*/complete.json")):
        ended = any(process.exitcode is not None for process in ranks)
        if ended or time.monotonic() > deadline:
            break
        time.sleep(0.02)
    alive = [process.exitcode is None for process in ranks]
    for process in reversed(ranks):
        process.kill()
        process.join()
    assert all(alive), "the run ended before the kill"
