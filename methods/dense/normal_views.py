"""What a worker makes of a view with depth and intrinsics: a crop, and the normals of what it shows. NumPy and Pillow, no torch.

A normal is a unit vector in the camera's axes (x right, y down, z forward) on the side of the surface that the camera sees, so a wall
straight ahead has (0, 0, -1). It does not change with a crop or a resize; a mirrored image has the other sign of x.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from ..contract import Sample
from ..errors import BrokenSampleError
from .config import NormalsConfig, NormalsTask
from .views import STILL, cropped_pair


def normals_of_depth(depth: Float[np.ndarray, "h w"], K: Float[np.ndarray, "3 3"], window: int, bend: float) -> Float[np.ndarray, "h w 3"]:
    """float32 unit normals of the least-squares plane through `window` x `window` pixels; NaN where any of them is unknown (not above 0),
    where one lies off the plane by more than the share `bend` of its depth (an edge), and at the border.

    On a plane 1 / z is a linear function of the pixel, whatever the perspective, so planes are found exactly.
    """
    half = window // 2
    h, w = depth.shape
    out = np.full((h, w, 3), np.nan, np.float32)
    if h < window or w < window:
        return out
    known = np.isfinite(depth) & (depth > 0)
    inverse = np.where(known, 1 / np.where(known, depth, 1).astype(np.float64), 0)
    tiles = np.lib.stride_tricks.sliding_window_view(inverse, (window, window))
    offsets = np.arange(window) - half
    square = float((offsets**2).sum() * window)
    across = tiles.sum(axis=2) @ offsets / square  # change of 1 / z by one pixel
    down = tiles.sum(axis=3) @ offsets / square
    middle = tiles.mean(axis=(2, 3))
    flat = middle[..., None, None] + across[..., None, None] * offsets + down[..., None, None] * offsets[:, None]
    whole = np.lib.stride_tricks.sliding_window_view(known, (window, window)).all(axis=(2, 3))
    whole &= (np.abs(tiles - flat).max(axis=(2, 3)) <= bend * middle) & (middle > 0)
    # n . ray = 1 / z up to a factor, with ray = ((x - cx) / fx, (y - cy) / fy, 1).
    rows, columns = np.mgrid[half : h - half, half : w - half]
    nx, ny = across * K[0, 0], down * K[1, 1]
    nz = middle - nx * (columns - K[0, 2]) / K[0, 0] - ny * (rows - K[1, 2]) / K[1, 1]
    normals = -np.stack([nx, ny, nz], axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    out[half : h - half, half : w - half] = np.where(whole[..., None], normals, np.nan)
    return out


class NormalViews:
    """`image`: uint8 H x W x 3; `normals`: float32 H x W x 3, NaN = unknown; `jitter`: float32, the factors and their order.

    Of a pair the first view is taken.
    """

    columns = ("depth1", "K1")

    def __init__(self, config: NormalsConfig) -> None:
        self.config, self.size = config, config.model.image_size
        self.smallest = (1, 1)
        self.evaluation = _NormalCentre(config)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> dict[str, np.ndarray]:
        augment, (h, w) = self.config.augment, self.size
        image, normals = _whole(sample, self.config.pretext)
        height, width = normals.shape[:2]
        fit = max(h / height, w / width) * rng.uniform(*augment.scale)
        left, top = rng.uniform(0, max(0.0, width - w / fit)), rng.uniform(0, max(0.0, height - h / fit))
        views = _cropped(image, normals, (left, top, min(float(width), left + w / fit), min(float(height), top + h / fit)), self.size)
        if rng.random() < augment.flip:
            views = {name: np.ascontiguousarray(view[:, ::-1]) for name, view in views.items()}
            views["normals"] *= np.array([-1, 1, 1], np.float32)
        strength = np.array([augment.brightness, augment.contrast, augment.saturation])
        jitter = np.concatenate([1 + strength * rng.uniform(-1, 1, 3), rng.permutation(3)]).astype(np.float32)
        return {**views, "jitter": jitter}


class _NormalCentre:
    """The largest centre crop, resized: what validation and tests see."""

    columns = NormalViews.columns

    def __init__(self, config: NormalsConfig) -> None:
        self.size, self.task = config.model.image_size, config.pretext

    def __call__(self, sample: Sample, rng: np.random.Generator) -> dict[str, np.ndarray]:
        image, normals = _whole(sample, self.task)
        (height, width), (h, w) = normals.shape[:2], self.size
        scale = min(height / h, width / w)
        left, top = (width - w * scale) / 2, (height - h * scale) / 2
        views = _cropped(image, normals, (left, top, left + w * scale, top + h * scale), self.size)
        return {**views, "jitter": np.array(STILL, np.float32)}


def _whole(sample: Sample, task: NormalsTask) -> tuple[np.ndarray, np.ndarray]:
    image, depth = sample["image1"], sample["depth1"]
    if depth.shape != image.shape[:2]:
        sizes = f"{depth.shape[0]} x {depth.shape[1]} pixels, the image {image.shape[0]} x {image.shape[1]}"
        raise BrokenSampleError(f"the depth has {sizes}: it does not say which pixel is which")
    return image, normals_of_depth(depth, np.asarray(sample["K1"]).reshape(3, 3), task.window, task.bend)


def _cropped(
    image: np.ndarray, normals: np.ndarray, box: tuple[float, float, float, float], size: tuple[int, int]
) -> dict[str, np.ndarray]:
    small, chosen = cropped_pair(image, normals, box, size)
    if not np.isfinite(chosen).any():
        raise BrokenSampleError("no normal is known in the crop: that needs depth without gaps")
    return {"image": small, "normals": chosen}
