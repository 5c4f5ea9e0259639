"""Which two views of a room make a pair; apart from the renderer, so that the command line needs none."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ViewSettings:
    """The defaults follow the Habitat generator of CroCo."""

    overlap: tuple[float, float] = (0.5, 0.95)
    """Least and greatest share of the two views that both show."""
    pan: tuple[float, float] = (0.0, 3.0)
    """Degrees by which the second camera looks past the middle of what the first sees, to either side."""


USUAL = ViewSettings()
