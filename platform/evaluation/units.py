"""Which samples are resampled together, and which may not be on both sides of a split.

Frames of one scene, and neighbouring frames of one video, are nearly the same image. So units (scenes, or time blocks where there are
too few scenes) are kept whole, and between training and test frames of one scene lies a gap in time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from sightline.methods.errors import CallError

from .intervals import Resampling


@dataclass(frozen=True)
class Units:
    """A unit's name for every image, and what a unit is."""

    names: list[str]
    kind: str
    """'scene', 'time block', 'block of rows' where times are unknown, or 'image' where each stands for itself."""

    @property
    def count(self) -> int:
        return len(set(self.names))

    @property
    def digest(self) -> str:
        """The same for the same units, in whatever order."""
        return hashlib.sha256("\n".join(sorted(set(self.names))).encode()).hexdigest()[:16]


def make_units(scenes: Sequence[str], times: Float[np.ndarray, " n"], resampling: Resampling, ids: Sequence[str] = ()) -> Units:
    """Scenes where there are enough of them, else blocks of equal counts in order of (scene, time), never across two scenes.

    `times` are seconds; NaN where unknown, then the order of `ids` stands in, or of the images where there are none.
    """
    if len(set(scenes)) >= resampling.min_scenes:
        return Units(list(scenes), "scene")
    scene = np.asarray(scenes, dtype=str)
    order = np.lexsort((np.asarray(ids, dtype=str) if ids else np.arange(len(scene)), np.nan_to_num(times, nan=0.0), scene))
    names = [""] * len(scene)
    for rank, index in enumerate(order):
        names[index] = f"{scene[index]}#{rank * resampling.blocks // len(order):03d}"
    return Units(names, "time block" if np.isfinite(times).all() else "block of rows")


def too_near(
    scenes: Sequence[str],
    times: Float[np.ndarray, " n"],
    other_scenes: Sequence[str],
    other_times: Float[np.ndarray, " m"],
    gap: float,
) -> Bool[np.ndarray, " n"]:
    """True for each image that has an image of the same scene on the other side less than `gap` seconds away.

    Raises `CallError` where both sides share a scene and the times are unknown: nothing could then tell neighbours apart.
    """
    near = np.zeros(len(scenes), dtype=bool)
    scene, other = np.asarray(scenes, dtype=str), np.asarray(other_scenes, dtype=str)
    for name in np.intersect1d(scene, other):
        here, there = np.flatnonzero(scene == name), np.sort(other_times[other == name])
        if not (np.isfinite(times[here]).all() and np.isfinite(there).all()):
            raise CallError(
                f"scene {str(name)!r} is in the training and in the test data, and its frames have no time",
                "split the data by scene, or give the frames times (column `time`, seconds)",
            )
        after = np.searchsorted(there, times[here]).clip(0, len(there) - 1)
        before = (after - 1).clip(0)
        distance = np.minimum(np.abs(there[after] - times[here]), np.abs(there[before] - times[here]))
        near[here] = distance < gap
    return near


def make_folds(units: Units, scenes: Sequence[str], times: Float[np.ndarray, " n"], folds: int, gap: float) -> Int[np.ndarray, " n"]:
    """The fold of each image: whole units, consecutive ones together. -1 for images too near to another fold, in none.

    Leaving out what is within half the gap on both sides of a border leaves about the whole gap; a video too short for that
    keeps its borders.
    """
    names = sorted(set(units.names))
    index = {name: rank * folds // len(names) for rank, name in enumerate(names)}
    fold = np.array([index[name] for name in units.names])
    if not np.isfinite(times).all():
        return fold
    scene, near = np.asarray(scenes, dtype=str), np.zeros(len(fold), dtype=bool)
    for one in range(folds):
        here, there = fold == one, fold != one
        near[here] = too_near(list(scene[here]), times[here], list(scene[there]), times[there], gap / 2)
    return fold if near.mean() > 0.5 else np.where(near, -1, fold)
