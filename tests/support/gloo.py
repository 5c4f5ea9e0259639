"""Runs the training loop in real processes joined by gloo, without Ray: quick enough for many small comparisons."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from dataclasses import asdict
from pathlib import Path

from sightline.platform.runs import Run
from sightline.platform.train import Job

WORKER = Path(__file__).with_name("gloo_worker.py")


def train_in_processes(run: Run, world: int, stop_after: int = 0) -> None:
    """Train `run` on `world` ranks from wherever it stands, to its end or until a report has reached `stop_after` steps."""
    folder = Path(run.folder)
    described = folder / "job.json"
    described.write_text(json.dumps(asdict(Job(run.recipe, run.settings, str(folder), run.fingerprint))))
    store = folder / f"store-{uuid.uuid4().hex}"
    words = [sys.executable, str(WORKER), str(described)]
    ranks = [
        subprocess.Popen([*words, str(rank), str(world), str(store), str(stop_after)], stderr=subprocess.PIPE, text=True)
        for rank in range(world)
    ]
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
