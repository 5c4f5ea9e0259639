"""What people bring into rendered rooms: meshes that stand and hang there, and photographs as textures."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sightline.methods.random import keyed_rng

from .scenes import Builder, Scene, build_scene

SIDES = (0.2, 0.7)
"""Metres: the longest side of a mesh, drawn."""
STANDING = 0.5
"""Share of the meshes that stand on the floor; the others hang in the air, turned any way."""


@dataclass(frozen=True)
class Clutter:
    """`count` meshes are drawn for each room, with repetition."""

    meshes: tuple[np.ndarray, ...] = ()
    """Each F x 3 corners x 3, z up; any unit, any place."""
    pictures: tuple[np.ndarray, ...] = ()
    """Each S x S x 3 float32 in [0, 1], of the size of the other textures."""
    count: int = 0
    share: float = 0.5
    """Share of a room's materials that show a picture."""


def put_meshes(b: Builder, room: np.ndarray, clutter: Clutter) -> list[tuple[float, float, float, float]]:
    """Put meshes into a room that is built. Gives the footprints of those that stand on the floor. They may reach into furniture: what a
    ray meets first is what is seen, so the truth stays exact."""
    rng, taken = b.rng, []
    for _ in range(clutter.count if clutter.meshes else 0):
        mesh = clutter.meshes[int(rng.integers(len(clutter.meshes)))].astype(np.float64)
        corners = mesh.reshape(-1, 3)
        middle = (corners.min(axis=0) + corners.max(axis=0)) / 2
        turned = (mesh - middle) / np.ptp(corners, axis=0).max() * rng.uniform(*SIDES)
        stands = rng.random() < STANDING
        turned = turned @ (_yaw(rng) if stands else _any_turn(rng)).T
        low, high = turned.reshape(-1, 3).min(axis=0), turned.reshape(-1, 3).max(axis=0)
        place = rng.uniform(0.05 - low, np.maximum(room - 0.05 - high, 0.06 - low))
        if stands:
            place[2] = -low[2]
            taken.append((place[0] + low[0], place[1] + low[1], place[0] + high[0], place[1] + high[1]))
        b.mesh(turned, place, b.any_material(), rng.uniform(1, 5))
    return taken


def with_pictures(scene: Scene, clutter: Clutter, rng: np.random.Generator) -> Scene:
    """Some of the materials, none that shines, show a photograph."""
    if not clutter.pictures:
        return scene
    textures = scene.textures.copy()
    for index in np.flatnonzero((scene.glow == 0) & (rng.random(len(textures)) < clutter.share)):
        textures[index] = clutter.pictures[int(rng.integers(len(clutter.pictures)))]
    return replace(scene, textures=textures)


def _yaw(rng: np.random.Generator) -> np.ndarray:
    angle = rng.uniform(0, 2 * np.pi)
    return np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])


def _any_turn(rng: np.random.Generator) -> np.ndarray:
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return np.asarray(turn * np.sign(np.linalg.det(turn)))


def cluttered_scene(seed: int, index: int, clutter: Clutter | None, floating: int = 0, rng: np.random.Generator | None = None) -> Scene:
    """Room number `index` with what people bring; without it the room of `build_scene`, and the same furniture. `rng`: of the room."""
    rng = keyed_rng("scene", seed, index) if rng is None else rng

    def put(b: Builder, room: np.ndarray) -> list[tuple[float, float, float, float]]:
        b.rng = keyed_rng("clutter", seed, index)
        return put_meshes(b, room, clutter) if clutter is not None else []

    scene = build_scene(rng, floating, keyed_rng("floating", seed, index), put)
    return scene if clutter is None else with_pictures(scene, clutter, keyed_rng("pictures", seed, index))
