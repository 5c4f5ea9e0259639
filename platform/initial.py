"""Where a run's weights begin (`train.init`): found, fitted and kept in the run's folder once, when the run is made.

So a resume needs neither the original nor the registry, and an alias that moves on changes nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sightline.methods.catalog import find_method
from sightline.methods.contract import Live, Match
from sightline.methods.errors import CallError, SightlineError

from .config import Experiment
from .storage import Storage
from .weights import Part, Weights, find, read_file, write_file

if TYPE_CHECKING:
    import torch

WEIGHTS, RECORD = "init/weights.safetensors", "init/init.json"
"""In the run's folder."""


@dataclass(frozen=True)
class Initial:
    """Weights for a new run, fitted to its pretext. `state` holds those that found a place, under the pretext's names."""

    place: str
    """What `train.init` becomes: the absolute place and the SHA-256 of the weights found there, `PLACE@sha256:HEX`."""
    source: str
    part: Part
    match: Match
    state: Mapping[str, torch.Tensor]

    def describe(self) -> str:
        match = self.match
        what = "the whole state" if self.part == "pretext" else "the encoder"
        return (
            f"{what} of {self.source}: {len(match.matched)} tensors matched, {len(match.missing)} stay fresh{_some(match.missing)}, "
            f"{len(match.unexpected)} found no place{_some(match.unexpected)}"
        )

    def keep(self, experiment: Experiment, folder: Path) -> None:
        """Write the weights and what is known of them to `init/` of the run's `folder`."""
        sections = experiment.settings.model_dump(mode="json")
        weights = Weights.of(experiment.method, sections, "pretext", self.state, self.source, str(folder / WEIGHTS))
        write_file(weights, folder / WEIGHTS)
        record = {"place": self.place, "source": self.source, "part": self.part, "says": self.describe(), **asdict(self.match)}
        (folder / RECORD).write_text(json.dumps(record, indent=1))


def find_initial(experiment: Experiment, tracking_uri: str | None = None) -> Initial:
    """The weights that `train.init` names, fitted to a pretext of the experiment.

    Of a run of the same method the whole state is taken, teacher and heads included; of anything else the encoder. Raises `CallError`
    where nothing fits, a shape differs, or the weights are not those of the SHA-256 that `train.init` names.
    """
    name, _, sha256 = str(experiment.train.init).partition("@sha256:")
    if sha256 and not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise CallError(f"train.init = {experiment.train.init!r}: {sha256!r} is no SHA-256", "leave the part from @sha256: on away")
    weights = find(name, tracking_uri)
    if sha256 and weights.sha256 != sha256:
        raise CallError(
            f"the weights in {weights.place} are not those of train.init: their SHA-256 is {weights.sha256[:16]}..., not {sha256[:16]}...",
            "name the original weights, or leave the part from @sha256: on away to take these",
        )
    pretext = find_method(experiment.method).build(experiment.settings, Live(seed=experiment.train.seed))
    whole = weights.part == "pretext" and weights.method == experiment.method
    form = getattr(pretext, "encoder_form", None)
    if whole or (weights.part == "encoder" and form is None):
        offered = weights.tensors
    else:
        offered = (form(weights.encoder()) if form else weights.encoder()).state_dict()
    prefixes: tuple[str, ...] = ("",) if whole else getattr(pretext, "encoder_prefixes", ())
    if not prefixes:
        raise CallError(
            f"{experiment.method} does not say where its encoder lies, so it cannot begin from an encoder alone",
            f"name a run of {experiment.method} in train.init",
        )
    state, match = _fit(offered, pretext.state_dict(), prefixes, weights, experiment)
    return Initial(f"{weights.place}@sha256:{weights.sha256}", weights.source, "pretext" if whole else "encoder", match, state)


def _fit(
    offered: Mapping[str, torch.Tensor],
    present: Mapping[str, torch.Tensor],
    prefixes: tuple[str, ...],
    weights: Weights,
    experiment: Experiment,
) -> tuple[dict[str, torch.Tensor], Match]:
    state: dict[str, torch.Tensor] = {}
    unexpected = []
    for name, tensor in offered.items():
        places = [prefix + name for prefix in prefixes if prefix + name in present]
        if not places:
            unexpected.append(name)
        for place in places:
            if present[place].shape != tensor.shape:
                raise CallError(
                    f"{place} has shape {tuple(tensor.shape)} in {weights.place}, {tuple(present[place].shape)} in this run",
                    _differences(weights, experiment),
                )
            state[place] = tensor.detach().clone()  # several places may take one tensor, and a file holds each on its own
    if not state:
        raise CallError(
            f"none of the {len(offered)} tensors in {weights.place} ({weights.method}) has a place in {experiment.method}; "
            f"the first is {next(iter(offered), 'absent')!r}",
            f"name weights of {experiment.method} in train.init",
        )
    missing = tuple(name for name in present if name not in state)
    return state, Match(tuple(name for name in offered if name not in set(unexpected)), missing, tuple(unexpected))


def _differences(weights: Weights, experiment: Experiment) -> str:
    """The settings of the model in which the two differ."""
    ours, theirs = experiment.settings.model_dump(mode="json")["model"], dict(weights.sections["model"])
    both = [key for key in ours if key in theirs and ours[key] != theirs[key]]
    words = " ".join(f"model.{key}={theirs[key]}" for key in both)
    return f"use the settings of these weights: {words}" if words else "use the recipe and settings that these weights were trained with"


def load_initial(pretext: Any, experiment: Experiment, folder: Path) -> None:
    """Fill a fresh pretext with the weights kept in the run's `folder`, fetched where this node lacks them.

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
    """What is known of the weights a run began from; None where it began from fresh ones."""
    path = folder / RECORD
    return json.loads(path.read_text()) if path.exists() else None


def _some(names: tuple[str, ...]) -> str:
    return f" ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else ""
