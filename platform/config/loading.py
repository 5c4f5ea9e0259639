"""From a recipe and overrides to one validated `Experiment`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from sightline.methods.catalog import find_method
from sightline.methods.contract import Method
from sightline.methods.errors import CallError
from sightline.methods.settings import current_names, explain, meant_setting, nearest
from sightline.platform.core.budget import parse_yaml

from .recipes import read_recipe
from .schema import METHOD_SECTIONS, PLATFORM_SECTIONS, Experiment


def parse_overrides(pairs: Iterable[str]) -> dict[str, Any]:
    """`["batch.size=64", ...]` -> {"batch.size": 64}. Values are YAML."""
    out = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise CallError(f"{pair!r} is no setting", "write section.key=value, for example pretext.mask_ratio=0.8")
        try:
            out[key.strip()] = parse_yaml(value)
        except yaml.YAMLError as error:
            raise CallError(f"{pair!r}: the value is no valid YAML") from error
    return out


def load(recipe: str, overrides: Mapping[str, Any] | None = None, settings: Mapping[str, Any] | None = None) -> Experiment:
    """The experiment of a recipe with overrides, checked whole. Raises `CallError` naming every wrong key.

    `settings`: take these sections in place of the recipe's file (a run's own record).
    """
    name, values = (recipe, dict(settings)) if settings is not None else read_recipe(recipe)
    method = find_method(str(values.pop("method")))
    sections = _merge(method, name, values, overrides or {})
    experiment = _validate(method, name, sections)
    _check_workers(experiment)
    for key, value in (("teacher_cache.variants", experiment.teacher_cache.variants), ("train.actors", experiment.train.actors)):
        if value and not experiment.has_stage:
            raise CallError(f"{key} = {value}: {method.id} has no teacher with these settings", f"leave {key} out")
    return experiment


def _merge(method: Method, recipe: str, values: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The sections with the overrides in them, under today's names. Raises `CallError` for an unknown section or setting."""
    known = [*METHOD_SECTIONS, *PLATFORM_SECTIONS]
    if "init" in values:
        values["train"] = {**_mapping("train", values.get("train")), "init": values.pop("init")}
    for section in values:
        if section not in known:
            raise CallError(f"unknown section {section!r} in {recipe}: {nearest(str(section), known)}")
    values = {section: _mapping(section, given) for section, given in values.items()}
    sections = {section: _current(method, section, given) for section, given in values.items()}
    for key, value in overrides.items():
        key = "train.init" if key == "init" else key
        section, dot, field = key.partition(".")
        if section in known and not dot:
            raise CallError(f"{key!r} is a section, not a setting; its settings: {', '.join(_fields(method, section))}")
        if section not in known:
            raise CallError(f"unknown setting {key!r}: {meant_setting(key, _every(method))}")
        sections[section] = {**sections.get(section, {}), **_current(method, section, {field: value})}
    return sections


def _mapping(section: str, given: Any) -> Mapping[str, Any]:
    """A section's values; none where it is empty. Raises `CallError` for anything else."""
    if given is not None and not isinstance(given, Mapping):
        raise CallError(f"{section} = {given!r}: a section holds lines such as `key: value`", f"write {section}: and its settings below it")
    return {str(key): value for key, value in (given or {}).items()}


def _every(method: Method) -> list[str]:
    """All settings, as `section.key`."""
    return [f"{section}.{field}" for section in (*METHOD_SECTIONS, *PLATFORM_SECTIONS) for field in _fields(method, section)]


def _current(method: Method, section: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """A section's values under today's names of its settings."""
    try:
        return current_names(_model(method, section), values)
    except ValueError as error:
        raise CallError(f"{section}: {error}") from None


def _validate(method: Method, recipe: str, sections: Mapping[str, Any]) -> Experiment:
    """Raises `CallError` with one line for each wrong key or value, whatever its section."""
    problems: list[str] = []
    parts: dict[str, Any] = {}
    for section, model in PLATFORM_SECTIONS.items():
        try:
            parts[section] = model.model_validate(sections.get(section, {}))
        except ValidationError as error:
            problems.append(str(explain(error, model, section, _every(method))))
    try:
        parts["method_config"] = method.Config.model_validate({s: sections.get(s, {}) for s in METHOD_SECTIONS})
    except ValidationError as error:
        problems.append(str(explain(error, method.Config, every=_every(method))))
    if problems:
        raise CallError("\n".join(problems), "`--dry-run` prints every setting")
    return Experiment.model_construct(recipe=recipe, method=method.id, **parts)


def _model(method: Method, section: str) -> type[BaseModel]:
    return PLATFORM_SECTIONS.get(section) or method.Config.model_fields[section].annotation  # type: ignore[return-value]


def _fields(method: Method, section: str) -> list[str]:
    return [field.alias or name for name, field in _model(method, section).model_fields.items()]


def _check_workers(experiment: Experiment) -> None:
    batch, workers, least = experiment.batch, experiment.train.workers, experiment.train.least_workers
    if least and least > workers:
        raise CallError(f"train.least_workers = {least} is more than train.workers = {workers}", "it is with how few to go on")
    if batch.microbatches % workers:
        fits = [n for n in range(1, batch.microbatches + 1) if batch.microbatches % n == 0]
        raise CallError(
            f"train.workers = {workers} does not divide the {batch.microbatches} microbatches of a step "
            f"(batch.size / batch.microbatch = {batch.size} / {batch.microbatch})",
            f"use train.workers from {fits}, or another batch.microbatch",
        )
