"""LOCA's network and pretext task: what the numbers of the official code do not show."""

from __future__ import annotations

import io
import math

import golden
import numpy as np
import pytest
import torch
from PIL import Image

from sightline.methods.contract import Batch, BuildContext
from sightline.methods.layers.colour import imagenet_normalise
from sightline.methods.loca import ALARMS, METRICS, colour, method
from sightline.methods.loca.config import LocaConfig
from sightline.methods.loca.loss import over_valid, over_valid_of_samples, sinkhorn
from sightline.methods.loca.network import LocaEncoder
from sightline.methods.loca.pretext import LocaPretext
from sightline.methods.optim import Clock, OptimConfig
from sightline.methods.random import MicrobatchRng, sample_rng

NOISE = MicrobatchRng(0, 0, 0)
SMALL = {
    "model": {"image_size": 64, "patch_size": 8, "encoder_dim": 48, "encoder_depth": 3, "encoder_heads": 3},
    "pretext": {"focal_queries": 3, "query_tokens": 20, "prototypes": 32, "head_hidden": 40, "head_bottleneck": 16},
    "augment": {"focal_size": 32},
}


def small(**sections: dict[str, object]) -> LocaConfig:
    return LocaConfig.model_validate({name: {**SMALL.get(name, {}), **sections.get(name, {})} for name in {**SMALL, **sections}})


def raw_batch(config: LocaConfig, samples: int = 4, seed: int = 0) -> Batch:
    views, rng = method.views(config), np.random.default_rng(seed)
    images = [
        Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).resize((90, 80), Image.Resampling.BICUBIC) for _ in range(samples)
    ]
    rows = [views({"image": np.asarray(image)}, sample_rng(seed, i)) for i, image in enumerate(images)]
    return {name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]}


def built(config: LocaConfig, seed: int = 0) -> LocaPretext:
    return method.build(config, BuildContext(seed=seed))


def gradients(pretext: LocaPretext) -> dict[str, torch.Tensor]:
    found = {name: p.grad.clone() for name, p in pretext.named_parameters() if p.grad is not None}
    pretext.zero_grad(set_to_none=True)
    return found


def total(losses: dict[str, torch.Tensor]) -> torch.Tensor:
    return losses["position"] + losses["cluster"] + losses["entropy"]


def test_building_depends_on_the_seed_alone_and_leaves_the_global_generator() -> None:
    before = torch.get_rng_state()
    a, b, c = built(small(), 1), built(small(), 1), built(small(), 2)
    assert torch.equal(before, torch.get_rng_state())
    for (name, x), y, z in zip(a.state_dict().items(), b.state_dict().values(), c.state_dict().values(), strict=True):
        assert torch.equal(x, y) and x.isfinite().all(), name
        fixed = "norm" in name or (name.endswith("bias") and ".mlp." not in name)
        assert torch.equal(x, z) == fixed, name
    assert all(torch.equal(t, a.student.state_dict()[n]) for n, t in a.teacher.state_dict().items())
    assert not any(p.requires_grad for p in a.teacher.parameters()) and all(p.requires_grad for p in a.student.parameters())


def test_initial_weights_follow_the_authors() -> None:
    state = built(small(model={"encoder_dim": 192, "encoder_depth": 1}, pretext={"head_hidden": 256})).student.state_dict()
    for third in state["encoder.blocks.0.attn.qkv.weight"].chunk(3):
        bound = (6 / 384) ** 0.5
        assert third.abs().max() <= bound and third.std() == pytest.approx(bound / 3**0.5, rel=0.02)
    for name, inputs in (("cluster.fc2.weight", 256), ("position.predictor.weight", 192), ("encoder.patch_embed.proj.weight", 192)):
        assert state[name].std() == pytest.approx(inputs**-0.5, rel=0.03)
        assert state[name].abs().max() <= 2 * inputs**-0.5 / 0.8796 + 1e-6
    assert state["encoder.pos_embed"].std() == pytest.approx(192**-0.5, rel=0.03)
    assert 0 < state["encoder.blocks.0.mlp.fc1.bias"].abs().max() < 1e-5 and not state["cluster.fc1.bias"].any()


def test_untrained_losses_are_near_chance_and_every_weight_is_used() -> None:
    config = small(pretext={"prototypes": 256, "head_hidden": 256, "head_bottleneck": 64})
    pretext = built(config)
    losses = pretext(pretext.to_device(raw_batch(config, 8)), NOISE)
    assert losses["position"].item() == pytest.approx(math.log(64), abs=0.8)
    assert losses["cluster"].item() == pytest.approx(math.log(256), abs=1)
    assert -math.log(256) <= losses["entropy"].item() < -0.9 * math.log(256)
    assert 0.3 < losses["valid"] <= 1 and losses["accuracy"] < 0.2
    total(losses).backward()
    grads = gradients(pretext)
    assert grads.keys() == {f"student.{n}" for n, _ in pretext.student.named_parameters()}  # DDP needs no search, the teacher no gradient
    assert all(g.isfinite().all() and g.any() for g in grads.values())


def test_microbatches_dealt_to_one_rank_give_what_one_microbatch_of_all_would_of_the_whole_batch_terms() -> None:
    """With the same draws in both halves, two groups differ from their union in the per-group normalisation alone."""
    config = small(model={"drop_path": 0}, pretext={"query_tokens": 64, "reference_selection": "first"})
    pretext = built(config)
    whole = pretext.to_device(raw_batch(config, 6))
    whole = {
        **whole,
        "query_target": whole["query_target"].clamp_min(0),
        "focal_target": whole["focal_target"].clamp_min(0),
    }  # equal counts
    halves = [{name: t[part] for name, t in whole.items()} for part in (slice(0, 3), slice(3, 6))]
    one = pretext(whole, NOISE)
    total(one).backward()
    expected = gradients(pretext)
    rngs = [MicrobatchRng(0, 0, 0), MicrobatchRng(0, 0, 1)]
    results = []
    with torch.no_grad():
        marked = pretext.targets(halves, rngs)
    for batch, rng in zip(marked, rngs, strict=True):
        results.append(pretext(batch, rng))
        (total(results[-1]) / 2).backward()
    for name in ("position", "cluster", "entropy"):
        torch.testing.assert_close(torch.stack([r[name] for r in results]).mean(), one[name])
    for name, grad in gradients(pretext).items():
        torch.testing.assert_close(grad, expected[name], atol=2e-6, rtol=1e-4, msg=name)
    assert results[0]["entropy"] == results[1]["entropy"] and results[0]["cluster"] != results[1]["cluster"]


def test_a_microbatch_is_drawn_from_its_rng_alone() -> None:
    config = small(model={"drop_path": 0.5})
    pretext = built(config)
    batch = pretext.to_device(raw_batch(config))
    assert total(pretext(batch, NOISE)) == total(pretext(batch, NOISE)) != total(pretext(batch, MicrobatchRng(0, 1, 0)))
    starts = {int(pretext.draw(batch, MicrobatchRng(0, step, 0)).reference[0]) for step in range(400)}
    assert starts == set(range(64 - 12 + 1))
    draws = pretext.draw(batch, NOISE)
    assert torch.equal(draws.reference, torch.arange(12) + draws.reference[0])
    assert len(draws.query.unique()) == 20 and draws.focal_paths.shape == (3, 2, 12)
    assert not torch.equal(draws.query_paths[2], draws.reference_paths[2]) or not torch.equal(
        draws.query_paths[1], draws.reference_paths[1]
    )
    pretext.eval()
    assert pretext.draw(batch, NOISE).query_paths is None
    subset = built(small(pretext={"reference_selection": "unstructured"})).draw(batch, NOISE).reference
    assert len(subset.unique()) == 12 and not torch.equal(subset.sort().values, torch.arange(12) + subset.min())


def test_hidden_reference_tokens_and_other_samples_do_not_leak_into_positions() -> None:
    config = small(model={"drop_path": 0}, pretext={"clustering": False})
    pretext = built(config)
    batch = pretext.to_device(raw_batch(config))
    draws = pretext.draw(batch, NOISE)
    before = pretext.answer(batch, draws, pretext.see_reference(batch, draws).kept).positions
    hidden = torch.ones(64, dtype=torch.bool)
    hidden[draws.reference] = False
    pixels = hidden.view(1, 1, 8, 8).repeat_interleave(8, 2).repeat_interleave(8, 3)
    changed = {**batch, "reference": torch.where(pixels, torch.randn(1), batch["reference"])}
    assert torch.equal(pretext.answer(changed, draws, pretext.see_reference(changed, draws).kept).positions, before)  # dropped early
    alone = {name: t[1:2] for name, t in batch.items()}
    torch.testing.assert_close(pretext.answer(alone, draws, pretext.see_reference(alone, draws).kept).positions, before[1:2])
    other = pretext.answer(batch, draws, pretext.see_reference(batch, draws).kept.flip(0)).positions
    assert (other - before).abs().max() > 1e-3  # the reference is used


def test_position_only_has_no_teacher_and_a_gradient_through_the_reference() -> None:
    config = small(pretext={"clustering": False})
    pretext = built(config)
    batch = pretext.to_device(raw_batch(config))
    assert pretext.targets([batch], [NOISE])[0] is batch and pretext.teacher is None
    losses = pretext(batch, NOISE)
    assert losses["cluster"] == losses["entropy"] == 0
    total(losses).backward()
    grads = gradients(pretext)
    assert grads.keys() == {n for n, _ in pretext.named_parameters()} and grads["student.encoder.pos_embed"].any()
    pretext.after_step(0, 10)
    assert set(pretext.health(batch, NOISE)) == {"position_accuracy", "valid", "chance_gap", "feature_std", "effective_rank"}


@pytest.mark.parametrize("queries", [0, 1])
def test_few_focal_queries(queries: int) -> None:
    config = small(pretext={"focal_queries": queries})
    pretext = built(config)
    losses = pretext(pretext.to_device(raw_batch(config)), NOISE)
    assert total(losses).isfinite()
    (picture,) = pretext.visualisations(pretext.to_device(raw_batch(config, 2)), NOISE)
    assert picture.image.shape == (2 * 128 + 4, 2 * 128 + 4, 3)


@pytest.mark.parametrize(("size", "patch", "focal"), [([32, 48], 8, 16), (56, 14, 28)])
def test_other_patches_and_rectangles(size: object, patch: int, focal: int) -> None:
    config = small(model={"image_size": size, "patch_size": patch}, augment={"focal_size": focal})
    pretext = built(config)
    total(pretext(pretext.to_device(raw_batch(config)), NOISE)).backward()
    height, width = config.model.image_size
    assert pretext.encoder().tokens(torch.rand(1, 3, height, width)).shape == (1, config.model.patches, 48)


def test_bf16_autocast_stays_close_and_targets_are_float32() -> None:
    config = small(model={"drop_path": 0})
    pretext = built(config)
    batch = pretext.to_device(raw_batch(config))
    exact = pretext(batch, NOISE)
    with torch.autocast("cpu", torch.bfloat16):
        (marked,) = pretext.targets([batch], [NOISE])
        rounded = pretext(marked, NOISE)
    total(rounded).backward()
    assert marked["assignments"].dtype == marked["reference_kept"].dtype == torch.float32
    torch.testing.assert_close(marked["assignments"].sum(-1), torch.ones(4, 64))
    for name in ("position", "cluster", "entropy"):
        assert rounded[name].dtype == torch.float32
        torch.testing.assert_close(rounded[name], exact[name], rtol=0.02, atol=0.01)


def test_sinkhorn_balances_columns_and_ends_with_rows() -> None:
    parts = [torch.rand(2, 30, 8, generator=torch.Generator().manual_seed(0)) ** 4 for _ in range(2)]
    whole = torch.cat(parts, dim=1).clone()
    sinkhorn(parts, 50)
    sinkhorn([whole], 50)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole)
    torch.testing.assert_close(whole.sum(dim=(0, 1)), torch.full((8,), 120 / 8), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(whole.sum(dim=-1), torch.ones(2, 60))
    untouched = torch.rand(1, 3, 4)
    sinkhorn([copy := untouched.clone()], 0)
    assert torch.equal(copy, untouched)


def test_the_teacher_follows_by_the_momentum_before_the_increment() -> None:
    pretext = built(small(pretext={"teacher_momentum": 0.9}))
    with torch.no_grad():
        for parameter in pretext.student.parameters():
            parameter.add_(1.0)
    before = {n: t.clone() for n, t in pretext.teacher.state_dict().items()}
    pretext.after_step(0, 100)
    for name, value in pretext.teacher.state_dict().items():
        torch.testing.assert_close(value, before[name] + 0.1, msg=name)
    pretext.after_step(50, 100)
    torch.testing.assert_close(pretext.teacher.cluster.prototypes, before["cluster.prototypes"] + 1 - 0.9 * 0.95)


def test_what_decays() -> None:
    pretext = built(small())
    decay, rest = pretext.param_groups(OptimConfig(lr=1.0))
    names = {id(p): n for n, p in pretext.student.named_parameters()}
    decayed, free = ({names[id(p)] for p in group.params} for group in (decay, rest))
    assert decay.decay and not rest.decay and decayed | free == set(names.values())
    assert {"encoder.pos_embed", "cluster.prototypes", "encoder.blocks.0.attn.qkv.bias", "position.block.cross_attn.projk.bias"} <= decayed
    assert {"encoder.norm.weight", "encoder.blocks.0.attn.proj.bias", "encoder.blocks.0.mlp.fc1.bias", "position.predictor.bias"} <= free
    groups = pretext.param_groups(OptimConfig(lr=1.0, layer_decay=0.5))
    assert {g.lr_scale for g in groups} == {0.5**i for i in range(5)} and sum(len(g.params) for g in groups) == len(names)
    encoder = pretext.encoder()
    depths = {"patch_embed.proj.weight": 0, "pos_embed": 0, "blocks.0.norm1.weight": 1, "blocks.2.mlp.fc2.bias": 3, "norm.bias": 4}
    assert {name: encoder.layer_of(name) for name in depths} == depths and encoder.depth == 3


def test_the_rate_starts_at_0_and_ends_at_its_floor() -> None:
    optim = OptimConfig.model_validate({"base_lr": 2.5e-4, "min_lr": 1e-5, "warmup": "15 epochs", "weight_decay": 0.1})
    schedules = built(small()).schedules(optim, Clock(steps=125100, batch_size=1024, samples=1024 * 1251))
    assert (
        schedules["lr"](0) == 0
        and schedules["lr"](18765) == pytest.approx(1e-3)
        and schedules["lr"](125099) == pytest.approx(1e-5, rel=1e-3)
    )
    assert schedules["weight_decay"](77) == 0.1


def test_the_kept_encoder_is_a_copy_of_the_teacher_s_or_the_student_s() -> None:
    for whose in ("teacher", "student"):
        pretext = built(small(pretext={"encoder": whose}))
        with torch.no_grad():
            pretext.student.encoder.norm.bias.add_(1.0)
        encoder = pretext.encoder()
        assert isinstance(encoder, LocaEncoder) and (encoder.dim, encoder.patch_size, encoder.image_size) == (48, 8, (64, 64))
        network = getattr(pretext, whose)
        assert torch.equal(encoder.norm.bias, network.encoder.norm.bias) and encoder.norm.bias.requires_grad
        assert not {p.data_ptr() for p in encoder.parameters()} & {p.data_ptr() for p in pretext.parameters()}
        for prefix in pretext.encoder_prefixes:
            assert all(prefix + name in pretext.state_dict() for name in encoder.state_dict())


def test_the_encoder_sees_other_sizes_and_says_where_it_looks() -> None:
    encoder = built(small()).encoder().eval()
    for size in ((64, 64), (48, 24), (8, 8), (96, 128)):
        images = torch.rand(2, 3, *size)
        tokens, saliency = encoder(images), encoder.saliency(images)
        assert tokens.shape == (2, size[0] * size[1] // 64, 48) and saliency.shape == tokens.shape[:2]
        torch.testing.assert_close(saliency.sum(1), torch.ones(2))
    torch.testing.assert_close(encoder.tokens(images), encoder.encode(imagenet_normalise(images)))


@pytest.mark.slow
def test_the_encoder_exports_with_any_batch() -> None:
    encoder = built(small()).encoder().eval()
    program = torch.export.export(encoder, (torch.rand(2, 3, 64, 64),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for samples in (1, 5):
        images = torch.rand(samples, 3, 64, 64)
        torch.testing.assert_close(loaded(images), encoder(images), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [64, [32, 48]])
def test_timm_has_the_same_maths(size: object) -> None:
    import timm

    config = small(model={"image_size": size})
    encoder = built(config).encoder().eval()
    form = method.timm(config, encoder.state_dict())
    model = timm.create_model(form.architecture, num_classes=0, **form.arguments).eval()
    model.load_state_dict(form.state, strict=True)
    images = torch.rand(2, 3, *config.model.image_size)
    theirs = model.forward_features(imagenet_normalise(images))[:, form.prefix_tokens :]
    torch.testing.assert_close(theirs, encoder.tokens(images), atol=1e-5, rtol=1e-5)


def test_colours_meet_the_images_that_drew_them_in_their_own_order() -> None:
    images = torch.rand(5, 3, 30, 30, generator=torch.Generator().manual_seed(0))
    table = torch.tensor(
        [
            [0.3, 1.4, 0.9, 0.1, 0, 1, 2, 3, 1, 0, 0, 0],
            [0.3, 1.4, 0.9, 0.1, 1, 0, 3, 2, 1, 0, 0, 0],
            [0.3, 1.4, 0.9, 0.1, 0, 1, 2, 3, 0, 1, 0, 0],
            [0.3, 1.4, 0.9, 0.1, 0, 1, 2, 3, 0, 0, 1, 1.5],
            [0.3, 1.4, 0.9, 0.1, 0, 1, 2, 3, 0, 0, 0, 0],
        ]
    )

    def jitter(x: torch.Tensor, order: list[int]) -> torch.Tensor:
        for op in order:
            x = colour.JITTER[op](x, table[:1, op]).clamp(0, 1)
        return x

    expected = [
        jitter(images[:1], [0, 1, 2, 3]),
        jitter(images[1:2], [1, 0, 3, 2]),
        colour.grey(images[2:3]),
        colour.solarise(colour.blur(images[3:4], torch.tensor([1.5]), 3)),
        images[4:5],
    ]
    torch.testing.assert_close(colour.augment(images.clone(), table), imagenet_normalise(torch.cat(expected)))


def test_health_tells_a_collapse_from_a_fresh_network() -> None:
    config = small(pretext={"prototypes": 256, "head_hidden": 256, "head_bottleneck": 64})
    pretext = built(config).eval()
    batch = pretext.to_device(raw_batch(config, 8))
    fresh = pretext.health(batch, NOISE)
    assert all(value.ndim == 0 and value.isfinite() for value in fresh.values())
    alarms = [alarm for alarm in ALARMS if alarm.metric != "rankme"]  # of the embeddings: test_collapse.py
    assert {alarm.metric for alarm in alarms} <= fresh.keys()
    assert [a.metric for a in alarms if not a.below <= fresh[a.metric] <= a.above] == ["chance_gap"]
    assert fresh["chance_gap"] < 0.1, "a fresh network is on the plateau"
    assert fresh["teacher_agreement"] == pytest.approx(1) and 0.7 < fresh["prediction_entropy"] <= 1 and 0 < fresh["clusters_used"] <= 1
    with torch.no_grad():
        for network in (pretext.student, pretext.teacher):
            network.encoder.norm.weight.mul_(1e-3)
            network.encoder.norm.bias[0] = 1.0
            network.cluster.prototypes[1:] = -network.cluster.prototypes[:1]
    dead = pretext.health(batch, NOISE)
    assert {a.metric for a in alarms if not a.below <= dead[a.metric] <= a.above} >= {"feature_std"}
    pretext.train()
    assert torch.equal(pretext(batch, NOISE)["valid"], dead["valid"])


def test_control_metrics_compare_the_own_reference_with_another() -> None:
    config = small()
    pretext = built(config).eval()
    batch, other = (pretext.to_device(raw_batch(config, 3, seed)) for seed in (0, 1))
    figures = pretext.control_metrics(batch, other, NOISE)
    assert list(figures)[:2] == ["accuracy_own_reference", "accuracy_other_reference"]
    assert figures.keys() | {"position", "cluster", "entropy", "accuracy", "valid"} == METRICS.keys() == method.metrics.keys()
    assert all(f.shape == (3,) and f.isfinite().all() and not f.requires_grad for f in figures.values())
    same = pretext.control_metrics(batch, batch, NOISE)
    assert torch.equal(same["loss_own_reference"], same["loss_other_reference"])
    one = {name: t[:1] for name, t in batch.items()}
    torch.testing.assert_close(pretext(one, NOISE)["position"], figures["loss_own_reference"][0])


def test_visualisations_show_boxes_and_predictions() -> None:
    config = small()
    pretext = built(config)
    (picture,) = pretext.visualisations(pretext.to_device(raw_batch(config, 2)), NOISE)
    assert picture.image.shape == (2 * 128 + 4, 4 * 128 + 12, 3) and picture.image.dtype == np.uint8
    assert "12 of 64 patches" in picture.caption and "focal queries" in picture.caption
    assert (picture.image[:2, 132:260] == np.round(np.array([0.90, 0.62, 0.0]) * 255)).all()  # the frame of the first query


def test_the_method_says_what_it_is() -> None:
    assert (method.id, method.kind) == ("loca", "images") and set(LocaConfig().loss.model_dump()) < METRICS.keys()


@pytest.mark.slow
def test_golden_losses() -> None:
    """Two groups a step on one rank, so the first pass for the mean prediction and the teacher's drop path are in it."""
    sections = {
        "model": {"image_size": 32, "patch_size": 8, "encoder_dim": 48, "encoder_depth": 2, "encoder_heads": 3, "drop_path": 0.1},
        "pretext": {
            "focal_queries": 2,
            "query_tokens": 8,
            "reference_keep": 0.4,
            "prototypes": 24,
            "head_hidden": 48,
            "head_bottleneck": 16,
        },
        "augment": {"focal_size": 16, "blur": "intended"},
    }
    ours = golden.losses(method, sections)
    golden.check("loca", ours)
    assert ours[-1]["loss"] < ours[0]["loss"] - 0.5  # and something is learned


def test_losses_of_samples_are_means_over_their_valid_tokens() -> None:
    """Weighted by these they give the loss; a sample without any has the microbatch's."""
    targets = torch.tensor([[0, -1, 2], [1, 1, -1], [-1, -1, -1]])
    errors = torch.tensor([[1.0, 9, 3], [4, 6, 9], [9, 9, 9]])
    assert over_valid_of_samples(errors, targets).tolist() == pytest.approx([2, 5, 3.5])
    assert over_valid(errors, targets).item() == pytest.approx(3.5)
