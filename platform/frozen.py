"""Encoders that a run needs besides its own, such as a 2-D teacher: found, pinned and kept in the run's folder once, when the run is made.

So a resume needs neither the original nor the registry, and an alias that moves on changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sightline.methods.catalog import find_method
from sightline.methods.contract import Live
from sightline.methods.errors import CallError, SightlineError

from .config import Experiment
from .storage import Storage
from .weights import Weights, find, read_file, write_file

if TYPE_CHECKING:
    import torch

    from sightline.methods.contract import Stage

FOLDER = "frozen"
"""In the run's folder; one file for each setting that names an encoder."""


def resolve(experiment: Experiment, tracking_uri: str | None = None) -> tuple[Experiment, dict[str, Weights]]:
    """The experiment with its encoders pinned (`PLACE@sha256:HEX`), and each by the setting that names it.

    The SHA-256 is that of the encoder's tensors: the same for a run, its registered version and its exported file. Raises `CallError`
    where there is nothing of a name, or its encoder is not that of the SHA-256 beside it.
    """
    method, settings = find_method(experiment.method), experiment.settings
    found, encoders = {}, {}
    for key, given in method.frozen(settings).items():
        name, _, sha256 = given.partition("@sha256:")
        if sha256 and not re.fullmatch(r"[0-9a-f]{64}", sha256):
            raise CallError(f"{key} = {given!r}: {sha256!r} is no SHA-256", "leave the part from @sha256: on away")
        weights = find(name, tracking_uri)
        encoders[key] = weights.encoder()
        state = encoders[key].state_dict()
        weights = found[key] = Weights.of(weights.method, weights.sections, "encoder", state, weights.source, weights.place)
        if sha256 and weights.sha256 != sha256:
            raise CallError(
                f"the encoder in {weights.place} is not that of {key}: its SHA-256 is {weights.sha256[:16]}..., not {sha256[:16]}...",
                "name the original weights, or leave the part from @sha256: on away to take these",
            )
        section, _, field = key.partition(".")
        pinned = getattr(settings, section).model_copy(update={field: f"{weights.place}@sha256:{weights.sha256}"})
        settings = settings.model_copy(update={section: pinned})
    if found:
        settings = method.fit(settings, encoders)
    return experiment.model_copy(update={"settings": settings}), found


def keep(found: Mapping[str, Weights], folder: Path) -> None:
    """Write the encoders to `frozen/` of the run's `folder`."""
    for key, weights in found.items():
        path = folder / FOLDER / f"{key}.safetensors"
        path.parent.mkdir(exist_ok=True)
        write_file(weights, path)


def kept_encoders(experiment: Experiment, folder: Path) -> dict[str, Weights]:
    """The kept encoders' weights by setting, fetched where this node lacks them. Raises `SightlineError` where one is gone or altered."""
    kept = {}
    for key, pinned in find_method(experiment.method).frozen(experiment.settings).items():
        path = folder / FOLDER / f"{key}.safetensors"
        if storage := Storage.of(experiment, folder):
            storage.fetch(f"{FOLDER}/{key}.safetensors")
        if not path.is_file():
            raise SightlineError(f"the encoder that run {folder.name} needs for {key} is gone: no {path}", "start a new run")
        kept[key] = read_file(path)
        if kept[key].sha256 != pinned.rpartition("@sha256:")[2]:
            raise SightlineError(
                f"{path} is not the encoder {pinned} that run {folder.name} began with", "put that back, or start a new run"
            )
    return kept


def load_frozen(experiment: Experiment, folder: Path) -> dict[str, torch.nn.Module]:
    """The kept encoders by setting, in evaluation mode. Raises `SightlineError` where one is gone or altered."""
    return {key: weights.encoder() for key, weights in kept_encoders(experiment, folder).items()}


def stage_maker(experiment: Experiment, folder: Path) -> partial[Stage] | None:
    """Makes the method's stage, in whatever process calls it; None where the method has none with these settings."""
    return partial(make_stage, experiment, folder) if experiment.has_stage else None


def make_stage(experiment: Experiment, folder: Path) -> Any:
    """On the GPU that this process sees, if it sees one and `train.device` allows it."""
    import torch

    method = find_method(experiment.method)
    assert method.stage is not None
    device = "cuda" if experiment.train.device != "cpu" and torch.cuda.is_available() else "cpu"
    return method.stage(experiment.settings, Live(seed=experiment.train.seed, frozen=load_frozen(experiment, folder), device=device))
