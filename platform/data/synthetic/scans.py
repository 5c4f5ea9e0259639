"""Renders pairs of views of a scan, triangles with textures or colours, as the Habitat generator of CroCo draws them (Embree ray casting).

Light is that of the scan. Where Habitat has a map of places to stand on, here they are drawn on the floors of the scan itself: level
triangles with room above and around, in areas that are large enough.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from sightline.methods.random import keyed_rng
from sightline.platform.data.geometry import covisibility, intrinsics, relative_pose
from sightline.platform.data.images import encode_depth, encode_image
from sightline.platform.data.kinds import Row

from .render import View, noisy_pose, pixel_rays

HEIGHTS = (1.2, 1.8)
"""Metres of a camera above the floor."""
LEAST_VALID = 0.7
"""Share of the pixels that must show something."""
STEPS, STEP = 5, 2.0
"""From the first place to the second: so many steps of normal draws of so many metres, each to the nearest place to stand on."""
REFERENCES, TRIES = 20, 100
_PROBE = 48
"""Side in pixels of the small depth map on which a camera is judged before it is rendered."""
_CANDIDATES, _A_SQUARE_METRE = (500, 20_000), 60
"""Places that are tried."""
_HEADROOM, _ROOM, _REACH, _LEVEL = 1.9, 0.25, 0.35, np.cos(np.radians(30))
"""Metres above and around a place; how far apart the places of one floor are; the cosine of the steepest floor."""
_WALLS = 4
"""Of 8 directions in which something must stand: else the place is outdoors, such as on the roof."""
_SNAP = 1.0
_SMALL_FLOOR = 0.1
"""Of the largest floor: smaller ones are tables, cupboards and window sills."""
_INSIDE = np.array([(-0.25, -0.25), (0.25, -0.25), (-0.25, 0.25), (0.25, 0.25)])
"""Places in a pixel that are averaged."""


@dataclass(frozen=True)
class Scan:
    """A scene in metres, z up."""

    triangles: np.ndarray
    """float32 n x 3 x 3"""
    uv: np.ndarray
    """float32 n x 3 x 2: right and down in the texture, 0 to 1, repeated"""
    colours: np.ndarray
    """uint8 n x 3 x 3: of each corner, times the texture"""
    texture: np.ndarray
    """int32 n: its texture, -1 for none"""
    textures: tuple[np.ndarray, ...] = ()
    """uint8 H x W x 3 each"""


class ScanRenderer:
    """Casts rays into a scan."""

    def __init__(self, scan: Scan) -> None:
        self.scan = scan
        self._embree = EmbreeScene()
        self._mesh = TriangleMesh(self._embree, scan.triangles)
        self._pyramids = [_pyramid(texture) for texture in scan.textures]
        self._density = _density(scan)

    def depth(self, cam_to_world: np.ndarray, K: np.ndarray, height: int, width: int) -> np.ndarray:
        """float32 H x W, metres along z, 0 where there is nothing."""
        rows, columns = np.mgrid[0:height, 0:width].reshape(2, -1)
        face, z, _ = self.cast(cam_to_world[:3, 3], pixel_rays(columns, rows, K, cam_to_world))
        return np.where(face >= 0, z, 0).astype(np.float32).reshape(height, width)

    def view(self, cam_to_world: np.ndarray, K: np.ndarray, height: int, width: int) -> View:
        """Colours are the mean of 4 rays a pixel, depth is that of its middle. Where there is nothing it is black."""
        rows, columns = np.mgrid[0:height, 0:width].reshape(2, -1)
        total = np.zeros((height * width, 3), np.float32)
        for right, down in _INSIDE:
            directions = pixel_rays(columns + right, rows + down, K, cam_to_world)
            face, z, corners = self.cast(cam_to_world[:3, 3], directions)
            hit = np.nonzero(face >= 0)[0]
            total[hit] += self._colours(face[hit], corners[hit], z[hit] / K[0, 0] / 2)
        pixels = (total / len(_INSIDE)).round().clip(0, 255).astype(np.uint8).reshape(height, width, 3)
        return View(pixels, self.depth(cam_to_world, K, height, width), cam_to_world)

    def cast(self, origins: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(face, -1 for none; how many lengths of the ray away it is; share of each of its corners) of rays N x 3."""
        origins = np.broadcast_to(origins, directions.shape).astype(np.float32)
        hit = self._embree.run(origins, directions.astype(np.float32), output=1)
        corners = np.stack([1 - hit["u"] - hit["v"], hit["u"], hit["v"]], -1)
        return hit["primID"].astype(np.int64), hit["tfar"], corners

    def _colours(self, face: np.ndarray, corners: np.ndarray, width: np.ndarray) -> np.ndarray:
        """float32 N x 3, 0 to 255. `width`: metres between neighbouring rays there."""
        scan = self.scan
        colours: np.ndarray = np.einsum("nci,nc->ni", scan.colours[face].astype(np.float32), corners)
        uv = np.einsum("nci,nc->ni", scan.uv[face], corners) % 1
        texture, footprint = scan.texture[face], width * self._density[face]
        for number, pyramid in enumerate(self._pyramids):
            own = np.nonzero(texture == number)[0]
            if not len(own):
                continue
            texels = footprint[own] * np.sqrt(pyramid[0].shape[0] * pyramid[0].shape[1])
            level = np.log2(np.maximum(texels, 1)).round().astype(int).clip(max=len(pyramid) - 1)
            for one in np.unique(level):
                here = own[level == one]
                colours[here] *= _bilinear(pyramid[one], uv[here]) / 255
        return colours


def _bilinear(texture: np.ndarray, uv: np.ndarray) -> np.ndarray:
    height, width = texture.shape[:2]
    at = uv * (width, height) - 0.5
    corner = np.floor(at).astype(int)
    right, down = (at - corner).T[..., None]
    (x, y), (x1, y1) = corner.T % [[width], [height]], (corner.T + 1) % [[width], [height]]
    top = texture[y, x] * (1 - right) + texture[y, x1] * right
    return np.asarray(top * (1 - down) + (texture[y1, x] * (1 - right) + texture[y1, x1] * right) * down)


def _pyramid(texture: np.ndarray) -> list[np.ndarray]:
    """The texture at half the size again and again."""
    levels = [texture]
    while min(levels[-1].shape[:2]) >= 4:
        height, width = (side // 2 * 2 for side in levels[-1].shape[:2])
        parts = levels[-1][:height, :width].reshape(height // 2, 2, width // 2, 2, 3)
        levels.append(parts.mean((1, 3)).round().astype(np.uint8))
    return levels


def _density(scan: Scan) -> np.ndarray:
    """Repeats of the texture a metre on each triangle."""
    a, b = scan.uv[:, 1] - scan.uv[:, 0], scan.uv[:, 2] - scan.uv[:, 0]
    edges = scan.triangles[:, 1:] - scan.triangles[:, :1]
    area = np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=-1)
    return np.sqrt(np.abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]) / np.maximum(area, 1e-12))  # type: ignore[no-any-return]


class Floors:
    """Places of a scan to stand on, n x 3."""

    def __init__(self, renderer: ScanRenderer, rng: np.random.Generator) -> None:
        points = _level_points(renderer.scan.triangles, rng)
        self.points = _large_floors(points[_free(renderer, points)] if len(points) else points)
        self._tree = cKDTree(self.points) if len(self.points) else None

    def nearest(self, place: np.ndarray) -> np.ndarray | None:
        """None where there is none within a metre."""
        assert self._tree is not None
        apart, at = self._tree.query(place)
        return self.points[at] if apart <= _SNAP else None


def _level_points(triangles: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Points of the level triangles that face upwards, drawn by area."""
    across = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]).astype(np.float64)
    doubled = np.linalg.norm(across, axis=1)
    doubled = np.where(across[:, 2] >= _LEVEL * doubled, doubled, 0)
    total = np.cumsum(doubled)
    if not len(total) or not total[-1] > 0:
        return np.empty((0, 3))
    count = int(np.clip(_A_SQUARE_METRE * total[-1] / 2, *_CANDIDATES))
    face = np.searchsorted(total, rng.random(count) * total[-1], side="right").clip(max=len(total) - 1)
    u, v = rng.random((2, count, 1))
    u, v = np.where(u + v > 1, 1 - u, u), np.where(u + v > 1, 1 - v, v)
    corner, one, two = (triangles[face, i].astype(np.float64) for i in range(3))
    return np.asarray(corner + u * (one - corner) + v * (two - corner))


def _free(renderer: ScanRenderer, points: np.ndarray) -> np.ndarray:
    """bool n: whether there is room for a camera on its stand."""
    up = np.array([0, 0, 1.0])
    face, above, _ = renderer.cast(points + 0.05 * up, np.broadcast_to(up, points.shape))
    free, walls = (face < 0) | (above > _HEADROOM), np.zeros(len(points), int)
    for turn in np.arange(8) * np.pi / 4:
        way = np.broadcast_to([np.cos(turn), np.sin(turn), 0], points.shape)
        face, reached, _ = renderer.cast(points + HEIGHTS[0] * up, way)
        free &= (face < 0) | (reached > _ROOM)
        walls += face >= 0
    return free & (walls >= _WALLS)


def _large_floors(points: np.ndarray) -> np.ndarray:
    if not len(points):
        return points
    pairs = cKDTree(points * [1, 1, 2]).query_pairs(_REACH, output_type="ndarray")  # a step is lower than it is wide
    links = coo_matrix((np.ones(len(pairs), bool), pairs.T), (len(points), len(points)))
    of = connected_components(links, directed=False)[1]
    sizes = np.bincount(of)
    return np.asarray(points[sizes[of] >= _SMALL_FLOOR * sizes.max()])


@dataclass(frozen=True)
class ScanSettings:
    size: int
    """Side of the images in pixels."""
    fov: float
    """Degrees."""
    overlap: tuple[float, float]
    """Least and most co-visibility."""


def scan_pairs(
    renderer: ScanRenderer, floors: Floors, name: str, seed: int, numbers: range, settings: ScanSettings
) -> Iterator[Row | None]:
    """The pairs (kind `pairs`) with these numbers; None where no two views were found. A pair depends on its own number alone."""
    for number in numbers:
        rng = keyed_rng("scan", seed, name, number)
        poses = _two_poses(renderer, floors, rng, settings)
        yield None if poses is None else _row(renderer, f"{name}/{number:05d}", name, poses, settings)


def _two_poses(renderer: ScanRenderer, floors: Floors, rng: np.random.Generator, settings: ScanSettings) -> tuple[np.ndarray, ...] | None:
    K = intrinsics(_PROBE, _PROBE, settings.fov)
    rows, columns = np.mgrid[0:_PROBE, 0:_PROBE].reshape(2, -1)
    for _ in range(REFERENCES if len(floors.points) else 0):
        foot = floors.points[rng.integers(len(floors.points))]
        place, yaw = _raised(foot, rng), rng.uniform(0, 2 * np.pi)
        first = noisy_pose(place, np.array([np.cos(yaw), np.sin(yaw), 0]), rng)
        depth = renderer.depth(first, K, _PROBE, _PROBE)
        seen = depth.ravel() > 0
        if seen.mean() < LEAST_VALID:
            continue
        aim = (place + pixel_rays(columns, rows, K, first)[seen] * depth.reshape(-1, 1)[seen]).mean(0)
        for _ in range(TRIES):
            other = foot
            for _ in range(STEPS):
                near = floors.nearest(other + np.append(rng.normal(0, STEP, 2), 0))
                other = other if near is None else near
            stand = _raised(other, rng)
            if np.linalg.norm((aim - stand)[:2]) < 0.3:  # straight down or up
                continue
            second = noisy_pose(stand, aim - stand, rng)
            there = renderer.depth(second, K, _PROBE, _PROBE)
            if (there > 0).mean() < LEAST_VALID:
                continue
            overlap = covisibility(depth, K, there, K, relative_pose(first, second))
            if settings.overlap[0] <= overlap <= settings.overlap[1]:
                return (first, second) if rng.random() < 0.5 else (second, first)
    return None


def _raised(foot: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.asarray(foot + np.array([0, 0, rng.uniform(*HEIGHTS)]))


def _row(renderer: ScanRenderer, pair: str, scene: str, poses: tuple[np.ndarray, ...], settings: ScanSettings) -> Row:
    K = intrinsics(settings.size, settings.size, settings.fov)
    one, two = (renderer.view(pose, K, settings.size, settings.size) for pose in poses)
    transform = relative_pose(one.cam_to_world, two.cam_to_world)
    return {
        "id": pair,
        "scene": scene,
        "image1": encode_image(one.image, 92),
        "image2": encode_image(two.image, 92),
        "K1": K.ravel(),
        "K2": K.ravel(),
        "T_2from1": transform.ravel(),
        "depth1": encode_depth(one.depth),
        "depth2": encode_depth(two.depth),
        "overlap": covisibility(one.depth, K, two.depth, K, transform, stride=2),
    }
