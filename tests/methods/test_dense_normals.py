"""Surface normals: exact from depth and from the renderer, exact in every crop and flip, learned and predicted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tiny_dense import ENCODERS, NARROW

from sightline.methods.catalog import find_method
from sightline.methods.contract import BuildContext
from sightline.methods.dense import normals
from sightline.methods.dense.config import NormalsConfig
from sightline.methods.dense.normal_views import normals_of_depth
from sightline.methods.errors import BrokenSampleError
from sightline.methods.ops.colour_maps import normal_colours
from sightline.methods.ops.dense_metrics import normal_angles
from sightline.methods.optim import OptimConfig
from sightline.methods.random import MicrobatchRng, keyed_rng, sample_rng
from sightline.platform.config import METHOD_SECTIONS
from sightline.platform.data.geometry import intrinsics
from sightline.platform.data.images import decode_depth, encode_depth
from sightline.platform.data.synthetic.render import Renderer, sample_poses
from sightline.platform.data.synthetic.scenes import build_scene

RNG = MicrobatchRng(0, 0, 0)


def config(size: tuple[int, int] = (32, 48), **settings: Any) -> NormalsConfig:
    sections = find_method("croco").Config.model_validate(ENCODERS["croco"]).model_dump(mode="json")
    encoder = {"method": "croco", **{name: sections[name] for name in METHOD_SECTIONS}}
    model = {"encoder": encoder, "image_size": size, **NARROW, **settings.pop("model", {})}
    return NormalsConfig.model_validate({"model": model, **settings})


def plane(normal: tuple[float, float, float], h: int = 40, w: int = 60) -> dict[str, np.ndarray]:
    """A view of the plane with this normal, 2 m away along it."""
    K = intrinsics(h, w, 60.0)
    rows, columns = np.mgrid[:h, :w]
    rays = np.stack([(columns - K[0, 2]) / K[0, 0], (rows - K[1, 2]) / K[1, 1], np.ones((h, w))], axis=-1)
    n = np.array(normal) / np.linalg.norm(normal)
    return {"image1": np.zeros((h, w, 3), np.uint8), "depth1": (-2 / (rays @ n)).astype(np.float32), "K1": K}


@pytest.mark.parametrize("normal", [(0, 0, -1), (0.5, 0.1, -1), (-0.3, -0.6, -1)])
def test_the_normals_of_a_plane_are_exact_in_every_crop_and_flip(normal: tuple[float, float, float]) -> None:
    settings = config(pretext={"window": 3}, augment={"scale": [1.0, 2.0]})
    n = np.array(normal) / np.linalg.norm(normal)
    flips = set()
    for position in range(8):
        found = normals.views(settings)(plane(normal), sample_rng(0, position))["normals"]
        known = found[np.isfinite(found).all(axis=-1)]
        flipped = np.sign(n[0]) != np.sign(known[0, 0]) if n[0] else False
        flips.add(bool(flipped))
        assert np.abs(known - n * ([-1, 1, 1] if flipped else [1, 1, 1])).max() < 2e-3
    assert len(flips) == (2 if n[0] else 1)


def test_edges_and_gaps_have_no_normal() -> None:
    depth = np.full((20, 20), 2.0, np.float32)
    depth[:, 10:], depth[3, 3] = 3.0, 0.0
    found = np.isfinite(normals_of_depth(depth, intrinsics(20, 20, 60.0), 3, 0.005)).all(axis=-1)
    assert not found[2:5, 2:5].any() and not found[:, 9:11].any() and not found[0].any()
    assert found[10, 1:9].all() and found[10, 11:19].all()
    with pytest.raises(BrokenSampleError, match="no normal is known"):
        normals.views(config())({**plane((0, 0, -1)), "depth1": np.zeros((40, 60), np.float32)}, sample_rng(0, 0))


def test_normals_of_stored_depth_are_those_of_the_rendered_surfaces() -> None:
    """The renderer knows the triangle at each pixel; depth is stored in millimetres."""
    renderer, K, size = Renderer(build_scene(keyed_rng("scene", 3, 0))), intrinsics(96, 96, 60.0), 96
    pose = sample_poses(renderer, keyed_rng("view", 3), 60.0, 1)[0]
    surface = renderer.surface(pose, K, size, size)
    corners = renderer.scene.triangles[surface.face].astype(np.float64)
    flat = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]) @ pose[:3, :3]
    rows, columns = np.mgrid[:size, :size].reshape(2, -1)
    rays = np.stack([(columns - K[0, 2]) / K[0, 0], (rows - K[1, 2]) / K[1, 1], np.ones(size * size)], axis=-1)
    flat *= -np.sign((flat * rays).sum(axis=-1, keepdims=True))
    stored = decode_depth(encode_depth(surface.z.reshape(size, size).astype(np.float32)))
    found = normals_of_depth(stored, K, 5, 0.005)
    angles = normal_angles(flat.reshape(1, size, size, 3).transpose(0, 3, 1, 2), found.transpose(2, 0, 1)[None])
    assert np.isfinite(found).all(axis=-1).mean() > 0.6
    assert np.median(angles) < 1.0 and (angles < 11.25).mean() > 0.95, (np.median(angles), (angles < 11.25).mean())


def test_it_learns_measures_and_draws() -> None:
    settings = config()
    pretext: Any = normals.build(settings, BuildContext(seed=0))
    normals.check(settings, BuildContext(seed=0))
    views = normals.views(settings)
    rows = [views(plane(normal), sample_rng(0, 0)) for normal in ((0.5, 0, -1), (0, 0.5, -1), (0, 0, -1))]
    own = pretext.to_device({name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]})
    optimiser = torch.optim.AdamW([{"params": g.params} for g in pretext.param_groups(OptimConfig(lr=2e-3))], lr=2e-3)
    losses = []
    for _ in range(6):
        loss = pretext(own, RNG)["regression"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert {n for n, p in pretext.named_parameters() if p.requires_grad and p.grad is None} == set(), "DDP would wait for them"
    pretext.eval()
    found = pretext.control_metrics(own, {name: t.roll(1, 0) for name, t in own.items()}, RNG)
    assert next(iter(found)) == "mean_angle" and found.keys() == normals.metrics.keys() - {"regression"}
    assert float(found["mean_angle_facing"][0]) == pytest.approx(np.degrees(np.arctan(0.5)), abs=0.2)
    assert float(found["mean_angle_own_mean"].max()) < 0.2
    (picture,) = pretext.visualisations(own, RNG)
    assert picture.image.dtype == np.uint8 and picture.image.ndim == 3
    values = pretext.predicting.of_any_size(torch.rand(1, 3, 50, 90)).values
    assert values.shape == (1, 3, 50, 90) and torch.allclose(torch.linalg.vector_norm(values, dim=1), torch.ones(1, 50, 90), atol=1e-4)


def test_colours_say_where_a_surface_faces() -> None:
    colours = normal_colours(np.array([[1.0, 0, 0], [0, -1, 0], [0, 0, -1], [np.nan, 0, 0]]))
    assert colours.argmax(axis=-1)[:3].tolist() == [0, 1, 2] and not colours[3].any()


def test_the_method_is_found_after_it_was_built() -> None:
    """A submodule of the method's own name would take its place in the package."""
    normals.build(config(), BuildContext(seed=0))
    assert find_method("finetune_normals") is normals
