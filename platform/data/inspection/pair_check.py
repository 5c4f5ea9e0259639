"""Whether cameras, depth, disparity and flow of a few drawn pairs fit their images, with pictures of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from sightline.methods.errors import BrokenSampleError, SightlineError
from sightline.methods.random import keyed_rng
from sightline.platform.data.geometry import scale_intrinsics
from sightline.platform.data.schema import decode_row
from sightline.platform.data.warp_check import WORSE, judged

from .epipolar import distances, has_camera, misfit
from .looks import WORKING
from .overlays import Warp, depth_warp, epipolar_picture, field_warp
from .rows import Rows
from .scan import Scan, viewing_angle

DRAWN = 24
"""Pairs that are read."""
MATCHED = 6
"""Of these, pairs whose corners are matched: those of the smallest angle, because a patch looks the same from near by only."""
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
    """Pixels between matched corners and their epipolar lines; None without cameras."""
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
    off = np.concatenate([_distances(sample) for sample in posed[:MATCHED]], axis=1) if posed else None
    warps = [(sample, warp) for sample in samples if (warp := field_warp(sample) or depth_warp(sample)) is not None]
    told, fault = _judged([warp for _, warp in warps], samples)
    fault = (misfit(off) if off is not None else "") or fault
    return PairCheck(
        epipolar=[
            Shown(sample["id"], _angle(sample), picture)
            for sample in _spread(posed, SHOWN)
            if (picture := epipolar_picture(sample)) is not None
        ],
        warps=[Shown(sample["id"], _error(warp), warp.picture) for sample, warp in _spread(warps, SHOWN)],
        pairs=len(samples),
        distances=None if off is None else off[0],
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


def _distances(sample: Mapping[str, Any]) -> np.ndarray:
    """In pixels of the image, measured at a short side of at most `WORKING`."""
    small, scales = dict(sample), []
    for number in "12":
        image = sample[f"image{number}"]
        scale = min(1.0, WORKING / min(image.shape[:2]))
        height, width = (round(side * scale) for side in image.shape[:2])
        small[f"image{number}"] = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))
        small[f"K{number}"] = scale_intrinsics(sample[f"K{number}"], width / image.shape[1], height / image.shape[0])
        scales.append(scale)
    return np.asarray(distances(small) / scales[1])


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
