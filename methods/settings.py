"""Settings: frozen, typed, validated values. Unknown keys are errors that name the nearest known one."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError, model_validator

from .errors import CallError


class Settings(BaseModel):
    """A section of settings. Holds values only; context objects (devices, teachers) are handed to `build`."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _accept_old_names(cls, values: Any) -> Any:
        return current_names(cls, values) if isinstance(values, Mapping) else values


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
    amount: float = Field(ge=0)
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


def explain(error: ValidationError, model: type[BaseModel], where: str = "") -> CallError:
    """A pydantic error as one sentence a line, each with the full key and, for unknown keys, the nearest known one."""
    lines = []
    for item in error.errors():
        path = [str(p) for p in item["loc"]]
        key = ".".join([where, *path] if where else path)
        if item["type"] == "extra_forbidden":
            lines.append(f"unknown setting {key!r}: {nearest(path[-1], _fields_at(model, path[:-1]))}")
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
