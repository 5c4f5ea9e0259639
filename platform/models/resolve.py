"""Finds the weights that a person names: a run, a folder, a file or a registry URI; for `init=` and for teachers pinned by SHA-256."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sightline.methods.catalog import find_method
from sightline.methods.contract import BuildContext, HasEncoderForm, HasEncoderParts, HasOtherParts, LoadReport
from sightline.methods.errors import CallError, SightlineError
from sightline.methods.settings import nearest
from sightline.platform.checkpoints import local as checkpoint
from sightline.platform.checkpoints.retention import Reason
from sightline.platform.config import Experiment
from sightline.platform.core.paths import home_text
from sightline.platform.runs.clean import kept_of
from sightline.platform.runs.pinned import Initial
from sightline.platform.runs.record import Run, all_runs, find_run
from sightline.platform.tracking.registry import checkpoint_of, fetch_encoder
from sightline.platform.weights.format import ENCODER, SINGLE, Weights, read_file, read_folder

from .packaged import MODELS, packaged_weights

if TYPE_CHECKING:
    import torch

BEST = "best"
"""After `RUN@`: the best checkpoint."""


def find_weights(model: str, tracking_uri: str | None = None) -> Weights:
    """The weights of a run (name, folder or MLflow run id), of a folder or file of our form, of a registry URI, or of an installed
    package (`packaged.MODELS`).

    A run gives the whole state of its newest checkpoint that verifies, or its `encoder/` where there is none; `RUN@5000` that of step
    5,000, and `RUN@best` that of the best by `train.keep_best`; `models:/m-...` of such a checkpoint is the same. Raises `CallError`
    naming the nearest run where there is nothing of this name, `SightlineError` where what there is does not verify.
    """
    if (logged := checkpoint_of(model, tracking_uri)) is not None:
        run = find_run(logged.mlflow_run_id) or find_run(str(logged.run_folder))
        if run is None:
            raise CallError(
                f"{model} is the checkpoint of step {logged.step} of run {logged.run_folder.name}, which is not in {logged.run_folder}",
                "name its home in $SIGHTLINE_HOME; MLflow has no copy of the weights",
            )
        return weights_at(run, str(logged.step))
    if model.startswith("models:/"):
        with fetch_encoder(model, tracking_uri) as (folder, place):
            return read_folder(folder, place)
    path = Path(model).expanduser()
    if path.is_file():
        if path.suffix != ".safetensors":
            raise CallError(
                f"{path} is no file that Sightline wrote", f"make one of it first: sightline import {path} --method METHOD --out FILE"
            )
        return read_file(path)
    if not (path / "run.json").is_file():
        if (path / f"{ENCODER}.json").is_file():
            return read_folder(path, str(path.absolute()))
        if (path / SINGLE).is_file():
            return read_file(path / SINGLE)
    run, name, which = find_run(model), model, None
    if run is None and "@" in model:
        name, _, which = model.rpartition("@")
        run = find_run(name)
    if run is None and (packaged := packaged_weights(model)) is not None:
        return packaged
    if run is None:
        names = [run.name for run in all_runs()] + [name for name in MODELS if model[:9] == name[:9]]
        near = f": {nearest(name, names)}" if names else f"; there are no runs under {home_text()}"
        raise CallError(
            f"no run, folder, file or registry model {model!r}{near}",
            "name a run, a folder with encoder.json, a file made by `sightline import` or `export`, or models:/NAME@alias",
        )
    return weights_of_run(run) if which is None else weights_at(run, which)


def weights_at(run: Run, which: str) -> Weights:
    """The whole state of the checkpoint at a step (`5000`), or of the `best`. Raises `CallError` where there is none, and
    `SightlineError` where it does not verify."""
    stay = {one.step: one for one in kept_of(run)}
    if which == BEST:
        found = next((one.checkpoint for one in stay.values() if Reason.BEST in one.reasons), None)
    else:
        there = {one.state.step: one for one in checkpoint.checkpoints(run.folder / "checkpoints")}
        found = there.get(int(which)) if which.isdecimal() else None
    if found is None:
        known = "; ".join(f"{step} ({', '.join(one.reasons)})" for step, one in stay.items())
        raise CallError(
            f"run {run.name} has no checkpoint @{which}; it keeps {f'steps {known}' if known else 'none'}",
            f"name one of its steps, such as {run.name}@{next(iter(stay), 5000)}, or set train.keep_every and train.keep_best",
        )
    if (damage := checkpoint.problem(found.path)) is not None:
        raise SightlineError(damage, "name another checkpoint of the run")
    place, source = f"{run.folder}@{which}", f"run {run.name}, step {found.state.step}"
    return Weights.of(run.settings["method"], run.settings, "pretext", found.tensors("model"), source, place)


def weights_of_run(run: Run) -> Weights:
    """The whole state of the newest checkpoint that verifies, or the run's `encoder/`. Raises `SightlineError` where there is neither."""
    found = checkpoint.newest(run.folder / "checkpoints")
    if found is not None:
        place, source = str(run.folder), f"run {run.name}, step {found.state.step}"
        return Weights.of(run.settings["method"], run.settings, "pretext", found.tensors("model"), source, place)
    if (run.folder / ENCODER / f"{ENCODER}.json").is_file():
        return read_folder(run.folder / ENCODER, str(run.folder / ENCODER))
    raise SightlineError(f"run {run.name} has no checkpoint that verifies", f"train it first: sightline resume {run.name}")


def _split_pin(setting: str, value: str) -> tuple[str, str]:
    """(place, SHA-256 or "") of `PLACE@sha256:HEX`. Raises `CallError` where the part after `@sha256:` is no SHA-256."""
    place, _, sha256 = value.partition("@sha256:")
    if sha256 and not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise CallError(f"{setting} = {value!r}: {sha256!r} is no SHA-256", "leave the part from @sha256: on away")
    return place, sha256


def _check_pin(setting: str, weights: Weights, sha256: str) -> None:
    """Raises `CallError` where `weights` are not those of the SHA-256 that the setting names."""
    if sha256 and weights.sha256 != sha256:
        raise CallError(
            f"the weights in {weights.place} are not those of {setting}: their SHA-256 is {weights.sha256[:16]}..., not {sha256[:16]}...",
            "name the original weights, or leave the part from @sha256: on away to take these",
        )


def _pinned(weights: Weights) -> str:
    return f"{weights.place}@sha256:{weights.sha256}"


def resolve_teachers(experiment: Experiment, tracking_uri: str | None = None) -> tuple[Experiment, dict[str, Weights]]:
    """The experiment with its teachers pinned (`PLACE@sha256:HEX`), and each teacher's weights by the setting that names it.

    The SHA-256 is that of the encoder's tensors: the same for a run, its registered version and its exported file. Raises `CallError`
    where there is nothing of a name, or its encoder is not that of the SHA-256 beside it.
    """
    method, settings = find_method(experiment.method), experiment.method_config
    found, encoders = {}, {}
    for key, value in method.teachers(settings).items():
        place, sha256 = _split_pin(key, value)
        weights = find_weights(place, tracking_uri)
        encoders[key] = weights.encoder()
        state = encoders[key].state_dict()
        weights = found[key] = Weights.of(weights.method, weights.sections, "encoder", state, weights.source, weights.place)
        _check_pin(key, weights, sha256)
        section, _, field = key.partition(".")
        pinned = getattr(settings, section).model_copy(update={field: _pinned(weights)})
        settings = settings.model_copy(update={section: pinned})
    if found:
        settings = method.adapt(settings, encoders)
    return experiment.model_copy(update={"method_config": settings}), found


def find_initial(experiment: Experiment, tracking_uri: str | None = None) -> Initial:
    """The weights that `train.init` names, fitted to a pretext of the experiment.

    Of a run of the same method the whole state is taken, teacher and heads included; of anything else the encoder. Raises `CallError`
    where nothing fits, a shape differs, or the weights are not those of the SHA-256 that `train.init` names.
    """
    place, sha256 = _split_pin("train.init", str(experiment.train.init))
    weights = find_weights(place, tracking_uri)
    _check_pin("train.init", weights, sha256)
    pretext = find_method(experiment.method).build(experiment.method_config, BuildContext(seed=experiment.train.seed))
    whole = weights.part == "pretext" and weights.method == experiment.method
    form = pretext.encoder_form if isinstance(pretext, HasEncoderForm) else None
    if whole or (weights.part == "encoder" and form is None):
        offered = weights.tensors
    else:
        offered = (form(weights.encoder()) if form else weights.encoder()).state_dict()
    prefixes: tuple[str, ...] = ("",) if whole else pretext.encoder_prefixes if isinstance(pretext, HasEncoderParts) else ()
    if not prefixes:
        raise CallError(
            f"{experiment.method} does not say where its encoder lies, so it cannot begin from an encoder alone",
            f"name a run of {experiment.method} in train.init",
        )
    present = pretext.state_dict()
    state, match = _fit(offered, present, prefixes, weights, experiment)
    if weights.part == "pretext" and not whole and isinstance(pretext, HasOtherParts):
        others: dict[str, torch.Tensor] = {}
        for there, here in pretext.other_parts.items():
            own = {here + name.removeprefix(there): tensor for name, tensor in weights.tensors.items() if name.startswith(there)}
            others |= {name: tensor for name, tensor in own.items() if name in present}
        if others:
            more, match = _fit({**offered, **others}, present, (*prefixes, ""), weights, experiment)
            state |= more
    return Initial(_pinned(weights), weights.source, "pretext" if whole else "encoder", match, state)


def _fit(
    offered: Mapping[str, torch.Tensor],
    present: Mapping[str, torch.Tensor],
    prefixes: tuple[str, ...],
    weights: Weights,
    experiment: Experiment,
) -> tuple[dict[str, torch.Tensor], LoadReport]:
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
    return state, LoadReport(tuple(name for name in offered if name not in set(unexpected)), missing, tuple(unexpected))


def _differences(weights: Weights, experiment: Experiment) -> str:
    """The settings of the model in which the two differ."""
    ours, theirs = experiment.method_config.model_dump(mode="json")["model"], dict(weights.sections["model"])
    both = [key for key in ours if key in theirs and ours[key] != theirs[key]]
    words = " ".join(f"model.{key}={theirs[key]}" for key in both)
    return f"use the settings of these weights: {words}" if words else "use the recipe and settings that these weights were trained with"
