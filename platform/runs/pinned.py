"""Weights that are pinned in a run's folder: those it begins from (`init/`) and those of its teachers (`frozen/`).

They are found and written once, when the run is created. A resume needs neither the original nor the registry, and an alias that is moved
changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sightline.methods.catalog import find_method
from sightline.methods.contract import LoadReport
from sightline.methods.errors import CallError, SightlineError
from sightline.platform.checkpoints.remote import Storage
from sightline.platform.config import Experiment
from sightline.platform.core import files
from sightline.platform.core.files import make_folder, write_text
from sightline.platform.weights.format import Part, Weights, read_file, write_file

if TYPE_CHECKING:
    import torch

WEIGHTS, RECORD = "init/weights.safetensors", "init/init.json"
"""In the run's folder."""
FOLDER = "frozen"
"""In the run's folder; it holds one file for each setting that names a teacher."""


@dataclass(frozen=True)
class Initial:
    """Weights for a new run, matched to its pretext. `state` holds those that matched, under the pretext's names."""

    place: str
    """What `train.init` becomes: the absolute place and the SHA-256 of the weights found there, `PLACE@sha256:HEX`."""
    source: str
    part: Part
    match: LoadReport
    state: Mapping[str, torch.Tensor]

    def describe(self) -> str:
        match = self.match
        what = "the whole state" if self.part == "pretext" else "the encoder"
        return (
            f"{what} of {self.source}: {len(match.matched)} tensors matched, {len(match.missing)} stay fresh{_some(match.missing)}, "
            f"{len(match.unexpected)} found no place{_some(match.unexpected)}"
        )

    def keep(self, experiment: Experiment, folder: Path) -> None:
        """Write the weights and a record of them to `init/` of the run's `folder`."""
        sections = experiment.method_config.model_dump(mode="json")
        weights = Weights.of(experiment.method, sections, "pretext", self.state, self.source, str(folder / WEIGHTS))
        write_file(weights, folder / WEIGHTS)
        record = {"place": self.place, "source": self.source, "part": self.part, "says": self.describe(), **asdict(self.match)}
        write_text(folder / RECORD, json.dumps(record, indent=1))


def load_initial(pretext: Any, experiment: Experiment, folder: Path) -> None:
    """Load the weights that are pinned in the run's `folder` into a fresh pretext; a node without them downloads them.

    Raises `SightlineError` where they are gone or altered.
    """
    if storage := Storage.of(experiment, folder):
        storage.fetch(WEIGHTS)
    try:
        weights = read_file(folder / WEIGHTS)
    except CallError:
        raise SightlineError(f"the weights that run {folder.name} begins from are gone: no {folder / WEIGHTS}", "start a new run") from None
    pretext.load_state_dict(dict(weights.tensors), strict=False)


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record of the weights that a run began from; None where it began from random ones."""
    path = folder / RECORD
    try:
        return files.read_record(path) if path.exists() else None
    except (OSError, ValueError) as error:
        raise SightlineError(
            f"{path} is not readable: {error}", f"put it back from a copy, or start a new run; {folder.name} began with it"
        ) from error


def _some(names: tuple[str, ...]) -> str:
    return f" ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else ""


def keep_teachers(found: Mapping[str, Weights], folder: Path) -> None:
    """Write the teachers to `frozen/` of the run's `folder`."""
    for key, weights in found.items():
        path = folder / FOLDER / f"{key}.safetensors"
        make_folder(path.parent)
        write_file(weights, path)


def kept_teachers(experiment: Experiment, folder: Path) -> dict[str, Weights]:
    """The pinned teachers by setting; a node without them downloads them. Raises `SightlineError` where one is gone or altered."""
    kept = {}
    for key, pinned in find_method(experiment.method).teachers(experiment.method_config).items():
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


def load_teachers(experiment: Experiment, folder: Path) -> dict[str, torch.nn.Module]:
    """The pinned teachers as modules, by setting, in evaluation mode. Raises `SightlineError` where one is gone or altered."""
    return {key: weights.encoder() for key, weights in kept_teachers(experiment, folder).items()}
