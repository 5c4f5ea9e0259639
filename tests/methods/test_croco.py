"""CroCo's network and pretext task: what the numbers of the official code do not show."""

from __future__ import annotations

import colorsys
import dataclasses
import io
from itertools import permutations

import golden
import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError
from PIL import Image, ImageEnhance

from sightline.methods.contract import Batch, BuildContext
from sightline.methods.croco import ALARMS, METRICS, method
from sightline.methods.croco.config import CrocoConfig
from sightline.methods.croco.diagnostics import cross_view_metrics, health_metrics
from sightline.methods.croco.network import CrocoEncoder
from sightline.methods.croco.pretext import CrocoPretext, layer_id
from sightline.methods.layers.colour import colour_jitter
from sightline.methods.layers.patches import patchify, unpatchify
from sightline.methods.layers.positions import grid_positions, resize_table, rotary_angles, rotate
from sightline.methods.optim import Clock, OptimConfig
from sightline.methods.random import MicrobatchRng, sample_rng

NOISE = MicrobatchRng(0, 0, 0)
SMALL = {
    "encoder_dim": 48,
    "encoder_depth": 2,
    "encoder_heads": 3,
    "decoder_dim": 32,
    "decoder_depth": 2,
    "decoder_heads": 2,
    "patch_size": 8,
}


def small(position: str = "rope", size: int | list[int] = [24, 40], **pretext: object) -> CrocoConfig:  # noqa: B006 - never changed
    return CrocoConfig.model_validate(
        {"model": {**SMALL, "image_size": size, "position": position}, "pretext": {"mask_ratio": 0.75, **pretext}}
    )


def raw_batch(config: CrocoConfig, samples: int = 3, seed: int = 0) -> Batch:
    views, rng = method.views(config), np.random.default_rng(seed)
    height, width = config.model.image_size
    images = rng.integers(0, 256, (samples, 2, height + 8, width + 8, 3), dtype=np.uint8)
    rows = [views({"image1": a, "image2": b}, sample_rng(seed, i)) for i, (a, b) in enumerate(images)]
    return {name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]}


def built(config: CrocoConfig, seed: int = 0) -> CrocoPretext:
    return method.build(config, BuildContext(seed=seed))


@pytest.mark.parametrize("position", ["rope", "cosine"])
def test_building_depends_on_the_seed_alone_and_leaves_the_global_generator(position: str) -> None:
    before = torch.get_rng_state()
    a, b, c = built(small(position), 1), built(small(position), 1), built(small(position), 2)
    assert torch.equal(before, torch.get_rng_state())
    for (name, x), y, z in zip(a.state_dict().items(), b.state_dict().values(), c.state_dict().values(), strict=True):
        assert torch.equal(x, y) and x.isfinite().all(), name
        fixed = "norm" in name or "pos_embed" in name or (name.endswith("bias") and "patch_embed" not in name)
        assert torch.equal(x, z) == fixed, name


def test_initial_weights_follow_the_paper() -> None:
    state = built(
        CrocoConfig.model_validate({"model": {"image_size": 32, "encoder_depth": 1, "decoder_depth": 1}, "pretext": {"mask_ratio": 0.5}})
    ).state_dict()
    for name in (
        "backbone.enc_blocks.0.attn.qkv.weight",
        "backbone.patch_embed.proj.weight",
        "decoder.dec_blocks.0.cross_attn.projk.weight",
    ):
        weight = state[name].flatten(1)
        bound = (6 / sum(weight.shape)) ** 0.5
        assert weight.abs().max() <= bound and weight.std() == pytest.approx(bound / 3**0.5, rel=0.01)
    assert state["decoder.mask_token"].std() == pytest.approx(0.02, rel=0.15)
    bias = state["backbone.patch_embed.proj.bias"]
    assert 0.8 / 768**0.5 < bias.abs().max() <= 1 / 768**0.5


def test_the_untrained_loss_is_near_the_variance_of_its_target() -> None:
    config = small(size=[48, 48])
    pretext = built(config)
    batch = pretext.to_device(raw_batch(config, 8))
    loss = pretext(batch, NOISE)["reconstruction"]
    assert loss.dtype == torch.float32 and 0.9 < loss.item() < 3
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in pretext.parameters())  # nothing unused: DDP needs no search


@pytest.mark.parametrize("position", ["rope", "cosine"])
def test_hidden_pixels_and_other_samples_do_not_leak(position: str) -> None:
    config = small(position)
    pretext = built(config)
    batch = pretext.to_device(raw_batch(config))
    before = pretext.complete(batch["image1"], batch["image2"], batch["mask"], config.hidden)
    hidden = unpatchify(batch["mask"][..., None].expand(-1, -1, 3 * 64), 8, config.model.grid)
    changed = torch.where(hidden, torch.randn_like(batch["image1"]), batch["image1"])
    after = pretext.complete(changed, batch["image2"], batch["mask"], config.hidden)
    assert torch.equal(before.prediction, after.prediction) and not torch.equal(before.patches, after.patches)
    alone = pretext.complete(*(batch[k][1:2] for k in ("image1", "image2", "mask")), config.hidden)
    torch.testing.assert_close(alone.prediction, before.prediction[1:2])
    other = pretext.complete(batch["image1"], batch["image2"].flip(0), batch["mask"], config.hidden)
    assert (other.prediction - before.prediction)[0].abs().max() > 1e-3  # the second view is used


def test_the_loss_over_all_patches_counts_the_visible_ones_too() -> None:
    config = small(hidden_only=False)
    pretext = built(config)
    batch = pretext.to_device(raw_batch(config))
    every = pretext.complete(batch["image1"], batch["image2"], batch["mask"], config.hidden, every=True)
    assert every.cells.sort(dim=1).values.equal(torch.arange(15).expand(3, -1))
    assert every.cells[:, :4].equal((~batch["mask"]).nonzero()[:, 1].view(3, 4))  # visible first, raster order
    assert pretext(batch, NOISE)["reconstruction"] == every.errors().mean()


def test_bf16_autocast_stays_close_and_the_loss_is_float32() -> None:
    config = small(size=[48, 48])
    pretext = built(config)
    raw = raw_batch(config, 4)
    exact = pretext(pretext.to_device(raw), NOISE)["reconstruction"]
    with torch.autocast("cpu", torch.bfloat16):
        rounded = pretext(pretext.to_device(raw), NOISE)["reconstruction"]
    rounded.backward()
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, rtol=0.01, atol=0)


def pil_jitter(image: np.ndarray, factors: np.ndarray, order: tuple[int, ...]) -> np.ndarray:
    picture = Image.fromarray(image)
    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for op in order:
        picture = enhancers[op](picture).enhance(float(factors[op]))
    return np.asarray(picture)


def test_colour_jitter_is_pil_s_up_to_its_8_bit_steps() -> None:
    rng = np.random.default_rng(0)
    hues = np.array([[colorsys.hsv_to_rgb(h / 20, s / 15, 0.9) for h in range(20)] for s in range(16)])
    images = [(hues * 255).astype(np.uint8), rng.integers(0, 256, (16, 20, 3), dtype=np.uint8)]
    for image in images:
        orders = list(permutations(range(3)))
        factors = rng.uniform(0.6, 1.4, (len(orders), 3)).astype(np.float32)
        jitter = torch.from_numpy(np.concatenate([factors, np.array(orders, dtype=np.float32)], axis=1))
        stack = torch.from_numpy(image).permute(2, 0, 1)[None].expand(len(orders), -1, -1, -1).float() / 255
        ours = colour_jitter(stack, jitter).permute(0, 2, 3, 1).numpy() * 255
        theirs = np.stack([pil_jitter(image, f, o) for f, o in zip(factors, orders, strict=True)])
        assert np.abs(ours - theirs).max() < 5  # PIL truncates three times, and what follows stretches the difference
        assert np.abs(ours - theirs).mean() < 1.6


def test_no_jitter_is_the_plain_image() -> None:
    config = small()
    raw = raw_batch(config)
    off = config.model_copy(update={"augment": type(config.augment)(brightness=0, contrast=0, saturation=0)})
    neutral = {**raw, "jitter1": torch.tensor([[1.0, 1, 1, 0, 1, 2]] * 3), "jitter2": torch.tensor([[1.0, 1, 1, 2, 1, 0]] * 3)}
    plain, unit = built(off).to_device(raw), built(config).to_device(neutral)
    expected = (raw["image1"].permute(0, 3, 1, 2) / 255 - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor(
        [0.229, 0.224, 0.225]
    ).view(3, 1, 1)
    torch.testing.assert_close(plain["image1"], expected)
    torch.testing.assert_close(unit["image2"], plain["image2"])


def test_patches_of_a_rectangle_come_back() -> None:
    images = torch.randn(2, 3, 24, 40)
    patches = patchify(images, 8)
    assert patches.shape == (2, 15, 192)
    assert torch.equal(patches[0, 6].view(8, 8, 3), images[0, :, 8:16, 8:16].permute(1, 2, 0))
    assert torch.equal(unpatchify(patches, 8, (3, 5)), images)


def test_shapes_in_annotations_are_checked_here() -> None:
    with pytest.raises(TypeCheckError, match="patchify"):
        patchify(torch.zeros(3, 8, 8), 8)


def test_rotation_depends_on_differences_alone_and_its_gradient_is_the_inverse_turn() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 6, 16, generator=generator)
    at = torch.randint(-9, 9, (1, 6, 2), generator=generator)
    scores = [rotate(q, *rotary_angles(at + s, 16)) @ rotate(k, *rotary_angles(at + s, 16)).mT for s in (0, torch.tensor([-30, 11]))]
    torch.testing.assert_close(scores[0], scores[1], atol=1e-4, rtol=1e-4)
    x = q.double().requires_grad_()
    angles = [t.double() for t in rotary_angles(at, 16)]
    assert torch.autograd.gradcheck(lambda t: rotate(t, *angles), (x,))
    assert rotate(q.bfloat16(), *rotary_angles(at, 16)).dtype == torch.bfloat16
    far = torch.tensor([[[1000, 999]]])
    torch.testing.assert_close(
        rotate(q[:, :1].bfloat16(), *rotary_angles(far, 16)).float(), rotate(q[:, :1], *rotary_angles(far, 16)), atol=0.03, rtol=0.02
    )


@pytest.mark.parametrize("position", ["rope", "cosine"])
def test_the_encoder_is_a_copy_and_sees_what_pre_training_saw(position: str) -> None:
    config = small(position)
    pretext = built(config)
    encoder = pretext.encoder()
    assert isinstance(encoder, CrocoEncoder) and (encoder.dim, encoder.patch_size, encoder.image_size) == (48, 8, (24, 40))
    assert not {p.data_ptr() for p in encoder.parameters()} & {p.data_ptr() for p in pretext.parameters()}
    images = torch.rand(2, 3, 24, 40)
    tokens, saliency = encoder.tokens(images), encoder.saliency(images)
    assert tokens.shape == (2, 15, 48) and torch.equal(encoder(images), tokens)
    torch.testing.assert_close(saliency.sum(1), torch.ones(2))
    assert saliency.min() > 0
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    patches, cells = patchify((images - mean) / std, 8), torch.arange(4).expand(2, 4)
    _, second = pretext.backbone.encode_pair(patches[:, :4], patches, cells)
    torch.testing.assert_close(second, tokens)


@pytest.mark.parametrize("position", ["rope", "cosine"])
def test_the_encoder_takes_other_sizes(position: str) -> None:
    encoder = built(small(position)).encoder()
    for size in ((24, 40), (48, 24), (8, 8)):
        assert encoder.tokens(torch.rand(1, 3, *size)).shape == (1, size[0] * size[1] // 64, 48)
    if position == "cosine":
        table = encoder.enc_pos_embed
        assert torch.equal(resize_table(table, (3, 5), (3, 5)), table) and resize_table(table, (3, 5), (6, 4)).shape == (24, 48)


@pytest.mark.slow
@pytest.mark.parametrize("position", ["rope", "cosine"])
def test_the_encoder_exports_with_any_batch(position: str) -> None:
    encoder = built(small(position)).encoder().eval()
    batch = torch.export.Dim("batch")
    program = torch.export.export(encoder, (torch.rand(2, 3, 24, 40),), dynamic_shapes=({0: batch},))
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for samples in (1, 5):
        images = torch.rand(samples, 3, 24, 40)
        torch.testing.assert_close(loaded(images), encoder(images), atol=1e-5, rtol=1e-5)


def test_layer_decay_gives_every_depth_its_own_rate() -> None:
    pretext = built(small())
    ids = {n.split(".", 1)[1]: layer_id(n, 2, 2) for n, _ in pretext.named_parameters()}
    expected = {
        "patch_embed.proj.weight": 0,
        "mask_token": 0,
        "enc_blocks.0.norm1.weight": 1,
        "enc_blocks.1.mlp.fc2.bias": 2,
        "enc_norm.weight": 2,
        "decoder_embed.weight": 2,
        "dec_blocks.0.norm_y.bias": 3,
        "dec_blocks.1.attn.qkv.weight": 4,
        "dec_norm.weight": 4,
        "prediction_head.weight": 5,
    }
    assert {n: ids[n] for n in expected} == expected
    groups = pretext.param_groups(OptimConfig(lr=1.0, layer_decay=0.5))
    assert sum(len(g.params) for g in groups) == len(ids) and {g.lr_scale for g in groups} == {0.5**i for i in range(6)}
    assert [g.name for g in pretext.param_groups(OptimConfig(lr=1.0))] == ["decay", "no_decay"]


def test_the_schedule_stops_half_way_down_the_cosine() -> None:
    optim = OptimConfig.model_validate({"base_lr": 1.5e-4, "warmup": "40 epochs", "decay": "800 epochs"})
    lr = built(small()).schedules(optim, Clock(steps=4000, batch_size=512, samples=5120))["lr"]
    assert lr(0) == 0 and lr(200) == pytest.approx(1.5e-4) and lr(400) == pytest.approx(3e-4) and lr(4200) == pytest.approx(1.5e-4)


def test_visualisations_show_every_sample_and_keep_the_visible_patches() -> None:
    config = small()
    pretext = built(config)
    batch = pretext.to_device(raw_batch(config, 2))
    (picture,) = pretext.visualisations(batch, NOISE)
    assert picture.image.shape == (2 * 6 * 24 + 4, 4 * 6 * 40 + 12, 3) and picture.image.dtype == np.uint8
    assert "4 of 15 patches" in picture.caption and "mean and contrast of each hidden patch are the true ones" in picture.caption
    shown = picture.image[:144:6]  # enlarged six times
    first, completed = shown[:, :240:6], shown[:, 488:728:6]
    for cell, hidden in enumerate(batch["mask"][0].tolist()):
        r, c = divmod(cell, 5)
        same = np.array_equal(first[8 * r : 8 * r + 8, 8 * c : 8 * c + 8], completed[8 * r : 8 * r + 8, 8 * c : 8 * c + 8])
        assert same != hidden


def test_control_metrics_are_one_value_a_sample_and_exact_for_an_oracle(monkeypatch: pytest.MonkeyPatch) -> None:
    config = small()
    pretext = built(config)
    batch, other = (pretext.to_device(raw_batch(config, 3, seed)) for seed in (0, 1))
    figures = pretext.control_metrics(batch, other, NOISE)
    assert figures.keys() | {"reconstruction"} == METRICS.keys() == method.metrics.keys()
    assert all(f.shape == (3,) and f.isfinite().all() and not f.requires_grad for f in figures.values())
    torch.testing.assert_close(figures["loss_true_view"].mean(), pretext(batch, NOISE)["reconstruction"])
    assert not torch.equal(figures["psnr_true_view"], figures["psnr_other_view"])

    complete = pretext.complete

    def oracle(image1, image2, mask, hidden):  # type: ignore[no-untyped-def]  # off by 0.1 of the patch's deviation, given the true view
        done = complete(image1, image2, mask, hidden)
        mean, std = done.patches.mean(-1, keepdim=True), (done.patches.var(-1, keepdim=True) + 1e-6).sqrt()
        return done._replace(prediction=(done.patches - mean) / std + (0.0 if torch.equal(image2, batch["image2"]) else 0.1))

    done = complete(batch["image1"], batch["image2"], batch["mask"], config.hidden)
    mean = done.targets().mean(dim=(0, 1)).expand_as(done.prediction)
    guess = cross_view_metrics({"true_view": done._replace(prediction=mean)})
    assert torch.equal(guess["psnr_true_view"], guess["psnr_mean_patch"]), "a network that says the mean patch does as well as the control"

    monkeypatch.setattr(pretext, "complete", oracle)
    figures = pretext.control_metrics(batch, other, NOISE)
    assert (figures["psnr_true_view"] > 90).all() and (figures["psnr_other_view"] < 40).all()
    torch.testing.assert_close(figures["loss_mean_colour"], torch.full((3,), 0.01), atol=1e-5, rtol=1e-4)


def test_the_method_says_what_it_is() -> None:
    assert (method.id, method.kind) == ("croco", "pairs") and dataclasses.is_dataclass(method)
    assert grid_positions((2, 3)).tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]


@pytest.mark.slow
def test_golden_losses() -> None:
    """Two microbatches a step, rotary positions, colour jitter, hidden patches alone, weight decay and clipping."""
    small = {"encoder_dim": 32, "encoder_depth": 2, "encoder_heads": 2, "decoder_dim": 32, "decoder_depth": 1, "decoder_heads": 2}
    sections = {"model": {"image_size": 64, "patch_size": 16, "position": "rope", **small}, "pretext": {"mask_ratio": 0.75}}
    ours = golden.losses(method, sections)
    golden.check("croco", ours)
    assert sum(step["reconstruction"] for step in ours[-3:]) < 0.95 * sum(step["reconstruction"] for step in ours[:3])


def test_health_tells_a_mean_patch_and_an_unused_second_view_from_a_completion() -> None:
    pretext = built(small()).eval()
    batch = pretext.to_device(raw_batch(pretext.config, 6))
    done = pretext.complete(batch["image1"], batch["image2"], batch["mask"], pretext.config.hidden)
    tokens, targets = torch.randn(6, 4, 8, generator=torch.Generator().manual_seed(0)), done.targets()
    mean = targets.flatten(0, 1).mean(dim=0).expand_as(targets)
    exact, half, always = (done._replace(prediction=prediction) for prediction in (targets, (targets + mean) / 2, mean))
    assert health_metrics(exact, exact, tokens)["explained"] == 1
    assert health_metrics(half, half, tokens)["explained"] == pytest.approx(0.75, abs=0.01)
    assert 0 <= health_metrics(always, always, tokens)["explained"] < 0.05, "by the mean of these patches, not of all there are"
    assert health_metrics(exact, always, tokens)["swapped_view_gap"] > 0.9 and health_metrics(half, half, tokens)["swapped_view_gap"] == 0
    fresh = pretext.health(batch, NOISE)
    assert {alarm.metric for alarm in ALARMS} - {"rankme"} == fresh.keys(), "that is of the embeddings: test_collapse.py"
    assert fresh["explained"] < 0
    assert "swapped_view_gap" not in pretext.health({name: value[:1] for name, value in batch.items()}, NOISE), "there is no other pair"
