"""RGB-D frames with poses: pairs mined by co-visibility, computed from depth."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sightline.methods.errors import BrokenSampleError, CallError
from sightline.methods.random import keyed_rng
from sightline.platform.data.geometry import covisibility, relative_pose, resize_nearest, scale_intrinsics
from sightline.platform.data.images import decode_depth

from .cameras import NAME, Frame, read_cameras
from .files import existing_folder, read_file
from .found import Found
from .options import bounds, option, positive
from .pairs import Pair
from .source import PairSource

GAPS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
"""Candidates lie this many frames ahead: near and far ones at a cost that stays linear in the number of frames."""
MAX_ANGLE = 60.0
"""Degrees between viewing directions; beyond it two views of one camera hardly share anything."""
_GRID = (36, 48)
"""Rows and columns of the depth map from which co-visibility is computed: 0.6 ms a pair instead of 13 for 240 x 320, and on the
kitchen sequence 0.007 off on average, 0.04 at most."""


@dataclass(frozen=True)
class Rgbd(PairSource):
    """Colour and depth are taken as registered to each other; the provenance says so."""

    reader = "rgbd"
    help = "RGB-D frames with poses (cameras.json): pairs mined by co-visibility from depth"
    examples = ("./kitchen-rgbd --overlap 0.4..0.9 --size 128 --square --out ./kitchen --split train=0.85,val=0.15",)
    split_ways = ("time-blocks", "scene")

    overlap: tuple[float, float] = option((0.4, 0.9), "co-visibility of a pair (default: 0.4..0.9)", bounds)
    pairs_per_frame: int = option(4, "at most this many for a frame (default: %(default)s)", positive)

    def find(self, place: str, name: str, seed: int = 0) -> Found[Pair]:
        """Pairs whose co-visibility lies in `overlap`, at most `pairs_per_frame` for a frame."""
        folder = existing_folder(place)
        cameras = read_cameras(folder)
        if cameras is None:
            raise CallError(f"{place} has no {NAME}", "use `sightline prepare pairs frames` for images without poses")
        usable = [f for f in cameras.frames if f.depth and f.K and f.cam_to_world]
        if not usable:
            raise CallError(f"no frame of {place}/{NAME} has depth, K and cam_to_world", "use `sightline prepare pairs frames`")
        low, high = self.overlap
        notes = (
            f"pairs mined by co-visibility {low:g}..{high:g} (depths agree within 5 % or 5 cm, the smaller of both directions)",
            "colour and depth are taken as registered to each other, with one pose and K for both",
            f"unit: {cameras.unit}; distortion: {cameras.distortion}",
        )
        found = Found[Pair](self.provenance(folder, *notes))
        found.skips += [(f.file, "a frame lacks depth, K or pose") for f in cameras.frames if f not in usable]
        depths = _SmallDepths(folder, found)
        rng = keyed_rng("rgbd", seed, name)
        for start, one in enumerate(usable):
            good: list[tuple[int, float]] = []
            for gap in GAPS[: bisect_left(GAPS, len(usable) - start)]:
                value = depths.overlap(one, usable[start + gap])
                if value is not None and low <= value <= high:
                    good.append((start + gap, value))
            for pick in sorted(rng.permutation(len(good))[: self.pairs_per_frame]):
                order = (start, good[pick][0]) if rng.random() < 0.5 else (good[pick][0], start)
                found.items.append(_pair(folder, name, usable, order, good[pick][1]))
        return found


def _pair(folder: Path, name: str, frames: list[Frame], order: tuple[int, int], overlap: float) -> Pair:
    one, two = (frames[i] for i in order)
    assert one.pose is not None and two.pose is not None
    return Pair(
        id=f"{name}/{Path(one.file).stem}-{Path(two.file).stem}",
        scene=name,
        image1=f"{folder}/{one.file}",
        image2=f"{folder}/{two.file}",
        frame1=order[0],
        frame2=order[1],
        time=one.time_s if one.time_s is not None else float(order[0]),
        K1=one.intrinsics,
        K2=two.intrinsics,
        T_2from1=tuple(relative_pose(one.pose, two.pose).ravel().tolist()),
        depth1=f"{folder}/{one.depth}",
        depth2=f"{folder}/{two.depth}",
        overlap=round(overlap, 4),
    )


class _SmallDepths:
    """Small depth maps of frames, each read once."""

    def __init__(self, folder: Path, found: Found[Pair]) -> None:
        self._folder, self._found = folder, found
        self._kept: dict[str, tuple[np.ndarray, np.ndarray] | None] = {}

    def overlap(self, one: Frame, two: Frame) -> float | None:
        """Co-visibility, or None where a depth map is unusable or the views look apart."""
        if one.pose is None or two.pose is None:
            return None
        transform = relative_pose(one.pose, two.pose)
        if not np.isfinite(transform).all() or transform[2, 2] < np.cos(np.radians(MAX_ANGLE)):
            return None
        first, second = self._small(one), self._small(two)
        return None if first is None or second is None else covisibility(*first, *second, transform)

    def _small(self, frame: Frame) -> tuple[np.ndarray, np.ndarray] | None:
        if frame.file not in self._kept:
            try:
                depth = decode_depth(read_file(f"{self._folder}/{frame.depth}"))
                height, width = min(depth.shape[0], _GRID[0]), min(depth.shape[1], _GRID[1])
                K = scale_intrinsics(np.array(frame.K), width / depth.shape[1], height / depth.shape[0])
                self._kept[frame.file] = (resize_nearest(depth, height, width), K)
            except BrokenSampleError as error:
                reason, _, detail = str(error).partition(": ")
                self._found.skips.append((f"{frame.depth} ({detail})" if detail else str(frame.depth), f"depth of a frame: {reason}"))
                self._kept[frame.file] = None
        return self._kept[frame.file]
