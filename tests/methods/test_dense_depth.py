"""Fine-tuning for depth: exact geometry, unknown depths, encoders of every method, a frozen one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tiny_dense import ENCODERS, NARROW

from sightline.methods.catalog import find_method
from sightline.methods.contract import Batch, BuildContext, HasBlockTokens
from sightline.methods.dense import depth
from sightline.methods.dense.config import DepthConfig
from sightline.methods.errors import BrokenSampleError, CallError
from sightline.methods.optim import OptimConfig
from sightline.methods.random import MicrobatchRng, sample_rng
from sightline.platform.config import METHOD_SECTIONS
from sightline.platform.data.encoder_input import image_input
from sightline.platform.models.loaded import LoadedEncoder
from sightline.platform.tracking.model_use import use_of

RNG = MicrobatchRng(0, 0, 0)


def config(method: str = "croco", size: tuple[int, int] = (32, 48), **settings: Any) -> DepthConfig:
    sections = find_method(method).Config.model_validate(ENCODERS[method]).model_dump(mode="json")
    encoder = {"method": method, **{name: sections[name] for name in METHOD_SECTIONS}}
    model = {"encoder": encoder, "image_size": size, **NARROW, **settings.pop("model", {})}
    return DepthConfig.model_validate({"model": model, **settings})


def sample(height: int, width: int, unknown: float = 0.2) -> dict[str, np.ndarray]:
    """Depth is told by colour: 1 m + red / 100, and where a pixel stood by green and blue."""
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([(rows + columns) % 256, rows % 256, columns % 256], axis=-1).astype(np.uint8)
    metres = (1 + image[..., 0] / 100).astype(np.float32)
    metres[np.random.default_rng(0).random((height, width)) < unknown] = 0
    return {"image": image, "depth": metres}


def batch(settings: DepthConfig, samples: int = 3) -> Batch:
    views = depth.views(settings)
    rows = [views(sample(40 + i, 60), sample_rng(0, i)) for i in range(samples)]
    return {name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]}


@pytest.mark.slow
@pytest.mark.parametrize("method", ENCODERS)
def test_an_encoder_of_every_method_learns_depth_and_gives_the_tokens_of_its_blocks(method: str) -> None:
    settings = config(method, (32, 32))
    pretext: Any = depth.build(settings, BuildContext(seed=0))
    depth.check(settings, BuildContext(seed=0))
    encoder, images = pretext.predicting.network.encoder, torch.rand(2, 3, 32, 32)
    assert isinstance(encoder, HasBlockTokens)
    blocks = encoder.eval().block_tokens(images)
    assert len(blocks) == encoder.depth and torch.allclose(blocks[-1], encoder.tokens(images), atol=1e-5)
    groups = pretext.param_groups(OptimConfig(lr=2e-3, layer_decay=0.75))
    optimiser = torch.optim.AdamW([{"params": group.params, "lr": 2e-3 * group.lr_scale} for group in groups])
    assert len({group.lr_scale for group in groups}) == encoder.depth + 2
    prepared, losses = pretext.to_device(batch(settings)), []
    for _ in range(6):
        loss = pretext(prepared, RNG)["regression"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    untrained = {name for name, p in pretext.named_parameters() if p.requires_grad and p.grad is None}
    assert untrained == set(), "DDP would wait for them"


def test_a_frozen_encoder_stays_and_has_no_group() -> None:
    pretext: Any = depth.build(config(model={"frozen": True}), BuildContext(seed=0))
    trained = {id(p) for group in pretext.param_groups(OptimConfig(lr=1e-3)) for p in group.params}
    assert not trained & {id(p) for p in pretext.predicting.network.encoder.parameters()}
    assert trained == {id(p) for p in pretext.parameters() if p.requires_grad}


@pytest.mark.parametrize("size", [(60, 90), (33, 200), (200, 33), (20, 30)])
def test_depth_stays_at_the_pixel_that_it_was_measured_at_in_every_crop_and_flip(size: tuple[int, int]) -> None:
    """Green and blue say where a pixel of the crop comes from; its depth must be one of that pixel's neighbours in the file."""
    settings = config(augment={"scale": [1.0, 2.0], "flip": 0.5, "nearer": False})
    whole = sample(*size, unknown=0.0)
    for position in range(6):
        views = depth.views(settings)(whole, sample_rng(1, position))
        rows, columns = (views["image"][..., channel].astype(float) for channel in (1, 2))
        inner = (slice(3, -3), slice(3, -3))  # bicubic overshoots at the border of the box
        assert np.abs(views["depth"] - (1 + (rows + columns) / 100))[inner].max() < 0.06 * max(1, max(size) / 32)
        step = np.diff(columns, axis=1).mean()
        assert abs(step) > 0


def test_what_is_shown_larger_is_nearer() -> None:
    """A plane of one depth: width in the world is width in pixels times depth, whatever the scale."""
    flat = {**sample(64, 96, unknown=0.0), "depth": np.full((64, 96), 3.0, np.float32)}
    for scale in (1.0, 1.5, 2.0):
        views = depth.views(config(augment={"scale": [scale, scale]}))(flat, sample_rng(0, 0))
        assert np.allclose(views["depth"], 3.0 / scale)
        still = depth.views(config()).evaluation(flat, sample_rng(0, 0))["depth"]  # type: ignore[attr-defined]
        assert np.allclose(still, 3.0)


def test_unknown_depths_are_never_mixed_with_known_ones() -> None:
    views = depth.views(config(augment={"nearer": False}))(sample(64, 96), sample_rng(0, 0))
    assert set(np.unique(views["depth"])) <= {0.0, *np.unique(sample(64, 96)["depth"])}
    with pytest.raises(BrokenSampleError, match="no depth is known"):
        depth.views(config())(sample(64, 96, unknown=1.1), sample_rng(0, 0))
    odd = {**sample(64, 96), "depth": sample(32, 48)["depth"]}
    with pytest.raises(BrokenSampleError, match="32 x 48 pixels, the image 64 x 96"):
        depth.views(config())(odd, sample_rng(0, 0))


def test_metrics_are_of_metres_with_the_image_and_with_another_and_of_two_constants() -> None:
    settings = config(pretext={"typical": 2.0})
    pretext: Any = depth.build(settings, BuildContext(seed=0)).eval()
    own = pretext.to_device(batch(settings))
    found = pretext.control_metrics(own, {name: t.roll(1, 0) for name, t in own.items()}, RNG)
    assert next(iter(found)) == "absrel" and found.keys() == {n for n in depth.metrics if n != "regression"}
    true, predicted = own["depth"][0], pretext.predicting(own["image"])[0].detach()
    known = true > 0
    for name, metres in (("absrel", predicted), ("absrel_typical", torch.tensor(2.0)), ("absrel_own_mean", true[known].mean())):
        assert float(found[name][0]) == pytest.approx(float(((metres - true).abs() / true)[known].mean()), rel=1e-4)
    (picture,) = pretext.visualisations(own, RNG)
    assert picture.image.dtype == np.uint8 and picture.image.ndim == 3


@pytest.mark.parametrize("head", ["dpt", "linear"])
def test_training_begins_at_the_median_depth_of_the_data(head: str) -> None:
    for target, typical in (("log", 40.0), ("metres", 40.0)):
        settings = config(model={"head": head}, pretext={"target": target, "typical": typical})
        pretext: Any = depth.build(settings, BuildContext(seed=0)).eval()
        with torch.no_grad():
            middle = float(pretext.predicting(torch.rand(4, 3, 32, 48)).median())
        assert 20 < middle < 80, (target, middle)


def test_the_card_says_that_depths_are_in_metres_and_how_to_get_them() -> None:
    predictor = depth.build(config(), BuildContext(seed=0)).encoder()
    given = image_input(predictor)
    assert given is not None
    card = use_of("models:/it/1", "http://it", predictor, given, (32, 48), serves=True, timm=False)
    assert "It gives `depth`, batch x 32 x 48, in metres." in card and "encoder(photos)" in card
    assert LoadedEncoder(predictor, "finetune_depth", "it")(np.zeros((50, 90, 3), np.uint8)).shape == (1, 32, 48)


def test_what_cannot_learn_depth_is_said() -> None:
    with pytest.raises(ValueError, match="the smaller first"):
        config(augment={"scale": [0.5, 1.0]})
    with pytest.raises(ValueError, match="0 < a < b"):
        config(pretext={"criterion": "bounded", "a": 5.0})
    resnet = {"method": "timm", "model": {"name": "resnet10t"}}
    settings = DepthConfig.model_validate({"model": {"encoder": resnet, "image_size": 32, **NARROW}})
    with pytest.raises(CallError, match="does not give the tokens of its blocks"):
        depth.build(settings, BuildContext(seed=0))
