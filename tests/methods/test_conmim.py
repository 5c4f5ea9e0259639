"""ConMIM's network and pretext task: what the numbers of the official code do not show."""

from __future__ import annotations

import math
from typing import Any

import golden
import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

from sightline.methods.conmim import ALARMS, METRICS, method
from sightline.methods.conmim.backbone import denormalise, relative_index, table_rows
from sightline.methods.conmim.config import ConMIMConfig
from sightline.methods.conmim.pretext import ConMIMPretext
from sightline.methods.conmim.resize import resize_bias, spline_matrix
from sightline.methods.contract import Batch, BuildContext
from sightline.methods.errors import SightlineError
from sightline.methods.optim import OptimConfig
from sightline.methods.random import MicrobatchRng, keyed_rng, sample_rng

NOISE = MicrobatchRng(0, 0, 0)
SMALL = {"image_size": 32, "patch_size": 8, "dim": 24, "depth": 2, "heads": 2, "mlp_ratio": 2, "projector_hidden": 32, "projector_dim": 16}
BIASES = ("none", "shared", "per_block", "both")


def small(pretext: dict[str, Any] | None = None, augment: dict[str, Any] | None = None, **model: Any) -> ConMIMConfig:
    task = {"mask_cell": 16, "mask_ratio": 0.5, **(pretext or {})}
    return ConMIMConfig.model_validate({"model": {**SMALL, **model}, "pretext": task, "augment": augment or {}})


def raw_batch(config: ConMIMConfig, samples: int = 6, seed: int = 0) -> Batch:
    views = method.views(config)
    rows = [views({"image": golden.picture(seed * 100 + i)}, sample_rng(seed, i)) for i in range(samples)]
    return {name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]}


def built(config: ConMIMConfig, seed: int = 0) -> ConMIMPretext:
    return method.build(config, BuildContext(seed=seed))


def lively(pretext: ConMIMPretext) -> ConMIMPretext:
    """Every parameter moved, so that a tensor that is left out shows; student and teacher differ."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in pretext.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return pretext


@pytest.mark.parametrize("bias", BIASES)
def test_building_depends_on_the_seed_alone_and_leaves_the_global_generator(bias: str) -> None:
    before = torch.get_rng_state()
    config = small(relative_bias=bias, position_table=True)
    a, b, c = built(config, 1), built(config, 1), built(config, 2)
    assert torch.equal(before, torch.get_rng_state())
    for (name, x), y in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert torch.equal(x, y) and x.isfinite().all(), name
    assert not torch.equal(a.student.backbone.cls_token, c.student.backbone.cls_token)
    for name, x in a.student.state_dict().items():
        assert torch.equal(x, a.teacher.state_dict()[name]), name
    if bias != "none":
        assert torch.equal(a.teacher.backbone.index, relative_index((4, 4)))


def test_the_teacher_never_evaluates_and_never_gets_a_gradient() -> None:
    pretext = built(small())
    assert not any(p.requires_grad for p in pretext.teacher.parameters())
    pretext.eval()
    assert pretext.teacher.training and all(m.training for m in pretext.teacher.modules())
    assert not pretext.student.training
    batch = pretext.to_device(raw_batch(small()))
    before = {n: b.clone() for n, b in pretext.teacher.named_buffers() if "running" in n}
    pretext.train()(batch, NOISE)["contrast"].backward()
    assert all(p.grad is None for p in pretext.teacher.parameters())
    assert all(p.grad is not None for p in pretext.student.parameters())
    assert all(not torch.equal(b, before[n]) for n, b in pretext.teacher.named_buffers() if "running" in n)


def test_the_teacher_follows_the_updated_student_and_keeps_its_own_statistics() -> None:
    config = small({"teacher_momentum": 0.9})
    pretext = lively(built(config))
    before = {n: t.clone() for n, t in pretext.teacher.state_dict().items()}
    student = dict(pretext.student.named_parameters())
    pretext.after_step(0, 10)
    for name, parameter in pretext.teacher.named_parameters():
        torch.testing.assert_close(parameter, 0.9 * before[name] + 0.1 * student[name])
    for name, buffer in pretext.teacher.named_buffers():
        assert "index" in name or torch.equal(buffer, before[name]), name
    frozen = pretext.teacher.backbone.cls_token.clone()
    pretext.after_step(10, 10)
    assert torch.equal(frozen, pretext.teacher.backbone.cls_token)


def test_only_hidden_rows_count_and_images_with_more_of_them_weigh_more() -> None:
    pretext = built(small())
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(2, 16, 8, generator=generator) for _ in range(2))
    mask = torch.zeros(2, 16, dtype=torch.bool)
    mask[0, [1, 5, 6]], mask[1, 3] = True, True
    pairs = pretext.contrast(student, teacher, mask, most=5)
    logits = torch.nn.functional.normalize(student, dim=-1) @ torch.nn.functional.normalize(teacher, dim=-1).mT / 0.1
    rows = torch.stack([-logits[b, i].log_softmax(-1)[i] for b, i in ((0, 1), (0, 5), (0, 6), (1, 3))])
    torch.testing.assert_close(pairs.mean(pairs.errors()), rows.mean())
    torch.testing.assert_close(pairs.errors().sum(1), torch.stack([rows[:3].sum(), rows[3]]))
    assert pairs.valid.sum() == 4 and pairs.labels[0, :3].tolist() == [1, 5, 6]


def test_no_hidden_patch_at_all_gives_a_loss_of_zero() -> None:
    pairs = built(small()).contrast(torch.ones(2, 16, 8), torch.ones(2, 16, 8), torch.zeros(2, 16, dtype=torch.bool))
    assert pairs.mean(pairs.errors()) == 0


def test_a_perfect_student_has_no_loss_and_a_constant_one_is_at_chance() -> None:
    pretext, mask = built(small()), torch.ones(2, 16, dtype=torch.bool)
    own = torch.eye(16)[None].repeat(2, 1, 1)
    assert (p := pretext.contrast(own, own, mask, 16)).mean(p.errors()) < 1e-3
    assert (p := pretext.contrast(torch.ones(2, 16, 16), own, mask, 16)).mean(p.errors()).item() == pytest.approx(math.log(16), rel=1e-5)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_similarities_are_float32_whatever_the_precision(precision: torch.dtype) -> None:
    pretext = built(small())
    batch = pretext.to_device(raw_batch(small()))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == torch.bfloat16):
        tokens, found = pretext.student_features(batch, NOISE)
        pairs = pretext.contrast(found, pretext.teacher_features(batch["teacher"], NOISE)[1], batch["mask"])
    assert pairs.logits.dtype == torch.float32 and tokens.dtype == torch.float32
    ours = torch.nn.functional.normalize(found.float(), dim=-1).gather(1, pairs.labels[..., None].expand(-1, -1, 16))
    assert pairs.logits.shape == (6, 8, 16) and ours.shape == (6, 8, 16)


def test_drop_path_is_keyed_and_acts_in_the_teacher_even_in_evaluation() -> None:
    config = small(drop_path=0.9, depth=4)
    pretext = lively(built(config))
    batch = pretext.to_device(raw_batch(config))
    teach = [pretext.teacher_features(batch["teacher"], MicrobatchRng(0, step, 0))[0] for step in (0, 0, 1)]
    assert torch.equal(teach[0], teach[1]) and not torch.equal(teach[0], teach[2])
    study = [pretext.student_features(batch, MicrobatchRng(0, step, 0))[0] for step in (0, 0, 1)]
    assert torch.equal(study[0], study[1]) and not torch.equal(study[0], study[2])
    pretext.eval()
    study = [pretext.student_features(batch, MicrobatchRng(0, step, 0))[0] for step in (0, 1)]
    assert torch.equal(study[0], study[1])
    assert not torch.equal(*(pretext.teacher_features(batch["teacher"], MicrobatchRng(0, step, 0))[0] for step in (0, 1)))


def test_the_strong_view_changes_colours_of_the_network_that_the_settings_name() -> None:
    always = {"jitter": 1, "grey": 1, "blur": 1, "solarise": 1}
    for who, changed in (("teacher", {"teacher"}), ("student", {"student"}), ("both", {"student", "teacher"})):
        config = small({"strong_view": who}, always)
        raw, pretext = raw_batch(config), built(config)
        batch = pretext.to_device(raw)
        plain = raw["image"].permute(0, 3, 1, 2).float() / 255
        for name in ("student", "teacher"):
            seen = denormalise(batch[name], config.model)
            assert torch.allclose(seen, plain, atol=1e-5) == (name not in changed)
            if name in changed:
                assert torch.allclose(seen[:, 0], seen[:, 1], atol=1e-5)  # grey
        assert (who == "both") == (raw["colours"].shape[1] == 2)
        if who == "both":
            assert not torch.allclose(batch["student"], batch["teacher"], atol=1e-2)


def test_the_strong_view_does_only_what_was_drawn() -> None:
    config = small(augment={"jitter": 0, "grey": 0, "blur": 0, "solarise": 0})
    batch = built(config).to_device(raw_batch(config))
    assert torch.equal(batch["student"], batch["teacher"])
    torch.testing.assert_close(denormalise(batch["student"], config.model).amax(), torch.tensor(1.0), atol=0.2, rtol=0)


@pytest.mark.parametrize(("normalise", "low"), [("half", -1.0), ("imagenet", (0 - 0.485) / 0.229)])
def test_normalisation_is_the_one_of_the_settings(normalise: str, low: float) -> None:
    config = small(normalise=normalise)
    black = {**raw_batch(config), "image": torch.zeros(6, 32, 32, 3, dtype=torch.uint8)}
    black["colours"] = torch.zeros_like(black["colours"])
    assert built(config).to_device(black)["teacher"][:, 0].unique().item() == pytest.approx(low)


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize(("table", "scale"), [(True, 0.1), (False, None)])
def test_the_encoder_is_the_teacher_without_class_token(bias: str, table: bool, scale: float | None) -> None:
    config = small(relative_bias=bias, position_table=table, layer_scale=scale, image_size=[32, 48])
    pretext = lively(built(config)).eval()
    encoder = pretext.encoder().eval()
    images = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    with torch.no_grad():
        tokens = pretext.teacher.backbone((images - mean) / std)
        torch.testing.assert_close(encoder.tokens(images), tokens[:, 1:])
        assert torch.equal(encoder(images), encoder.tokens(images)) and encoder(images).shape == (2, 24, 24)
        saliency = encoder.saliency(images)
        assert saliency.shape == (2, 24) and (saliency > 0).all()
        torch.testing.assert_close(saliency.sum(1), torch.ones(2))
        for size in ((64, 48), (40, 40)):  # other grids
            assert encoder(torch.rand(1, 3, *size)).isfinite().all()
    pretext.teacher.backbone.cls_token.data.zero_()
    assert encoder.backbone.cls_token.abs().sum() > 0  # shares no storage
    assert all(p.requires_grad for p in encoder.parameters())


def test_the_student_is_the_encoder_where_the_settings_say_so() -> None:
    pretext = lively(built(small({"encoder": "student"})))
    assert torch.equal(pretext.encoder().backbone.cls_token, pretext.student.backbone.cls_token)
    for prefix in pretext.encoder_prefixes:  # both networks hold one
        assert all(f"{prefix}{name}" in pretext.state_dict() for name in pretext.encoder().state_dict())


def test_saliency_is_the_attention_of_the_last_block() -> None:
    encoder = lively(built(small())).encoder().eval()
    images = torch.rand(2, 3, 32, 32)
    tokens, attention = encoder.backbone.last_attention(images)
    assert torch.equal(tokens, encoder.backbone(images))
    assert attention.shape == (2, 2, 17, 17)
    torch.testing.assert_close(attention.sum(-1), torch.ones(2, 2, 17))
    block = encoder.backbone.blocks[-1].attn
    x, biases = encoder.backbone._start(images, None)
    x = encoder.backbone.blocks[0](x, biases[0])
    x = encoder.backbone.blocks[-1].norm1(x)
    seen = (block.weights(x, biases[1]) @ block.project(x)[2]).transpose(1, 2).flatten(2)
    torch.testing.assert_close(block.proj(seen), block(x, biases[1]), atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("bias", BIASES)
def test_the_encoder_exports_with_any_batch(bias: str) -> None:
    encoder = lively(built(small(relative_bias=bias, position_table=True))).encoder().eval()
    program = torch.export.export(encoder, (torch.rand(2, 3, 32, 32),), dynamic_shapes=({0: torch.export.Dim("batch")},)).module()
    images = torch.rand(5, 3, 32, 32)
    torch.testing.assert_close(program(images), encoder(images), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize(("table", "scale", "size"), [(True, 0.1, 32), (False, None, [32, 48])])
@pytest.mark.slow
def test_timm_gives_the_same_tokens(bias: str, table: bool, scale: float | None, size: Any) -> None:
    import timm

    config = small(relative_bias=bias, position_table=table, layer_scale=scale, image_size=size, normalise="half")
    encoder = lively(built(config)).encoder().eval()
    assert method.timm is not None
    form = method.timm(config, encoder.state_dict())
    model = timm.create_model(form.architecture, num_classes=0, **form.arguments)
    model.load_state_dict(dict(form.state), strict=True)
    images = torch.rand(2, 3, *config.model.image_size, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (form.mean, form.std))
    with torch.no_grad():
        theirs = model.eval().forward_features((images - mean) / std)[:, form.prefix_tokens :]
        ours = encoder(images)
    assert (ours - theirs).abs().max() <= 1e-5 * max(1.0, ours.abs().max().item())


def test_tables_keep_their_values_on_their_own_grid_and_constants_on_any() -> None:
    table = torch.randn(table_rows((4, 6)), 3, generator=torch.Generator().manual_seed(0))
    assert resize_bias(table, (4, 6), (4, 6)) is table
    flat = torch.ones(table_rows((4, 6)), 3)
    torch.testing.assert_close(resize_bias(flat, (4, 6), (7, 5)), torch.ones(table_rows((7, 5)), 3))
    larger = resize_bias(table, (4, 6), (7, 9))
    assert larger.shape == (table_rows((7, 9)), 3)
    torch.testing.assert_close(larger[-3:], table[-3:])
    centre_old, centre_new = (h * 0 + (h - 1) * (2 * w - 1) + w - 1 for h, w in ((4, 6), (7, 9)))
    torch.testing.assert_close(larger[centre_new], table[centre_old])  # no distance stays no distance


def test_resizing_agrees_with_the_two_dimensional_spline() -> None:
    from scipy.interpolate import RectBivariateSpline

    values = keyed_rng("spline").normal(size=(11, 11))
    ours = spline_matrix(11, 19) @ values @ spline_matrix(11, 19).T
    q = 1.0
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        q = (low + high) / 2
        low, high = (low, q) if sum(q**i for i in range(5)) > 9 else (q, high)
    sums = [sum(q**i for i in range(n + 1)) for n in range(5)]
    source = np.array([-s for s in reversed(sums)] + [0.0] + sums)
    target = np.arange(-9, 10).clip(source[0], source[-1])
    np.testing.assert_allclose(ours, RectBivariateSpline(source, source, values)(target, target), atol=1e-6)


def test_a_table_too_small_for_a_spline_is_refused() -> None:
    with pytest.raises(SightlineError, match="too small for a cubic spline"):
        resize_bias(torch.zeros(table_rows((2, 2)), 1), (2, 2), (4, 4))


@pytest.mark.parametrize(("bias", "table"), [("shared", False), ("per_block", True), ("none", True), ("both", False)])
def test_the_fine_tuning_form_has_a_table_in_each_block_and_trains_every_parameter(bias: str, table: bool) -> None:
    encoder = lively(built(small(relative_bias=bias, position_table=table))).encoder()
    before = torch.get_rng_state()
    network = encoder.finetuning((40, 32), drop_path=0.5)
    assert torch.equal(before, torch.get_rng_state())
    assert all(block.attn.relative_position_bias_table.shape == (table_rows((5, 4)), 2) for block in network.backbone.blocks)
    assert network.backbone.rel_pos_bias is None and network.backbone.norm is None and network.backbone.mask_token is None
    images = torch.rand(3, 3, 40, 32)
    tokens, pooled = network(images, torch.ones(2, 2, 3, dtype=torch.bool))
    assert tokens.shape == (3, 20, 24) and pooled.shape == (3, 24)
    (tokens.sin().sum() + pooled.cos().sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    layers = {name: network.layer_of(name) for name, _ in network.named_parameters()}
    assert set(layers.values()) == {0, 1, 2, 3} and layers["fc_norm.weight"] == 3 and layers["backbone.cls_token"] == 0
    assert layers["backbone.blocks.1.attn.relative_position_bias_table"] == 2


def test_the_fine_tuning_form_keeps_what_was_learnt() -> None:
    """At its own size, pooled features are the mean of the encoder's tokens before the norm."""
    encoder = lively(built(small())).encoder().eval()
    network = encoder.finetuning((32, 32)).eval()
    images = torch.rand(2, 3, 32, 32)
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    with torch.no_grad():
        last = encoder.backbone.blocks_out((images - mean) / std)
        pooled = network(images)[1]
        torch.testing.assert_close(pooled, torch.nn.functional.layer_norm(last[:, 1:].mean(1), (24,), eps=1e-6), atol=1e-5, rtol=1e-5)


def test_rates_and_decay_by_depth_where_asked() -> None:
    pretext = built(small(position_table=True))
    (decay, still) = sorted(pretext.param_groups(OptimConfig(lr=1.0)), key=lambda g: g.name)
    names = {id(p): n for n, p in pretext.named_parameters()}
    assert {decay.name, still.name} == {"decay", "no_decay"}
    decayed = {names[id(p)] for p in decay.params}
    assert "student.backbone.mask_token" in decayed and "student.backbone.rel_pos_bias.relative_position_bias_table" in decayed
    assert not any(n.endswith(("cls_token", "pos_embed", "gamma_1", "q_bias", "norm.weight")) for n in decayed)
    assert len(decay.params) + len(still.params) == len(list(pretext.student.parameters()))
    layered = pretext.param_groups(OptimConfig(lr=1.0, layer_decay=0.5))
    assert {g.lr_scale for g in layered} == {1.0, 0.5, 0.25, 0.125}
    assert sum(len(g.params) for g in layered) == len(list(pretext.student.parameters()))


@pytest.mark.parametrize("decay", [1.0, 0.5])
def test_bias_tables_learn_faster_where_asked(decay: float) -> None:
    pretext = built(small(relative_bias="both", relative_bias_lr=30.0))
    groups = pretext.param_groups(OptimConfig(lr=1.0, layer_decay=decay))
    same_rate = built(small(relative_bias="both"))
    own = {id(p): n for n, p in same_rate.named_parameters()}
    plain = {own[id(p)]: g for g in same_rate.param_groups(OptimConfig(lr=1.0, layer_decay=decay)) for p in g.params}
    names = {id(p): n for n, p in pretext.named_parameters()}
    assert sum(len(g.params) for g in groups) == len(list(pretext.student.parameters()))
    assert len({g.name for g in groups}) == len(groups)
    for group in groups:
        for p in group.params:
            usual = plain[names[id(p)]]
            assert group.decay == usual.decay
            assert group.lr_scale == usual.lr_scale * (30 if names[id(p)].endswith("bias_table") else 1)


def test_control_metrics_and_health_name_what_they_promise() -> None:
    config = small()
    pretext = built(config).eval()
    batch, other = (pretext.to_device(raw_batch(config, seed=seed)) for seed in (0, 1))
    with torch.no_grad():
        claims = pretext.control_metrics(batch, other, NOISE)
        assert {name: value.shape for name, value in claims.items()} == {
            "loss_own_teacher": (6,),
            "loss_other_teacher": (6,),
            "loss_chance": (6,),
        }
        torch.testing.assert_close(claims["loss_chance"], torch.full((6,), math.log(16)))
        loss = pretext(batch, NOISE)
        torch.testing.assert_close(claims["loss_own_teacher"].mean(), loss["contrast"])  # as many hidden patches in each image
        same = pretext.control_metrics(batch, batch, NOISE)
        torch.testing.assert_close(same["loss_own_teacher"], same["loss_other_teacher"])
        health = pretext.health(batch, NOISE)
    assert health.keys() == {"accuracy", "swapped_teacher_gap", "chance_gap", "feature_std", "effective_rank", "agreement"}
    assert all(value.ndim == 0 and value.isfinite() for value in health.values())
    torch.testing.assert_close(health["chance_gap"], math.log(16) - loss["contrast"])
    assert {alarm.metric for alarm in ALARMS} <= health.keys() | {"rankme"}, "that is of the embeddings: test_collapse.py"
    assert claims.keys() | loss.keys() <= METRICS.keys()


def test_the_swapped_teacher_gap_is_zero_where_images_are_the_same_and_large_where_content_tells() -> None:
    config = small()
    pretext = lively(built(config)).eval()
    batch = {name: tensor[:1].repeat(4, *(1 for _ in tensor.shape[1:])) for name, tensor in pretext.to_device(raw_batch(config)).items()}
    with torch.no_grad():
        assert abs(pretext.health(batch, NOISE)["swapped_teacher_gap"]) < 1e-4


def test_the_visualisation_marks_the_true_place() -> None:
    config = small()
    pretext = built(config).eval()
    batch = pretext.to_device(raw_batch(config))
    (picture,) = pretext.visualisations(batch, NOISE)
    factor = 160 // 32
    assert picture.image.dtype == np.uint8 and picture.image.shape == (6 * (32 * factor + 4) - 4, 5 * (32 * factor + 4) - 4, 3)
    green = (picture.image.astype(int) - np.array([26, 230, 51])).__abs__().sum(axis=-1) < 6
    for column in (0, 2, 3, 4):
        assert green[:, column * 164 : column * 164 + 160].any()
    assert np.array_equal(picture.image, pretext.visualisations(batch, NOISE)[0].image)


def test_shapes_are_checked() -> None:
    with pytest.raises(TypeCheckError):
        built(small()).contrast(torch.zeros(2, 16, 8), torch.zeros(2, 15, 8), torch.zeros(2, 16, dtype=torch.bool))


@pytest.mark.slow
def test_golden_losses() -> None:
    sections = {"model": SMALL, "pretext": {"mask_cell": 16, "teacher_momentum": 0.9}, "loss": {}, "augment": {}}
    sections["model"] = {**SMALL, "position_table": True, "relative_bias": "both", "drop_path": 0.1}
    golden.check("conmim", golden.losses(method, sections))
