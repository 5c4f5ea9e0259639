"""References to code that is imported only when it is called, so that a method's settings do not import torch."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Generic, TypeVar, cast

T = TypeVar("T")


@dataclass(frozen=True)
class Lazy(Generic[T]):
    """A callable that stands for `module:function` or for a whole module.

    `Lazy("package.pretext:build")(config, context)` imports `package.pretext` and returns `build(config, context)`.
    `Lazy("package.official")()` returns the module itself. A method gives them as `f"{__name__}.pretext:build"`.
    """

    place: str

    def __call__(self, *arguments: object) -> T:
        name, _, function = self.place.partition(":")
        module = import_module(name)
        return cast("T", getattr(module, function)(*arguments) if function else module)
