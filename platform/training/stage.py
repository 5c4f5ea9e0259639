"""The method's stage between views and training, made with the teachers that are pinned in a run's folder."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sightline.methods.catalog import find_method
from sightline.methods.contract import BuildContext
from sightline.platform.config import Experiment
from sightline.platform.core.device import choose_device
from sightline.platform.runs.pinned import load_teachers

if TYPE_CHECKING:
    from sightline.methods.contract import Stage


def stage_maker(experiment: Experiment, folder: Path) -> Callable[[], Stage] | None:
    """A function that makes the method's stage in any process; None where the method has none with these settings."""
    return partial(make_stage, experiment, folder) if experiment.has_stage else None


def make_stage(experiment: Experiment, folder: Path) -> Stage:
    """The method's stage with the teachers in the run's `folder`, on the GPU that this process sees, if `train.device` allows it."""
    method = find_method(experiment.method)
    assert method.stage is not None
    device = choose_device(experiment.train.device).type
    teachers = load_teachers(experiment, folder)
    return method.stage(experiment.method_config, BuildContext(seed=experiment.train.seed, teachers=teachers, device=device))
