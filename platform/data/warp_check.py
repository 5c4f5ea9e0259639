"""Finds what is wrong with the truth of stereo and flow: images warped by it agree better where sign, scale or order are changed.

The error of a field is the mean colour difference over drawn pixels that it keeps inside, as a share of the difference of the images
unmoved at the same pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sightline.methods.random import keyed_rng

from .warp import flow_of_disparity, sampled

PIXELS = 6000
"""Drawn of a pair."""
LEAST_INSIDE = 0.2
"""Share of the drawn pixels that a field must keep inside to be judged."""
STILL = 1.0
"""Pixels: images that move less agree as they are."""
BETTER = 0.8
MUCH_BETTER = 0.65
"""Of a reading that differs little where neighbours move alike: real flow whose occluded pixels are not marked reached 0.76."""
WORSE = 1.05
"""The truth does not fit where the images agree less, by this share, when moved."""
SCALES = (256, 64, 32, 20, 16, 8, 4, 3, 2)
Field = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Reading:
    """One way to read a truth. `swapped`: the truth is at pixels of image 2."""

    fault: str
    """What is wrong where it fits; empty for the truth as it is."""
    change: Field
    swapped: bool = False
    times: float = 1.0
    """How much too large it is."""
    better: float = BETTER
    """It is right where its error is below this share of that of the truth as it is, and of that of the images unmoved."""


@dataclass
class Error:
    """Of one reading, over all pairs: sums of colour differences, moved and not, and counts of pixels."""

    moved: float = 0.0
    still: float = 0.0
    inside: int = 0
    drawn: int = 0

    @property
    def share(self) -> float:
        """Moved as a share of still; infinite where too little stays inside."""
        return self.moved / self.still if self.still > 0 and self.inside >= LEAST_INSIDE * self.drawn else np.inf

    def __add__(self, other: Error) -> Error:
        return Error(self.moved + other.moved, self.still + other.still, self.inside + other.inside, self.drawn + other.drawn)


def _scaled(by: float) -> Field:
    return lambda flow: flow / by


_SCALED = [
    reading
    for times in SCALES
    for reading in (
        Reading(f"is {times} times too large", _scaled(times), times=times),
        Reading(f"is {times} times too small", _scaled(1 / times), times=1 / times),
    )
]
AS_IT_IS = Reading("", lambda flow: flow)
_OF_THE_OTHER = Reading("is that of image 2, not of image 1", lambda flow: -flow, swapped=True, better=MUCH_BETTER)


def _backwards(fault: str) -> list[Reading]:
    """Two readings that only edges tell apart."""
    return [Reading(fault, lambda flow: flow, swapped=True), Reading(fault, lambda flow: -flow)]


DISPARITY = [AS_IT_IS, *_backwards("has the wrong sign, or left and right are swapped"), _OF_THE_OTHER, *_SCALED]
FLOW = [
    AS_IT_IS,
    *_backwards("leads from image 2 to image 1: its sign is wrong, or the images are swapped"),
    _OF_THE_OTHER,
    Reading("has x and y swapped", lambda flow: flow[:, ::-1]),
    Reading("has y upwards", lambda flow: flow * np.array([1, -1], np.float32)),
    *_SCALED,
]


@dataclass(frozen=True)
class Verdict:
    """What warping says of some pairs."""

    readings: Sequence[Reading]
    errors: Sequence[Error]
    """Of each reading; the first is the truth as it is."""
    length: float
    """Mean length of the known displacements in pixels."""
    pairs: int

    @property
    def best(self) -> Reading:
        """The one that fits; the truth as it is where nothing shows another."""
        own = self.errors[0]
        better = [
            (error.share, number)
            for number, (reading, error) in enumerate(zip(self.readings, self.errors, strict=True))
            if reading.fault and error.share < reading.better * min(own.share, 1.0)
        ]
        return self.readings[min(better)[1]] if better else self.readings[0]

    @property
    def fault(self) -> str:
        """What is wrong with the truth; empty where nothing shows it."""
        if self.best.fault:
            return self.best.fault
        own = self.errors[0]
        outside = own.inside < LEAST_INSIDE * own.drawn
        return "does not bring the images together" if self.length > STILL and (outside or np.inf > own.share > WORSE) else ""

    @property
    def told(self) -> str:
        """The figures, in a sentence."""
        own = self.errors[0]
        if own.inside < LEAST_INSIDE * own.drawn or not own.inside:
            share = own.inside / max(own.drawn, 1)
            return f"{share:.1%} of the pixels of {self.pairs:,} pair(s) stay inside the image, moved by {self.length:.1f} px on average"
        moved, still = own.moved / own.inside, own.still / own.inside
        return (
            f"warp error of {self.pairs:,} pair(s): {moved:.1f} of 255 where the images differ by {still:.1f} unmoved; displacements of "
            f"{self.length:.1f} px on average"
        )


def judged(samples: Sequence[Mapping[str, Any]], column: str) -> Verdict:
    """Of decoded samples that have `column`, `disparity` or `flow`."""
    readings = DISPARITY if column == "disparity" else FLOW
    errors = [Error() for _ in readings]
    lengths: list[np.ndarray] = []
    for number, sample in enumerate(samples):
        x, y, flow = _drawn(sample, column, number)
        lengths.append(np.hypot(*flow.T))
        errors = [sofar + _error(sample, reading, x, y, flow) for sofar, reading in zip(errors, readings, strict=True)]
    every = np.concatenate(lengths) if lengths else np.zeros(0)
    return Verdict(readings, errors, float(every.mean()) if every.size else 0.0, len(samples))


def fits(sample: Mapping[str, Any], column: str) -> bool:
    """Whether warping by the truth of one sample brings its images closer, or they hardly move."""
    x, y, flow = _drawn(sample, column, 0)
    share = _error(sample, AS_IT_IS, x, y, flow).share
    return not len(flow) or float(np.hypot(*flow.T).mean()) <= STILL or share <= WORSE


def _drawn(sample: Mapping[str, Any], column: str, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(x, y, displacement N x 2) of drawn pixels that are known and seen."""
    flow = flow_of_disparity(sample[column]) if column == "disparity" else sample[column]
    there = np.isfinite(flow).all(axis=-1)
    if sample.get("occluded") is not None:
        there = there & ~sample["occluded"]
    rows, columns = np.nonzero(there)
    if len(rows) > PIXELS:
        picked = keyed_rng("warp", number).choice(len(rows), PIXELS, replace=False)
        rows, columns = rows[picked], columns[picked]
    return columns.astype(np.float32), rows.astype(np.float32), flow[rows, columns]


def _error(sample: Mapping[str, Any], reading: Reading, x: np.ndarray, y: np.ndarray, flow: np.ndarray) -> Error:
    one, two = sample["image1"], sample["image2"]
    if reading.swapped:
        one, two = two, one
    moved = reading.change(flow)
    values, inside = sampled(two, x + moved[:, 0], y + moved[:, 1])
    rows, columns = y.astype(int), x.astype(int)
    here = one[rows, columns].astype(np.float32)
    by_field, unmoved = (np.abs(here - there).mean(axis=-1)[inside].sum() for there in (values, two[rows, columns].astype(np.float32)))
    return Error(float(by_field), float(unmoved), int(inside.sum()), len(x))
