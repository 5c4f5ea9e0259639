"""Whether cameras, depth, disparity and flow of a few drawn pairs fit their images, with pictures of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from sightline.methods.errors import BrokenSampleError, SightlineError
from sightline.methods.random import keyed_rng
from sightline.platform.data.depth_check import DepthVerdict, Ratios, ratios
from sightline.platform.data.epipolar import Matches
from sightline.platform.data.geometry import scale_intrinsics
from sightline.platform.data.matching import same_points
from sightline.platform.data.pose_check import AS_READ, PoseVerdict, Readings, readings_of_pair
from sightline.platform.data.schema import decode_row
from sightline.platform.data.warp_check import WORSE, judged

from .looks import WORKING
from .overlays import Warp, depth_warp, epipolar_picture, field_warp, has_camera
from .rows import Rows
from .scan import Scan, viewing_angle

DRAWN = 24
"""Pairs that are read."""
MATCHED = 6
"""Of these, pairs whose features are matched: those of the smallest angle, because things look the same from near by only."""
LEAST_MATCHES = 12
"""Of a pair."""
MISFIT = 0.01
"""Of the diagonal: cameras are to be looked at from there on. `prepare` refuses at 4 %."""
SHOWN = 3


@dataclass(frozen=True)
class Shown:
    """A picture of one pair."""

    id: str
    text: str
    picture: np.ndarray


@dataclass(frozen=True)
class PairCheck:
    """What was found. `fault` says in words what does not fit."""

    epipolar: Sequence[Shown] = ()
    warps: Sequence[Shown] = ()
    pairs: int = 0
    distances: np.ndarray | None = None
    """Pixels of the stored images between matched points and their epipolar lines; None without cameras."""
    depth: str = ""
    """How the depth fits the poses, in words."""
    warp: str = ""
    """The error of warping, in words."""
    fault: str = ""


def check_pairs(rows: Rows, scan: Scan, seed: int = 0) -> PairCheck:
    """Of pairs that have cameras, depth, disparity or flow; an empty check for others."""
    columns = rows.dataset.manifest.columns
    if not {"T_2from1", "disparity", "flow"} & set(columns) or not len(scan.images):
        return PairCheck()
    usable = np.unique(scan.images["row"])
    drawn = keyed_rng("inspect pairs", seed).permutation(usable)[:DRAWN]
    samples = _samples(rows, sorted(drawn.tolist()))
    posed = sorted((sample for sample in samples if has_camera(sample)), key=lambda sample: -float(sample["T_2from1"][2, 2]))
    fit = _Fit.of(posed[:MATCHED])
    warps = [(sample, warp) for sample in samples if (warp := field_warp(sample) or depth_warp(sample)) is not None]
    told, fault = _judged([warp for _, warp in warps], samples)
    fault = fit.fault or fault
    return PairCheck(
        epipolar=[
            Shown(sample["id"], _angle(sample), picture)
            for sample in _spread(posed, SHOWN)
            if (picture := epipolar_picture(sample)) is not None
        ],
        warps=[Shown(sample["id"], _error(warp), warp.picture) for sample, warp in _spread(warps, SHOWN)],
        pairs=len(samples),
        distances=fit.pixels if posed else None,
        depth=fit.depth.told if fit.depth else "",
        warp=told,
        fault=fault,
    )


def _samples(rows: Rows, numbers: Sequence[int]) -> list[Mapping[str, Any]]:
    samples: list[Mapping[str, Any]] = []
    try:
        found = rows.read(numbers, rows.dataset.manifest.columns)
    except SightlineError:  # told where all rows are looked at
        return []
    for row in found:
        try:
            samples.append(decode_row(row, rows.dataset.kind, depth=True))
        except (BrokenSampleError, ValueError):
            continue
    return samples


@dataclass(frozen=True)
class _Fit:
    """How cameras and depth of some pairs fit their images."""

    poses: PoseVerdict
    depth: DepthVerdict | None
    pixels: np.ndarray

    @classmethod
    def of(cls, samples: Sequence[Mapping[str, Any]]) -> _Fit:
        readings: list[Readings] = []
        scales: list[Ratios] = []
        pixels: list[np.ndarray] = []
        for sample in samples:
            small, scale = _small(sample)
            if len(small.xy1) < LEAST_MATCHES:
                continue
            readings.append(readings_of_pair(small))
            pixels.append(PoseVerdict([readings[-1]]).pixels / scale)
            depths = sample.get("depth1"), sample.get("depth2")
            if any(depth is not None for depth in depths):
                sizes = [[round(side * scale) for side in sample[name].shape[:2]] for name in ("image1", "image2")]
                scales.append(ratios(small, *depths, *sizes))
        return cls(PoseVerdict(readings, MISFIT), DepthVerdict(scales) if scales else None, np.concatenate([np.zeros(0), *pixels]))

    @property
    def fault(self) -> str:
        own = f"matched points lie {np.median(self.pixels):.1f} px from their epipolar lines (median)" if len(self.pixels) else ""
        if self.poses.likely:
            times = self.poses.errors[AS_READ] / min(error for name, error in self.poses.errors.items() if name != AS_READ)
            return f"cameras do not fit the images: {own}, but {times:.0f} times nearer {self.poses.likely}"
        if self.poses.fits_none:
            return f"cameras and poses do not fit the images: {own}"
        if self.depth and (self.depth.wrong or self.depth.doubtful):
            return f"depth and poses have different units: {self.depth.told}"
        return ""


def _small(sample: Mapping[str, Any]) -> tuple[Matches, float]:
    """(matches at a short side of at most `WORKING`, their size as a share of that of image 1)."""
    images, K, scales = [], [], []
    for number in "12":
        image = sample[f"image{number}"]
        scale = min(1.0, WORKING / min(image.shape[:2]))
        height, width = (round(side * scale) for side in image.shape[:2])
        images.append(np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS)))
        K.append(scale_intrinsics(sample[f"K{number}"], width / image.shape[1], height / image.shape[0]))
        scales.append(scale)
    return Matches(*same_points(*images), K[0], K[1], sample["T_2from1"], float(np.hypot(*images[0].shape[:2]))), scales[0]


def _judged(warps: Sequence[Warp], samples: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """(the error of all warps, what does not fit)."""
    if not warps:
        return "", ""
    by = warps[0].by
    if by != "depth":
        verdict = judged([sample for sample in samples if by in sample], by)
        return verdict.told, f"{by} {verdict.fault}" if verdict.fault else ""
    pixels = sum(warp.error.pixels for warp in warps)
    if not pixels:
        return "depth brings no pixel of the drawn pairs into the other image", "depth and poses bring no pixel into the other image"
    still, moved = (
        sum(getattr(warp.error, name) * warp.error.pixels for warp in warps if warp.error.pixels) / pixels for name in ("still", "moved")
    )
    told = f"warp error of {len(warps)} pair(s): {moved:.1f} of 255 where the images differ by {still:.1f} unmoved"
    return told, f"depth and poses do not bring the images together ({told})" if moved > WORSE * still else ""


def _angle(sample: Mapping[str, Any]) -> str:
    return f"{viewing_angle(sample['T_2from1']):.0f}° apart"


def _error(warp: Warp) -> str:
    if not warp.error.pixels:
        return f"nothing of image 2 is seen by {warp.by}"
    return f"by {warp.by}: {warp.error.moved:.1f} of 255, unmoved {warp.error.still:.1f}"


def _spread(items: Sequence[Any], count: int) -> list[Any]:
    """Some of them, evenly spread."""
    return [items[index] for index in np.unique(np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int))]
