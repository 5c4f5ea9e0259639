"""Entry points of installed packages, ours and others', read without importing what they name."""

from __future__ import annotations

from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points

PROBES = "sightline.probes"

NAMED_PROBES = "sightline.named_probes"
"""Probes that are measured only where a person names them: published protocols, beside ours."""


@lru_cache
def plugins(group: str) -> dict[str, EntryPoint]:
    """Entry point name -> entry point, in the order of the names."""
    return {point.name: point for point in sorted(entry_points(group=group), key=lambda point: point.name)}


def probe_points() -> dict[str, EntryPoint]:
    """Every probe that can be named."""
    return {**plugins(PROBES), **plugins(NAMED_PROBES)}
