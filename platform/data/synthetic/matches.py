"""Renders stereo pairs and pairs a moment apart, with exact disparity, optical flow and occlusion.

The truth of a pixel is that of its middle: the point that its ray meets, moved with its piece, and seen from the second camera. A pixel is
occluded where that is outside the second image, or a ray from there to the point meets something before.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sightline.methods.random import keyed_rng
from sightline.platform.data.displacement import encode_disparity, encode_flow, encode_occluded
from sightline.platform.data.geometry import covisibility, intrinsics, relative_pose
from sightline.platform.data.images import encode_depth, encode_image
from sightline.platform.data.kinds import Row

from .clutter import Clutter, cluttered_scene
from .match_settings import MatchSettings
from .render import Renderer, sample_poses
from .scenes import Scene, moved

TRIES = 40
NEAREST = 0.25
"""Metres: nothing stands nearer before a camera."""


def render_matches(seed: int, index: int, pairs: int, settings: MatchSettings, clutter: Clutter | None = None) -> list[Row]:
    """Up to `pairs` rows (kind `pairs`) of scene number `index`, whose room is that of `render_scene`."""
    rng = keyed_rng("matches", settings.truth, seed, index)
    scene = cluttered_scene(seed, index, clutter, settings.floating)
    renderer, size = Renderer(scene), settings.size
    K, name, rows = intrinsics(size, size, settings.fov), f"room{index:05d}", list[Row]()
    for _ in range(3 * pairs):
        if len(rows) == pairs:
            break
        poses = sample_poses(renderer, rng, settings.fov, 1)
        if not poses:
            continue
        surface = renderer.surface(poses[0], K, size, size)
        if surface.z.min() < NEAREST:
            continue
        if settings.truth == "stereo":
            baseline = rng.uniform(*settings.baseline)
            second = poses[0] @ _shift(baseline)
            if not _is_free(scene, second):
                continue
            later, points = renderer, surface.points
            truth: dict[str, Any] = {"disparity": encode_disparity((K[0, 0] * baseline / surface.z).reshape(size, size))}
        else:
            second = _a_moment_later(scene, poses[0], rng)
            after = moved(scene, settings.moving, rng)
            later, points = renderer.showing(after.scene), after.after(surface.points, surface.face)
            truth = {"flow": encode_flow(_flow(points, second, K, size))}
        hidden = _hidden(later, points, second, K, size)
        one, two = renderer.view(poses[0], K, size, size), later.view(second, K, size, size)
        transform = relative_pose(poses[0], second)
        still = settings.truth == "stereo" or not settings.moving
        rows.append(
            {
                "id": f"{name}/{len(rows):04d}",
                "scene": name,
                "image1": _encoded(one.image, settings.exposure, rng),
                "image2": _encoded(two.image, settings.exposure, rng),
                "K1": K.ravel(),
                "K2": K.ravel(),
                "T_2from1": transform.ravel(),
                "depth1": encode_depth(one.depth),
                "depth2": encode_depth(two.depth),
                "overlap": covisibility(one.depth, K, two.depth, K, transform, stride=2) if still else None,
                "occluded": encode_occluded(hidden),
                **truth,
            }
        )
    return rows


def _encoded(image: np.ndarray, exposure: float, rng: np.random.Generator) -> bytes:
    """JPEG as all rendered pairs; under another exposure each."""
    if exposure:
        bright = image * rng.uniform(1 - exposure, 1 + exposure) + rng.normal(0, 25.5 * exposure, image.shape)
        image = bright.clip(0, 255).round().astype(np.uint8)
    return encode_image(image, 92)


def _shift(baseline: float) -> np.ndarray:
    pose = np.eye(4)
    pose[0, 3] = baseline
    return pose


def _a_moment_later(scene: Scene, pose: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The camera moved by some centimetres and turned by some degrees; where it stood if there is no room."""
    for _ in range(TRIES):
        motion = np.eye(4)
        for angle, (i, j) in zip(np.radians(rng.normal(0, [2.0, 2.0, 1.0])), ((2, 0), (1, 2), (0, 1)), strict=True):
            turn = np.eye(4)
            turn[[i, j], [i, j]], turn[i, j], turn[j, i] = np.cos(angle), -np.sin(angle), np.sin(angle)
            motion = motion @ turn
        motion[:3, 3] = rng.normal(0, 0.08, 3)
        if _is_free(scene, pose @ motion):
            return np.asarray(pose @ motion)
    return pose


def _is_free(scene: Scene, pose: np.ndarray) -> bool:
    return scene.is_free(pose[:3, 3], 0.15)


def _seen_from(points: np.ndarray, cam_to_world: np.ndarray, K: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(x, y N x 2, z N) of points of the world, float64; NaN behind the camera."""
    local = (points - cam_to_world[:3, 3]) @ cam_to_world[:3, :3]
    z = local[:, 2]
    ahead = np.where(z > 1e-6, z, np.nan)
    return np.stack([K[0, 0] * local[:, 0] / ahead + K[0, 2], K[1, 1] * local[:, 1] / ahead + K[1, 2]], axis=-1), z


def _flow(points: np.ndarray, second: np.ndarray, K: np.ndarray, size: int) -> np.ndarray:
    rows, columns = np.mgrid[0:size, 0:size].reshape(2, -1)
    return np.asarray(_seen_from(points, second, K)[0] - np.stack([columns, rows], axis=-1)).reshape(size, size, 2)


def _hidden(later: Renderer, points: np.ndarray, second: np.ndarray, K: np.ndarray, size: int) -> np.ndarray:
    at, _ = _seen_from(points, second, K)
    inside = ((at >= -0.5) & (at < size - 0.5)).all(axis=-1)  # False for NaN
    return np.asarray(~(inside & later.sees(second[:3, 3], points))).reshape(size, size)
