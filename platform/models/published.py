"""Between our weights and the layout in which a method's authors publish theirs: both ways, by what the method says of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from sightline.methods.catalog import find_method, method_ids
from sightline.methods.contract import BuildContext, HasEncoderParts, LoadReport, Method, MethodConfig, Official
from sightline.methods.errors import CallError, SightlineError
from sightline.methods.settings import explain, nearest
from sightline.platform.config import METHOD_SECTIONS, read_recipe
from sightline.platform.weights.building import build_within
from sightline.platform.weights.foreign import held_bytes, read
from sightline.platform.weights.format import Weights

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Taken:
    """A published file as weights of ours: the whole state of a pretext, and what found a place in it."""

    weights: Weights
    match: LoadReport
    fresh: tuple[str, ...]
    """Tensors of ours that the file has no values for: their weights are random."""
    fresh_encoder: tuple[str, ...]
    """Those of them that belong to the encoder: with any, it is not the published one."""


def take_in(path: Path, method_id: str, preset: str | None, overrides: Mapping[str, Any], key: str | None = None) -> Taken:
    """The weights of a published file; `key` chooses the entry of the file that holds them.

    Settings come from the file, over those of the recipe `preset`, under `overrides` (`section.key` -> value). Settings in the file that
    cannot be understood are an error, unless others are given. Raises `CallError` for wrong words or settings, `SightlineError` where the
    file is not readable, nothing in it matches or a shape differs.
    """
    method, official = _method_and_layout(method_id)
    start = _preset(preset, method) if preset else {}
    _check_keys(method, overrides)
    content = read(path)
    if key is not None:
        from sightline.methods.state_dicts import below

        content = below(content, key)
    notes = []
    try:
        told = official.settings_of(content)
    except SightlineError as error:
        if not start and not any(name.startswith("model.") for name in overrides):
            raise
        told = {}
        notes.append(f"the settings in the file are not used: {error}")
    config = _settings(method, start, told, overrides, path)
    pretext = build_within(method, config, str(path), held_bytes(content))
    present = pretext.state_dict()
    state, match = official.load(content, present, config)
    if not match.matched:
        raise SightlineError(f"no tensor in {path} has a place in {method.id}", "name a file of this method's published layout")
    fresh = tuple(name for name in present if name not in state)
    parts = pretext.encoder_prefixes if isinstance(pretext, HasEncoderParts) else ()
    inside = tuple(name for name in fresh if name.startswith(parts))
    sections = config.model_dump(mode="json")
    try:
        pretext.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise SightlineError(
            f"the tensors in {path} do not fit: {' '.join(str(error).split())[:300]}", "give the settings of the file"
        ) from None
    import torch

    filled = pretext.state_dict()
    if wrong := [name for name in state if not torch.isfinite(filled[name]).all()]:
        notes.append(f"{len(wrong)} tensors hold values that are not finite, the first is {wrong[0]}")
    match = replace(match, notes=(*match.notes, *notes))
    place = str(path.absolute())
    return Taken(Weights.of(method.id, sections, "pretext", filled, path.name, place), match, fresh, inside)


def random_weights(seed: int, method_id: str, preset: str | None, overrides: Mapping[str, Any]) -> Taken:
    """What `seed` gives a network of these settings, untaught. Raises `CallError` for wrong words or settings."""
    method = find_method(method_id)
    _check_keys(method, overrides)
    config = _settings(method, _preset(preset, method) if preset else {}, {}, overrides, Path(f"random:{seed}"))
    state = method.build(config, BuildContext(seed=seed)).state_dict()
    source = f"random weights, seed {seed}"
    return Taken(Weights.of(method_id, config.model_dump(mode="json"), "pretext", state, source, source), LoadReport((), (), ()), (), ())


def to_published(weights: Weights) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """(tensors under the authors' names, what stands beside them in their file). Raises `SightlineError` for an encoder alone."""
    official = _official(find_method(weights.method))
    if weights.part == "encoder":
        raise SightlineError(
            f"{weights.place} holds the encoder alone; the published layout of {weights.method} holds the whole network",
            "name the run itself, or the file that `sightline import` made",
        )
    return official.save(weights.tensors, weights.config)


def _method_and_layout(name: str) -> tuple[Method, Official]:
    """The method of this id with its own layout, or the method that takes in the layout of this name (`Method.layouts`)."""
    ids = method_ids()
    if name not in ids:
        methods = [find_method(one) for one in ids]
        if found := [(method, method.layouts[name]()) for method in methods if name in method.layouts]:
            return found[0]
        known = sorted({*ids, *(layout for method in methods for layout in method.layouts)})
        raise CallError(f"unknown method {name!r}: {nearest(name, known)}")
    method = find_method(name)
    return method, _official(method)


def _official(method: Method) -> Official:
    if method.official is None:
        raise SightlineError(f"{method.id} has no published layout", "use `--format safetensors` for Sightline's own")
    return method.official()


def _preset(recipe: str, method: Method) -> dict[str, Any]:
    name, values = read_recipe(recipe)
    if values["method"] != method.id:
        raise CallError(f"{name} is a recipe of method {values['method']}, not {method.id}", "name a recipe of the method of the file")
    return {section: values.get(section) or {} for section in METHOD_SECTIONS}


def _check_keys(method: Method, overrides: Mapping[str, Any]) -> None:
    fields = {section: getattr(method.Config.model_fields[section].annotation, "model_fields", {}) for section in METHOD_SECTIONS}
    known = [f"{section}.{field}" for section, named in fields.items() for field in named]
    for key in overrides:
        if key not in known:
            raise CallError(f"unknown setting {key!r}: {nearest(key, known)}", f"settings of {method.id} can be given: section.key=value")


def _settings(method: Method, preset: Mapping[str, Any], told: Mapping[str, Any], overrides: Mapping[str, Any], path: Path) -> MethodConfig:
    sections = {section: {**preset.get(section, {}), **told.get(section, {})} for section in METHOD_SECTIONS}
    for key, value in overrides.items():
        section, _, field = key.partition(".")
        there = sections[section].get(field)
        sections[section][field] = {**there, **value} if isinstance(there, Mapping) and isinstance(value, Mapping) else value
    try:
        return method.Config.model_validate(sections)
    except ValidationError as error:
        raise CallError(
            f"the settings for {path.name} do not go together:\n{explain(error, method.Config)}", "correct them with section.key=value"
        ) from None
