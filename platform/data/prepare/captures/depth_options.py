"""What sources with depth maps share: the unit of the maps, and the camera that took them."""

from __future__ import annotations

from dataclasses import dataclass

from ..options import above_zero, four_numbers, option
from ..source import PrepareSource
from .cameras import NAME, Cameras


@dataclass(frozen=True)
class DepthOptions(PrepareSource):
    depth_scale: float | None = option(
        None,
        "units of the depth maps in a metre (default: depth_scale of cameras.json; else 1000 for whole numbers, 1 for floats)",
        above_zero,
    )

    intrinsics: tuple[float, float, float, float] | None = option(
        None, "fx,fy,cx,cy of frames without K, in pixels of the photos (TUM and 7-Scenes publish theirs on their pages)", four_numbers
    )

    def scale_of(self, cameras: Cameras) -> float | None:
        """None: the usual one of each file (`read_depth`)."""
        return self.depth_scale if self.depth_scale is not None else cameras.depth_scale

    def scale_notes(self, cameras: Cameras) -> tuple[list[str], list[str]]:
        """(for the provenance, for the screen too): a scale that was stated, and one that was taken from the layout."""
        scale = self.scale_of(cameras)
        stated = [] if scale is None else [f"depth: {scale:,g} units in a metre"]
        return stated, list(cameras.notes) if self.depth_scale is None or cameras.layout != NAME else []
