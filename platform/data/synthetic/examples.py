"""Small files as people have them before `sightline prepare`: labelled photographs, a filmed room with depth and poses, labelled meshes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import trimesh

from sightline.methods.random import keyed_rng
from sightline.platform.data.geometry import intrinsics
from sightline.platform.data.images import encode_depth, encode_image

from . import textures
from .render import Renderer, camera_pose
from .scenes import build_scene
from .textures import Texture

MATERIALS: dict[str, Texture] = {name: getattr(textures, name) for name in ("bricks", "fabric", "marble", "planks", "stones", "wallpaper")}
"""Class of a photograph -> what it shows."""
PHOTOS, PHOTO_SIZE = 40, (120, 160)
"""Photographs of each class; (height, width) in pixels."""
FRAMES, FRAME_SIZE, FRAME_FOV = 120, 128, 60.0
"""Frames of the film; their side in pixels; degrees across."""
SHAPES = 20
"""Meshes of each class."""
CAMERAS_HEAD: dict[str, Any] = {
    "convention": "K in pixels of the stored image, pixel centres at whole numbers; cam_to_world with x right, y down, z forward",
    "unit": "metres",
    "distortion": None,
}


def write_examples(folder: Path) -> dict[str, int]:
    """Write the examples below `folder`, the same bytes every time. Returns the number of files by sub-folder."""
    return {"photos": _photos(folder / "photos"), "room": _room(folder / "room"), "shapes": _shapes(folder / "shapes")}


def _photos(folder: Path) -> int:
    """`CLASS/000.jpg`: a material, turned, at some distance, lit from one side."""
    for name, texture in MATERIALS.items():
        for index in range(PHOTOS):
            rng = keyed_rng("example photo", name, index)
            _write(folder / name / f"{index:03d}.jpg", encode_image(_photo(texture, rng), 90))
    return len(MATERIALS) * PHOTOS


def _photo(texture: Texture, rng: np.random.Generator) -> np.ndarray:
    height, width = PHOTO_SIZE
    rows, columns = np.mgrid[0:height, 0:width] - np.array([height, width])[:, None, None] / 2
    angle, scale = rng.uniform(-0.5, 0.5), rng.uniform(0.5, 1.2)
    x = scale * (np.cos(angle) * columns - np.sin(angle) * rows) + rng.uniform(0, textures.SIZE)
    y = scale * (np.sin(angle) * columns + np.cos(angle) * rows) + rng.uniform(0, textures.SIZE)
    picture = np.clip(texture(rng), 0, 1)[y.astype(int) % textures.SIZE, x.astype(int) % textures.SIZE]
    light = 0.8 + (rng.uniform(-0.3, 0.3) * columns / width + rng.uniform(-0.3, 0.3) * rows / height)[..., None]
    grain = 0.02 * rng.standard_normal(picture.shape)
    pixels: np.ndarray = (np.clip(picture * light + grain, 0, 1) * 255).round().astype(np.uint8)
    return pixels


def _room(folder: Path) -> int:
    """`images/0000.jpg`, `depth/0000.png` (16 bits, millimetres) and `cameras.json`: a walk in a circle, turning once."""
    rng = keyed_rng("example room")
    scene = build_scene(rng)
    renderer, K = Renderer(scene), intrinsics(FRAME_SIZE, FRAME_SIZE, FRAME_FOV)
    places = np.stack([rng.uniform(1.0, side - 1.0, 400) for side in scene.room[:2]], axis=1)
    centre = max(places, key=lambda place: max((margin for margin in np.arange(0.3, 1.5, 0.05) if scene.is_free(place, margin)), default=0))
    frames = []
    for index in range(FRAMES):
        turn = 2 * np.pi * index / FRAMES
        place = np.array([*(centre + 0.25 * np.array([np.cos(turn), np.sin(turn)])), 1.5 + 0.1 * np.sin(3 * turn)])
        pose = camera_pose(place, np.array([np.cos(turn), np.sin(turn), -0.15]))
        view = renderer.view(pose, K, FRAME_SIZE, FRAME_SIZE)
        names = {"file": f"images/{index:04d}.jpg", "depth": f"depth/{index:04d}.png"}
        _write(folder / names["file"], encode_image(view.image, 92))
        _write(folder / names["depth"], encode_depth(view.depth))
        where = {"K": K.round(4).tolist(), "cam_to_world": pose.round(6).tolist(), "time_s": round(index / 10, 2)}
        frames.append({**names, "width": FRAME_SIZE, "height": FRAME_SIZE, **where})
    _write(folder / "cameras.json", json.dumps({**CAMERAS_HEAD, "frames": frames}, indent=1).encode())
    return 2 * FRAMES + 1


def _shapes(folder: Path) -> int:
    """`CLASS/000.obj`: a solid, stretched and turned."""
    made: dict[str, Callable[[], trimesh.Trimesh]] = {
        "ball": lambda: trimesh.creation.icosphere(subdivisions=2),
        "box": lambda: trimesh.creation.box(extents=(1.5, 1.5, 1.5)),
        "capsule": lambda: trimesh.creation.capsule(height=2.0, radius=0.5, count=(12, 12)),
        "cone": lambda: trimesh.creation.cone(radius=1.0, height=2.0, sections=24),
        "ring": lambda: trimesh.creation.torus(major_radius=1.0, minor_radius=0.3, major_sections=24, minor_sections=12),
        "tube": lambda: trimesh.creation.annulus(r_min=0.6, r_max=0.9, height=2.0, sections=24),
    }
    for name, make in made.items():
        for index in range(SHAPES):
            rng = keyed_rng("example shape", name, index)
            mesh = make()
            angle = rng.uniform(0, 2 * np.pi)
            turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
            mesh.vertices = (mesh.vertices * rng.uniform(0.7, 1.4, 3)) @ turn.T
            _write(folder / name / f"{index:03d}.obj", str(mesh.export(file_type="obj", header=None, digits=5)).encode())
    return len(made) * SHAPES


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
