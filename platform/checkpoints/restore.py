"""Where a training continues: the checkpoint that rank 0 finds. Only rank 0 reads the disk, and broadcasts what it read."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from sightline.methods import collective
from sightline.methods.errors import SightlineError
from sightline.platform import config
from sightline.platform.data.loader.plan import PLAN_VERSION

from .local import Checkpoint, TrainState, newest
from .remote import Say, Storage
from .uploader import Uploader


@dataclass(frozen=True)
class RestorePoint:
    state: TrainState
    checkpoint: Checkpoint | None
    """None on all ranks but 0."""
    device: torch.device
    """Of the tensors that are broadcast."""

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        """`model` or `optimizer`, on the CPU. Called by all ranks together."""
        return collective.broadcast_tensors(self.checkpoint.tensors(name) if self.checkpoint else {}, self.device)


def find(folder: Path, storage: Storage | None, uploader: Uploader | None, say: Say, device: torch.device) -> RestorePoint | None:
    """The newest checkpoint that verifies in `folder`, or in `storage` where that has a newer one; None at the beginning of a run.

    Called by all ranks together. Rank 0 holds the run's lock (`locks.py`), so nobody else writes checkpoints meanwhile.
    """
    found = None
    if collective.rank() == 0:
        found = storage.pull(say) if storage else newest(folder)
        if found and uploader:
            uploader.begin()  # the storage may not have it
    state = collective.broadcast_bytes(json.dumps(asdict(found.state)).encode() if found else b"", device)
    return RestorePoint(TrainState(**json.loads(state)), found, device) if state else None


def check_same(found: TrainState, experiment: config.Experiment, fingerprint: str) -> None:
    """Raises `SightlineError` where a checkpoint has other data, another plan or other settings, or was written by a newer Sightline."""
    if found.settings_version > config.SETTINGS_VERSION:
        raise SightlineError(
            f"the checkpoint of step {found.step} has settings of version {found.settings_version}; "
            f"this Sightline reads up to {config.SETTINGS_VERSION}",
            "use the version of Sightline that wrote it",
        )
    for name, ours, theirs in (
        ("plan version", PLAN_VERSION, found.plan_version),
        ("settings", config.settings_hash(experiment, found.settings_version), found.settings),
        ("data fingerprint", fingerprint, found.fingerprint),
    ):
        if ours != theirs:
            raise SightlineError(
                f"the checkpoint of step {found.step} has another {name} than this run", "start a new run, or restore the old one"
            )
