"""Geometry of two views: epipolar lines, distances from them, and how far away matched points are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

PARALLAX = 0.3
"""Degrees between two rays from which on the side of the camera on which they meet is certain."""


@dataclass(frozen=True)
class Matches:
    """Points of two photos that show the same, and the cameras of these."""

    xy1: Float[np.ndarray, "n 2"]
    """In pixels, as `xy2`."""
    xy2: Float[np.ndarray, "n 2"]
    K1: Float[np.ndarray, "3 3"]
    K2: Float[np.ndarray, "3 3"]
    T_2from1: Float[np.ndarray, "4 4"]
    diagonal: float
    """Of photo 1, in pixels."""

    @property
    def swapped(self) -> Matches:
        """Photo 2 as photo 1."""
        return Matches(self.xy2, self.xy1, self.K2, self.K1, np.linalg.inv(self.T_2from1), self.diagonal)


def has_baseline(T_2from1: np.ndarray) -> bool:
    """Whether the cameras stand apart, so that there are epipolar lines."""
    return float(np.linalg.norm(T_2from1[:3, 3])) > 1e-9


def fundamental(K1: np.ndarray, K2: np.ndarray, T_2from1: np.ndarray) -> Float[np.ndarray, "3 3"]:
    """F with x2^T F x1 = 0 for pixels (x, y, 1) of one point; zeros where the cameras are in one place."""
    x, y, z = T_2from1[:3, 3] / (np.linalg.norm(T_2from1[:3, 3]) or 1)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    found: np.ndarray = np.linalg.inv(K2).T @ cross @ T_2from1[:3, :3] @ np.linalg.inv(K1)
    return found


def lines(F: np.ndarray, points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 3"]:
    """The line a x + b y + c = 0 in image 2 of each point of image 1, with a^2 + b^2 = 1; NaN where there is none."""
    found = _homogeneous(points) @ F.T
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(found / np.linalg.norm(found[:, :2], axis=1, keepdims=True))


def distances(matches: Matches) -> Float[np.ndarray, " n"]:
    """Pixels from the epipolar line, the mean of both photos; NaN where the cameras are in one place."""
    F = fundamental(matches.K1, matches.K2, matches.T_2from1)
    off = [
        np.abs((lines(G, one) * _homogeneous(two)).sum(axis=1))
        for G, one, two in ((F, matches.xy1, matches.xy2), (F.T, matches.xy2, matches.xy1))
    ]
    return np.asarray((off[0] + off[1]) / 2)


def before_both(matches: Matches) -> float:
    """Share of the matches that lie before both cameras, of those whose rays differ by `PARALLAX`; NaN where fewer than 8 do."""
    T = matches.T_2from1
    one, two = (_homogeneous(xy) @ np.linalg.inv(K).T for xy, K in ((matches.xy1, matches.K1), (matches.xy2, matches.K2)))
    one = one @ T[:3, :3].T
    across = np.cross(one, two)
    clear = np.linalg.norm(across, axis=1) > np.radians(PARALLAX) * np.linalg.norm(one, axis=1) * np.linalg.norm(two, axis=1)
    if clear.sum() < 8:
        return float("nan")
    depth1, depth2 = ((np.cross(ray, T[:3, 3]) * across).sum(axis=1)[clear] for ray in (two, one))
    return float(np.mean((depth1 > 0) & (depth2 > 0)))


class Triangulated(NamedTuple):
    """Where matches lie by the cameras alone."""

    z: Float[np.ndarray, " n"]
    """Depth along z of camera 1, in the unit of the poses; infinite or negative for rays that do not meet before it."""
    pull: Float[np.ndarray, " n"]
    """Pixels by which the point moves in image 2 where its depth changes by its own size: how surely `z` is known."""


def triangulated(matches: Matches) -> Triangulated:
    """The depth that brings each point of image 1 nearest to its match in image 2 (linear least squares in 1 / z)."""
    rays = _homogeneous(matches.xy1) @ np.linalg.inv(matches.K1).T
    far = rays @ (matches.K2 @ matches.T_2from1[:3, :3]).T  # where a point at infinity would be; a nearer one at far + near / z
    near = matches.K2 @ matches.T_2from1[:3, 3]
    towards = near[:2] - matches.xy2 * near[2]
    missing = matches.xy2 * far[:, 2:] - far[:, :2]
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse = (towards * missing).sum(axis=1) / (towards * towards).sum(axis=1)
        there = far + inverse[:, None] * near
        # derivative of (x / w, y / w) by ln z, at this depth
        moved = -inverse[:, None] * (near[:2] - there[:, :2] / there[:, 2:] * near[2]) / there[:, 2:]
        return Triangulated(1 / inverse, np.linalg.norm(moved, axis=1))


def _homogeneous(points: np.ndarray) -> np.ndarray:
    return np.concatenate([points, np.ones((len(points), 1))], axis=1)
