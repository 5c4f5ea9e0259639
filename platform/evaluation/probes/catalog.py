"""The probes that packages publish under the entry point groups `sightline.probes` and `sightline.named_probes`, by name.

Naming them imports none of them.
"""

from __future__ import annotations

from collections.abc import Iterable

from sightline.methods.errors import CallError, SightlineError
from sightline.methods.settings import nearest
from sightline.platform.core.plugins import PROBES, plugins, probe_points

from .spec import ProbeSpec


def check_probe(name: str) -> None:
    """Raises `CallError` naming the nearest probe where there is none of this name. Imports no probe."""
    if name not in probe_points():
        raise CallError(f"unknown probe {name!r}: {nearest(name, list(probe_points()))}")


def find_probe(name: str) -> ProbeSpec:
    """Imports the probe's module, which imports torch. Raises `CallError` naming the nearest probe, `SightlineError` for a broken one."""
    check_probe(name)
    point = probe_points()[name]
    try:
        probe = point.load()
    except (ImportError, AttributeError) as error:
        raise SightlineError(f"probe {name} cannot be loaded from {point.value}: {error}", "install the package that it needs") from error
    if not isinstance(probe, ProbeSpec) or probe.name != name:
        raise SightlineError(f"{point.value} is no ProbeSpec whose protocol is named {name!r}", "see docs/probes.md")
    return probe


def ranked(names: Iterable[str] | None = None) -> list[ProbeSpec]:
    """The probes of these names, or all that need not be named, in the order in which reports and sweeps take them."""
    probes = [find_probe(name) for name in (plugins(PROBES) if names is None else names)]
    return sorted(probes, key=lambda probe: (probe.rank, probe.name))
