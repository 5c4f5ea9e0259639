"""The settings of an experiment: recipe + overrides -> one validated `Experiment`. One key scheme from YAML to code to MLflow.

A method owns the sections `model, pretext, loss, augment`; the platform owns `data, teacher_cache, batch, optim, train, probe, log`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ConfigDict, Field, ValidationError, field_validator, model_validator

from sightline.methods.catalog import find_method, method_ids
from sightline.methods.contract import Method, MethodConfig
from sightline.methods.errors import CallError
from sightline.methods.optim import Clock, OptimConfig
from sightline.methods.settings import Duration, Length, Settings, explain, nearest

from .probes.catalog import PROBES

RECIPES = Path(__file__).parent.parent / "pipelines" / "recipes"
METHOD_SECTIONS = tuple(MethodConfig.model_fields)


class DataConfig(Settings):
    train: str | None = Field(default=None, description="data set to learn from: a folder made by `sightline prepare`, or its URI")
    val: str | None = Field(default=None, description="data set for the validation curve, pictures and probes")
    block: int = Field(default=256, ge=1, description="rows that are read, shuffled and decoded together")
    max_broken: float = Field(default=0.05, ge=0, le=1, description="share of broken samples at which a run stops")


class TeacherCacheConfig(Settings):
    variants: int = Field(
        default=0, ge=0, le=1000, description="fixed draws of each sample, made once and kept; 0: new draws at every visit"
    )
    folder: str | None = Field(default=None, description="where caches lie, each under its key; default: $SIGHTLINE_HOME/teacher-cache")


class BatchConfig(Settings):
    size: int = Field(default=256, ge=1, description="samples in one optimiser step, over all workers")
    group: int = Field(default=64, ge=1, description="samples in one forward; the papers' batch per GPU. Fixed for a run")

    @model_validator(mode="after")
    def _divides(self) -> BatchConfig:
        if self.size % self.group:
            raise ValueError(f"batch.size = {self.size} is no multiple of batch.group = {self.group}")
        return self


class TrainConfig(Settings):
    init: str | None = Field(default=None, description="weights to begin from: a run, a file, or models:/NAME@alias; short form init=")
    length: Length = Field(default=Duration(amount=100, unit="epochs"), description="end of training: steps, epochs or samples")
    workers: int = Field(default=1, ge=1, description="data-parallel workers; must divide batch.size / batch.group")
    least_workers: int | None = Field(default=None, ge=1, description="elastic: with how few to go on while nodes are missing")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = Field(default="auto", description="auto measures at the start what pays on the machine")
    threads: int | None = Field(default=None, ge=1, description="torch threads a worker; default: the machine's cores over its workers")
    actors: int | None = Field(default=None, ge=1, description="actors of a frozen teacher for each worker; default: as `--dry-run` says")
    compile: bool = False
    seed: int = Field(default=0, ge=0)
    validate_every: Length = Field(default=Duration(amount=5, unit="epochs"))
    validate_samples: int = Field(default=256, ge=1)
    checkpoint_every: Length = Field(default=Duration(amount=1, unit="epochs"))
    keep: int = Field(default=2, ge=1, description="newest checkpoints that are kept")
    max_failures: int = Field(default=3, ge=0, description="restarts after the death of a worker")
    storage: str | None = Field(default=None, description="folder or URI where checkpoints are also put, for nodes that share no folder")

    @field_validator("length", "checkpoint_every", "validate_every")
    @classmethod
    def _positive(cls, value: Length) -> Length:
        if value.amount <= 0:
            raise ValueError("must be more than 0")
        return value


class ProbeConfig(Settings):
    names: tuple[str, ...] = Field(default=tuple(PROBES), description="probes at the end of training, where the data allow them")
    train: tuple[str, ...] = Field(default=(), description="data sets that train probe heads; default: data.train")
    test: tuple[str, ...] = Field(default=(), description="those that test them, in the same order; default: data.val")
    samples: int = Field(default=1000, ge=1, description="most pairs for the method's own claims")

    @field_validator("names")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in PROBES:
                raise ValueError(f"there is no probe {name!r}: {nearest(name, list(PROBES))}")
        return value

    @field_validator("train", "test", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        return () if value is None else (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _in_couples(self) -> ProbeConfig:
        if len(self.train or ("",)) != len(self.test or ("",)):
            raise ValueError(f"{len(self.train)} data sets in probe.train and {len(self.test)} in probe.test: they go in couples")
        return self


class LogConfig(Settings):
    every: int = Field(default=10, ge=1, description="steps between reports")
    experiment: str = "sightline"
    tracking_uri: str | None = Field(default=None, description="MLflow server; default: SQLite under $SIGHTLINE_HOME")
    tags: dict[str, str] = Field(default={}, description="tags of the MLflow run, besides Sightline's own")
    system_metrics: bool = Field(default=False, description="CPU, memory, disk, network and GPU at each report")
    register_as: str | None = Field(default=None, description="name in the model registry; default: <method>-encoder", alias="register")

    model_config = ConfigDict(populate_by_name=True)


PLATFORM_SECTIONS: dict[str, type[Settings]] = {
    "data": DataConfig,
    "teacher_cache": TeacherCacheConfig,
    "batch": BatchConfig,
    "optim": OptimConfig,
    "train": TrainConfig,
    "probe": ProbeConfig,
    "log": LogConfig,
}


class Experiment(Settings):
    """A whole, valid set of settings."""

    recipe: str
    method: str
    settings: MethodConfig = Field(description="the method's own sections: model, pretext, loss, augment")
    data: DataConfig
    teacher_cache: TeacherCacheConfig
    batch: BatchConfig
    optim: OptimConfig
    train: TrainConfig
    probe: ProbeConfig
    log: LogConfig

    @property
    def lanes(self) -> int:
        return self.batch.size // self.batch.group

    def with_workers(self, count: int) -> Experiment:
        """The same on another number of workers."""
        return self.model_copy(update={"train": self.train.model_copy(update={"workers": count})})

    @property
    def has_stage(self) -> bool:
        """Whether frozen functions run between views and training."""
        method = find_method(self.method)
        return method.stage is not None and bool(method.frozen(self.settings))

    def clock(self, samples: int) -> Clock:
        """The run's clock for a data set of `samples` rows."""
        clock = Clock(steps=0, batch_size=self.batch.size, samples=samples)
        return Clock(steps=max(1, round(clock.in_steps(self.train.length))), batch_size=self.batch.size, samples=samples)

    @property
    def probe_data(self) -> list[tuple[str, str]]:
        """(training, test) data sets of the probes, of which each takes the first that has what it needs."""
        train, test = self.probe.train or (self.data.train,), self.probe.test or (self.data.val,)
        return [(str(one), str(other)) for one, other in zip(train, test, strict=True) if one and other]

    def sections(self) -> dict[str, Any]:
        """Plain values as a recipe holds them; `load` of this gives an equal experiment."""
        platform = {name: getattr(self, name).model_dump(mode="json", by_alias=True) for name in PLATFORM_SECTIONS}
        return {"method": self.method, **self.settings.model_dump(mode="json"), **platform}

    def flat(self) -> dict[str, Any]:
        """`section.key` -> value, for MLflow and reports."""
        out: dict[str, Any] = {"recipe": self.recipe, "method": self.method}
        for section, values in self.sections().items():
            if isinstance(values, dict):
                out.update({f"{section}.{key}": value for key, value in values.items()})
        return out

    def to_yaml(self) -> str:
        return str(yaml.safe_dump(self.sections(), sort_keys=False))


def recipe_names() -> list[str]:
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def read_recipe(name: str) -> tuple[str, dict[str, Any]]:
    """(name, settings) of a shipped recipe or of a YAML file. Raises `CallError`."""
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        path = RECIPES / f"{name}.yaml"
        if not path.is_file():
            raise CallError(f"no recipe {name!r}: {nearest(name, recipe_names())}", "name a shipped recipe or a YAML file")
    if not path.is_file():
        raise CallError(f"no file {name!r}", f"shipped recipes: {', '.join(recipe_names())}")
    try:
        settings = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CallError(f"{name} is no valid YAML: {error}") from error
    if not isinstance(settings, dict) or "method" not in settings:
        raise CallError(f"{name} names no method", f"begin the recipe with a line `method: NAME`; known: {', '.join(method_ids())}")
    return path.stem, settings


def parse_overrides(pairs: Iterable[str]) -> dict[str, Any]:
    """`["batch.size=64", ...]` -> {"batch.size": 64}. Values are YAML."""
    out = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise CallError(f"{pair!r} is no setting", "write section.key=value, for example pretext.mask_ratio=0.8")
        try:
            out[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise CallError(f"{pair!r}: the value is no valid YAML") from error
    return out


def load(recipe: str, overrides: Mapping[str, Any] | None = None, settings: Mapping[str, Any] | None = None) -> Experiment:
    """The experiment of a recipe with overrides, checked whole. Raises `CallError` naming every wrong key.

    `settings`: take these sections in place of the recipe's file (a run's own record).
    """
    name, values = (recipe, dict(settings)) if settings is not None else read_recipe(recipe)
    values = {key: dict(value) if isinstance(value, dict) else value for key, value in values.items()}
    method = find_method(str(values.pop("method")))
    known = [*METHOD_SECTIONS, *PLATFORM_SECTIONS]
    if "init" in values:
        values["train"] = {**(values.get("train") or {}), "init": values.pop("init")}
    for key, value in (overrides or {}).items():
        key = "train.init" if key == "init" else key
        section, dot, field = key.partition(".")
        if not dot or section not in known:
            every = [f"{s}.{f}" for s in known for f in _fields(method, s)]
            if section in known:
                raise CallError(f"{key!r} is a section, not a setting; its settings: {', '.join(_fields(method, section))}")
            raise CallError(f"unknown setting {key!r}: {nearest(key, every)}")
        values[section] = {**(values.get(section) or {}), field: value}
    for section in values:
        if section not in known:
            raise CallError(f"unknown section {section!r} in {name}: {nearest(section, known)}")
    problems: list[str] = []
    parts: dict[str, Any] = {}
    for section, model in PLATFORM_SECTIONS.items():
        try:
            parts[section] = model.model_validate(values.get(section) or {})
        except ValidationError as error:
            problems.append(str(explain(error, model, section)))
    try:
        parts["settings"] = method.Config.model_validate({s: values.get(s) or {} for s in METHOD_SECTIONS})
    except ValidationError as error:
        problems.append(str(explain(error, method.Config)))
    if problems:
        raise CallError("\n".join(problems), "`--dry-run` prints every setting")
    experiment = Experiment.model_construct(recipe=name, method=method.id, **parts)
    _check_workers(experiment)
    for key, value in (("teacher_cache.variants", experiment.teacher_cache.variants), ("train.actors", experiment.train.actors)):
        if value and not experiment.has_stage:
            raise CallError(f"{key} = {value}: {method.id} has no teacher with these settings", f"leave {key} out")
    return experiment


def _fields(method: Method, section: str) -> list[str]:
    model = PLATFORM_SECTIONS.get(section) or method.Config.model_fields[section].annotation
    return [field.alias or name for name, field in getattr(model, "model_fields", {}).items()]


def _check_workers(experiment: Experiment) -> None:
    lanes, workers, least = experiment.lanes, experiment.train.workers, experiment.train.least_workers
    if least and least > workers:
        raise CallError(f"train.least_workers = {least} is more than train.workers = {workers}", "it is with how few to go on")
    if lanes % workers:
        fits = [n for n in range(1, lanes + 1) if lanes % n == 0]
        raise CallError(
            f"train.workers = {workers} does not divide the {lanes} groups of a step "
            f"(batch.size / batch.group = {experiment.batch.size} / {experiment.batch.group})",
            f"use train.workers from {fits}, or another batch.group",
        )


HOW = (
    "workers",
    "least_workers",
    "device",
    "threads",
    "actors",
    "compile",
    "keep",
    "max_failures",
    "storage",
    "checkpoint_every",
    "validate_every",
    "validate_samples",
)
"""Settings of `train` that say how a run is carried out, not what is learned."""


def fingerprint(experiment: Experiment) -> str:
    """What must not change in a resume, as text. The data set is not part of it: it has a fingerprint of its own."""
    sections = experiment.sections()
    sections["train"] = {key: value for key, value in sections["train"].items() if key not in HOW}
    sections["data"] = {"block": experiment.data.block}
    kept = sections.pop("teacher_cache")["variants"]
    if kept:  # without a cache the text is what it was before there was one
        sections["teacher_cache"] = {"variants": kept}
    return json.dumps({key: value for key, value in sections.items() if key not in ("log", "probe")}, sort_keys=True)
