"""Pinhole geometry: what is a sound camera, how cameras follow their pixels, relative pose, co-visibility.

Camera axes are OpenCV's (x right, y down, z forward), pixel centres lie at whole numbers, depth is along z in metres with 0 = unknown,
a pose takes points of the camera to the world, and `T_2from1` takes points of camera 1 to camera 2.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sightline.methods.errors import BrokenSampleError

ROTATION_TOLERANCE = 0.01
"""How far the axes of a pose may be from unit length and right angles: measured poses are printed with few digits, or drift."""
MAX_DISTANCE = 1e9
MIN_FOCAL = 0.04
"""In widths of the image: about 171 degrees across. Less is no focal length in pixels."""
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


def camera_matrix(value: object) -> np.ndarray:
    """3 x 3 intrinsics, float64. Raises `BrokenSampleError` where they are no pinhole camera in pixels, whatever the image."""
    K = _numbers(value, "intrinsics", ((3, 3),))
    if not (K[0, 0] > 0 and K[1, 1] > 0):
        raise BrokenSampleError(f"intrinsics without a positive focal length: {K[0, 0]:g}, {K[1, 1]:g}")
    if K[1, 0] != 0 or (K[2] != (0, 0, 1)).any():
        raise BrokenSampleError("intrinsics are not of the form [[fx, s, cx], [0, fy, cy], [0, 0, 1]]")
    return K


def check_intrinsics(K: np.ndarray, height: int, width: int, *, told: bool) -> None:
    """Raises `BrokenSampleError` where `K` cannot be that of an image of this size. `told`: the source states the size that `K` is for."""
    middle = np.array([2 * K[0, 2] / (width - 1), 2 * K[1, 2] / (height - 1)])
    if min(K[0, 0] / width, K[1, 1] / height) < MIN_FOCAL:
        raise BrokenSampleError(f"intrinsics are not in pixels: a focal length of {K[0, 0]:g} for {width} x {height}")
    if ((middle < -0.5) | (middle > 2.5)).any():
        raise BrokenSampleError(f"intrinsics are of another image: principal point {K[0, 2]:g}, {K[1, 2]:g} of {width} x {height}")
    scale = middle.mean()
    if not told and abs(middle[0] - middle[1]) < 0.2 * scale and not 0.8 < scale < 1.25:
        size = f"{scale * (width - 1) + 1:.0f} x {scale * (height - 1) + 1:.0f}"
        raise BrokenSampleError(
            f"intrinsics look as if made for another size of the image (say width and height in cameras.json): about {size}, "
            f"the image has {width} x {height}"
        )


def camera_pose(value: object) -> np.ndarray:
    """4 x 4 camera-to-world, float64; 3 x 4 gets its last row.

    Raises `BrokenSampleError` for what is no rigid motion: not finite, a rotation off by more than `ROTATION_TOLERANCE`, mirrored, or
    with another last row.
    """
    pose = _numbers(value, "pose", ((4, 4), (3, 4)))
    if pose.shape == (3, 4):
        pose = np.vstack([pose, (0, 0, 0, 1)])
    R = pose[:3, :3]
    if np.abs(pose[3] - (0, 0, 0, 1)).max() > 1e-6:
        raise BrokenSampleError("pose with a last row other than 0 0 0 1")
    off = np.abs(R.T @ R - np.eye(3)).max() if np.abs(R).max() < 10 else np.inf
    if off > ROTATION_TOLERANCE:
        raise BrokenSampleError(f"pose without a rotation: its axes are off by {off:.2g} from unit length and right angles")
    if np.linalg.det(R) < 0:
        raise BrokenSampleError("pose that mirrors: its determinant is -1")
    if np.abs(pose[:3, 3]).max() > MAX_DISTANCE:
        raise BrokenSampleError(f"pose too far from the origin: {np.abs(pose[:3, 3]).max():.3g}")
    return pose


def _numbers(value: object, what: str, shapes: tuple[tuple[int, ...], ...]) -> np.ndarray:
    try:
        numbers = np.asarray(value, np.float64)
    except (TypeError, ValueError, OverflowError):  # rows of several lengths, texts, null
        raise BrokenSampleError(f"{what} not made of numbers") from None
    if numbers.shape not in shapes:
        shape = " x ".join(map(str, numbers.shape)) or "a single value"
        raise BrokenSampleError(f"{what} of another shape than {' x '.join(map(str, shapes[0]))}: {shape}")
    if not np.isfinite(numbers).all():
        raise BrokenSampleError(f"{what} not finite")
    return numbers


@dataclass(frozen=True)
class Placement:
    """From the pixels of a file to those that are stored: turned upright, a box cut, resized. It takes along what belongs to the pixels.

    `top`, `left` and `cut` are in pixels of the upright original; sizes are (height, width).
    """

    original: tuple[int, int]
    top: int
    left: int
    cut: tuple[int, int]
    stored: tuple[int, int]
    orientation: int = 1
    """The EXIF tag of the file, 1 to 8: how its pixels become upright."""

    @classmethod
    def whole(cls, size: tuple[int, int], orientation: int = 1) -> Placement:
        """The whole of a file whose upright pixels have this size."""
        return cls(size, 0, 0, size, size, orientation)

    def resized(self, height: int, width: int) -> Placement:
        return replace(self, stored=(height, width))

    @property
    def filed(self) -> tuple[int, int]:
        """The size of the pixels as they lie in the file."""
        return self.original[::-1] if self.orientation > 4 else self.original

    @property
    def scale(self) -> tuple[float, float]:
        """Stored pixels in a pixel of the original: (along a row, along a column)."""
        return self.stored[1] / self.cut[1], self.stored[0] / self.cut[0]

    @property
    def unchanged(self) -> bool:
        return self.stored == self.cut == self.original

    def is_filed(self, size: tuple[float, float]) -> bool:
        """Whether what has this size lies as the pixels of the file do, and not upright as these are read.

        Raises `BrokenSampleError` where the size fits both.
        """
        if self.orientation == 1:
            return False
        upright, filed = (same_shape(size, other) for other in (self.original, self.filed))
        if upright and filed:
            raise BrokenSampleError(
                f"a photo that its EXIF tag turns, and no telling whether what belongs to it is turned (store it upright): {self.tag}"
            )
        return filed

    @property
    def tag(self) -> str:
        return f"orientation {self.orientation}"

    def nearest(self, values: np.ndarray, filed: bool = False) -> np.ndarray:
        """Depth or class indices of the whole view at any size, upright or as in the file, as they belong to the stored pixels.

        Nearest, because a mean over an edge is a depth, or a class, that exists nowhere.
        """
        values = upright(values, self.orientation) if filed else values
        if self.cut != self.original:
            values = resize_nearest(values, *self.original)[self.top : self.top + self.cut[0], self.left : self.left + self.cut[1]]
        return resize_nearest(values, *self.stored)

    def intrinsics(self, K: np.ndarray, filed: bool = False) -> np.ndarray:
        """Intrinsics of the stored pixels, from those of the upright original or of the file's pixels."""
        if filed:
            K = pixel_turn(self.orientation, *self.filed) @ K @ self.turn.T
        return scale_intrinsics(shift_intrinsics(K, self.left, self.top), *self.scale)

    @property
    def turn(self) -> np.ndarray:
        """3 x 3: takes points of the camera of the file's pixels to that of the upright ones. Raises `BrokenSampleError` for a mirror."""
        if self.orientation in (2, 4, 5, 7):
            raise BrokenSampleError(f"a photo that its EXIF tag mirrors has no pinhole camera (store it unmirrored): {self.tag}")
        return pixel_turn(self.orientation, 1, 1)

    def pose(self, cam_to_world: np.ndarray, filed: bool = False) -> np.ndarray:
        """Camera-to-world of the stored pixels' camera. Only a turn changes it."""
        if not filed:
            return cam_to_world
        turned = cam_to_world.copy()
        turned[:3, :3] = cam_to_world[:3, :3] @ self.turn.T
        return turned


def upright(values: np.ndarray, orientation: int) -> np.ndarray:
    """The pixels of a file as its EXIF orientation shows them."""
    if orientation > 4:
        values = np.swapaxes(values, 0, 1)
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    return values


def pixel_turn(orientation: int, height: int, width: int) -> np.ndarray:
    """3 x 3: takes pixels (x, y, 1) of a file of this size to those of `upright`."""
    turn = np.eye(3)
    if orientation > 4:
        turn, height, width = turn[[1, 0, 2]], width, height
    if orientation in (3, 4, 7, 8):
        turn = np.array([[1, 0, 0], [0, -1, height - 1], [0, 0, 1]]) @ turn
    if orientation in (2, 3, 6, 7):
        turn = np.array([[-1, 0, width - 1], [0, 1, 0], [0, 0, 1]]) @ turn
    return turn


def same_shape(size: tuple[float, float], other: tuple[float, float]) -> bool:
    """Whether one size is the other at another scale: the shapes differ by 3 % at most, which covers rounding and ScanNet's two cameras."""
    return abs(size[0] * other[1] / (size[1] * other[0]) - 1) <= 0.03


def depth_intrinsics(K: np.ndarray, image: tuple[int, int], depth: tuple[int, ...]) -> np.ndarray:
    """Intrinsics of a depth map that shows the same view as its image at a size (height, width) of its own.

    Raises `BrokenSampleError` where the shapes differ, as those of two lenses do.
    """
    require_same_view(image, depth)
    return K if tuple(depth) == tuple(image) else scale_intrinsics(K, depth[1] / image[1], depth[0] / image[0])


def require_same_view(image: tuple[int, int], depth: tuple[int, ...]) -> None:
    if not same_shape((depth[0], depth[1]), image):
        raise BrokenSampleError(
            f"depth and image differ in shape (register the depth to the image): {depth[1]} x {depth[0]} and {image[1]} x {image[0]}"
        )


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
    seen, agree = _seen_in(depth2, x, y, z)
    decided = len(z) - int((seen == 0).sum())
    return float(agree.sum() / decided) if decided > 0.1 * len(z) else 0.0


def agreeing(depth: np.ndarray, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Whether a view with this depth sees points that fall on its pixels (x, y) at the distance z; bool."""
    return _seen_in(depth, x, y, z)[1]


def _seen_in(depth: np.ndarray, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(the depth where each point falls, NaN outside; whether it is that of the point)."""
    height, width = depth.shape
    inside = (z > 0.01) & (x > -0.5) & (x < width - 0.5) & (y > -0.5) & (y < height - 0.5)
    seen = np.full(len(z), np.nan)
    seen[inside] = depth[np.round(y[inside]).astype(int), np.round(x[inside]).astype(int)]
    with np.errstate(invalid="ignore"):
        return seen, (seen > 0) & (np.abs(seen - z) <= np.maximum(ABSOLUTE_TOLERANCE, RELATIVE_TOLERANCE * z))


def covisibility(depth1: np.ndarray, K1: np.ndarray, depth2: np.ndarray, K2: np.ndarray, T_2from1: np.ndarray, stride: int = 1) -> float:
    """The smaller of the two visible shares: symmetric, 1 for two equal views, 0 for views that share nothing."""
    forth = visible_share(depth1, K1, depth2, K2, T_2from1, stride)
    return min(forth, visible_share(depth2, K2, depth1, K1, np.linalg.inv(T_2from1), stride)) if forth > 0 else 0.0
