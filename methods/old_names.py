"""Names that the contract had before, for methods from outside. They warn. After the next version this file and its uses go."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping
from typing import TypeVar

T = TypeVar("T")
MEMBERS = {"pictures": "visualisations", "claims": "control_metrics"}
"""Of a pretext."""


def warn(old: str, new: str) -> None:
    warnings.warn(f"{old} is an old name of {new} and will go with the next version", DeprecationWarning, stacklevel=3)


def module_names(values: Mapping[str, object], **names: str) -> Callable[[str], object]:
    """A module's `__getattr__` that finds its old names. `values`: the module's globals; `names`: old name -> new name."""

    def find(name: str) -> object:
        if name not in names:
            raise AttributeError(f"module {values['__name__']!r} has no attribute {name!r}")
        warn(name, names[name])
        return values[names[name]]

    return find


def fields(**names: str) -> Callable[[type[T]], type[T]]:
    """Decorates a dataclass: it takes the old names of its fields, too, and has them as properties. `names`: old name -> new name."""

    def decorate(cls: type[T]) -> type[T]:
        construct = cls.__init__

        @functools.wraps(construct)
        def construct_by_old_names(self: T, *arguments: object, **given: object) -> None:
            for old in names.keys() & given.keys():
                warn(f"{cls.__name__}({old}=...)", names[old])
                given[names[old]] = given.pop(old)
            construct(self, *arguments, **given)

        def old_property(old: str) -> property:
            def read(self: T) -> object:
                warn(f"{cls.__name__}.{old}", names[old])
                return getattr(self, names[old])

            return property(read)

        cls.__init__ = construct_by_old_names  # type: ignore[assignment]
        for old in names:
            setattr(cls, old, old_property(old))
        return cls

    return decorate


def adopt_members(kind: type) -> None:
    """Gives the class of a pretext the new names of members that it defines under their old ones."""
    for old, new in MEMBERS.items():
        if hasattr(kind, old) and not hasattr(kind, new):
            warn(f"{kind.__name__}.{old}", new)
            setattr(kind, new, getattr(kind, old))


def metric_infos(metrics: Mapping[str, T | str], info: Callable[..., T]) -> dict[str, T]:
    """Metrics that are given as their meaning alone. Their family was the name up to the first "_"."""
    return {name: info(means=m, family=name.split("_")[0]) if isinstance(m, str) else m for name, m in metrics.items()}
