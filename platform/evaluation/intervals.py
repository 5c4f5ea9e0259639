"""Percentile bootstrap over independent units (scenes or time blocks); metrics are compared on the same resamples.

A metric is a function of sums over units (`share = hits / count`), so a resample is a vector of multiplicities and all resamples are
one matrix product. Two metrics computed from the same multiplicities are paired: what makes a scene hard for both cancels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from sightline.methods.random import keyed_rng
from sightline.methods.settings import Settings


class Resampling(Settings):
    """How uncertainty is measured: percentile bootstrap over units that are independent of each other, or nearly so."""

    draws: int = 2000
    level: float = 0.95
    seed: int = 0
    min_scenes: int = 5
    """With fewer scenes than this, resampling scenes says nothing; time blocks are resampled instead."""
    blocks: int = 10
    """Blocks in all, of equal counts, where there are too few scenes."""


@dataclass(frozen=True)
class Interval:
    """A value, the ends of its interval, and the number of units that were resampled. With one unit the ends are NaN."""

    value: float
    low: float
    high: float
    units: int

    def as_dict(self) -> dict[str, float | int | None]:
        """JSON has no NaN, so an unknown end is None."""
        return {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Interval:
        value, low, high = (float("nan") if stored[key] is None else float(stored[key]) for key in ("value", "low", "high"))
        return cls(value, low, high, int(stored["units"]))

    @property
    def has_ends(self) -> bool:
        return bool(np.isfinite(self.low) and np.isfinite(self.high))

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def unit_sums(values: Float[np.ndarray, "n k"], units: Sequence[str]) -> tuple[list[str], Float[np.ndarray, "u k"]]:
    """Sums of the rows that share a unit, and the units' names in sorted order."""
    names, index = np.unique(np.asarray(units, dtype=str), return_inverse=True)
    sums = np.zeros((len(names), values.shape[1]), dtype=np.float64)
    np.add.at(sums, index, values)
    return [str(name) for name in names], sums


def resample_counts(units: int, draws: int, seed: int) -> Int[np.ndarray, "draws u"]:
    """How often each unit is drawn in each resample of `units` units with replacement."""
    return keyed_rng("bootstrap", seed, units).multinomial(units, np.full(units, 1 / units), size=draws)


def interval(value: float, draws: Float[np.ndarray, " draws"], level: float, units: int) -> Interval:
    """The percentile interval of `draws` around `value`, that of the whole sample."""
    finite = draws[np.isfinite(draws)]
    if units < 2 or not finite.size:
        return Interval(float(value), float("nan"), float("nan"), units)
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(value), float(low), float(high), units)


def average_over_seeds(draws: Float[np.ndarray, "seeds draws"], seed: int) -> Float[np.ndarray, " draws"]:
    """Seeds x bootstrap: in each draw the mean over a resample of the seeds, so the interval also covers which seeds were used."""
    seeds, count = draws.shape
    picked = keyed_rng("seeds", seed, seeds).integers(seeds, size=(seeds, count))
    return np.asarray(np.take_along_axis(draws, picked, axis=0).mean(axis=0))


def plural(kind: str) -> str:
    """Of a kind of units: scenes, time blocks, blocks of rows."""
    return kind.replace("block", "blocks") if "block" in kind else f"{kind}s"


def counted(count: int, kind: str) -> str:
    """Units in words: `200 images`, `1 scene`."""
    return f"{count:,} {kind if count == 1 else plural(kind)}"


def coverage(level: float, draws: int, units: int, kind: str, also: str = "") -> str:
    """What an interval covers and what it does not, in words for a report."""
    if units < 2:
        return f"No interval: there is one {kind} only, and nothing to resample."
    many = plural(kind)
    text = f"{level:.0%} percentile interval from {draws} resamples of {units} {many}{also}: "
    text += f"how far the metric would move with other {many} like these."
    if "block" in kind:
        text += " All blocks come from very few scenes, so it says nothing about other scenes."
    if units < 8:
        text += f" With {units} {many} only, such intervals are too narrow."
    return text + " Pre-training ran once: its seed is fixed and the interval does not cover it."
