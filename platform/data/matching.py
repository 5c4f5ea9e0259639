"""Points of two photos that show the same: found, matched and, by pycolmap, verified by two-view geometry. No camera is needed.

The one place where photos are matched: for pairs without poses, for structure from motion, and for checks of poses and depth.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    import pycolmap

INSTALL = "pip install 'sightline-pretext[sfm]'"
SIDE = 1024
"""Pixels of the long side at which features are looked for."""
MOST = 2500
RATIO = 0.8
"""The second-best match must be farther by this."""
INLIERS = 20
"""Matches that one geometry must explain: fewer are found between photos of different things."""
GRID = 12
"""Cells along each side, for the share of a photo that is found in another."""
_PATCH = 6
"""Samples to either side of a corner, every second pixel."""


class Features(NamedTuple):
    xy: np.ndarray
    """n x 2 float32, in pixels of the upright photo, centres at whole numbers."""
    descriptors: np.ndarray
    """n x d, of length 512: 128 uint8 of SIFT."""
    size: tuple[int, int]
    """(height, width) of the photo."""


class Geometry(NamedTuple):
    """What two photos have in common."""

    matches: np.ndarray
    """m x 2: numbers of features that one geometry explains."""
    config: str
    """As pycolmap calls it: CALIBRATED, UNCALIBRATED, PLANAR, PANORAMIC, PLANAR_OR_PANORAMIC, WATERMARK ..."""
    overlap: float
    """Share of what either shows that both show, by cells with matches among cells with features."""

    @property
    def flat(self) -> bool:
        """Whether nothing shows that the camera moved: it turned in place, or the scene is flat."""
        return self.config in ("PANORAMIC", "PLANAR_OR_PANORAMIC", "PLANAR")


def has_sift() -> bool:
    return importlib.util.find_spec("pycolmap") is not None


@cache
def quiet() -> None:
    """pycolmap logs to the screen, errors of single photos too."""
    import pycolmap

    pycolmap.logging.minloglevel = 3
    pycolmap.set_random_seed(0)


@cache
def _extractor() -> pycolmap.FeatureExtractor:
    import pycolmap

    quiet()
    options = pycolmap.FeatureExtractionOptions()
    options.use_gpu, options.num_threads, options.sift.max_num_features = False, 1, MOST
    return pycolmap.FeatureExtractor.create(options)


def features_of(photo: np.ndarray) -> Features:
    """`photo`: H x W x 3 uint8, upright."""
    import pycolmap

    image = Image.fromarray(photo).convert("L")
    scale = min(1.0, SIDE / max(image.size))
    small = (
        image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.BOX)
        if scale < 1
        else image
    )
    keypoints, found = _extractor().extract_from_uint8_array(np.asarray(small))
    xy = pycolmap.keypoints_to_matrix(keypoints)[:, :2] * np.array([image.width / small.width, image.height / small.height]) - 0.5
    return Features(xy.astype(np.float32), np.asarray(found.data, np.uint8).reshape(-1, 128), (image.height, image.width))


def corners(grey: np.ndarray, count: int, apart: int, edge: int = 0) -> np.ndarray:
    """n x 2: (x, y) of the strongest corners (Harris) of an H x W image, over `apart` pixels from each other, `edge` from the rim."""
    from scipy.ndimage import gaussian_filter, maximum_filter

    down, across = np.gradient(gaussian_filter(np.asarray(grey, np.float32), 1))
    xx, yy, xy = (gaussian_filter(part, 2) for part in (across * across, down * down, across * down))
    corner = xx * yy - xy * xy - 0.05 * (xx + yy) ** 2
    if edge:
        corner[:edge], corner[-edge:], corner[:, :edge], corner[:, -edge:] = 0, 0, 0, 0
    rows, columns = np.nonzero((corner == maximum_filter(corner, 2 * apart + 1)) & (corner > 1e-4 * corner.max()))
    best = np.argsort(-corner[rows, columns], kind="stable")[:count]
    return np.stack([columns[best], rows[best]], axis=1)


def patches_of(photo: np.ndarray) -> Features:
    """Corners and the normalised patches around them: for views that differ little, where pycolmap is not installed."""
    from scipy.ndimage import gaussian_filter

    grey = grey_of(photo)
    reach = 2 * _PATCH
    columns, rows = corners(grey, 800, 3, reach).T
    steps = np.arange(-reach, reach + 1, 2)
    patches = gaussian_filter(grey, 1.5)[rows[:, None, None] + steps[:, None], columns[:, None, None] + steps].reshape(len(rows), -1)
    patches = patches - patches.mean(axis=1, keepdims=True)
    patches *= 512 / np.maximum(np.linalg.norm(patches, axis=1, keepdims=True), 1e-6)
    return Features(np.stack([columns, rows], axis=1).astype(np.float32), patches, (grey.shape[0], grey.shape[1]))


def grey_of(photo: np.ndarray) -> np.ndarray:
    """H x W float32."""
    return np.asarray(Image.fromarray(photo).convert("L"), np.float32)


def same_points(one: np.ndarray, two: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points of two upright photos, H x W x 3 uint8, that show the same: n x 2 float64 (x, y) in either. Poses are not looked at."""
    if has_sift():
        features = features_of(one), features_of(two)
        geometry = geometry_of(*features)
        pairs = geometry.matches if geometry else np.zeros((0, 2), int)
    else:
        features = patches_of(one), patches_of(two)
        pairs = matched(*features)
    first, second = (found.xy[pairs[:, side]].astype(np.float64) for side, found in enumerate(features))
    return first, second


def matched(one: Features, two: Features) -> np.ndarray:
    """m x 2: numbers of features that are each other's best match, clearly better than the next."""
    if min(len(one.xy), len(two.xy)) < 2:
        return np.zeros((0, 2), np.int64)
    first, second = (features.descriptors.astype(np.float32) / 512 for features in (one, two))
    alike = first @ second.T
    there, rows = alike.argmax(axis=1), np.arange(len(first))
    best = alike[rows, there].copy()
    alike[rows, there] = -1
    far, farther = (np.sqrt(np.maximum(2 - 2 * value, 0)) for value in (best, alike.max(axis=1)))
    alike[rows, there] = best
    rows = rows[(far < RATIO * farther) & (far < 0.7)]
    rows = rows[alike[:, there[rows]].argmax(axis=0) == rows]
    return np.stack([rows, there[rows]], axis=1)


def geometry_of(one: Features, two: Features) -> Geometry | None:
    """What two photos of unknown cameras have in common; None where nothing shows that they show one thing."""
    import pycolmap

    matches = matched(one, two)
    if len(matches) < INLIERS:
        return None
    quiet()
    options = pycolmap.TwoViewGeometryOptions()
    options.min_num_inliers, options.ransac.random_seed, options.ransac.max_num_trials = INLIERS, 0, 2000
    scale = max(1.0, max(one.size) / SIDE)
    options.ransac.max_error = 4.0 * scale
    found = pycolmap.estimate_two_view_geometry(
        _guessed(one), one.xy + 0.5, _guessed(two), two.xy + 0.5, matches.astype(np.uint32), options
    )
    inliers = np.asarray(found.inlier_matches, np.int64).reshape(-1, 2)
    config = pycolmap.TwoViewGeometryConfiguration(found.config).name
    if len(inliers) < INLIERS or config in ("UNDEFINED", "DEGENERATE", "WATERMARK"):
        return None
    seen = [_cells(features, inliers[:, side]) for side, features in enumerate((one, two))]
    both = float(np.mean(seen))
    return Geometry(inliers, config, both / (2 - both))


def _guessed(features: Features) -> Any:
    """The camera that COLMAP takes where EXIF says nothing."""
    import pycolmap

    height, width = features.size
    return pycolmap.Camera.create_from_model_name(1, "SIMPLE_RADIAL", 1.2 * max(height, width), width, height)


def _cells(features: Features, inliers: np.ndarray) -> float:
    """Share of the cells with features in which one is matched."""
    height, width = features.size
    at = (features.xy * (GRID / width, GRID / height)).astype(int).clip(0, GRID - 1)
    cell = at[:, 1] * GRID + at[:, 0]
    return len(np.unique(cell[inliers])) / max(len(np.unique(cell)), 1)
