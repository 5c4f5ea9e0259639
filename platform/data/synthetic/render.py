"""Renders pairs of views of procedural rooms with exact depth, intrinsics, relative pose and co-visibility (Embree ray casting).

Cameras follow the spirit of the Habitat generator of CroCo: a reference view at eye height, then views from near-by places that look
at the middle of what the reference saw, kept where enough is seen by both.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene

from sightline.methods.random import keyed_rng
from sightline.platform.data.geometry import covisibility, intrinsics, relative_pose
from sightline.platform.data.images import encode_depth, encode_image
from sightline.platform.data.kinds import Row

from .clutter import Clutter, cluttered_scene
from .scenes import Scene
from .view_settings import USUAL, ViewSettings

COARSE = 0.05
"""By how much the overlap may come out less than on the small depth maps."""
VIEWS_PER_PLACE = 3
TRIES = 60
_PROBE = 24
"""Side in pixels of the small depth map on which a camera is judged before it is rendered."""
REACHED = 1e-3
"""Share of the way to a point that may lack: rays have seven digits."""
_AMBIENT, _CORNER, _CORNER_REACH = 0.45, 0.45, 0.22


@dataclass(frozen=True)
class View:
    image: np.ndarray
    """uint8 S x S x 3"""
    depth: np.ndarray
    """float32 S x S, metres along z, exact at pixel centres"""
    cam_to_world: np.ndarray
    """4 x 4"""


class Surface(NamedTuple):
    """Points of a scene, one a pixel, in the order of its rows."""

    points: np.ndarray
    """float64 N x 3, in the world"""
    z: np.ndarray
    """float64 N, metres along the camera's axis"""
    face: np.ndarray
    """N, its triangle"""


class Renderer:
    """Casts rays into one scene."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self._embree = EmbreeScene()
        self._mesh = TriangleMesh(self._embree, scene.triangles)
        self._pyramid, self._offsets, self._sizes = _pyramid(scene.textures)
        self._density = _texture_density(scene)

    def showing(self, scene: Scene) -> Renderer:
        """A renderer of the same scene with some of its pieces elsewhere."""
        other = copy.copy(self)
        other.scene, other._embree = scene, EmbreeScene()
        other._mesh = TriangleMesh(other._embree, scene.triangles)
        return other

    def surface(self, cam_to_world: np.ndarray, K: np.ndarray, height: int, width: int) -> Surface:
        """What the middle of each pixel shows."""
        rows, columns = np.mgrid[0:height, 0:width].reshape(2, -1)
        rays = pixel_rays(columns, rows, K, cam_to_world)
        hit = self._cast(cam_to_world[:3, 3], rays)
        z = hit["tfar"].astype(np.float64)
        return Surface(cam_to_world[:3, 3] + rays * z[:, None], z, hit["primID"])

    def sees(self, place: np.ndarray, points: np.ndarray) -> np.ndarray:
        """bool N: whether nothing lies between `place` and each of the points N x 3."""
        reached = self._cast(place, points - place)["tfar"]
        return np.asarray(reached >= 1 - REACHED)

    def depth(self, cam_to_world: np.ndarray, K: np.ndarray, height: int, width: int) -> np.ndarray:
        """float32 H x W, metres along z."""
        rows, columns = np.mgrid[0:height, 0:width].reshape(2, -1)
        rays = pixel_rays(columns, rows, K, cam_to_world)
        return np.asarray(self._cast(cam_to_world[:3, 3], rays)["tfar"], np.float32).reshape(height, width)

    def view(self, cam_to_world: np.ndarray, K: np.ndarray, height: int, width: int) -> View:
        """One ray a pixel, and 4 more in the pixels that an edge or a shadow's rim crosses."""
        rows, columns = np.mgrid[0:height, 0:width].reshape(2, -1)
        colours, depth, label = self._shade(columns, rows, K, cam_to_world, spread=1.0)
        label, image = label.reshape(height, width), colours.reshape(height, width, 3)
        edge = np.zeros((height, width), bool)
        for axis in (0, 1):
            change = np.diff(label, axis=axis) != 0
            edge |= np.pad(change, [(0, 1), (0, 0)] if axis == 0 else [(0, 0), (0, 1)])
            edge |= np.pad(change, [(1, 0), (0, 0)] if axis == 0 else [(0, 0), (1, 0)])
        y, x = np.nonzero(edge)
        offsets = np.array([(-0.375, -0.125), (0.125, -0.375), (0.375, 0.125), (-0.125, 0.375)])
        fine, _, _ = self._shade((x[:, None] + offsets[:, 0]).ravel(), (y[:, None] + offsets[:, 1]).ravel(), K, cam_to_world, spread=0.5)
        image[edge] = fine.reshape(-1, 4, 3).mean(1)
        pixels = ((1 - np.exp(-1.8 * np.maximum(image, 0))) * 255).round().astype(np.uint8)  # bright places saturate softly, as on film
        return View(pixels, depth.reshape(height, width).astype(np.float32), cam_to_world)

    def _cast(self, origin: np.ndarray, directions: np.ndarray) -> dict[str, np.ndarray]:
        origins = np.broadcast_to(origin, directions.shape).astype(np.float32)
        return self._embree.run(origins, directions.astype(np.float32), output=1)  # type: ignore[no-any-return]

    def _shade(
        self, x: np.ndarray, y: np.ndarray, K: np.ndarray, cam_to_world: np.ndarray, spread: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(colours N x 3, z-depth N, label N of the piece and its shadow) at pixel places. `spread`: the width of a ray in pixels."""
        scene = self.scene
        directions = pixel_rays(x, y, K, cam_to_world)  # one unit along z, so that the ray's parameter is z-depth
        hit = self._cast(cam_to_world[:3, 3], directions)
        face, depth = hit["primID"], hit["tfar"]
        corners = np.stack([1 - hit["u"] - hit["v"], hit["u"], hit["v"]], -1)
        normal = np.einsum("nci,nc->ni", scene.normals.take(face, axis=0), corners)
        normal /= _length(normal)[:, None]
        uv = np.einsum("nci,nc->ni", scene.uv.take(face, axis=0), corners)
        points = cam_to_world[:3, 3].astype(np.float32) + directions * depth[:, None]
        material = scene.material[face]
        facing = np.abs(np.einsum("ni,ni->n", normal, directions)) / _length(directions)
        texture_size = self._sizes[0] * self._density[face]
        footprint = spread * depth / K[0, 0] * texture_size / np.sqrt(np.maximum(facing, 0.1))
        albedo = self._lookup(material, uv, np.log2(np.maximum(footprint, 1)))
        light, lit = self._light(points, normal)
        glow = scene.glow[material][:, None]
        return albedo * (light * (1 - glow) + 1.1 * glow), depth, scene.part[face] * 4 + lit

    def _lookup(self, material: np.ndarray, uv: np.ndarray, level: np.ndarray) -> np.ndarray:
        """Bilinear in the level of the pyramid whose texels are nearest to the width of the ray."""
        level = np.minimum(np.round(level), len(self._sizes) - 1).astype(np.int32)
        size = self._sizes[level]
        at = (uv % 1) * size[:, None] - np.float32(0.5)
        corner = np.floor(at).astype(np.int32)
        right, below = (at - corner).astype(np.float32).T[..., None]
        x, y = corner.T % size
        x1, y1 = (corner.T + 1) % size
        base = self._offsets[level] + material * size**2
        colours = self._pyramid
        top = colours.take(base + y * size + x, axis=0) * (1 - right) + colours.take(base + y * size + x1, axis=0) * right
        bottom = colours.take(base + y1 * size + x, axis=0) * (1 - right) + colours.take(base + y1 * size + x1, axis=0) * right
        return top * (1 - below) + bottom * below  # type: ignore[no-any-return]

    def _light(self, points: np.ndarray, normal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(light N x 1, which of the lights reach the point as bits). Lambert, shadows, and corners darker as in real rooms."""
        scene = self.scene
        lifted = points + normal * np.float32(_CORNER_REACH)
        near = np.minimum(lifted, scene.room - lifted).astype(np.float32)
        light = _AMBIENT * (1 - _CORNER * np.exp(-np.maximum(near, 0) / np.float32(_CORNER_REACH))).prod(-1)
        lit = np.zeros(len(points), int)
        start = points + normal * np.float32(2e-3)
        for index, place in enumerate(scene.lights.astype(np.float32)):
            way = place - start
            square = np.einsum("ni,ni->n", way, way)
            slope = np.einsum("ni,ni->n", normal, way) / np.sqrt(square)
            asked = np.nonzero(slope > 0)[0]
            hit = self._embree.run(start[asked], way[asked], output=1)
            reached = asked[hit["tfar"] >= 0.999]
            light[reached] += 0.6 * slope[reached] / (0.5 + 0.16 * square[reached])
            lit[reached] += 1 << index
        return light[:, None], lit


def pixel_rays(x: np.ndarray, y: np.ndarray, K: np.ndarray, cam_to_world: np.ndarray) -> np.ndarray:
    local = np.stack([(x - K[0, 2]) / K[0, 0], (y - K[1, 2]) / K[1, 1], np.ones(len(x))], -1)
    return (local @ cam_to_world[:3, :3].T).astype(np.float32)  # type: ignore[no-any-return]


def _length(vectors: np.ndarray) -> np.ndarray:
    return np.sqrt(np.einsum("ni,ni->n", vectors, vectors))  # type: ignore[no-any-return]


def _pyramid(textures: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All textures at all sizes as one flat list of colours, with the offset and the side of each level."""
    levels, offsets, sizes, start = [], [], [], 0
    current = textures
    while current.shape[1] >= 2:
        levels.append(current.reshape(-1, 3))
        offsets.append(start)
        sizes.append(current.shape[1])
        start += len(levels[-1])
        current = (current[:, ::2, ::2] + current[:, 1::2, ::2] + current[:, ::2, 1::2] + current[:, 1::2, 1::2]) / 4
    return np.concatenate(levels), np.array(offsets, np.int32), np.array(sizes, np.int32)


def _texture_density(scene: Scene) -> np.ndarray:
    """Repeats of the texture a metre on each triangle."""
    a, b = scene.uv[:, 1] - scene.uv[:, 0], scene.uv[:, 2] - scene.uv[:, 0]
    area_uv = np.abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0])
    edges = scene.triangles[:, 1:] - scene.triangles[:, :1]
    area = np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=-1)
    return np.sqrt(area_uv / np.maximum(area, 1e-9)).astype(np.float32)  # type: ignore[no-any-return]


def camera_pose(place: np.ndarray, forward: np.ndarray) -> np.ndarray:
    """4 x 4 camera to world, of a camera at `place` that looks along `forward`, upright."""
    forward = forward / np.linalg.norm(forward)
    right = np.cross(forward, [0, 0, 1.0])
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], -1)  # columns: x right, y down, z forward
    pose[:3, 3] = place
    return pose


def noisy_pose(place: np.ndarray, forward: np.ndarray, rng: np.random.Generator, pan: tuple[float, float] = USUAL.pan) -> np.ndarray:
    """`camera_pose`, then noise in degrees: `pan` to either side, and the tilt and roll of the Habitat generator (10, 5)."""
    pose = camera_pose(place, forward)
    drawn = rng.uniform(-1, 1, 3)
    sideways = np.sign(drawn[0]) * np.interp(abs(drawn[0]), (0, 1), pan)
    for angle, (i, j) in zip(np.radians([sideways, 10 * drawn[1], 5 * drawn[2]]), ((2, 0), (1, 2), (0, 1)), strict=True):
        turn = np.eye(3)
        turn[[i, j], [i, j]] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        pose[:3, :3] = pose[:3, :3] @ turn
    return pose


def sample_poses(
    renderer: Renderer, rng: np.random.Generator, fov: float, count: int = VIEWS_PER_PLACE, settings: ViewSettings = USUAL
) -> list[np.ndarray]:
    """A reference pose and up to `count - 1` poses that see enough of the same; empty where none was found."""
    scene, K = renderer.scene, intrinsics(_PROBE, _PROBE, fov)
    for _ in range(TRIES):
        place = np.array([*(rng.random(2) * scene.room[:2]), rng.uniform(1.2, 1.8)])
        yaw = rng.uniform(0, 2 * np.pi)
        if not scene.is_free(place):
            continue
        reference = noisy_pose(place, np.array([np.cos(yaw), np.sin(yaw), -0.15]), rng)
        depth = renderer.depth(reference, K, _PROBE, _PROBE)
        if np.median(depth) < 1.2:  # a nose against a wall
            continue
        if count == 1:
            return [reference]
        rows, columns = np.mgrid[0:_PROBE, 0:_PROBE].reshape(2, -1)
        aim = (place + pixel_rays(columns, rows, K, reference) * depth.reshape(-1, 1)).mean(0)
        poses = [reference]
        for _ in range(TRIES):
            step = np.array([*rng.normal(0, 0.7, 2), 0])
            other = np.array([*(place + step)[:2], rng.uniform(1.2, 1.8)])
            if not scene.is_free(other) or np.linalg.norm(aim - other) < 0.8:
                continue
            pose = noisy_pose(other, aim - other, rng, settings.pan)
            seen = renderer.depth(pose, K, _PROBE, _PROBE)
            shared = covisibility(depth, K, seen, K, relative_pose(reference, pose))
            if settings.overlap[0] + COARSE <= shared <= settings.overlap[1]:
                poses.append(pose)
                if len(poses) == count:
                    return poses
        if len(poses) > 1:
            return poses
    return []


def render_scene(
    seed: int,
    index: int,
    pairs: int,
    size: int = 128,
    fov: float = 60.0,
    clutter: Clutter | None = None,
    chosen: ViewSettings = USUAL,
) -> list[Row]:
    """Up to `pairs` rows (kind `pairs`) of scene number `index`. The same seed and index give the same rows, whoever renders them."""
    rng = keyed_rng("scene", seed, index)
    scene = cluttered_scene(seed, index, clutter, rng=rng)
    renderer, K = Renderer(scene), intrinsics(size, size, fov)
    rows: list[Row] = []
    name = f"room{index:05d}"
    for _ in range(2 * pairs):
        views = [renderer.view(pose, K, size, size) for pose in sample_poses(renderer, rng, fov, settings=chosen)]
        encoded = [(encode_image(view.image, 92), encode_depth(view.depth)) for view in views]
        for pair in combinations(range(len(views)), 2):
            first, second = pair if rng.random() < 0.5 else pair[::-1]
            one, two = views[first], views[second]
            transform = relative_pose(one.cam_to_world, two.cam_to_world)
            shared = covisibility(one.depth, K, two.depth, K, transform, stride=2)
            if not chosen.overlap[0] <= shared <= chosen.overlap[1]:
                continue
            rows.append(
                {
                    "id": f"{name}/{len(rows):04d}",
                    "scene": name,
                    "image1": encoded[first][0],
                    "image2": encoded[second][0],
                    "K1": K.ravel(),
                    "K2": K.ravel(),
                    "T_2from1": transform.ravel(),
                    "depth1": encoded[first][1],
                    "depth2": encoded[second][1],
                    "overlap": shared,
                }
            )
            if len(rows) == pairs:
                return rows
    return rows


def render_pairs(seed: int, scenes: int, pairs_per_scene: int, size: int = 128, fov: float = 60.0) -> Iterator[Row]:
    """Rows of kind `pairs`, scene after scene: `size` x `size` images, `fov` degrees across."""
    for index in range(scenes):
        yield from render_scene(seed, index, pairs_per_scene, size, fov)
