"""Rooms with meshes and photographs that people bring: exact truth, the same room otherwise, and what cannot be used is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import trimesh

from sightline.methods.errors import BrokenSampleError, CallError
from sightline.methods.random import keyed_rng
from sightline.platform.data.images import encode_image
from sightline.platform.data.prepare.pair_sources.own_clutter import MESHES, MOST_FACES, OwnFiles, own_clutter
from sightline.platform.data.remarks import collected
from sightline.platform.data.schema import decode_row
from sightline.platform.data.synthetic.clutter import Clutter, cluttered_scene
from sightline.platform.data.synthetic.match_settings import MatchSettings
from sightline.platform.data.synthetic.matches import render_matches
from sightline.platform.data.synthetic.scenes import build_scene
from sightline.platform.data.warp import flow_of_disparity, warped

SIZE = 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files written by trimesh: a tall box in three formats, of which GLB and OBJ have y up, a ball, and what is no mesh."""
    out = tmp_path_factory.mktemp("meshes")
    trimesh.creation.box(extents=[1, 4, 1]).export(out / "box.glb")
    trimesh.creation.box(extents=[1, 4, 1]).export(out / "box.obj")
    trimesh.creation.box(extents=[1, 1, 4]).export(out / "box.ply")
    trimesh.creation.icosphere(2).export(out / "ball.stl")
    (out / "broken.obj").write_text("v 0 0 0\nf 1 2 9\n")
    (out / "photo.jpg").write_bytes(encode_image(np.random.default_rng(0).integers(0, 255, (90, 60, 3), dtype=np.uint8)))
    return out


@pytest.fixture(scope="module")
def clutter(folder: Path) -> Clutter:
    found = own_clutter(OwnFiles.of(str(folder), MESHES, "meshes", "--meshes"), OwnFiles.of(str(folder), (".jpg",), "", ""), 12)
    assert found is not None
    return found


def test_what_cannot_be_used_is_told_and_what_is_left_stands_upright(folder: Path) -> None:
    files = OwnFiles.of(str(folder), MESHES, "meshes", "--meshes")
    with collected() as remarks:
        found = own_clutter(OwnFiles(files.folder, files.names, "another digest, so that nothing is kept"), None, 1)
    assert found is not None and len(found.meshes) == 4
    assert any("broken.obj" in text for text in remarks)
    tall = [np.ptp(mesh.reshape(-1, 3), axis=0) for mesh in found.meshes if len(mesh) == 12]
    assert len(tall) == 3 and all(np.allclose(size, [1, 1, 4]) for size in tall)
    with pytest.raises(BrokenSampleError, match="none of the 1 files"):
        own_clutter(OwnFiles(files.folder, ("broken.obj",), ""), None, 1)
    with pytest.raises(CallError, match="no such folder"):
        OwnFiles.of(str(folder / "no"), MESHES, "meshes", "--meshes")
    assert MOST_FACES > 1000


def test_the_room_is_the_same_with_and_without(clutter: Clutter) -> None:
    plain, own = build_scene(keyed_rng("scene", 0, 0)), cluttered_scene(0, 0, clutter)
    count = len(plain.triangles)
    assert np.array_equal(own.triangles[:count], plain.triangles) and len(own.triangles) > count + 11 * 12
    assert np.array_equal(own.lights, plain.lights) and len(own.blocked) > len(plain.blocked)
    inside = own.triangles[count:].reshape(-1, 3)
    assert (inside > -1e-3).all() and (inside < own.room + 1e-3).all()
    changed = (own.textures[: len(plain.textures)] != plain.textures).any(axis=(1, 2, 3))
    assert 0.2 < changed.mean() < 0.8 and not changed[plain.glow > 0].any()
    untouched = cluttered_scene(0, 0, None)
    assert all(np.array_equal(getattr(untouched, name), getattr(plain, name)) for name in ("triangles", "textures", "blocked", "lights"))


@pytest.mark.parametrize("truth", ["stereo", "flow"])
def test_image_2_moved_by_the_truth_is_image_1(clutter: Clutter, truth: str) -> None:
    settings = MatchSettings("stereo" if truth == "stereo" else "flow", SIZE, moving=0 if truth == "stereo" else 10)
    sample = decode_row(render_matches(0, 1, 1, settings, clutter)[0], "pairs")
    flow = flow_of_disparity(sample["disparity"]) if truth == "stereo" else sample["flow"]
    there, inside = warped(sample["image2"], flow)
    off, seen = np.abs(there - sample["image1"]).mean(axis=-1), inside & ~sample["occluded"]
    unmoved = np.abs(sample["image2"].astype(float) - sample["image1"]).mean()
    assert seen.mean() > 0.5 and off[seen].mean() < 0.4 * unmoved
