"""Rendered disparity, flow and occlusion: exact where the scene is asked again, and image 2 moved by them is image 1."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sightline.methods.errors import CallError
from sightline.methods.random import keyed_rng
from sightline.platform.data.displacement import decode_occluded
from sightline.platform.data.geometry import intrinsics, reproject
from sightline.platform.data.prepare.pair_sources.rendered import MatchRows, Rendered, RoomRows
from sightline.platform.data.prepare.source import Request
from sightline.platform.data.schema import decode_row
from sightline.platform.data.synthetic import matches
from sightline.platform.data.synthetic.match_settings import MatchSettings
from sightline.platform.data.synthetic.matches import render_matches
from sightline.platform.data.synthetic.render import Renderer, sample_poses
from sightline.platform.data.synthetic.scenes import PARTS_OF_A_PIECE, Scene, build_scene, moved
from sightline.platform.data.warp import flow_of_disparity, warped

SIZE = 48
STEREO, FLOW = MatchSettings("stereo", SIZE, floating=3), MatchSettings("flow", SIZE, floating=25, moving=25)


@pytest.fixture(scope="module")
def scene() -> Scene:
    return build_scene(keyed_rng("scene", 0, 0), 25, keyed_rng("floating", 0, 0))


@pytest.mark.parametrize("settings", [STEREO, FLOW], ids=["stereo", "flow"])
def test_image_2_moved_by_the_truth_is_image_1_where_it_is_seen(settings: MatchSettings) -> None:
    sample = decode_row(render_matches(0, 0, 1, settings)[0], "pairs", depth=True)
    flow = flow_of_disparity(sample["disparity"]) if settings.truth == "stereo" else sample["flow"]
    there, inside = warped(sample["image2"], flow)
    off = np.abs(there - sample["image1"]).mean(axis=-1)
    seen = inside & ~sample["occluded"]
    unmoved = np.abs(sample["image2"].astype(float) - sample["image1"]).mean()
    assert seen.mean() > 0.6 and 0 < sample["occluded"].mean() < 0.4
    assert np.median(off[seen]) < 6 and off[seen].mean() < 0.35 * unmoved  # JPEG, and edges in the middle of a pixel
    assert off[inside & sample["occluded"]].mean() > 2 * off[seen].mean()
    _, x, y, _ = reproject(sample["depth1"], sample["K1"], sample["K2"], sample["T_2from1"])
    rows, columns = np.mgrid[:SIZE, :SIZE]
    of_camera = np.stack([x.reshape(SIZE, SIZE) - columns, y.reshape(SIZE, SIZE) - rows], axis=-1)
    itself = np.abs(of_camera - flow).max(axis=-1) > 0.05  # stored depth is in whole millimetres
    if settings.truth == "stereo":
        assert not itself.any()
    else:
        by_camera = np.abs(warped(sample["image2"], of_camera)[0] - sample["image1"]).mean(axis=-1)
        assert 0.02 < itself.mean() < 0.5 and off[seen & itself].mean() < 0.6 * by_camera[seen & itself].mean()


def test_flow_leads_to_the_same_point_of_the_moved_scene(scene: Scene) -> None:
    """A ray through the place that the flow names meets the moved point, or, where it is occluded, something before it."""
    renderer, K, rng = Renderer(scene), intrinsics(SIZE, SIZE, 60.0), keyed_rng("test flow")
    (pose,) = sample_poses(renderer, rng, 60.0, 1)
    second, after = matches._a_moment_later(scene, pose, rng), moved(scene, 99, rng)
    later, surface = renderer.showing(after.scene), renderer.surface(pose, K, SIZE, SIZE)
    points = after.after(surface.points, surface.face)
    changed = (np.abs(points - surface.points) > 1e-4).any(axis=-1)
    flow, hidden = matches._flow(points, second, K, SIZE), matches._hidden(later, points, second, K, SIZE).ravel()
    rows, columns = np.mgrid[:SIZE, :SIZE]
    x, y = (columns + flow[..., 0]).ravel(), (rows + flow[..., 1]).ravel()
    way = np.stack([(x - K[0, 2]) / K[0, 0], (y - K[1, 2]) / K[1, 1], np.ones(x.size)], -1) @ second[:3, :3].T
    z = later._cast(second[:3, 3], way)["tfar"]
    found = second[:3, 3] + way * z[:, None]
    inside = (x >= -0.5) & (x < SIZE - 0.5) & (y >= -0.5) & (y < SIZE - 0.5)
    assert changed.sum() > 30 and hidden[~inside].all()
    assert np.abs(found - points)[~hidden].max() < 0.02  # at a grazing angle; mostly far less
    assert np.median(np.abs(found - points)[~hidden]) < 1e-5
    assert (z[hidden & inside] < 0.9995 * ((points - second[:3, 3]) @ second[:3, 2])[hidden & inside]).all()


def test_pieces_move_as_rigid_bodies_and_the_room_stays(scene: Scene) -> None:
    after = moved(scene, 3, keyed_rng("test pieces"))
    piece = scene.part // PARTS_OF_A_PIECE
    gone = np.unique(piece[(after.scene.triangles != scene.triangles).any(axis=(1, 2))])
    assert len(gone) == 3 and 0 not in gone
    sides = [np.linalg.norm(np.diff(one.triangles[piece == gone[0]], axis=1), axis=-1) for one in (scene, after.scene)]
    assert np.allclose(*sides, atol=1e-5) and np.allclose(np.linalg.norm(after.scene.normals, axis=-1), 1, atol=1e-4)


def test_the_same_rooms_with_more_in_the_air_and_another_light(scene: Scene) -> None:
    plain = build_scene(keyed_rng("scene", 0, 0))
    assert np.array_equal(scene.triangles[: len(plain.triangles)], plain.triangles) and np.array_equal(scene.lights, plain.lights)
    light, dark = (render_matches(0, 0, 1, MatchSettings("stereo", 32, exposure=exposure))[0] for exposure in (0.0, 0.5))
    assert dark["disparity"] == light["disparity"] and dark["image1"] != light["image1"] and decode_occluded(dark["occluded"]).any()


def test_options_that_need_another_are_told(tmp_path: Path) -> None:
    request = Request(str(tmp_path))
    (output,), _ = Rendered(scenes=1).outputs(request)
    assert isinstance(output.shards[0], RoomRows)
    (output,), _ = Rendered(scenes=1, flow=True, moving=2).outputs(request)
    assert isinstance(output.shards[0], MatchRows) and output.shards[0].settings.moving == 2
    for wrong in (Rendered(stereo=True, flow=True), Rendered(stereo=True, moving=2), Rendered(floating=2), Rendered(exposure=0.5)):
        with pytest.raises(CallError, match=r"--(stereo|flow)"):
            wrong.outputs(request)
