"""Networks, heads and losses of stereo, flow and depth: what the numbers of the official code do not show."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from tiny_dense import NARROW, built, images, tiny

from sightline.methods.croco.config import CrocoModel
from sightline.methods.croco.network import CrocoEncoder
from sightline.methods.dense.config import TwoViewModel
from sightline.methods.dense.criteria import Criterion
from sightline.methods.dense.heads import DptHead, default_hooks
from sightline.methods.dense.network import TwoViewNetwork, build_decoder, build_head
from sightline.methods.dense.official import decoder_of, official_name, second_name
from sightline.methods.errors import CallError
from sightline.methods.layers.positions import resize_table


@pytest.mark.parametrize(
    ("depths", "hooks"),
    [
        ((12,), (2, 5, 8, 11)),
        ((24,), (5, 11, 17, 23)),
        ((6,), (2, 3, 4, 5)),
        ((24, 12), (23, 27, 31, 35)),
        ((12, 12), (11, 15, 19, 23)),
        ((12, 8), (10, 13, 16, 19)),
        ((24, 24), (23, 31, 39, 47)),
        ((3,), (0, 1, 1, 2)),  # the authors' rule: the last one four times
        ((1,), (0, 0, 0, 0)),
        ((12, 4), (9, 11, 13, 15)),  # the authors have none
        ((1, 2), (0, 1, 1, 2)),
    ],
)
def test_hooks_follow_from_the_depths(depths: tuple[int, ...], hooks: tuple[int, ...]) -> None:
    assert default_hooks(*depths) == hooks


def test_the_published_stereo_network_has_its_entries_and_parameters() -> None:
    encoder = CrocoModel.model_validate(
        {"encoder_dim": 1024, "encoder_depth": 24, "encoder_heads": 16, "decoder_dim": 768, "decoder_depth": 12, "decoder_heads": 12}
        | {"position": "rope", "image_size": (352, 704)}
    )
    model = TwoViewModel.model_validate({"encoder": {"method": "croco"}, "image_size": (352, 704), **decoder_of(encoder)})
    with torch.device("meta"):
        trunk = CrocoEncoder(encoder)
        decoder = build_decoder(model, trunk)
        network = TwoViewNetwork(trunk, decoder, build_head(model, 2, trunk, decoder))
    names = [official_name(name) for name in network.state_dict()]
    assert len({*names, *filter(None, map(second_name, names))}) == 666
    assert sum(p.numel() for p in network.parameters()) == 437_417_890


def test_building_depends_on_the_seed_alone_and_leaves_the_global_generator() -> None:
    before = torch.get_rng_state()
    one, again, other = (built(tiny(), seed=seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    for name, tensor in one.items():
        assert torch.equal(tensor, again[name]) and bool(torch.isfinite(tensor).all())
        assert tensor.ndim == 1 or not torch.equal(tensor, other[name]), name


@pytest.mark.parametrize(("patch", "size", "head"), [(16, (48, 16), "dpt"), (8, (24, 40), "dpt"), (14, (28, 42), "linear")])
def test_any_grid_and_any_patch_gives_maps_of_the_images_size(patch: int, size: tuple[int, int], head: str) -> None:
    network = built(tiny(size, patch, head=head))
    assert network(images(*size), images(*size, seed=1)).shape == (2, 2, *size)


def test_on_grids_with_even_sides_a_stage_is_doubled_as_the_authors_do() -> None:
    head = DptHead([4] * 4, [0, 1, 2, 3], 1, NARROW["widths"], 8, 4)
    tokens = [torch.rand(1, 24, 4) for _ in range(4)]
    seen: list[tuple[int, ...]] = []
    for i in (4, 3, 2, 1):
        getattr(head.scratch, f"refinenet{i}").register_forward_hook(lambda m, given, out: seen.append(tuple(out.shape[2:])))
    head(tokens, (4, 6), (64, 96))
    assert seen == [(4, 6), (8, 12), (16, 24), (32, 48)]


def test_the_last_tokens_are_those_of_the_encoder_and_the_second_view_matters() -> None:
    network = built(tiny()).eval()
    one, two = images(32, 48), images(32, 48, seed=1)
    tokens = network.block_tokens(one, two)
    assert torch.allclose(tokens[1], network.encoder.tokens(one), atol=1e-6) and len(tokens) == 3
    assert not torch.allclose(network(one, two), network(one, two.flip(0)))


def test_a_table_is_resized_for_another_size_in_encoder_and_decoder() -> None:
    network, wide = built(tiny((32, 32), position="cosine")), built(tiny((32, 64), position="cosine"), seed=1)
    state = network.state_dict()
    for name in ("encoder.enc_pos_embed", "decoder.dec_pos_embed"):
        state[name] = resize_table(state[name], (2, 2), (2, 4))
    wide.load_state_dict(state)
    pair = images(32, 64), images(32, 64, seed=1)
    assert torch.allclose(network(*pair), wide(*pair), atol=1e-6)


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(CallError, match="there are 3 blocks"):
        built(tiny(hooks=(0, 1, 2, 3)))
    with pytest.raises(ValueError, match="no whole patches of 16"):
        built(tiny())(images(32, 40), images(32, 40))
    with pytest.raises(ValueError, match="no multiple of the encoder's patch_size 16"):
        TwoViewModel.model_validate({"encoder": {"method": "croco", "model": {"patch_size": 16}}, "image_size": [32, 40]})
    with pytest.raises(ValueError, match="decoder_heads 3 does not divide"):
        TwoViewModel.model_validate({"encoder": {"method": "croco"}, "image_size": 32, "decoder_heads": 3})


# Losses


def plain_loss(c: Criterion, prediction: np.ndarray, truth: np.ndarray, raw: np.ndarray | None) -> float:
    """Pixel by pixel."""
    a, b = c.bounds
    values = []
    for n, y, x in np.ndindex(truth.shape[0], *truth.shape[2:]):
        t, p = truth[n, :, y, x], prediction[n, :, y, x]
        if not np.isfinite(t).all() or (c.max_norm is not None and math.sqrt((t**2).sum()) >= c.max_norm):
            continue
        if raw is None:
            values += list(abs(t - p))
            continue
        r = float(raw[n, 0, y, x])
        s = r
        if c.name == "bounded":
            s = math.log((b - a) / (1 + math.exp(-r)) + a)
        elif c.name == "bounded2":
            s = 2 * a * (1 / (1 + math.exp(-r / b)) - 0.5)
        values.append(abs(t - p).sum() * math.exp(-s) + s)
    return float(np.mean(values)) if values else 0.0


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("name", ["l1", "laplacian", "bounded", "bounded2"])
@pytest.mark.parametrize("limit", [None, 30.0])
def test_losses_are_those_of_a_plain_computation_whatever_unknown_pixels_hold(channels: int, name: str, limit: float | None) -> None:
    rng = np.random.default_rng(channels)
    truth, prediction = (rng.normal(0, 20, (2, channels, 3, 4)) for _ in range(2))
    raw = rng.normal(0, 2, (2, 1, 3, 4))
    truth[0, 0, 0, 0], truth[1, -1, 1, 1], truth[1, :, 2, 2] = np.inf, np.nan, 1e5
    known = np.isfinite(truth).all(axis=1, keepdims=True)
    unknown = ~known | (np.linalg.norm(np.where(known, truth, 0), axis=1, keepdims=True) >= (limit or np.inf))
    prediction[np.broadcast_to(unknown, truth.shape)], raw[unknown] = np.nan, -np.inf
    criterion = Criterion(name, max_norm=limit)  # type: ignore[arg-type]
    p, c = (torch.tensor(array, requires_grad=True) for array in (prediction, raw))
    loss = criterion(p, torch.tensor(truth), c if criterion.with_confidence else None)
    assert float(loss.detach()) == pytest.approx(
        plain_loss(criterion, prediction, truth, raw if criterion.with_confidence else None), rel=1e-5
    )
    loss.backward()
    grads = [g for g in (p.grad, c.grad) if g is not None]
    assert all(bool(torch.isfinite(g).all()) for g in grads)
    assert bool((p.grad.abs().sum(dim=1, keepdim=True)[torch.tensor(unknown)] == 0).all())  # type: ignore[union-attr]
    assert bool((p.grad.abs().sum(dim=1, keepdim=True)[torch.tensor(~unknown)] > 0).all())  # type: ignore[union-attr]


def test_where_nothing_counts_the_loss_is_0() -> None:
    for name in ("l1", "laplacian", "bounded", "bounded2"):
        criterion = Criterion(name)  # type: ignore[arg-type]
        p, c = torch.zeros(1, 1, 2, 2, requires_grad=True), torch.zeros(1, 1, 2, 2, requires_grad=True)
        loss = criterion(p, torch.full((1, 1, 2, 2), torch.inf), c if criterion.with_confidence else None)
        loss.backward()
        assert float(loss.detach()) == 0 and float(p.grad.abs().sum()) == 0  # type: ignore[union-attr]


def test_what_the_authors_do_otherwise_is_behind_a_switch() -> None:
    truth = torch.tensor([-75.0, 10.0]).view(1, 1, 1, 2)
    assert Criterion("bounded", max_norm=40.0).counts(truth).sum() == 1
    assert Criterion("bounded", max_norm=40.0, official=True).counts(truth).sum() == 2
    half = torch.tensor([[1.0, 2.0], [torch.inf, 2.0]]).view(1, 2, 1, 2)
    assert Criterion("laplacian").counts(half).sum() == 1
    assert Criterion("laplacian", official=True).counts(half).sum() == 2
    assert Criterion("l1", official=True).counts(half).sum() == 3
    assert Criterion("bounded", max_norm=40.0, official=True).counts(half).sum() == 1  # its norm is infinite


def test_a_loss_says_what_is_wrong_with_it() -> None:
    with pytest.raises(ValueError, match="0 < a < b"):
        Criterion("bounded", a=4.0, b=1.0)
    with pytest.raises(ValueError, match="leaves no pixel"):
        Criterion("laplacian", max_norm=0.0)
    with pytest.raises(ValueError, match="takes no confidence"):
        Criterion("l1")(torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1))


ENCODERS: dict[str, dict[str, Any]] = {
    "conmim": {
        "model": {"image_size": 32, "patch_size": 8, "dim": 16, "depth": 2, "heads": 2},
        "pretext": {"mask_cell": 8, "mask_ratio": 0.5},
    },
    "loca": {"model": {"image_size": 32, "patch_size": 8, "encoder_dim": 16, "encoder_depth": 2, "encoder_heads": 2}},
    "timm": {"model": {"name": "test_vit", "arguments": {"img_size": 32}}},
}


@pytest.mark.parametrize("method", ENCODERS)
def test_encoders_of_single_images_take_two_views_with_a_fresh_decoder(method: str) -> None:
    sections = {"method": method, **ENCODERS[method]}
    small = {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2}
    network = built(TwoViewModel.model_validate({"encoder": sections, "image_size": 32, **small, **NARROW})).eval()
    one, two = images(32, 32), images(32, 32, seed=1)
    tokens = network.block_tokens(one, two)
    depth = network.encoder.depth
    assert len(tokens) == depth + 1 and torch.allclose(tokens[depth - 1], network.encoder.tokens(one), atol=1e-5)
    assert network(one, two).shape == (2, 2, 32, 32) and not torch.allclose(network(one, two), network(one, two.flip(0)))


def test_an_encoder_without_blocks_is_refused() -> None:
    resnet = {"method": "timm", "model": {"name": "resnet10t"}}
    with pytest.raises(CallError, match="does not give the tokens of its blocks"):
        built(TwoViewModel.model_validate({"encoder": resnet, "image_size": 32, **NARROW}))
