"""What `matches` renders; apart from it, so that the command line needs no renderer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class MatchSettings:
    """What is rendered."""

    truth: Literal["stereo", "flow"]
    size: int = 128
    fov: float = 60.0
    floating: int = 0
    """Things that hang in the air."""
    moving: int = 0
    """Pieces that move between the views of flow."""
    baseline: tuple[float, float] = (0.05, 0.3)
    """Metres between the cameras of stereo, drawn for each pair."""
    exposure: float = 0.0
    """Each image is brightened or darkened by up to this share, with as much noise as a tenth of it."""
