"""Runs that are made, not trained: a record, and a checkpoint of fresh weights. Opening, exporting and encoding ask for no more."""

from __future__ import annotations

from typing import Any

import torch
import toy

from sightline.methods.catalog import find_method, method_ids
from sightline.methods.contract import BuildContext
from sightline.platform import config
from sightline.platform.checkpoints import local as checkpoint
from sightline.platform.experiments.create import create_run
from sightline.platform.runs.record import Run

TOYS: dict[str, dict[str, Any]] = {"croco": toy.TOY, **getattr(toy, "TOY_IMAGES", {})}
METHODS = [name for name in TOYS if name in method_ids()]


def toy_settings(method: str, **overrides: Any) -> config.Experiment:
    return config.load("toy", overrides, settings=TOYS[method])


def made_run(name: str, method: str = "croco", seed: int = 7, **overrides: Any) -> Run:
    """A run whose one checkpoint, at step 12, holds the weights of `pretext_of(run, seed)`."""
    run = create_run(name, toy_settings(method, **overrides), "f" * 64, "test", "")
    state = checkpoint.TrainState(12, 144, 0, 1, run.fingerprint, "", "fp32", "")
    tensors = {key: value.clone() for key, value in pretext_of(run, seed).state_dict().items()}
    checkpoint.write(run.folder / "checkpoints", state, {"model": tensors})
    return run


def pretext_of(run: Run, seed: int = 7) -> Any:
    """Fresh weights with every norm, bias and table moved, so that a tensor left behind shows."""
    experiment = run.experiment
    pretext = find_method(experiment.method).build(experiment.method_config, BuildContext(seed=seed))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in pretext.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return pretext.eval()


def images_for(encoder: Any, count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, *encoder.image_size, generator=torch.Generator().manual_seed(1))
