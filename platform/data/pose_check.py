"""Finds what is wrong with poses: matches lie nearer to their epipolar lines where the poses are read in another convention."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from .epipolar import Matches, before_both, distances
from .geometry import relative_pose

AS_READ = "as they are"
BETTER = 0.5
"""Another convention is right where its distance is below this share of that of the poses as they are."""
FITS = 0.01
"""Of the diagonal: what a right convention reaches."""
CLEAR, CLEAR_PX = 0.002, 0.5
"""Of the diagonal, and in pixels: less than either is not doubted."""
MISFIT = 0.04
"""Of the diagonal: more is no measured pose of these photos, in any convention."""
LEAST_PAIRS = 3
BEHIND = 1.0
"""The error, in diagonals, of a convention in which most points lie behind a camera, however near they are to the lines."""
_OPENGL = np.diag([1.0, -1, -1, 1])
_ROBOT = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
"""From axes x right, y down, z forward to x forward, y left, z up."""
_QUARTER = np.array([[0.0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
Change = Callable[[np.ndarray], np.ndarray]


def _transposed(pose: np.ndarray) -> np.ndarray:
    turned = pose.copy()
    turned[:3, :3] = pose[:3, :3].T
    return turned


CONVENTIONS: dict[str, Change] = {
    AS_READ: lambda pose: pose,
    "inverted (world to camera)": np.linalg.inv,
    "in OpenGL's axes (y up, z back)": lambda pose: pose @ _OPENGL,
    "inverted and in OpenGL's axes": lambda pose: np.linalg.inv(pose) @ _OPENGL,
    "with rotations transposed (those of world to camera, with the camera's place)": _transposed,
}
"""What a pose of a file may be: a change that makes it camera-to-world in OpenCV's axes."""
_TURNED: dict[str, Change] = {
    "in a robot's axes (x forward, y left, z up)": lambda pose: pose @ _ROBOT,
    "of an image that is turned by 90 degrees": lambda pose: pose @ _QUARTER,
    "of an image that is turned by 90 degrees the other way": lambda pose: pose @ _QUARTER.T,
}
_OF_PAIRS: dict[str, tuple[Change, float]] = {
    AS_READ: (lambda T: T, 1.0),
    "with the poses inverted": (np.linalg.inv, 1.0),
    "with poses in OpenGL's axes (y up, z back)": (lambda T: _OPENGL @ T @ _OPENGL, 1.0),
    "with poses inverted and in OpenGL's axes": (lambda T: _OPENGL @ np.linalg.inv(T) @ _OPENGL, 1.0),
    "with rotations transposed": (_transposed, 1.0),
    "with K of an image half as large": (lambda T: T, 0.5),
    "with K of an image twice as large": (lambda T: T, 2.0),
}
"""What the relative pose and the intrinsics of a stored pair may be: a change of `T_2from1`, a factor of `K`."""
Readings = Mapping[str, Matches]
"""Convention -> the matches of one pair with the cameras that it makes; the first is `AS_READ`."""


def readings_of_poses(matches: Matches, pose1: np.ndarray, pose2: np.ndarray) -> Readings:
    """Of the two poses as their file has them, 4 x 4 each."""
    return {
        name: replace(matches, T_2from1=relative_pose(change(pose1), change(pose2))) for name, change in {**CONVENTIONS, **_TURNED}.items()
    }


def readings_of_pair(matches: Matches) -> Readings:
    """Of a stored pair, of which only the relative pose is known."""
    return {
        name: replace(
            matches,
            K1=np.diag([times, times, 1.0]) @ matches.K1,
            K2=np.diag([times, times, 1.0]) @ matches.K2,
            T_2from1=change(matches.T_2from1),
        )
        for name, (change, times) in _OF_PAIRS.items()
    }


@dataclass(frozen=True)
class PoseVerdict:
    """What matches say of the poses of some pairs."""

    pairs: Sequence[Readings]
    most: float = MISFIT
    """Of the diagonal: above it poses fit in no convention."""

    @cached_property
    def errors(self) -> Mapping[str, float]:
        """Convention -> median over the pairs of the median distance, in diagonals."""
        return {name: self._error(name) for name in self.pairs[0]} if self.pairs else {AS_READ: np.inf}

    def _error(self, name: str) -> float:
        before = [share for one in self.pairs if not np.isnan(share := before_both(one[name]))]
        if before and np.median(before) < 0.5:
            return BEHIND
        return float(np.median([np.nan_to_num(np.median(distances(one[name])), nan=np.inf) / one[name].diagonal for one in self.pairs]))

    @cached_property
    def enough(self) -> bool:
        """Whether anything can be said."""
        return len(self.pairs) >= LEAST_PAIRS

    @cached_property
    def likely(self) -> str:
        """The conventions that fit in place of the one that was read, joined by "or"; empty where none does clearly."""
        own = self.errors[AS_READ]
        if not self.enough or own < self._clear:
            return ""
        best = min((name for name in self.errors if name != AS_READ), key=lambda name: self.errors[name])
        if self.errors[best] >= min(FITS, BETTER * own):
            return ""
        return " or ".join(name for name, error in self.errors.items() if name != AS_READ and error < 2 * self.errors[best])

    @property
    def _clear(self) -> float:
        return max(CLEAR, CLEAR_PX / float(np.median([one[AS_READ].diagonal for one in self.pairs])))

    @property
    def fits_none(self) -> bool:
        return self.enough and not self.likely and self.errors[AS_READ] > self.most

    @property
    def fault(self) -> str:
        """What is wrong with poses of a file; empty where nothing shows it."""
        if self.likely:
            return f"fit {self.likely}, not as camera to world with x right, y down, z forward"
        return "fit in no convention" if self.fits_none else ""

    @cached_property
    def pixels(self) -> np.ndarray:
        """The distances of all matches of all pairs, as read."""
        return np.concatenate([distances(one[AS_READ]) for one in self.pairs]) if self.pairs else np.zeros(0)

    @property
    def told(self) -> str:
        """The figures, in a sentence."""
        if not self.enough:
            return f"epipolar distance not measured: {len(self.pairs)} of the drawn pairs have enough matches"
        every = [distances(one[AS_READ]) for one in self.pairs]
        pixels = float(np.median([np.median(one) for one in every]))
        near = float(np.median([np.mean(one < 2) for one in every]))
        of = f"{len(self.pairs)} pairs, photos of {np.median([one[AS_READ].diagonal for one in self.pairs]):.0f} px across the corners"
        return f"epipolar distance of {of}: median {pixels:.2f} px, {near:.0%} of matches below 2 px"
