"""Do the poses fit the images? Corners of image 1, matched by what they look like, should lie on their epipolar lines in image 2."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

PATCH = 5
"""Pixels to each side of a corner that are compared."""
CORNERS = 32
_SIDE = 2 * PATCH + 1
ALIKE = 0.85
"""Least correlation of a match. The next best place has to be this far below."""
AHEAD = 0.05
RETURN = 2.0
"""Pixels within which the match of a match comes back to its corner."""
MISFIT = 4.0
"""Median distance in pixels from which poses do not fit; those of surveyed and reconstructed photos have less than one."""
DOUBT, BETTER, ALIKE_PX = 0.5, 0.6, 0.1
"""Another reading is told where the median is above `DOUBT` pixels and that of the other below this share of it."""
_OPENGL = np.diag([1.0, -1, -1, 1])
_Change = Callable[[np.ndarray], np.ndarray]


def _transposed(T: np.ndarray) -> np.ndarray:
    turned = T.copy()
    turned[:3, :3] = T[:3, :3].T
    return turned


READINGS: dict[str, tuple[_Change, float]] = {
    "as they are": (lambda T: T, 1.0),
    "with the poses inverted": (np.linalg.inv, 1.0),
    "with poses in OpenGL's axes (y up, z back)": (lambda T: _OPENGL @ T @ _OPENGL, 1.0),
    "with poses inverted and in OpenGL's axes": (lambda T: _OPENGL @ np.linalg.inv(T) @ _OPENGL, 1.0),
    "with rotations transposed": (_transposed, 1.0),
    "with K of an image half as large": (lambda T: T, 0.5),
    "with K of an image twice as large": (lambda T: T, 2.0),
}
"""What poses and intrinsics may be instead: a change of `T_2from1`, a factor of `K`. The first is what is stored."""
ENOUGH = 12
"""Matches that are needed to say anything."""


def has_camera(sample: Mapping[str, Any]) -> bool:
    """Whether both cameras and their relative pose are known, and the cameras stand apart."""
    return all(name in sample for name in ("K1", "K2", "T_2from1")) and float(np.linalg.norm(sample["T_2from1"][:3, 3])) > 1e-9


def fundamental(K1: np.ndarray, K2: np.ndarray, T_2from1: np.ndarray) -> Float[np.ndarray, "3 3"]:
    """F with x2^T F x1 = 0 for pixels (x, y, 1) of one point."""
    x, y, z = T_2from1[:3, 3] / np.linalg.norm(T_2from1[:3, 3])
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    found: np.ndarray = np.linalg.inv(K2).T @ cross @ T_2from1[:3, :3] @ np.linalg.inv(K1)
    return found


def lines(F: np.ndarray, points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 3"]:
    """The line a x + b y + c = 0 in image 2 of each point of image 1, with a^2 + b^2 = 1."""
    found = np.concatenate([points, np.ones((len(points), 1))], axis=1) @ F.T
    return np.asarray(found / np.maximum(np.linalg.norm(found[:, :2], axis=1, keepdims=True), 1e-12))


def corners(grey: Float[np.ndarray, "h w"], count: int, apart: int | None = None) -> Float[np.ndarray, "n 2"]:
    """(x, y) of the strongest corners, none nearer than `apart` to another: the smaller eigenvalue of the structure tensor."""
    from scipy.ndimage import maximum_filter, uniform_filter

    dy, dx = np.gradient(grey)
    xx, yy, xy = (uniform_filter(product, 5) for product in (dx * dx, dy * dy, dx * dy))
    strength = (xx + yy) / 2 - np.sqrt(((xx - yy) / 2) ** 2 + xy**2)
    apart = apart or max(8, round(min(grey.shape) / 12))
    edge = PATCH + 2
    inside = np.zeros_like(strength)
    inside[edge:-edge, edge:-edge] = strength[edge:-edge, edge:-edge]
    rows, columns = np.nonzero((inside == maximum_filter(inside, 2 * apart + 1)) & (inside > 0.02 * inside.max(initial=0)))
    order = np.argsort(-inside[rows, columns])[:count]
    return np.stack([columns[order], rows[order]], axis=1).astype(np.float64)


def matches(sample: Mapping[str, Any]) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, "n 2"]]:
    """Corners of image 1 and where they are in image 2, without looking at the poses; only what is found in both directions."""
    one, two = (_Searched(grey_of(sample[name])) for name in ("image1", "image2"))
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for corner in corners(one.grey, CORNERS):
        there = two.find(corner, one)
        back = one.find(there, two) if there is not None else None
        if there is not None and back is not None and np.hypot(*(back - corner)) <= RETURN:
            found.append((corner, there))
    return (np.array([a for a, _ in found]).reshape(-1, 2), np.array([b for _, b in found]).reshape(-1, 2))


def distances(sample: Mapping[str, Any]) -> Float[np.ndarray, "r n"]:
    """Pixels of image 2 between each match and its epipolar line, for each of `READINGS`."""
    first, second = matches(sample)
    found = np.zeros((len(READINGS), len(first)))
    for row, (change, times) in zip(found, READINGS.values(), strict=True):
        K1, K2 = (np.diag([times, times, 1.0]) @ sample[name] for name in ("K1", "K2"))
        line = lines(fundamental(K1, K2, change(sample["T_2from1"])), first)
        row[:] = np.abs((line[:, :2] * second).sum(axis=1) + line[:, 2])
    return found


def misfit(off: Float[np.ndarray, "r n"]) -> str:
    """What does not fit, by the distances of all matches; empty where nothing shows it."""
    if off.shape[1] < ENOUGH:
        return ""
    own, *others = np.median(off, axis=1).tolist()
    told = f"matched corners lie {own:.1f} px from their epipolar lines (median)"
    if own > DOUBT and min(others) < BETTER * own:
        likely = " or ".join(name for name, other in zip([*READINGS][1:], others, strict=True) if other < min(others) + ALIKE_PX)
        return f"cameras do not fit the images: {told}, but {min(others):.1f} px {likely}"
    return f"cameras and poses do not fit the images: {told}" if own > MISFIT else ""


def grey_of(image: np.ndarray) -> Float[np.ndarray, "h w"]:
    return np.asarray(Image.fromarray(image).convert("L"), np.float64)


class _Searched:
    """A grey image in which patches are looked for."""

    def __init__(self, grey: np.ndarray) -> None:
        from scipy.ndimage import uniform_filter

        self.grey = grey
        self.spectrum = np.fft.rfft2(grey)
        self.deviation = np.sqrt(np.maximum(uniform_filter(grey**2, _SIDE) - uniform_filter(grey, _SIDE) ** 2, 1))

    def find(self, at: np.ndarray, other: _Searched) -> np.ndarray | None:
        """(x, y) in this image that looks most like the surroundings of `at` in the other; None where nothing, or more than one place,
        does."""
        x, y = (round(float(value)) for value in at)
        patch = other.grey[max(0, y - PATCH) : y + PATCH + 1, max(0, x - PATCH) : x + PATCH + 1]
        if patch.shape != (_SIDE, _SIDE) or patch.std() < 2 or min(self.grey.shape) <= _SIDE:
            return None
        placed = np.zeros_like(self.grey)
        placed[:_SIDE, :_SIDE] = (patch - patch.mean()) / patch.std()
        correlation = np.fft.irfft2(self.spectrum * np.conj(np.fft.rfft2(placed)), self.grey.shape)
        score = np.full(self.grey.shape, -1.0)
        inside = slice(PATCH, -PATCH), slice(PATCH, -PATCH)
        score[inside] = correlation[: -_SIDE + 1, : -_SIDE + 1] / (_SIDE**2 * self.deviation[inside])
        row, column = np.unravel_index(int(score.argmax()), score.shape)
        best = float(score[row, column])
        score[max(0, row - PATCH) : row + PATCH + 1, max(0, column - PATCH) : column + PATCH + 1] = -1
        return np.array([column, row], float) if best >= ALIKE and float(score.max()) < best - AHEAD else None
