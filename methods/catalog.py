"""Finds methods by id: our own and those that other packages publish under the entry point group `sightline.methods`."""

from __future__ import annotations

import sys
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points

from .contract import Method
from .errors import CallError
from .settings import nearest

GROUP = "sightline.methods"


def method_ids() -> list[str]:
    return sorted({point.name for point in _published(tuple(sys.path))})


def find_method(method_id: str) -> Method:
    """The method with this id. Raises `CallError` for an unknown id. Imports the method's settings, not its torch half."""
    for point in _published(tuple(sys.path)):
        if point.name == method_id:
            method = point.load()
            if not isinstance(method, Method):
                raise CallError(f"the entry point {point.value!r} of method {method_id!r} is not a sightline Method")
            return method
    raise CallError(f"unknown method {method_id!r}: {nearest(method_id, method_ids())}")


@lru_cache
def _published(path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """The entry points of the packages on the path. Settings ask for them ten times, and to read them takes 7 ms."""
    return tuple(entry_points(group=GROUP))
