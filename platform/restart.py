"""Where a training goes on: the checkpoint that rank 0 finds. It alone reads the disk; the other ranks are sent what it read."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from sightline.methods import collective
from sightline.methods.errors import SightlineError

from . import config
from .checkpoint import Checkpoint, TrainState, newest
from .data.plan import PLAN_VERSION
from .storage import Say, Storage
from .uploads import Uploads


@dataclass(frozen=True)
class Restart:
    state: TrainState
    checkpoint: Checkpoint | None
    """On rank 0 alone."""
    device: torch.device
    """Over which ranks talk to each other."""

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        """`model` or `optimizer`, on the CPU. Called by all ranks together."""
        return collective.broadcast_tensors(self.checkpoint.tensors(name) if self.checkpoint else {}, self.device)


def find(folder: Path, store: Storage | None, uploads: Uploads | None, say: Say, device: torch.device) -> Restart | None:
    """The newest checkpoint that verifies in `folder`, or in `store` where that has a newer one; None at the beginning of a run.

    Called by all ranks together. Rank 0 trains alone (`locks.py`), so nobody else writes checkpoints meanwhile.
    """
    found = None
    if collective.rank() == 0:
        found = store.pull(say) if store else newest(folder)
        if found and uploads:
            uploads.begin()  # it may be here alone
    state = collective.broadcast_bytes(json.dumps(asdict(found.state)).encode() if found else b"", device)
    return Restart(TrainState(**json.loads(state)), found, device) if state else None


def check_same(found: TrainState, experiment: config.Experiment, fingerprint: str) -> None:
    """Raises `SightlineError` where a checkpoint was made of other data, by another plan or with other settings."""
    for name, ours, theirs in (
        ("plan version", PLAN_VERSION, found.plan_version),
        ("settings", settings_hash(experiment), found.settings),
        ("data fingerprint", fingerprint, found.fingerprint),
    ):
        if ours != theirs:
            raise SightlineError(
                f"the checkpoint of step {found.step} has another {name} than this run", "start a new run, or restore the old one"
            )


def settings_hash(experiment: config.Experiment) -> str:
    """SHA-256 of the settings that a resume must not change."""
    return hashlib.sha256(config.fingerprint(experiment).encode()).hexdigest()
