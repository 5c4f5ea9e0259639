"""Lenses that bend straight lines: where a pinhole's pixels lie in the photo, and the photo as a pinhole would have taken it.

The formulas are those of OpenCV and COLMAP (colmap.github.io/cameras.html), for rays (x, y, 1) of the camera.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from PIL import Image

from sightline.methods.errors import BrokenSampleError

from .geometry import Placement

LEAST_CELL, MOST_CELL, CELLS_PER_FOCAL = 8, 32, 12
"""Pixels of a square within which the mapping is taken as bilinear: a twelfth of the focal length, exact to about 0.03 px."""
MOST_ZOOM = 2.0
Rays = Float[np.ndarray, "n"]


def _radial(x: Rays, y: Rays, top: tuple[float, ...], bottom: tuple[float, ...] = ()) -> Rays:
    r2 = x * x + y * y
    return np.asarray(_polynomial(r2, top) / _polynomial(r2, bottom))


def _polynomial(r2: Rays, factors: tuple[float, ...]) -> Rays:
    """1 + k1 r2 + k2 r2 ^ 2 + ..."""
    value: Rays = np.zeros_like(r2)
    for factor in reversed(factors):
        value = (value + factor) * r2
    return 1 + value


def _opencv(x: Rays, y: Rays, k1: float, k2: float, p1: float, p2: float, *more: float) -> tuple[Rays, Rays]:
    k3, k4, k5, k6 = (*more, 0.0, 0.0, 0.0, 0.0)[:4]
    radial, r2 = _radial(x, y, (k1, k2, k3), (k4, k5, k6)), x * x + y * y
    return x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x), y * radial + 2 * p2 * x * y + p1 * (r2 + 2 * y * y)


def _fisheye(x: Rays, y: Rays, *factors: float) -> tuple[Rays, Rays]:
    r = np.hypot(x, y)
    theta = np.arctan(r)
    scale = np.where(r > 1e-9, theta * _polynomial(theta * theta, factors) / np.maximum(r, 1e-9), 1.0)
    return x * scale, y * scale


_MODELS: dict[str, Callable[..., tuple[Rays, Rays]]] = {
    "SIMPLE_RADIAL": lambda x, y, k: _opencv(x, y, k, 0, 0, 0),
    "RADIAL": lambda x, y, k1, k2: _opencv(x, y, k1, k2, 0, 0),
    "OPENCV": _opencv,
    "FULL_OPENCV": _opencv,
    "OPENCV_FISHEYE": _fisheye,
    "SIMPLE_RADIAL_FISHEYE": _fisheye,
    "RADIAL_FISHEYE": _fisheye,
    "SIMPLE_FISHEYE": _fisheye,
    "FISHEYE": _fisheye,
}
LENSES = frozenset(_MODELS)
"""The models that can be undone."""


@dataclass(frozen=True)
class Lens:
    """`model`: one of `LENSES`; `params`: its parameters after focal lengths and centre, as COLMAP orders them."""

    model: str
    params: tuple[float, ...]

    @property
    def bends(self) -> bool:
        return any(self.params) or self.model.endswith("FISHEYE")

    def turned(self, turn: np.ndarray) -> Lens:
        """The lens of the photo turned by this 3 x 3: the tangential terms (p2, p1) turn as an arrow, all others depend on the radius."""
        if self.model not in ("OPENCV", "FULL_OPENCV"):
            return self
        k1, k2, p1, p2, *more = self.params
        p2, p1 = (turn[:2, :2] @ (p2, p1)).tolist()
        return Lens(self.model, (k1, k2, p1, p2, *more))

    def seen_at(self, xy: Float[np.ndarray, "n 2"], K: np.ndarray, target: np.ndarray) -> Float[np.ndarray, "n 2"]:
        """Where the pixels `xy` of a pinhole camera `target` lie in the photo, whose camera matrix is `K`."""
        rays = np.linalg.solve(target, np.vstack([xy.T, np.ones(len(xy))]))
        x, y = _MODELS[self.model](rays[0], rays[1], *self.params)
        return np.asarray((K @ np.vstack([x, y, np.ones(len(xy))]))[:2].T)

    def straightened(self, photo: Image.Image, K: np.ndarray) -> tuple[Image.Image, np.ndarray]:
        """(the photo as a pinhole camera takes it, that camera's 3 x 3), of the same size, without empty corners.

        Raises `BrokenSampleError` for a lens that shows a corner of the photo twice, or that sees too wide for a pinhole.
        """
        target = self.pinhole(photo.size, K)
        width, height = photo.size
        cell = int(np.clip(K[0, 0] / CELLS_PER_FOCAL, LEAST_CELL, MOST_CELL))
        xs, ys = (np.minimum(np.arange(0, side + cell, cell), side) for side in (width, height))
        grid = np.stack(np.meshgrid(xs, ys), -1).astype(np.float64)
        seen = self.seen_at(grid.reshape(-1, 2) - 0.5, K, target).reshape(grid.shape) + 0.5
        mesh = []
        for row in range(len(ys) - 1):
            for column in range(len(xs) - 1):
                box = (int(xs[column]), int(ys[row]), int(xs[column + 1]), int(ys[row + 1]))
                corners = seen[[row, row + 1, row + 1, row], [column, column, column + 1, column + 1]]
                if box[0] < box[2] and box[1] < box[3]:
                    mesh.append((box, tuple(corners.ravel().tolist())))
        return photo.transform(photo.size, Image.Transform.MESH, mesh, Image.Resampling.BICUBIC), target

    def pinhole(self, size: tuple[int, int], K: np.ndarray) -> np.ndarray:
        """`K` of a photo of this (width, height), zoomed in until every pixel of the pinhole's image lies in it.

        Raises `BrokenSampleError` as `straightened` does.
        """
        width, height = size
        self._check(size, K)
        edge = np.linspace(0, 1, 65)
        border = np.concatenate([np.stack(np.broadcast_arrays(*one), -1) for one in ((edge, 0), (edge, 1), (0, edge), (1, edge))])
        border = border * (width, height) - 0.5

        def zoomed(zoom: float) -> np.ndarray:
            target = K.copy()
            target[:2, :2] *= zoom
            return target

        def fits(zoom: float) -> bool:
            seen = self.seen_at(border, K, zoomed(zoom)) + 0.5
            return bool((seen >= -1e-6).all() and (seen <= np.array([width, height]) + 1e-6).all())

        low, high = 1.0, MOST_ZOOM
        if fits(low):
            return K
        if not fits(high):
            raise BrokenSampleError(f"a lens of which a pinhole shows less than a quarter (undistort the photos first): {self.model}")
        for _ in range(20):
            middle = (low + high) / 2
            low, high = (low, middle) if fits(middle) else (middle, high)
        return zoomed(high)

    def _check(self, size: tuple[int, int], K: np.ndarray) -> None:
        width, height = size
        corners = np.array([(0, 0), (width, 0), (0, height), (width, height)]) - 0.5
        middle = K[:2, 2]
        for corner in corners:
            line = middle + np.linspace(0, 1, 33)[:, None] * (corner - middle)
            away = np.linalg.norm(self.seen_at(line, K, K) - middle, axis=1)
            if (np.diff(away) <= 0).any():
                raise BrokenSampleError(
                    f"a lens that folds a corner of the photo over (its parameters are wrong, or undistort first): {self.model}"
                )


class Straighten:
    """Takes the stored pixels of a photo to those of a pinhole camera, whose matrix is `K` from then on."""

    def __init__(self, lens: Lens, K: np.ndarray) -> None:
        self.lens, self.K = lens, K
        """Until the call, `K` is that of the upright photo."""

    def __call__(self, stored: Image.Image, at: Placement) -> Image.Image:
        straight, self.K = self.lens.straightened(stored, at.intrinsics(self.K))
        return straight
