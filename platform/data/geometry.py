"""Pinhole geometry of pairs: intrinsics, relative pose, co-visibility.

Camera axes are OpenCV's (x right, y down, z forward), pixel centres lie at whole numbers, depth is along z in metres with 0 = unknown,
and `T_2from1` takes points of camera 1 to camera 2.
"""

from __future__ import annotations

import numpy as np

RELATIVE_TOLERANCE = 0.05
ABSOLUTE_TOLERANCE = 0.05
"""Two depths agree within 5 % or 5 cm, whichever is more: what hand-held depth cameras are good for."""


def intrinsics(height: int, width: int, horizontal_fov: float) -> np.ndarray:
    """3 x 3 intrinsics of a camera with this horizontal field of view in degrees, centred."""
    focal = width / 2 / np.tan(np.radians(horizontal_fov) / 2)
    return np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]], np.float64)


def scale_intrinsics(K: np.ndarray, scale_x: float, scale_y: float) -> np.ndarray:
    """Intrinsics after a resize. The image's corner, half a pixel outside the first centre, stays where it is."""
    return np.array([[scale_x, 0, (scale_x - 1) / 2], [0, scale_y, (scale_y - 1) / 2], [0, 0, 1]]) @ np.asarray(K, np.float64)


def shift_intrinsics(K: np.ndarray, left: int, top: int) -> np.ndarray:
    """Intrinsics after cutting `left` columns and `top` rows away."""
    return np.array([[1, 0, -left], [0, 1, -top], [0, 0, 1]]) @ np.asarray(K, np.float64)


def relative_pose(cam_to_world1: np.ndarray, cam_to_world2: np.ndarray) -> np.ndarray:
    """`T_2from1`, 4 x 4."""
    return np.linalg.inv(np.asarray(cam_to_world2, np.float64)) @ np.asarray(cam_to_world1, np.float64)


def resize_nearest(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Depth or class indices at another size. Nearest, because a mean over an edge is a depth, or a class, that exists nowhere."""
    rows = ((np.arange(height) + 0.5) * values.shape[0] / height).astype(int)
    columns = ((np.arange(width) + 0.5) * values.shape[1] / width).astype(int)
    result: np.ndarray = values[rows[:, None], columns]
    return result


def reproject(depth1: np.ndarray, K1: np.ndarray, K2: np.ndarray, T_2from1: np.ndarray, stride: int = 1) -> tuple[np.ndarray, ...]:
    """Where the pixels of view 1 with known depth fall in view 2: (their flat index in view 1, x, y, depth in view 2)."""
    rows, columns = np.mgrid[stride // 2 : depth1.shape[0] : stride, stride // 2 : depth1.shape[1] : stride].reshape(2, -1)
    z = depth1[rows, columns].astype(np.float64)
    known = z > 0
    rows, columns, z = rows[known], columns[known], z[known]
    points = np.linalg.inv(K1) @ np.stack([columns, rows, np.ones_like(rows)]) * z
    x, y, depth = K2 @ (T_2from1[:3, :3] @ points + T_2from1[:3, 3:])
    with np.errstate(divide="ignore", invalid="ignore"):
        return rows * depth1.shape[1] + columns, x / depth, y / depth, depth


def visible_share(depth1: np.ndarray, K1: np.ndarray, depth2: np.ndarray, K2: np.ndarray, T_2from1: np.ndarray, stride: int = 1) -> float:
    """Share of the pixels of view 1 with depth that view 2 sees too: they fall inside it and the depths agree.

    A pixel that falls where view 2 has no depth is not counted.
    """
    _, x, y, z = reproject(depth1, K1, K2, T_2from1, stride)
    if not len(z):
        return 0.0
    height, width = depth2.shape
    inside = (z > 0.01) & (x > -0.5) & (x < width - 0.5) & (y > -0.5) & (y < height - 0.5)
    seen = depth2[np.round(y[inside]).astype(int), np.round(x[inside]).astype(int)].astype(np.float64)
    agree = (seen > 0) & (np.abs(seen - z[inside]) <= np.maximum(ABSOLUTE_TOLERANCE, RELATIVE_TOLERANCE * z[inside]))
    decided = len(z) - int((seen == 0).sum())
    return float(agree.sum() / decided) if decided > 0.1 * len(z) else 0.0


def covisibility(depth1: np.ndarray, K1: np.ndarray, depth2: np.ndarray, K2: np.ndarray, T_2from1: np.ndarray, stride: int = 1) -> float:
    """The smaller of the two visible shares: symmetric, 1 for two equal views, 0 for views that share nothing."""
    forth = visible_share(depth1, K1, depth2, K2, T_2from1, stride)
    return min(forth, visible_share(depth2, K2, depth1, K1, np.linalg.inv(T_2from1), stride)) if forth > 0 else 0.0
