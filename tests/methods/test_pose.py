"""Fine-tuning for relative pose: exact geometry in every crop, flip and swap, losses and metrics, encoders of every method."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tiny_dense import ENCODERS

from sightline.methods.catalog import find_method
from sightline.methods.contract import Batch, BuildContext, TakesPairs
from sightline.methods.errors import BrokenSampleError
from sightline.methods.ops.pose_metrics import angles_between, rotation_angles
from sightline.methods.optim import OptimConfig
from sightline.methods.pose import pose
from sightline.methods.pose.config import PoseConfig
from sightline.methods.pose.pretext import rotation_of
from sightline.methods.pose.views import PosedPair, relative_intrinsics
from sightline.methods.random import MicrobatchRng, sample_rng
from sightline.platform.config import METHOD_SECTIONS

RNG = MicrobatchRng(0, 0, 0)


def config(method: str = "croco", size: tuple[int, int] = (32, 48), **settings: Any) -> PoseConfig:
    sections = find_method(method).Config.model_validate(ENCODERS[method]).model_dump(mode="json")
    encoder = {"method": method, **{section: sections[section] for section in METHOD_SECTIONS}}
    small = {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2, "hidden": 16}
    return PoseConfig.model_validate({"model": {"encoder": encoder, "image_size": size, **small, **settings.pop("model", {})}, **settings})


def turned(degrees: float, axis: int = 1) -> np.ndarray:
    angle, rest = np.radians(degrees), [one for one in range(3) if one != axis]
    rotation = np.eye(3)
    rotation[np.ix_(rest, rest)] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return rotation


def sample(height: int = 60, width: int = 90, degrees: float = 10.0) -> dict[str, np.ndarray]:
    """Images whose green and blue say where a pixel stood, in steps of 1/2; two cameras that differ in everything."""
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([rows * 0 + 40, rows * 2 % 256, columns * 2 % 256], axis=-1).astype(np.uint8)
    true = np.eye(4)
    true[:3, :3], true[:3, 3] = turned(degrees) @ turned(5, 0), [0.3, -0.1, 0.2]
    K1 = np.array([[80.0, 0.5, 41], [0, 82, 33], [0, 0, 1]])
    K2 = np.array([[70.0, 0, 47], [0, 71, 28], [0, 0, 1]])
    return {"image1": image, "image2": image.copy(), "K1": K1, "K2": K2, "T_2from1": true}


def batch(settings: PoseConfig, samples: int = 3) -> Batch:
    views = pose.views(settings)
    rows = [views(sample(degrees=9.0 * (i - 1)), sample_rng(0, i)) for i in range(samples)]
    return {name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]}


def original(pixels: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Where the pixel of a crop stood in its file, (x, y), by its colour."""
    column, row = pixels.round().astype(int)
    return image[row, column, [2, 1]].astype(float) / 2


@pytest.mark.parametrize("size", [(60, 90), (100, 40)])
def test_a_point_is_seen_at_the_same_place_of_both_files_after_every_crop_flip_and_swap(size: tuple[int, int]) -> None:
    """Points of the first camera of a crop, seen by its K and pose, must be those that the files' own K and pose see in these pixels."""
    views, whole = pose.views(config(size=(32, 32), augment={"scale": [1.0, 1.6]})), sample(*size)
    kinds = set()
    for position in range(16):
        made = views(whole, sample_rng(1, position))
        flipped = bool(made["image1"][4, 4, 2] > made["image1"][4, -5, 2])
        for x, y in ((10.0, 9.0), (20.0, 22.0)):
            ray = np.linalg.inv(made["K1"].astype(float)) @ (round(x), round(y), 1.0)
            seen = made["K2"] @ (made["pose"][:3, :3] @ (ray * 3) + made["pose"][:3, 3])
            place = original(np.array([x, y]), made["image1"])
            swapped_back = {}
            for swapped in (False, True):
                K, other = (whole["K2"], whole["K1"]) if swapped else (whole["K1"], whole["K2"])
                true = np.linalg.inv(whole["T_2from1"]) if swapped else whole["T_2from1"]
                there = other @ (true[:3, :3] @ (np.linalg.inv(K) @ (*place, 1.0) * 3) + true[:3, 3])
                target = seen[:2] / seen[2]
                if not (target.min() >= 1 and target.max() <= 30):
                    continue
                swapped_back[swapped] = np.abs(original(target, made["image2"]) - there[:2] / there[2]).max()
            if swapped_back:
                assert min(swapped_back.values()) < 2.5, "half a pixel of the crop and of the colours, each way"
                kinds.add((flipped, min(swapped_back, key=lambda key: swapped_back[key])))
    assert len(kinds) == 4, "every flip and swap was drawn"


def test_flips_and_swaps_undo_themselves_and_change_the_pose() -> None:
    whole = sample()
    pair = PosedPair(whole["image1"], whole["image2"], whole["K1"], whole["K2"], whole["T_2from1"])
    for change in (PosedPair.flipped, PosedPair.swapped):
        once, twice = change(pair), change(change(pair))
        assert all(np.allclose(getattr(twice, name), getattr(pair, name)) for name in ("image1", "image2", "K1", "K2", "pose"))
        assert np.linalg.det(once.pose[:3, :3]) == pytest.approx(1) and not np.allclose(once.pose, pair.pose)
    points = np.random.default_rng(0).uniform((-1, -1, 2), (1, 1, 4), (5, 3)).T
    mirrored, flipped = points * [[-1], [1], [1]], pair.flipped()
    there = whole["T_2from1"][:3, :3] @ points + whole["T_2from1"][:3, 3:]
    for K, own, seen, also in (
        (pair.K1, points, flipped.K1, mirrored),
        (pair.K2, there, flipped.K2, flipped.pose[:3, :3] @ mirrored + flipped.pose[:3, 3:]),
    ):
        (x, y, z), (u, v, w) = K @ own, seen @ also
        assert np.allclose(u / w, 89 - x / z) and np.allclose(v / w, y / z)
    assert np.allclose(pair.swapped().pose @ pair.pose, np.eye(4))


def test_what_is_no_camera_is_said() -> None:
    whole, views = sample(), pose.views(config())
    for name, value, said in (
        ("T_2from1", np.diag([1.0, 1, -1, 1]), "no rotation"),
        ("T_2from1", np.diag([2.0, 2, 2, 1]), "no rotation"),
        ("T_2from1", np.full((4, 4), np.nan), "no rotation"),
        ("K2", np.diag([0.0, 5, 1]), "K2 is no matrix of intrinsics"),
    ):
        with pytest.raises(BrokenSampleError, match=said):
            views({**whole, name: value}, sample_rng(0, 0))


def test_metrics_are_angles_and_metres_of_each_pair() -> None:
    settings = config()
    pretext: Any = pose.build(settings, BuildContext(seed=0)).eval()
    true = np.stack([sample(degrees=degrees)["T_2from1"] for degrees in (0, 20)])
    found = true[:, :3].copy()
    found[1, :, :3] = found[1, :, :3] @ turned(6, 2)
    found[1, :, 3] *= 2
    measured = pretext.metrics(found, true)
    assert measured["rotation_error"] == pytest.approx([0, 6], abs=1e-5) and measured["direction_error"] == pytest.approx([0, 0], abs=1e-5)
    assert measured["translation_error"] == pytest.approx([0, 0.14**0.5]) and measured["auc_10"] == pytest.approx([1, 0.4], abs=1e-5)
    own = pretext.to_device(batch(settings))
    controlled = pretext.control_metrics(own, {name: value.roll(1, 0) for name, value in own.items()}, RNG)
    assert controlled.keys() == {name for name in pose.metrics if name not in ("rotation", "translation")}
    assert controlled["rotation_error_unmoved"].numpy() == pytest.approx(rotation_angles(own["pose"][:, :3, :3].numpy()), abs=1e-3)
    assert np.isnan(angles_between(np.zeros(3), np.ones(3)))
    predictor = pretext.encoder()
    assert isinstance(predictor, TakesPairs) and predictor(torch.rand(2, 2, 3, 32, 48)).shape == (2, 3, 4)
    K = torch.tensor([[[48.0, 0, 23.5], [0, 32, 15.5], [0, 0, 1]]])
    assert relative_intrinsics(K[0].numpy(), (32, 48)) == (1, 1, 0, 0)
    pair = torch.rand(1, 2, 3, 32, 48)
    assert torch.allclose(predictor(pair), predictor.pose(pair[:, 0], pair[:, 1], K, K), atol=1e-6)
    (picture,) = pretext.visualisations(own, RNG)
    assert picture.image.dtype == np.uint8
    directions: Any = pose.build(config(pretext={"translation": "direction"}), BuildContext(seed=0))
    assert np.isnan(directions.metrics(found, true)["translation_error"]).all()
    assert directions.encoder()(pair)[0, :, 3].norm().item() == pytest.approx(1, abs=1e-5)


def test_six_numbers_are_a_rotation_and_the_first_prediction_hardly_moves() -> None:
    rotations = rotation_of(torch.randn(5, 6, generator=torch.Generator().manual_seed(0)))
    assert torch.allclose(rotations @ rotations.transpose(1, 2), torch.eye(3).expand(5, 3, 3), atol=1e-5)
    assert torch.allclose(torch.linalg.det(rotations), torch.ones(5), atol=1e-5)
    predictor = pose.build(config(), BuildContext(seed=0)).encoder()
    assert rotation_angles(predictor(torch.rand(3, 2, 3, 32, 48))[:, :, :3].detach().numpy()).max() < 30


@pytest.mark.slow
@pytest.mark.parametrize(("method", "frozen"), [("croco", False), ("timm", True)])
def test_an_encoder_of_every_method_learns_the_pose(method: str, frozen: bool) -> None:
    settings = config(method, (32, 32), model={"frozen": frozen})
    pretext: Any = pose.build(settings, BuildContext(seed=0))
    groups = pretext.param_groups(OptimConfig(lr=3e-3, layer_decay=0.75))
    optimiser = torch.optim.AdamW([{"params": group.params, "lr": 3e-3 * group.lr_scale} for group in groups])
    trained = {id(p) for group in groups for p in group.params}
    assert bool(trained & {id(p) for p in pretext.predicting.network.encoder.parameters()}) != frozen
    prepared, losses = pretext.to_device(batch(settings)), []
    for _ in range(8):
        found = pretext(prepared, RNG)
        assert found.keys() == {"rotation", "translation"}
        loss = found["rotation"] + found["translation"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]
    assert {name for name, p in pretext.named_parameters() if p.requires_grad and p.grad is None} == set(), "DDP would wait for them"


@pytest.mark.slow
def test_the_exported_graph_takes_any_batch() -> None:
    predictor = pose.build(config(), BuildContext(seed=0)).encoder().eval()
    graph = torch.export.export(predictor, (torch.rand(2, 2, 3, 32, 48),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    with torch.no_grad():
        for count in (1, 3):
            pairs = torch.rand(count, 2, 3, 32, 48)
            assert torch.allclose(graph.module()(pairs), predictor(pairs), atol=1e-5)
