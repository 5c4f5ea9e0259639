"""Holds depth maps against poses: matched points are triangulated, and should lie where the depth says.

A wrong unit of the depth, or poses with a unit of their own (as monocular SLAM has), shows as a factor between the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from .epipolar import Matches, triangulated

LEAST_MATCHES = 20
"""Of a pair, in both directions together, that move enough."""
LEAST_PAIRS = 3
PULL = 0.025
"""Of the diagonal: a match must move so much where its depth changes by its own size. Hand-held poses are off by a few pixels."""
WRONG = 2.0
"""Depth that is too large or too small by more is refused: on real hand-held captures the factor was between 0.6 and 1.3."""
ALSO_WRONG = 1.5
"""Three quarters of the pairs must be off by as much, to the same side."""
ALIKE, DOUBTFUL = 1.1, 1.15
"""`MANY_PAIRS` whose factors lie within the first tell of a factor from the second on, as between 1/4000 and 1/5000 m."""
MANY_PAIRS = 6
UNITS: dict[float, str] = {
    1: "metres",
    100: "centimetres",
    256: "1/256 m, as KITTI has it",
    1000: "millimetres",
    5000: "1/5000 m, as TUM RGB-D has it",
}
"""Units in a metre that programs write."""
SELDOM: dict[float, str] = {
    4000: "1/4000 m, as Matterport3D has it",
    6553.5: "1/6553.5 m, as Replica has it",
    10000: "tenths of a millimetre",
}
"""These are named only where pairs agree."""
NEAR_UNIT = 1.6
"""A unit is named that is off by less, where pairs do not agree; else by `ALIKE`."""
RAY, LEAST_SPREAD = 0.3, 0.02
"""Depth is along the ray where `ln(ratio)` falls with `ln(cosine)` by 1, give or take the first, in every pair whose cosines spread by more
than the second. Depth cameras and hand-held poses are too rough to tell."""


class Ratios(NamedTuple):
    """Of the matches of one pair whose depth is known both ways."""

    ratio: np.ndarray
    """n: triangulated depth over stored depth."""
    cosine: np.ndarray
    """n: of the angle between the ray and the axis of its camera."""


def ratios(matches: Matches, depth1: np.ndarray | None, depth2: np.ndarray | None, size1: Sequence[int], size2: Sequence[int]) -> Ratios:
    """From both photos, of sizes (height, width); depth maps H x W in metres, 0 = unknown, of the whole photo at a size of their own."""
    found = [
        _one_way(one, depth, size)
        for one, depth, size in ((matches, depth1, size1), (matches.swapped, depth2, size2))
        if depth is not None and len(one.xy1)
    ]
    if not found:
        return Ratios(np.zeros(0), np.zeros(0))
    return Ratios(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def _one_way(matches: Matches, depth: np.ndarray, size: Sequence[int]) -> Ratios:
    (height, width), (rows, columns) = size, depth.shape
    x, y = matches.xy1.T
    row = np.clip(np.round((y + 0.5) * rows / height - 0.5).astype(int), 0, rows - 1)
    column = np.clip(np.round((x + 0.5) * columns / width - 0.5).astype(int), 0, columns - 1)
    stored = depth[row, column].astype(np.float64)
    z, pull = triangulated(matches)
    sure = (stored > 0) & (z > 0) & np.isfinite(z) & (pull > PULL * matches.diagonal)
    rays = np.c_[matches.xy1, np.ones(len(x))] @ np.linalg.inv(matches.K1).T
    return Ratios((z[sure] / stored[sure]), 1 / np.linalg.norm(rays[sure], axis=1))


@dataclass(frozen=True)
class DepthVerdict:
    """What matches say of the depth of some pairs."""

    pairs: Sequence[Ratios]
    """Of every pair that was looked at; those with too few matches that move do not count."""

    @cached_property
    def factors(self) -> np.ndarray:
        """Of each pair with enough matches the median ratio, rising."""
        return np.sort([np.median(one.ratio) for one in self.pairs if len(one.ratio) >= LEAST_MATCHES])

    @property
    def enough(self) -> bool:
        return len(self.factors) >= LEAST_PAIRS

    @property
    def factor(self) -> float:
        """How many times as far as the depth says things are, by the poses; NaN where nothing tells."""
        return float(np.median(self.factors)) if len(self.factors) else float("nan")

    @property
    def wrong(self) -> bool:
        """Whether depth and poses surely have different units."""
        return self.enough and _off(self.factor) > WRONG and float(np.mean(self._same_side > ALSO_WRONG)) >= 0.75

    @property
    def doubtful(self) -> bool:
        """Whether they may have."""
        return bool(len(self.factors)) and not self.wrong and _off(self.factor) > (DOUBTFUL if self.agree else WRONG)

    @property
    def agree(self) -> bool:
        """Whether the factor is nearly the same in many pairs."""
        return len(self.factors) >= MANY_PAIRS and bool(self.factors[-1] < ALIKE * self.factors[0])

    @cached_property
    def along_ray(self) -> bool:
        """Whether what is stored is surely the distance from the camera, and not that along its axis."""
        slopes = []
        for ratio, cosine in self.pairs:
            if len(ratio) >= LEAST_MATCHES and np.std(x := np.log(cosine)) > LEAST_SPREAD:
                y = np.log(ratio)
                near = np.abs(y - np.median(y)) < 0.5
                slopes.append(np.polyfit(x[near], y[near], 1)[0])
        return len(slopes) >= LEAST_PAIRS and bool((np.abs(np.array(slopes) - 1) < RAY).all())

    @property
    def _same_side(self) -> np.ndarray:
        """How far the pairs are off, to the side of the median."""
        return self.factors if self.factor > 1 else 1 / self.factors

    @property
    def told(self) -> str:
        """The figures, in a sentence."""
        if not len(self.factors):
            return f"scale of the depth not held against the poses: in none of {len(self.pairs)} pairs do matches with depth move enough"
        pairs = f"{len(self.factors)} pair{'s' * (len(self.factors) != 1)}"
        between = f" of {pairs}: from {self.factors[0]:.3g} to {self.factors[-1]:.3g}" if len(self.factors) > 1 else f" of {pairs}"
        return f"by the poses, matched points lie {self.factor:.3g} times as far as the depth says (median{between})"

    def remedy(self, units: float) -> str:
        """What makes depth and poses agree, where a metre has so many units of the depth now."""
        fitting = units / self.factor
        known = UNITS | SELDOM if self.agree else UNITS
        nearest = min(known, key=lambda unit: _off(fitting / unit))
        usual = _off(fitting / nearest) < (ALIKE if self.agree else NEAR_UNIT)
        scale = f"{nearest:g} ({known[nearest]})" if usual else f"{fitting:.4g}, which is no usual unit,"
        return (
            f"--depth-scale {scale} would fit; it is read as {units:,g} units in a metre. Or the poses are not in metres, as those of "
            f"monocular SLAM: multiply their places by {1 / self.factor:.3g}"
        )


def _off(factor: float) -> float:
    return max(factor, 1 / factor)
