"""Procedural indoor scenes: a furnished room as triangles with texture coordinates. Everything follows from the generator handed in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import trimesh

from . import textures
from .textures import Texture

_ANY = (*textures.WALLS, *textures.FLOORS, *textures.SOFT, textures.poster, textures.books, textures.leaves)
SMALL, CLEARANCE = 0.9, 0.1
"""Metres: the longest side of what may move, and how far from the walls it is."""
PARTS_OF_A_PIECE = 7
"""Numbers of `part` that a box, cylinder or ball has."""
Point: TypeAlias = np.ndarray | list[float]


@dataclass(frozen=True)
class Scene:
    """F triangles in metres, z up, the floor at z = 0 and the room from (0, 0, 0) to `room`."""

    triangles: np.ndarray
    """F x 3 corners x 3."""
    normals: np.ndarray
    """F x 3 corners x 3; equal at the corners of flat faces."""
    uv: np.ndarray
    """F x 3 corners x 2, in repeats of the texture."""
    part: np.ndarray
    """F, the flat or curved piece that a triangle belongs to; an edge in a picture is where it changes."""
    material: np.ndarray
    """F, index into `textures`."""
    textures: np.ndarray
    """M x S x S x 3 float32 in [0, 1]."""
    glow: np.ndarray
    """M, 1 for what shines by itself (windows, lamps)."""
    room: np.ndarray
    lights: np.ndarray
    """L x 3 positions."""
    blocked: np.ndarray
    """B x 4 footprints (x0, y0, x1, y1) of furniture, where no one can stand."""

    def is_free(self, place: np.ndarray, margin: float = 0.3) -> bool:
        x, y = place[:2]
        if not (margin < x < self.room[0] - margin and margin < y < self.room[1] - margin):
            return False
        x0, y0, x1, y1 = self.blocked.T if len(self.blocked) else np.zeros((4, 0))
        return not bool(((x > x0 - margin) & (x < x1 + margin) & (y > y0 - margin) & (y < y1 + margin)).any())


@dataclass(frozen=True)
class Moved:
    """A scene a moment later."""

    scene: Scene
    pieces: np.ndarray
    """P x 4 x 4: where a point of each piece is afterwards."""

    def after(self, points: np.ndarray, face: np.ndarray) -> np.ndarray:
        """Where the points N x 3 of these triangles of the scene before are afterwards."""
        motion = self.pieces[self.scene.part[face] // PARTS_OF_A_PIECE]
        moved: np.ndarray = np.einsum("nij,nj->ni", motion[:, :3, :3], points) + motion[:, :3, 3]
        return moved


def moved(scene: Scene, count: int, rng: np.random.Generator) -> Moved:
    """Up to `count` small pieces that do not touch the room are turned and shifted a little."""
    piece = scene.part // PARTS_OF_A_PIECE
    pieces = np.tile(np.eye(4), (int(piece.max()) + 1, 1, 1))
    corners = scene.triangles.reshape(-1, 3)
    of_corner = np.repeat(piece, 3)
    low, high = np.full((len(pieces), 3), np.inf), np.full((len(pieces), 3), -np.inf)
    np.minimum.at(low, of_corner, corners)
    np.maximum.at(high, of_corner, corners)
    free = (high - low).max(axis=1) < SMALL
    free &= (low[:, :2] > CLEARANCE).all(axis=1) & (high[:, :2] < scene.room[:2] - CLEARANCE).all(axis=1)
    for chosen in rng.permutation(np.flatnonzero(free))[:count]:
        centre, axis = (low[chosen] + high[chosen]) / 2, rng.normal(size=3)
        turn = trimesh.transformations.rotation_matrix(  # type: ignore[no-untyped-call]
            np.radians(rng.uniform(3, 15)), axis, centre
        )
        turn[:3, 3] += rng.normal(0, 0.06, 3)
        pieces[chosen] = turn
    of_face = pieces[piece]
    triangles = np.einsum("fij,fcj->fci", of_face[:, :3, :3], scene.triangles) + of_face[:, None, :3, 3]
    normals = np.einsum("fij,fcj->fci", of_face[:, :3, :3], scene.normals)
    return Moved(replace(scene, triangles=triangles.astype(np.float32), normals=normals.astype(np.float32)), pieces)


class Builder:
    """Collects pieces and materials of a room."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.pieces: list[tuple[np.ndarray, ...]] = []
        self.pictures: list[np.ndarray] = []
        self.glow: list[float] = []
        self.parts = 0

    def material(self, texture: Texture, glow: float = 0.0) -> int:
        self.pictures.append(np.clip(texture(self.rng), 0, 1).astype(np.float32))
        self.glow.append(glow)
        return len(self.pictures) - 1

    def one_of(self, choices: tuple[Texture, ...]) -> int:
        return self.material(choices[int(self.rng.integers(len(choices)))])

    def any_material(self) -> int:
        return self.one_of(_ANY)

    def mesh(self, triangles: np.ndarray, centre: np.ndarray, material: int, repeats: float) -> None:
        """A piece of any form: F x 3 corners x 3, placed at `centre`. Triangles without an area are left out; all faces are flat."""
        across = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
        length = np.linalg.norm(across, axis=-1)
        kept = length > 1e-12
        size = np.ptp(triangles.reshape(-1, 3), axis=0)
        self._add(triangles[kept], across[kept] / length[kept, None], centre, size, material, repeats, 0.0)

    def box(
        self, low: np.ndarray | list[float], high: np.ndarray | list[float], material: int, repeats: float = 1.0, turn: float = 0.0
    ) -> None:
        """`repeats` of the texture a metre; 0 stretches it once over each side."""
        low, high = np.asarray(low, float), np.asarray(high, float)
        mesh = trimesh.creation.box(extents=high - low)
        self._add(mesh.triangles, mesh.face_normals, (low + high) / 2, high - low, material, repeats, turn)

    def cylinder(self, base: list[float], radius: float, height: float, material: int, repeats: float = 1.0) -> None:
        mesh = trimesh.creation.cylinder(radius=radius, height=height, sections=24)
        size, centre = np.array([2 * radius, 2 * radius, height]), np.array([base[0], base[1], base[2] + height / 2])
        self._add(mesh.triangles, mesh.face_normals, centre, size, material, repeats, 0.0, round_axes=(1, 1, 0))

    def sphere(self, centre: list[float], radius: float, material: int, repeats: float = 1.0) -> None:
        mesh = trimesh.creation.icosphere(subdivisions=2, radius=radius)
        self._add(mesh.triangles, mesh.face_normals, np.array(centre), np.full(3, 2 * radius), material, repeats, 0.0, round_axes=(1, 1, 1))

    def _add(
        self,
        triangles: np.ndarray,
        face_normals: np.ndarray,
        centre: np.ndarray,
        size: np.ndarray,
        material: int,
        repeats: float,
        turn: float,
        round_axes: tuple[int, int, int] | None = None,
    ) -> None:
        axis = np.abs(face_normals).argmax(-1)
        axis[np.abs(face_normals[:, 2]) < 0.6] = np.abs(face_normals[np.abs(face_normals[:, 2]) < 0.6, :2]).argmax(-1)
        across, down = np.where(axis == 0, 1, 0), np.where(axis == 2, 1, 2)
        faces = np.arange(len(triangles))
        local = triangles * repeats if repeats else triangles / size + 0.5
        uv = np.stack([local[faces, :, across], -local[faces, :, down]], -1)  # pictures stand upright on walls
        normals = np.repeat(face_normals[:, None], 3, 1)
        part = self.parts + axis * 2 + (face_normals[faces, axis] > 0)
        if round_axes is not None:
            radial = triangles * np.array(round_axes)
            curved = np.ones(len(faces), bool) if all(round_axes) else np.abs(face_normals[:, 2]) < 0.5
            normals[curved] = radial[curved] / np.linalg.norm(radial[curved], axis=-1, keepdims=True)
            part[curved] = self.parts + 6
        if turn:
            rotation = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
            triangles, normals = triangles @ rotation.T, normals @ rotation.T
        self.pieces.append((triangles + centre, normals, uv, part, np.full(len(faces), material)))
        self.parts += PARTS_OF_A_PIECE


def build_scene(
    rng: np.random.Generator,
    floating: int = 0,
    floating_rng: np.random.Generator | None = None,
    put: Callable[[Builder, np.ndarray], list[tuple[float, float, float, float]]] | None = None,
) -> Scene:
    """One furnished room: textured shell, pictures and windows on the walls, a rug, furniture along the walls and in the middle.

    `floating`: as many things hang in the air, drawn from a generator of their own, so that the room is the same with and without.
    `put` is given the builder and the room's size, and adds pieces with a generator of its own; it gives their footprints on the floor.
    """
    b = Builder(rng)
    room = np.array([rng.uniform(3.6, 6.5), rng.uniform(3.6, 6.5), rng.uniform(2.5, 3.0)])
    _shell(b, room)
    _decorate_walls(b, room)
    blocked = _furnish(b, room)
    if floating:
        b.rng = rng if floating_rng is None else floating_rng
        _float(b, room, floating)
    if put is not None:
        blocked = [*blocked, *put(b, room)]
    triangles, normals, uv, part, material = (np.concatenate(columns) for columns in zip(*b.pieces, strict=True))
    lights = np.stack([np.array([rng.uniform(0.25, 0.75), rng.uniform(0.25, 0.75), 0.8]) * room for _ in range(2)])
    return Scene(
        triangles=triangles.astype(np.float32),
        normals=normals.astype(np.float32),
        uv=uv.astype(np.float32),
        part=part,
        material=material,
        textures=np.stack(b.pictures),
        glow=np.array(b.glow, np.float32),
        room=room,
        lights=lights,
        blocked=np.array(blocked).reshape(-1, 4),
    )


def _shell(b: Builder, room: np.ndarray) -> None:
    x, y, z = room
    papers = [b.one_of(textures.WALLS) for _ in range(2)]
    for index, (low, high) in enumerate(
        [([-0.1, 0, 0], [0, y, z]), ([x, 0, 0], [x + 0.1, y, z]), ([0, -0.1, 0], [x, 0, z]), ([0, y, 0], [x, y + 0.1, z])]
    ):
        b.box(low, high, papers[int(index == int(b.rng.integers(4)))], repeats=b.rng.uniform(0.5, 0.9))
    b.box([0, 0, -0.1], [x, y, 0], b.one_of(textures.FLOORS), repeats=b.rng.uniform(0.5, 0.9))
    b.box([0, 0, z], [x, y, z + 0.1], b.material(textures.whitewash), repeats=0.6)
    skirting = b.material(textures.whitewash)
    for low, high in [
        ([0, 0, 0], [x, 0.02, 0.1]),
        ([0, y - 0.02, 0], [x, y, 0.1]),
        ([0, 0, 0], [0.02, y, 0.1]),
        ([x - 0.02, 0, 0], [x, y, 0.1]),
    ]:
        b.box(low, high, skirting)


def _decorate_walls(b: Builder, room: np.ndarray) -> None:
    """Pictures and windows in slots along each wall, so that they do not lie over each other."""
    for wall in range(4):
        length = room[1 - wall // 2]
        slots = int(length // 1.1)
        for slot in range(slots):
            kind = b.rng.random()
            if kind < 0.2:
                continue
            width, height = b.rng.uniform(0.45, 0.95), b.rng.uniform(0.45, 1.1)
            middle = (slot + 0.5) * length / slots + b.rng.uniform(-0.06, 0.06)
            bottom = b.rng.uniform(0.9, max(1.0, room[2] - height - 0.15))
            texture, thick = (textures.window, 0.03) if kind > 0.82 else (textures.poster, 0.025)
            material = b.material(texture, glow=0.75 if texture is textures.window else 0.0)
            near, far = (0.0, thick) if wall % 2 == 0 else (room[wall // 2] - thick, room[wall // 2])
            low, high = np.array([near, middle - width / 2, bottom]), np.array([far, middle + width / 2, bottom + height])
            if wall >= 2:
                low[[0, 1]], high[[0, 1]] = low[[1, 0]], high[[1, 0]]
            b.box(low, high, material, repeats=0)


def _furnish(b: Builder, room: np.ndarray) -> list[tuple[float, float, float, float]]:
    rng = b.rng
    taken: list[tuple[float, float, float, float]] = []
    width, length = rng.uniform(1.2, 2.2), rng.uniform(1.2, 2.2)
    at = np.array([rng.uniform(0.3, max(0.31, room[0] - width - 0.3)), rng.uniform(0.3, max(0.31, room[1] - length - 0.3))])
    b.box([*at, 0], [at[0] + width, at[1] + length, 0.015], b.one_of(textures.RUGS), repeats=0)
    makers = [_cabinet, _shelf, _table, _sofa, _plant, _lamp, _crates, _balls]
    for _ in range(int(rng.integers(7, 12))):
        make = makers[int(rng.integers(len(makers)))]
        size = {_shelf: (0.9, 0.35), _cabinet: (1.0, 0.45), _table: (1.2, 0.7), _sofa: (1.6, 0.75)}.get(make, (0.5, 0.5))
        size = size if rng.random() < 0.5 else size[::-1]
        for _ in range(12):
            place = rng.random(2) * (room[:2] - np.array(size))
            if rng.random() < 0.75:  # most furniture stands along a wall
                side = int(rng.integers(2))
                place[side] = 0.03 if rng.random() < 0.5 else room[side] - size[side] - 0.03
            box = (place[0], place[1], place[0] + size[0], place[1] + size[1])
            if all(box[2] < o[0] - 0.1 or box[0] > o[2] + 0.1 or box[3] < o[1] - 0.1 or box[1] > o[3] + 0.1 for o in taken):
                make(b, *box)
                taken.append(box)
                break
    return taken


def _cabinet(b: Builder, x0: float, y0: float, x1: float, y1: float) -> None:
    height = b.rng.uniform(0.7, 1.3)
    b.box([x0, y0, 0], [x1, y1, height], b.one_of(textures.WOODS), repeats=b.rng.uniform(0.8, 1.6))
    _clutter(b, x0, y0, x1, y1, height)


def _shelf(b: Builder, x0: float, y0: float, x1: float, y1: float) -> None:
    b.box([x0, y0, 0], [x1, y1, b.rng.uniform(1.4, 2.1)], b.material(textures.books), repeats=0)


def _table(b: Builder, x0: float, y0: float, x1: float, y1: float) -> None:
    wood, height = b.one_of(textures.WOODS), b.rng.uniform(0.5, 0.8)
    b.box([x0, y0, height - 0.05], [x1, y1, height], wood, repeats=1.2)
    for x in (x0 + 0.04, x1 - 0.1):
        for y in (y0 + 0.04, y1 - 0.1):
            b.box([x, y, 0], [x + 0.06, y + 0.06, height - 0.05], wood, repeats=3)
    _clutter(b, x0, y0, x1, y1, height)


def _sofa(b: Builder, x0: float, y0: float, x1: float, y1: float) -> None:
    cloth = b.one_of(textures.SOFT)
    b.box([x0, y0, 0.05], [x1, y1, 0.42], cloth, repeats=1.3)
    if x1 - x0 > y1 - y0:
        b.box([x0, y0, 0.42], [x1, y0 + 0.2, 0.85], cloth, repeats=1.3)
    else:
        b.box([x0, y0, 0.42], [x0 + 0.2, y1, 0.85], cloth, repeats=1.3)
    middle = np.array([(x0 + x1) / 2, (y0 + y1) / 2])
    b.box([*(middle - 0.18), 0.42], [*(middle + 0.18), 0.56], b.one_of(textures.SOFT), repeats=2.5, turn=b.rng.uniform(0, 1.5))


def _plant(b: Builder, x0: float, y0: float, x1: float, y1: float) -> None:
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    b.cylinder([x, y, 0], 0.17, 0.35, b.one_of(textures.WALLS), repeats=2)
    green = b.material(textures.leaves)
    for _ in range(4):
        dx, dy = b.rng.uniform(-0.13, 0.13, 2)
        b.sphere([x + dx, y + dy, b.rng.uniform(0.55, 1.1)], b.rng.uniform(0.15, 0.26), green, repeats=1.5)


def _lamp(b: Builder, x0: float, y0: float, x1: float, y1: float) -> None:
    x, y, height = (x0 + x1) / 2, (y0 + y1) / 2, b.rng.uniform(1.3, 1.7)
    metal = b.material(textures.marble)
    b.cylinder([x, y, 0], 0.16, 0.04, metal)
    b.cylinder([x, y, 0.04], 0.025, height, metal)
    b.cylinder([x, y, height], 0.2, 0.28, b.material(textures.stripes, glow=0.5), repeats=1.5)


def _crates(b: Builder, x0: float, y0: float, x1: float, y1: float) -> None:
    bottom = 0.0
    for _ in range(int(b.rng.integers(1, 4))):
        side = b.rng.uniform(0.28, 0.42)
        centre = np.array([(x0 + x1) / 2, (y0 + y1) / 2])
        b.box(
            [*(centre - side / 2), bottom],
            [*(centre + side / 2), bottom + side],
            b.one_of((textures.poster, textures.planks)),
            0,
            b.rng.uniform(0, 1.5),
        )
        bottom += side


def _balls(b: Builder, x0: float, y0: float, x1: float, y1: float) -> None:
    for x, y in ((x0 + 0.12, y0 + 0.14), (x1 - 0.15, y1 - 0.13)):
        radius = b.rng.uniform(0.1, 0.17)
        b.sphere([x, y, radius], radius, b.one_of(textures.SOFT), repeats=3)


def _float(b: Builder, room: np.ndarray, count: int) -> None:
    """Boxes, cylinders and balls anywhere in the air, with any texture."""
    rng = b.rng
    for _ in range(count):
        centre = rng.uniform([0.5, 0.5, 0.4], room - [0.5, 0.5, 0.4])
        material, half = b.any_material(), rng.uniform(0.06, 0.22, 3)
        kind = int(rng.integers(3))
        if kind == 0:
            b.box(centre - half, centre + half, material, rng.uniform(1, 5), rng.uniform(0, 1.5))
        elif kind == 1:
            b.cylinder([*centre[:2], centre[2] - half[2]], half[0], 2 * half[2], material, rng.uniform(1, 5))
        else:
            b.sphere(list(centre), half[0], material, rng.uniform(1, 5))


def _clutter(b: Builder, x0: float, y0: float, x1: float, y1: float, height: float) -> None:
    """Small things on top of furniture."""
    rng = b.rng
    for _ in range(int(rng.integers(2, 5))):
        x, y = rng.uniform(x0 + 0.12, x1 - 0.12), rng.uniform(y0 + 0.12, y1 - 0.12)
        kind, material = int(rng.integers(3)), b.one_of((*textures.SOFT, textures.poster, textures.marble))
        if kind == 0:
            half, tall = rng.uniform(0.05, 0.12), rng.uniform(0.08, 0.3)
            b.box([x - half, y - half * 0.8, height], [x + half, y + half * 0.8, height + tall], material, 0, rng.uniform(0, 1.5))
        elif kind == 1:
            b.cylinder([x, y, height], rng.uniform(0.04, 0.1), rng.uniform(0.1, 0.35), material, repeats=4)
        else:
            radius = rng.uniform(0.06, 0.12)
            b.sphere([x, y, height + radius], radius, material, repeats=4)
