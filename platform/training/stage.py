"""The method's stage between views and training, made from the teachers that a run keeps."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sightline.methods.catalog import find_method
from sightline.methods.contract import BuildContext
from sightline.platform.config import Experiment
from sightline.platform.runs.pinned import load_teachers

if TYPE_CHECKING:
    from sightline.methods.contract import Stage


def stage_maker(experiment: Experiment, folder: Path) -> partial[Stage] | None:
    """Makes the method's stage, in whatever process calls it; None where the method has none with these settings."""
    return partial(make_stage, experiment, folder) if experiment.has_stage else None


def make_stage(experiment: Experiment, folder: Path) -> Any:
    """On the GPU that this process sees, if it sees one and `train.device` allows it."""
    import torch

    method = find_method(experiment.method)
    assert method.stage is not None
    device = "cuda" if experiment.train.device != "cpu" and torch.cuda.is_available() else "cpu"
    return method.stage(
        experiment.method_config, BuildContext(seed=experiment.train.seed, teachers=load_teachers(experiment, folder), device=device)
    )
