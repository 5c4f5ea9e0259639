"""Finds what is wrong with poses: matches lie nearer to their epipolar lines where the poses are read in another convention."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .geometry import relative_pose

Read = Callable[[np.ndarray], np.ndarray]
"""What a 4 x 4 of a file would be as camera-to-world in OpenCV's axes."""
AS_READ = "as they are"
BETTER = 0.5
"""Another convention is right where its distance is below this share of that of the poses as they are."""
FITS = 0.01
"""Of the diagonal: what a right convention reaches."""
CLEAR = 0.002
"""Of the diagonal: less is not doubted."""
MISFIT = 0.04
"""Of the diagonal: more is no measured pose of these photos, in any convention."""
LEAST_PAIRS = 3
PARALLAX = 0.3
"""Degrees between two rays from which on the side of the camera on which they meet is certain."""
BEHIND = 1.0
"""The error, in diagonals, of a convention in which most points lie behind a camera, however near they are to the lines."""
_OPENGL = np.diag([1.0, -1, -1, 1])
_ROBOT = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
"""From axes x right, y down, z forward to x forward, y left, z up."""
_QUARTER = np.array([[0.0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


def _transposed(pose: np.ndarray) -> np.ndarray:
    turned = pose.copy()
    turned[:3, :3] = pose[:3, :3].T
    return turned


CONVENTIONS: dict[str, Read] = {
    AS_READ: lambda pose: pose,
    "inverted (world to camera)": np.linalg.inv,
    "in OpenGL's axes (y up, z back)": lambda pose: pose @ _OPENGL,
    "inverted and in OpenGL's axes": lambda pose: np.linalg.inv(pose) @ _OPENGL,
    "with rotations transposed (those of world to camera, with the camera's place)": _transposed,
}
_TURNED: dict[str, Read] = {
    "in a robot's axes (x forward, y left, z up)": lambda pose: pose @ _ROBOT,
    "of an image that is turned by 90 degrees": lambda pose: pose @ _QUARTER,
    "of an image that is turned by 90 degrees the other way": lambda pose: pose @ _QUARTER.T,
}


@dataclass(frozen=True)
class Matches:
    """Points of two photos that show the same, n x 2 each, in pixels, with the 3 x 3 and 4 x 4 of either camera as the file has them."""

    xy1: np.ndarray
    xy2: np.ndarray
    K1: np.ndarray
    K2: np.ndarray
    pose1: np.ndarray
    pose2: np.ndarray
    diagonal: float
    """Of the photo, in pixels."""


def distances(matches: Matches, read: Read = lambda pose: pose) -> np.ndarray:
    """n: pixels from the epipolar line, the mean of both photos; NaN where the cameras are in one place."""
    T = relative_pose(read(matches.pose1), read(matches.pose2))
    x, y, z = T[:3, 3]
    E = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ T[:3, :3]
    F = np.linalg.inv(matches.K2).T @ E @ np.linalg.inv(matches.K1)
    one, two = (np.c_[xy, np.ones(len(xy))] for xy in (matches.xy1, matches.xy2))
    lines2, lines1 = one @ F.T, two @ F
    off = np.abs((two * lines2).sum(axis=1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((off / np.hypot(*lines2[:, :2].T) + off / np.hypot(*lines1[:, :2].T)) / 2)


def before_both(matches: Matches, read: Read = lambda pose: pose) -> float:
    """Share of the matches that lie before both cameras, of those whose rays differ by `PARALLAX`; NaN where fewer than 8 do."""
    T = relative_pose(read(matches.pose1), read(matches.pose2))
    one, two = (np.c_[xy, np.ones(len(xy))] @ np.linalg.inv(K).T for xy, K in ((matches.xy1, matches.K1), (matches.xy2, matches.K2)))
    one = one @ T[:3, :3].T
    across = np.cross(one, two)
    clear = np.linalg.norm(across, axis=1) > np.radians(PARALLAX) * np.linalg.norm(one, axis=1) * np.linalg.norm(two, axis=1)
    if clear.sum() < 8:
        return float("nan")
    depth1, depth2 = ((np.cross(ray, T[:3, 3]) * across).sum(axis=1)[clear] for ray in (two, one))
    return float(np.mean((depth1 > 0) & (depth2 > 0)))


@dataclass(frozen=True)
class Verdict:
    """What matches say of the poses of some pairs."""

    pairs: Sequence[Matches]

    @cached_property
    def errors(self) -> Mapping[str, float]:
        """Convention -> median over the pairs of the median distance, in diagonals."""
        return {name: self._error(read) for name, read in {**CONVENTIONS, **_TURNED}.items()}

    def _error(self, read: Read) -> float:
        before = [share for one in self.pairs if not np.isnan(share := before_both(one, read))]
        if before and np.median(before) < 0.5:
            return BEHIND
        off = [np.nan_to_num(np.median(distances(one, read)), nan=np.inf) / one.diagonal for one in self.pairs]
        return float(np.median(off)) if off else np.inf

    @property
    def fault(self) -> str:
        """What is wrong with the poses; empty where nothing shows it."""
        own = self.errors[AS_READ]
        if len(self.pairs) < LEAST_PAIRS or own < CLEAR:
            return ""
        best = min((name for name in self.errors if name != AS_READ), key=lambda name: self.errors[name])
        if self.errors[best] < min(FITS, BETTER * own):
            alike = [name for name, error in self.errors.items() if name != AS_READ and error < 2 * self.errors[best]]
            return f"fit {' or '.join(alike)}, not as camera to world with x right, y down, z forward"
        return "fit in no convention" if own > MISFIT else ""

    @property
    def told(self) -> str:
        """The figures, in a sentence."""
        if len(self.pairs) < LEAST_PAIRS:
            return f"epipolar distance not measured: {len(self.pairs)} of the drawn pairs have enough matches"
        every = [distances(one) for one in self.pairs]
        pixels = float(np.median([np.median(one) for one in every]))
        near = float(np.median([np.mean(one < 2) for one in every]))
        of = f"{len(self.pairs)} pairs, photos of {np.median([one.diagonal for one in self.pairs]):.0f} px across the corners"
        return f"epipolar distance of {of}: median {pixels:.2f} px, {near:.0%} of matches below 2 px"
