"""Scans of a box room whose colours say where a point is: views show at each pixel the colour of the point that it sees."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from PIL import Image

from sightline.methods.errors import BrokenSampleError, CallError
from sightline.methods.random import keyed_rng
from sightline.platform.data.geometry import intrinsics, reproject
from sightline.platform.data.prepare.pair_sources.scans import Scans, load_scan
from sightline.platform.data.prepare.source import Request
from sightline.platform.data.schema import decode_row
from sightline.platform.data.synthetic.render import camera_pose
from sightline.platform.data.synthetic.scans import Floors, ScanRenderer
from tests.support.made_images import needs

CASES = Path(__file__).resolve().parents[5] / "shared" / "cases"
SIDES = np.array([4.0, 5, 3])
"""Metres of the room, z up."""
Y_UP = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])


def _colour(points: np.ndarray) -> np.ndarray:
    """0 to 255, linear in the place."""
    return 30 + points * (45, 36, 60)


def _walls() -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(corner, two edges) of the six walls, whose triangles face inwards."""
    found = []
    for axis, side in itertools.product(range(3), (0, 1)):
        corner, edges = np.eye(3)[axis] * SIDES * side, np.delete(np.diag(SIDES), axis, 0)
        inwards = np.cross(*edges)[axis] > 0
        found.append((corner, *(edges if inwards != bool(side) else edges[::-1])))
    return found


def _textured(to_file: np.ndarray) -> trimesh.Scene:
    parts = []
    at = (np.arange(64) + 0.5) / 64
    for corner, one, two in _walls():
        vertices = np.stack([corner, corner + one, corner + one + two, corner + two])
        texels = corner + at[None, :, None] * one + at[::-1, None, None] * two  # rows downwards, v upwards
        material = trimesh.visual.material.PBRMaterial(baseColorTexture=Image.fromarray(_colour(texels).round().astype(np.uint8)))
        visual = trimesh.visual.TextureVisuals(uv=[[0, 0], [1, 0], [1, 1], [0, 1]], material=material)
        parts.append(trimesh.Trimesh(vertices @ to_file.T, [[0, 1, 2], [0, 2, 3]], visual=visual, process=False))
    return trimesh.Scene(parts)


def _coloured() -> trimesh.Trimesh:
    vertices = np.concatenate([[corner, corner + one, corner + one + two, corner + two] for corner, one, two in _walls()])
    faces = (np.array([[0, 1, 2], [0, 2, 3]]) + 4 * np.arange(6)[:, None, None]).reshape(-1, 3)
    return trimesh.Trimesh(vertices, faces, vertex_colors=_colour(vertices).round().astype(np.uint8), process=False)


def _write_obj(path: Path) -> None:
    """By hand: a material with a picture for each wall, numbers counted from 1."""
    lines, materials = ["mtllib room.mtl"], []
    for number, part in enumerate(_textured(Y_UP).dump()):
        part.visual.material.baseColorTexture.save(path.with_name(f"wall{number}.png"))
        materials += [f"newmtl wall{number}", "Kd 1 1 1", f"map_Kd wall{number}.png"]
        lines += [f"v {x} {y} {z}" for x, y, z in part.vertices] + [f"vt {u} {v}" for u, v in part.visual.uv] + [f"usemtl wall{number}"]
        lines += ["f " + " ".join(f"{4 * number + corner + 1}/{4 * number + corner + 1}" for corner in face) for face in part.faces]
    path.write_text("\n".join(lines))
    path.with_name("room.mtl").write_text("\n".join(materials))


def _write(folder: Path, kind: str) -> Path:
    path = folder / f"room.{kind}"
    if kind == "ply":
        _coloured().export(path)
    elif kind == "obj":
        _write_obj(path)
    else:
        _textured(Y_UP).export(path)
    return path


@pytest.mark.parametrize("kind", ["glb", "obj", "ply"])
def test_a_view_shows_the_colour_of_the_point_that_it_sees(tmp_path: Path, kind: str) -> None:
    scan = load_scan(str(_write(tmp_path, kind)), "z" if kind == "ply" else "y", 1.0)
    renderer, K = ScanRenderer(scan), intrinsics(40, 40, 70)
    for forward in ((1, 0.2, -0.3), (-0.5, -1, 0.4)):
        pose = camera_pose(np.array([0.3, -0.4, 0.2]), np.array(forward))
        view = renderer.view(pose, K, 40, 40)
        rows, columns = np.mgrid[0:40, 0:40].reshape(2, -1)
        rays = pose[:3, :3] @ (np.linalg.inv(K) @ np.stack([columns, rows, np.ones(len(rows))]))
        points = (rays * view.depth.ravel() + pose[:3, 3:]).T + SIDES / 2
        off = np.minimum(np.abs(points), np.abs(points - SIDES)).min(1)
        assert off.max() < 1e-4, "every point lies on a wall"
        apart = np.abs(view.image.reshape(-1, 3) - _colour(points)).max(1)
        assert np.percentile(apart, 90) < 2 and np.median(apart) < 1


def _rows(place: Path, **options: Any) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    outputs, _ = Scans(size=64, **options).outputs(Request("out", (str(place),), seed=3))
    skips: list[tuple[str, str]] = []
    rows = [dict(row) for shard in outputs[0].shards for row in shard.rows(lambda what, why: skips.append((what, why)))]
    return rows, skips


@pytest.mark.slow
def test_pairs_fit_and_depend_on_nothing_but_their_number(tmp_path: Path) -> None:
    place = _write(tmp_path, "glb")
    rows, skips = _rows(place, pairs_per_scene=3)
    assert len(rows) == 3 and not skips and [row["id"] for row in rows] == [f"room/{i:05d}" for i in range(3)]
    for row in rows:
        sample = decode_row(row, "pairs", depth=True)
        assert 0.5 <= sample["overlap"] <= 1
        flat, x, y, z = reproject(sample["depth1"], sample["K1"], sample["K2"], sample["T_2from1"])
        inside = (z > 0) & (x > 0) & (x < 63) & (y > 0) & (y < 63)
        seen = sample["image2"][y[inside].round().astype(int), x[inside].round().astype(int)].astype(float)
        apart = np.abs(sample["image1"].reshape(-1, 3)[flat[inside]] - seen).max(1)
        assert np.median(apart) < 6 and inside.mean() > 0.3
    alone = next(iter(Scans(size=64, pairs_per_scene=1).outputs(Request("out", (str(place),), seed=3))[0][0].shards))
    assert next(iter(alone.rows(lambda *_: None)))["image1"] == rows[0]["image1"]


def test_places_to_stand_on_are_on_the_floor(tmp_path: Path) -> None:
    room = trimesh.util.concatenate(
        [_coloured(), trimesh.creation.box((1.5, 0.8, 0.05), trimesh.transformations.translation_matrix((2, 2, 0.75)))]
    )
    room.visual.vertex_colors = np.full((len(room.vertices), 4), 200, np.uint8)
    room.export(tmp_path / "room.ply")
    floors = Floors(ScanRenderer(load_scan(str(tmp_path / "room.ply"), "z", 1.0)), keyed_rng("x"))
    assert len(floors.points) > 300 and np.allclose(floors.points[:, 2], -SIDES[2] / 2)
    x, y = (floors.points[:, :2] + SIDES[:2] / 2).T
    assert not ((abs(x - 2) < 0.7) & (abs(y - 2) < 0.35)).any(), "nor under the table"


@pytest.mark.parametrize(
    ("change", "up", "units", "message"),
    [
        (lambda mesh: mesh, "z", 10.0, r"a scan of 0\.5 m across .*--units-per-metre"),
        (lambda mesh: trimesh.Trimesh(mesh.vertices, mesh.faces, process=False), "z", 1.0, "without textures or colours"),
        (lambda mesh: trimesh.PointCloud(mesh.vertices), "z", 1.0, "without triangles"),
    ],
)
def test_what_cannot_be_rendered_is_named(tmp_path: Path, change: Any, up: str, units: float, message: str) -> None:
    change(_coloured()).export(tmp_path / "room.ply")
    with pytest.raises(BrokenSampleError, match=message):
        load_scan(str(tmp_path / "room.ply"), up, units)
    rows, skips = _rows(tmp_path, pairs_per_scene=2, up=up, units_per_metre=units)
    assert not rows and len(skips) == 2


def test_a_thing_is_no_room(tmp_path: Path) -> None:
    """Its inside was taken for one."""
    thing = trimesh.creation.cylinder(0.5, 6)
    thing.visual.vertex_colors = np.full((len(thing.vertices), 4), 200, np.uint8)
    thing.export(tmp_path / "pillar.ply")
    rows, skips = _rows(tmp_path / "pillar.ply", pairs_per_scene=1)
    assert not rows and skips[0][1].startswith("a scan without a floor that faces upwards")


def test_calls_that_name_no_scan(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    for place, message in (
        (tmp_path, "no scan in"),
        (tmp_path / "notes.txt", "is no scan that is read"),
        (tmp_path / "none", "there is no scan"),
    ):
        with pytest.raises(CallError, match=message):
            Scans().outputs(Request("out", (str(place),)))


@needs("../cases/glb-draco")
def test_what_trimesh_leaves_out_is_refused() -> None:
    for path in sorted((CASES / "glb-draco").glob("*.glb")):
        with pytest.raises(BrokenSampleError, match=r"[Dd]raco"):
            load_scan(str(path), "y", 1.0)
