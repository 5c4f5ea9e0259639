"""Settings: frozen, typed, validated values. Unknown keys are errors that name the nearest known one."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Self, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from .errors import CallError


class Settings(BaseModel):
    """A section of settings. Holds values only; context objects (devices, teachers) are handed to `build`."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), validate_default=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _accept_old_names(cls, values: Any) -> Any:
        return current_names(cls, values) if isinstance(values, Mapping) else values

    @field_validator("*", mode="before")
    @classmethod
    def _no_odd_number(cls, value: Any, info: ValidationInfo) -> Any:
        """pydantic would take `true` for 1, also in YAML's spelling `yes` or `on`, and numbers that no library takes."""
        kind = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and kind not in (bool, Any) and not {bool, Any} & set(get_args(kind)):
            raise ValueError("it is no switch, and takes no true or false")
        if isinstance(value, int) and abs(value) >= 1 << 63:
            raise ValueError("it is too large a number")
        return value


@dataclass(frozen=True)
class Renamed:
    """In the annotation of a setting: what it was called before. The old name is still accepted.

        microbatch: Annotated[int, Renamed("group", since=2)] = 64

    `since`: the first version of the settings hash that uses the new name (`platform/config/fingerprint.py`).
    """

    old: str
    since: int


@dataclass(frozen=True)
class Added:
    """In the annotation of a setting that was added after runs had been made without it.

    `neutral`: the value, as JSON, that reproduces the behaviour of those runs. The setting is hashed only where it has another value.
    """

    neutral: Any


def current_names(model: type[BaseModel], values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` under today's names of the settings. Raises `ValueError` where a setting has both its old and its new name."""
    named = dict(values)
    for name, field in model.model_fields.items():
        for note in field.metadata:
            if isinstance(note, Renamed) and note.old in named:
                if name in named:
                    raise ValueError(f"{note.old} is the old name of {name}; give one of them")
                named[name] = named.pop(note.old)
    return named


class Duration(BaseModel):
    """A length of training in steps, epochs or samples; written `300 steps`, `40 epochs`, `2e6 samples` or `300` (steps)."""

    model_config = ConfigDict(frozen=True)
    amount: float = Field(ge=0, le=1e18, allow_inf_nan=False)
    unit: str

    @classmethod
    def parse(cls, value: object) -> Duration:
        if isinstance(value, Duration):
            return value
        match = re.fullmatch(r"\s*([0-9.]+(?:e[+-]?[0-9]+)?)\s*(steps?|epochs?|samples?)?\s*", str(value))
        if not match:
            raise ValueError(f"{value!r} is no length of training; write for example '300 steps', '40 epochs' or '1e6 samples'")
        return cls(amount=float(match[1]), unit=(match[2] or "steps").rstrip("s") + "s")

    def steps(self, batch_size: int, samples: int) -> float:
        """Length in optimiser steps, given the global batch size and the samples in one epoch."""
        per_unit = {"steps": 1.0, "epochs": samples / batch_size, "samples": 1 / batch_size}
        return self.amount * per_unit[self.unit]

    def __str__(self) -> str:
        amount = int(self.amount) if self.amount.is_integer() else self.amount
        return f"{amount} {self.unit}"


Length = Annotated[Duration, BeforeValidator(Duration.parse), PlainSerializer(str)]


def _height_width(value: Any) -> Any:
    return (value, value) if isinstance(value, int) else value


def _short(size: tuple[int, int]) -> int | list[int]:
    return size[0] if size[0] == size[1] else list(size)


ImageSize = Annotated[tuple[int, int], BeforeValidator(_height_width), PlainSerializer(_short)]
"""(height, width) in pixels; written as one side for a square."""


def whole_patches(name: str, size: tuple[int, int], patch: int) -> None:
    """Raises `ValueError` with the arithmetic and the nearest sizes unless patches of `patch` pixels tile an image of `size`."""
    for side in size:
        if side < patch or side % patch:
            near = [s for s in (side // patch * patch, (side // patch + 1) * patch) if s > 0]
            raise ValueError(
                f"{name} {side} is no multiple of patch_size {patch}: {side} / {patch} = {side / patch:.2f} patches; "
                f"the nearest sizes that work: {', '.join(map(str, near))}"
            )


class PatchGrid(Settings):
    """The part of a model's settings that every ViT has: an image cut in patches."""

    image_size: ImageSize = Field(default=(224, 224), description="pixels: one side of a square, or [height, width]")
    patch_size: int = Field(default=16, ge=1)

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of patches."""
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size

    @property
    def patches(self) -> int:
        return self.grid[0] * self.grid[1]

    @model_validator(mode="after")
    def _whole_patches(self) -> Self:
        whole_patches("image_size", self.image_size, self.patch_size)
        return self


def nearest(word: str, known: list[str]) -> str:
    """' Did you mean X?' where a known word is near, else the list of known words."""
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(known))}"


MEANT = {
    "train.length='40 epochs'": ("epochs", "num_epochs", "max_epochs", "nb_epochs", "epoch"),
    "train.length='1000 steps'": ("steps", "max_steps", "num_steps", "iterations", "iters", "max_iters", "total_steps"),
    "optim.lr": ("learning_rate", "lr_rate", "blr_abs"),
    "optim.base_lr": ("blr", "base_learning_rate"),
    "optim.warmup": ("warmup_epochs", "warmup_steps", "warmup_ratio"),
    "optim.weight_decay": ("wd",),
    "optim.clip": ("clip_grad", "grad_clip", "max_norm", "max_grad_norm", "gradient_clip_val"),
    "batch.size": ("batch_size", "bs", "global_batch_size", "total_batch_size"),
    "batch.microbatch": ("micro_batch_size", "per_device_train_batch_size", "batch_size_per_gpu"),
    "train.workers": ("num_workers", "gpus", "num_gpus", "devices", "world_size", "nproc_per_node"),
    "train.precision": ("amp", "dtype", "mixed_precision", "fp16", "bf16"),
    "train.init": ("pretrained", "checkpoint", "weights", "finetune", "pretrained_path"),
    "train.checkpoint_every": ("save_every", "save_freq", "save_steps", "save_interval"),
    "train.validate_every": ("eval_every", "eval_freq", "eval_steps", "val_every", "val_interval"),
    "data.train": ("data_path", "dataset", "data_dir", "root", "train_data", "train_dir"),
    "data.val": ("val_data", "val_dir", "test", "valid"),
    "model.image_size": ("img_size", "input_size", "resolution", "size"),
    "log.experiment": ("project", "experiment_name", "wandb_project"),
    "log.every": ("log_interval", "print_freq", "logging_steps"),
}
"""A setting, perhaps with a value, and what other trainers call it."""


def meant_setting(key: str, every: Sequence[str]) -> str:
    """What a person meant by an unknown setting, of all that there are, `section.key`."""
    section, _, field = key.rpartition(".")
    own = {name.rpartition(".")[2]: name for name in every if name.rpartition(".")[0] == section}
    near = [own[name] for name in difflib.get_close_matches(field, own, n=1, cutoff=0.7)]
    near = near or [name for name in every if name.rpartition(".")[2] == field]
    near = near or [text for text, others in MEANT.items() if field in others and text.partition("=")[0] in every]
    near = near or [own[name] for name in difflib.get_close_matches(field, own, n=1)]
    if not near and not own:
        near = difflib.get_close_matches(key, every, n=1)
    return f"did you mean {' or '.join(map(repr, near))}?" if near else f"known: {', '.join(sorted(own.values() or every))}"


def explain(error: ValidationError, model: type[BaseModel], where: str = "", every: Sequence[str] = ()) -> CallError:
    """A pydantic error as one sentence a line, each with the full key and, for unknown keys, the nearest known one.

    `every`: all settings, for one that lies in another section.
    """
    lines = []
    for item in error.errors():
        path = [str(p) for p in item["loc"]]
        key = ".".join([where, *path] if where else path)
        if item["type"] == "extra_forbidden":
            section = key.rpartition(".")[0]
            beside = [f"{section}.{name}" if section else name for name in _fields_at(model, path[:-1])]
            lines.append(f"unknown setting {key!r}: {meant_setting(key, [*beside, *(name for name in every if name not in beside)])}")
        else:
            message = item["msg"].removeprefix("Value error, ")
            given = "" if isinstance(item["input"], (dict, BaseModel)) else f" = {item['input']!r}"
            lines.append(f"{key}{given}: {message}" if key else message)
    return CallError("\n".join(lines), "correct the key or value; `--dry-run` prints every setting")


def _fields_at(model: type[BaseModel], path: list[str]) -> list[str]:
    current: Any = model
    for name in path:
        field = current.model_fields.get(name) if hasattr(current, "model_fields") else None
        current = getattr(field, "annotation", None)
    return [field.alias or name for name, field in getattr(current, "model_fields", {}).items()]
