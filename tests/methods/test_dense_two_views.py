"""Fine-tuning for disparity and optical flow: exact geometry under every augmentation, unknown lengths, encoders of every method."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tiny_dense import ENCODERS, NARROW
from torch.nn.functional import interpolate

from sightline.methods.catalog import find_method
from sightline.methods.contract import Batch, BuildContext, Method
from sightline.methods.dense import flow, stereo
from sightline.methods.dense.config import FlowConfig, StereoConfig
from sightline.methods.dense.two_views import STILL, Pair, cut
from sightline.methods.errors import BrokenSampleError, CallError
from sightline.methods.optim import OptimConfig
from sightline.methods.random import MicrobatchRng, sample_rng
from sightline.platform.config import METHOD_SECTIONS
from sightline.platform.data.encoder_input import image_input
from sightline.platform.models.loaded import LoadedEncoder

RNG = MicrobatchRng(0, 0, 0)
TASKS: dict[str, Method[Any]] = {"disparity": stereo, "flow": flow}
DECODER = {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2}


def config(name: str, method: str = "croco", size: tuple[int, int] = (32, 48), **settings: Any) -> Any:
    sections = find_method(method).Config.model_validate(ENCODERS[method]).model_dump(mode="json")
    encoder = {"method": method, **{section: sections[section] for section in METHOD_SECTIONS}}
    model = {"encoder": encoder, "image_size": size, **DECODER, **NARROW, **settings.pop("model", {})}
    values = {"model": model, **settings}
    return StereoConfig.model_validate(values) if name == "disparity" else FlowConfig.model_validate(values)


def sample(name: str, height: int = 70, width: int = 90, moved: tuple[float, float] = (6.0, 0.0)) -> dict[str, np.ndarray]:
    """Smooth waves, moved by whole pixels as a whole: each image shows its own part of one wide scene."""
    dx, dy = (-moved[0], 0.0) if name == "disparity" else moved

    def scene(right: float, down: float) -> np.ndarray:
        y, x = np.mgrid[:height, :width].astype(float)
        waves = [np.sin((x - right) / a + (y - down) / b) for a, b in ((5, 9), (8, -6), (-11, 7))]
        return np.asarray((np.stack(waves, axis=-1) * 100 + 128).round(), np.uint8)

    truth = np.full((height, width), moved[0]) if name == "disparity" else np.broadcast_to(np.array(moved), (height, width, 2))
    return {"image1": scene(0, 0), "image2": scene(dx, dy), name: np.asarray(truth, np.float32)}


def warp_error(views: dict[str, np.ndarray], name: str) -> float:
    """Mean difference (of 255) between the first image and the second one looked up where the truth says, away from the border."""
    image1, image2, truth = views["image1"].astype(float), views["image2"].astype(float), views[name]
    h, w = image1.shape[:2]
    y, x = np.mgrid[:h, :w].astype(float)
    x, y = (x - truth[..., 0], y) if name == "disparity" else (x + truth[..., 0], y + truth[..., 1])
    inside = (x >= 2) & (x <= w - 3) & (y >= 2) & (y <= h - 3)
    x0, y0 = np.floor(x).astype(int).clip(0, w - 2), np.floor(y).astype(int).clip(0, h - 2)
    fx, fy = (x - x0)[..., None], (y - y0)[..., None]
    looked = (1 - fy) * ((1 - fx) * image2[y0, x0] + fx * image2[y0, x0 + 1]) + fy * (
        (1 - fx) * image2[y0 + 1, x0] + fx * image2[y0 + 1, x0 + 1]
    )
    assert inside.sum() > 200
    return float(np.abs(looked - image1)[inside].mean())


def batch(name: str, settings: Any, samples: int = 3) -> Batch:
    views = TASKS[name].views(settings)
    rows = [views(sample(name, 40 + i, 60), sample_rng(0, i)) for i in range(samples)]
    return {column: torch.from_numpy(np.stack([row[column] for row in rows])) for column in rows[0]}


@pytest.mark.parametrize("size", [(70, 90), (33, 200), (20, 30)])
@pytest.mark.parametrize("name", TASKS)
def test_the_second_image_warped_by_the_truth_is_the_first_in_every_crop_scale_and_flip(name: str, size: tuple[int, int]) -> None:
    settings = config(name, augment={"shift": 0.0} if name == "disparity" else {"flip_vertical": 0.5})
    views, whole = TASKS[name].views(settings), sample(name, *size, moved=(4.0, -3.0))
    seen = [views(whole, sample_rng(1, position)) for position in range(12)]
    assert max(warp_error(one, name) for one in seen) < 4.0  # waves of 10 pixels, looked up between pixels; see the next line
    unmoved = [warp_error({**one, name: np.zeros_like(one[name])}, name) for one in seen]
    assert min(unmoved) > 12
    assert len({tuple(np.unique(np.round(one[name], 3))) for one in seen}) > 4, "scales and flips were drawn"
    assert warp_error(views.evaluation(whole, sample_rng(0, 0)), name) < 4.0
    assert views.whole(whole, sample_rng(0, 0))["image1"].shape[:2] == size


@pytest.mark.parametrize("scaled", [(60, 90), (60, 135), (48, 72)])
def test_a_length_stays_at_the_pixel_that_it_was_measured_at(scaled: tuple[int, int]) -> None:
    """Green and blue say where a pixel of the crop comes from, in halves; so does its flow, in pixels before the change of size."""
    rows, columns = np.mgrid[:60, :90].astype(np.float32)
    image = np.stack([rows, rows * 2, columns * 2], axis=-1).astype(np.uint8)
    pair = cut(Pair(image, image, np.stack([columns, rows], axis=-1)), scaled, (9, 14), (32, 40))
    across, down = scaled[1] / 90, scaled[0] / 60
    assert np.abs(pair.truth[..., 0] / across - pair.image1[..., 2] / 2.0).max() <= 0.75
    assert np.abs(pair.truth[..., 1] / down - pair.image1[..., 1] / 2.0).max() <= 0.75
    assert np.isclose(pair.truth[0, 0, 0] / across, 14 / across, atol=0.75), "the crop begins where it was asked for"
    assert np.array_equal(pair.flipped(1).truth[:, ::-1] * (-1, 1), pair.truth)
    assert np.array_equal(pair.flipped(0).truth[::-1] * (1, -1), pair.truth)


def test_the_right_image_is_moved_by_so_many_degrees_and_pixels_and_no_more() -> None:
    still = {"stretch": 0.0, "flip_vertical": 0.0, "shift": 1.0}
    whole = sample("disparity")
    plain = stereo.views(config("disparity", augment={**still, "shift": 0.0}))(whole, sample_rng(0, 3))
    same = stereo.views(config("disparity", augment={**still, "shift_degrees": 0, "shift_pixels": 0}))(whole, sample_rng(0, 3))
    assert all(same[column].shape == plain[column].shape for column in plain)
    errors = []
    for pixels in (0.0, 2.0):
        views = stereo.views(config("disparity", augment={**still, "shift_pixels": pixels}))
        errors.append(np.mean([warp_error(views(whole, sample_rng(0, i)), "disparity") for i in range(6)]))
    assert errors[0] < 3.0 < errors[1] < 40.0  # a tenth of a degree is nothing here, up to 2 pixels are seen


@pytest.mark.parametrize("name", TASKS)
def test_lengths_are_never_mixed_and_what_cannot_be_learned_from_is_said(name: str) -> None:
    settings = config(name)
    views, whole = TASKS[name].views(settings), sample(name)
    holes = np.random.default_rng(0).random(whole[name].shape[:2]) < 0.5
    known = views({**whole, name: np.where(holes if name == "disparity" else holes[..., None], np.nan, whole[name])}, sample_rng(0, 0))[
        name
    ]
    lengths = known[np.isfinite(known).all(axis=2)]
    assert 0.3 < np.isnan(known).any(axis=2).mean() < 0.7 and len(np.unique(lengths[:, 0])) == 1
    for truth, said in (
        (np.full_like(whole[name], np.nan), f"no {name} is known"),
        (whole[name][:30, :40], "30 x 40 pixels, the first image 70 x 90"),
        (np.full_like(whole[name], 5000.0), "is beyond the crop: "),
    ):
        with pytest.raises(BrokenSampleError, match=said):
            views({**whole, name: truth}, sample_rng(0, 0))
    if name == "disparity":
        with pytest.raises(BrokenSampleError, match="most disparities are negative"):
            views({**whole, name: -whole[name]}, sample_rng(0, 0))


def test_colours_are_those_of_both_images_or_of_each_and_nothing_where_none_is_drawn() -> None:
    for name in TASKS:
        for asymmetric in (0.0, 1.0):
            views = TASKS[name].views(config(name, augment={"asymmetric": asymmetric}))
            seen = [views(sample(name), sample_rng(0, i)) for i in range(8)]
            assert any((one["colour1"] != one["colour2"]).any() for one in seen) == bool(asymmetric)
    pretext: Any = stereo.build(config("disparity"), BuildContext(seed=0))
    own = batch("disparity", config("disparity"))
    bright = np.array([*STILL[:8], 0.5], np.float32)
    own |= {"colour1": torch.tensor([STILL] * 3, dtype=torch.float32), "colour2": torch.from_numpy(np.stack([bright] * 3))}
    made = pretext.to_device(own)
    assert torch.allclose(made["image1"], own["image1"].permute(0, 3, 1, 2) / 255, atol=2e-3)
    assert torch.allclose(made["image2"], (own["image2"].permute(0, 3, 1, 2) / 255) ** 0.5, atol=2e-3), "gamma is the last number"


@pytest.mark.parametrize("name", TASKS)
def test_a_step_trains_all_of_it_and_metrics_are_of_its_own_second_image_and_of_another(name: str) -> None:
    settings = config(name, model={"frozen": name == "flow"}, **({"pretext": {"typical": 8.0}} if name == "disparity" else {}))
    pretext: Any = TASKS[name].build(settings, BuildContext(seed=0))
    own = pretext.to_device(batch(name, settings))
    losses = pretext(own, RNG)
    losses["regression"].backward()
    assert losses["epe"] > 0
    assert {n for n, p in pretext.named_parameters() if p.requires_grad and p.grad is None} == set(), "DDP would wait for them"
    assert any(p.requires_grad for p in pretext.predicting.network.encoder.parameters()) == (name == "disparity")
    groups = pretext.param_groups(OptimConfig(lr=1e-3, layer_decay=0.5))
    assert len({group.lr_scale for group in groups}) == (3 if name == "flow" else 2 + 4)  # embedding, two blocks; decoder and norms; head
    pretext.eval()
    larger = {"image1": torch.rand(1, 3, 40, 61), "image2": torch.rand(1, 3, 40, 61)}
    found = pretext.control_metrics(
        larger | {name: torch.full((1, len(pretext.predicting.axes), 40, 61), 3.0)}, {n: t[:1] for n, t in own.items()}, RNG
    )
    assert next(iter(found)) == "epe" and found.keys() == TASKS[name].metrics.keys() - {"regression"}
    predicted = pretext.predicting.of_any_size(larger["image1"], larger["image2"]).values
    epe = torch.linalg.vector_norm(predicted - 3, dim=1).mean()
    assert float(found["epe"][0]) == pytest.approx(float(epe.detach()), rel=1e-5)
    constant = {"epe_typical": 5.0} if name == "disparity" else {"epe_no_motion": 3 * 2**0.5}
    for key, value in {**constant, "epe_own_mean": 0.0}.items():
        assert float(found[key][0]) == pytest.approx(value, abs=1e-6)
    (picture,) = pretext.visualisations(own, RNG)
    assert picture.image.dtype == np.uint8 and picture.image.ndim == 3


@pytest.mark.parametrize("name", TASKS)
def test_a_registered_model_takes_pairs_and_gives_pixels(name: str) -> None:
    predictor: Any = TASKS[name].build(config(name), BuildContext(seed=0)).encoder().eval()
    given = image_input(predictor)
    assert given is not None and given.shape == (2, 3, 32, 48) and predictor.output_unit == "pixels"
    assert tuple(predictor(given.example(2)).shape) == ((2, 32, 48) if name == "disparity" else (2, 2, 32, 48))
    loaded, photo = LoadedEncoder(predictor, f"finetune_{name}", "it"), np.zeros((50, 90, 3), np.uint8)
    assert loaded((photo, photo)).shape[0] == 1 and loaded.tokens(photo).shape[0] == 1
    with pytest.raises(CallError, match=r"takes the (left|first) image and the (right|second) image"):
        loaded(photo)


@pytest.mark.slow
@pytest.mark.parametrize("method", ENCODERS)
def test_an_encoder_of_every_method_learns_flow(method: str) -> None:
    settings = config("flow", method, (32, 32))
    pretext: Any = flow.build(settings, BuildContext(seed=0))
    flow.check(settings, BuildContext(seed=0))
    optimiser = torch.optim.AdamW([{"params": g.params, "lr": 2e-3 * g.lr_scale} for g in pretext.param_groups(OptimConfig(lr=2e-3))])
    prepared, losses = pretext.to_device(batch("flow", settings)), []
    for _ in range(6):
        loss = pretext(prepared, RNG)["regression"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


def test_an_encoder_that_cannot_see_crops_of_this_size_is_named() -> None:
    settings = config("flow", "timm", (64, 64))
    fixed = {"method": "timm", "model": {"name": "test_vit", "arguments": {"img_size": 32, "dynamic_img_size": False}}}
    settings = settings.model_copy(update={"model": settings.model.model_copy(update={"encoder": fixed})})
    with pytest.raises(CallError, match="the encoder of timm sees 32 x 32 pixels, and no crops of 64 x 64") as caught:
        flow.build(settings, BuildContext(seed=0))
    assert "model.image_size=[32,32]" in str(caught.value.hint)


@pytest.mark.long
def test_a_network_from_random_weights_learns_to_match() -> None:
    """Smooth textures that are moved by 0 to 8 pixels as a whole. Nothing in one image alone tells the disparity."""
    model = {"encoder_dim": 64, "encoder_depth": 2, "encoder_heads": 4, "decoder_dim": 64, "decoder_depth": 2, "decoder_heads": 4}
    encoder = {"method": "croco", "model": {"image_size": 32, "patch_size": 8, "position": "rope", **model}}
    sizes = {name: value for name, value in model.items() if name.startswith("decoder")} | {
        "widths": (8, 16, 32, 32),
        "features": 32,
        "last": 16,
    }
    settings = StereoConfig.model_validate(
        {"model": {"encoder": encoder, "image_size": 32, **sizes}, "pretext": {"criterion": "laplacian"}}
    )
    pretext: Any = stereo.build(settings, BuildContext(seed=0))
    generator = torch.Generator().manual_seed(0)

    def moved(count: int) -> Batch:
        wide = interpolate(torch.rand(count, 3, 10, 16, generator=generator), size=(32, 52), mode="bicubic").clamp(0, 1)
        far = torch.randint(0, 9, (count,), generator=generator)
        second = torch.stack([one[:, :, 10 + int(d) : 42 + int(d)] for one, d in zip(wide, far, strict=True)])
        return {"image1": wide[..., 10:42], "image2": second, "disparity": far.view(-1, 1, 1, 1).float().expand(-1, 1, 32, 32)}

    optimiser = torch.optim.AdamW(pretext.parameters(), lr=2e-3, betas=(0.9, 0.95), weight_decay=0.01)
    for step in range(500):
        optimiser.param_groups[0]["lr"] = 2e-3 * min(1, (step + 1) / 50)
        loss = pretext(moved(32), RNG)["regression"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    held_out = moved(128)
    found = pretext.eval().control_metrics(held_out, {name: t.roll(1, 0) for name, t in held_out.items()}, RNG)
    own, other = float(found["epe"].mean()), float(found["epe_other_image"].mean())
    assert own < 1.0 < 2.0 < other, (own, other)  # the mean disparity everywhere gives 2.2
