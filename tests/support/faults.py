"""What tests of faults ask of a run: to be held against one that nothing happened to."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from toy import TOY

from sightline.platform import config
from sightline.platform.checkpoints import local as checkpoint
from sightline.platform.data.dataset import Dataset
from sightline.platform.experiments.create import create_run
from sightline.platform.runs.events import TrainingStarted
from sightline.platform.runs.record import Run

STEPS = 24
QUICK = {"train.length": f"{STEPS} steps", "log.every": 3}


def make(name: str, data: dict[str, str], **overrides: Any) -> Run:
    experiment = config.load("toy", {**data, **QUICK, **overrides}, settings=TOY)
    return create_run(name, experiment, Dataset.open(str(experiment.data.train)).fingerprint, "test", "")


def last(run: Run) -> checkpoint.Checkpoint:
    found = checkpoint.newest(run.folder / "checkpoints")
    assert found is not None
    return found


def bits(run: Run) -> str:
    """One hash over the bits of all weights and of the optimiser's state at the end."""
    digest = hashlib.sha256()
    for stem in ("model", "optimizer"):
        for name, value in sorted(last(run).tensors(stem).items()):
            digest.update(name.encode() + value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def starts(run: Run) -> list[int]:
    return [event.first_step for event in run.events() if isinstance(event, TrainingStarted)]
