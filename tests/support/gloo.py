"""Runs the training loop in real processes joined by gloo, without Ray: quick enough for many small comparisons."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from dataclasses import asdict, replace
from pathlib import Path

from sightline.platform.runs.record import Run
from sightline.platform.training.loop import Job

WORKER = Path(__file__).with_name("gloo_worker.py")


def train_in_processes(run: Run, world: int, kill_at: int = 0, elsewhere: Path | None = None) -> None:
    """Train `run` on `world` ranks from wherever it stands to its end, or until SIGKILL: of every rank, at the first checkpoint from step
    `kill_at` on. `elsewhere`: the folder that all but rank 0 take for the run's."""
    folder = Path(run.folder)
    job = Job(run.recipe, run.settings, str(folder), run.fingerprint)
    described, other = folder / "job.json", folder / "job-elsewhere.json"
    described.write_text(json.dumps(asdict(job)))
    other.write_text(json.dumps(asdict(replace(job, folder=str(elsewhere or folder)))))
    store = folder / f"store-{uuid.uuid4().hex}"
    ranks = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(other if rank else described), str(rank), str(world), str(store)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    if kill_at:
        _kill(ranks, folder, kill_at)
        return
    problems = []
    for process in ranks:
        try:
            _, errors = process.communicate(timeout=240)
        except subprocess.TimeoutExpired:
            process.kill()
            _, errors = process.communicate()
        if process.returncode:
            problems.append(errors[-2000:])
    assert not problems, "\n".join(problems)


def _kill(ranks: list[subprocess.Popen[str]], folder: Path, step: int) -> None:
    deadline = time.monotonic() + 240
    while not any(int(path.parent.name.rpartition("-")[2]) >= step for path in folder.glob("checkpoints/step-*/complete.json")):
        ended = any(process.poll() is not None for process in ranks)
        if ended or time.monotonic() > deadline:
            break
        time.sleep(0.02)
    alive = [process.poll() is None for process in ranks]
    for process in reversed(ranks):
        process.kill()
        process.communicate()
    assert all(alive), "the run ended before the kill"
