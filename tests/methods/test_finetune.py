"""Fine-tuning through the contract: encoders of any method, labels, exact draws."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from sightline.methods.catalog import find_method
from sightline.methods.contract import BuildContext
from sightline.methods.errors import BrokenSampleError, CallError, SightlineError
from sightline.methods.finetune.decoders import spread_blocks
from sightline.methods.finetune.diagnostics import class_colours, label_maps
from sightline.methods.finetune.network import backbone_of, read_blocks
from sightline.methods.finetune.pretext import erase_boxes, mix
from sightline.methods.finetune.randaugment import OPERATIONS, rand_augment
from sightline.methods.finetune.views import NO_CLASS
from sightline.methods.optim import Clock, OptimConfig, standard_schedules
from sightline.methods.random import MicrobatchRng, keyed_rng

CROCO = {
    "method": "croco",
    "model": {"image_size": 32, "patch_size": 8, "encoder_dim": 32, "encoder_depth": 2, "encoder_heads": 2, "decoder_dim": 32}
    | {"decoder_depth": 1, "decoder_heads": 2, "position": "rope"},
}


def make(task: str, **model: Any) -> tuple[Any, Any, Any]:
    method = find_method(f"finetune_{task}")
    sizes = {"encoder": CROCO, "classes": 3, "image_size": 32, **model}
    ignore = {"ignore_index": 3} if task == "segmentation" else {}
    config = method.Config.model_validate({"model": sizes, "pretext": ignore})
    return method.views(config), method.build(config, BuildContext(seed=0)), config


def sample(label: int = 1, size: tuple[int, int] = (40, 56)) -> dict[str, Any]:
    rng = keyed_rng("test", label)
    mask = np.full(size, label % 3, np.uint8)
    mask[:, ::5] = 3
    return {"image": rng.integers(0, 255, (*size, 3), dtype=np.uint8) // (label + 1), "label": label, "segmentation": mask}


def batch(views: Any, pretext: Any, count: int = 4) -> dict[str, torch.Tensor]:
    made = [views(sample(i % 3), keyed_rng("views", i)) for i in range(count)]
    return pretext.to_device({name: torch.from_numpy(np.stack([m[name] for m in made])) for name in made[0]})


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_a_step_learns_and_the_same_draws_give_the_same_loss(task: str) -> None:
    views, pretext, _ = make(task)
    data = batch(views, pretext)
    optimizer = torch.optim.AdamW(pretext.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        loss = pretext(data, MicrobatchRng(0, 0, 0))["cross_entropy"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert min(losses[-3:]) < 0.9 * losses[0]
    again = [pretext(data, MicrobatchRng(0, 5, 0))["cross_entropy"].item() for _ in range(2)]
    assert again[0] == again[1]


def test_a_fresh_head_predicts_nearly_evenly() -> None:
    views, pretext, _ = make("classification")
    pretext.eval()
    assert pretext(batch(views, pretext), MicrobatchRng(0, 0, 0))["cross_entropy"].item() == pytest.approx(np.log(3), abs=0.01)


def test_pixels_that_do_not_count_have_no_influence() -> None:
    views, pretext, _ = make("segmentation")
    made = views(sample(), keyed_rng("v", 1))
    assert set(np.unique(made["mask"])) <= {0, 1, 2, NO_CLASS}
    assert NO_CLASS in made["mask"]  # class 3 is the ignored one
    data = batch(views, pretext)
    everything_ignored = {**data, "mask": torch.full_like(data["mask"], NO_CLASS)}
    assert pretext(everything_ignored, MicrobatchRng(0, 0, 0))["cross_entropy"].item() == 0


def test_labels_and_masks_beyond_the_classes_are_broken_samples() -> None:
    views, _, _ = make("classification")
    with pytest.raises(BrokenSampleError, match="label 3 is none of the 3 classes"):
        views({**sample(), "label": 3}, keyed_rng("v"))
    with pytest.raises(ValidationError, match="at most 255"):
        make("segmentation", classes=300)  # 300 would be stored as 44
    views, _, _ = make("segmentation")
    with pytest.raises(BrokenSampleError, match="mask has class 7"):
        views({**sample(), "segmentation": np.full((40, 56), 7, np.uint8)}, keyed_rng("v"))


def test_validation_sees_the_centre_without_augmentation() -> None:
    views, _, _ = make("classification")
    first, second = (views.evaluation(sample(), keyed_rng("other", i)) for i in range(2))
    assert (first["image"] == second["image"]).all()
    assert first["erase"].sum() == 0


def test_layer_decay_scales_rates_by_depth() -> None:
    _, pretext, _ = make("classification")
    groups = {g.name: g.lr_scale for g in pretext.param_groups(OptimConfig(lr=1.0, layer_decay=0.5))}
    assert groups["layer0.decay"] == 0.5**3
    assert groups["layer2.decay"] == 0.5
    assert groups["layer3.decay"] == 1.0  # the head
    assert sum(len(g.params) for g in pretext.param_groups(OptimConfig(lr=1.0))) == len(list(pretext.parameters()))


def test_mixing_keeps_the_labels_mass_in_proportion_to_the_pixels() -> None:
    images, targets = torch.zeros(2, 3, 16, 16), torch.eye(2)
    images[1] = 1
    seen = set()
    for step in range(20):
        mixed, labels = mix(images, targets, MicrobatchRng(0, step, 0), mixup=0.8, cutmix=1.0)
        assert torch.allclose(mixed[0].mean(), labels[0, 1], atol=1e-5)
        assert torch.allclose(labels.sum(dim=1), torch.ones(2))
        seen.add(bool(((mixed == 0) | (mixed == 1)).all()))
    assert seen == {True, False}  # both kinds were drawn


def test_erasing_fills_the_box_and_nothing_else() -> None:
    images = torch.zeros(2, 3, 8, 8)
    boxes = torch.tensor([[2, 3, 4, 2], [0, 0, 0, 0]])
    erased = erase_boxes(images, boxes, torch.Generator().manual_seed(0))
    assert (erased[0, :, 2:6, 3:5] != 0).all()
    assert int((erased != 0).sum()) == 3 * 8


def test_every_augmentation_keeps_the_shape_and_does_something() -> None:
    from PIL import Image

    gradient = np.linspace(60, 200, 32 * 32 * 3).reshape(32, 32, 3).astype(np.uint8)
    gradient[::3] //= 2
    image = Image.fromarray(gradient)
    for name, operation in OPERATIONS.items():
        out = operation(image, 0.9, 1.0)
        assert out.size == image.size and out.mode == "RGB"
        assert (np.asarray(out) != gradient).any(), name
    drawn = [np.asarray(rand_augment(image, keyed_rng("ra", seed), 2, 9.0, 0.5)) for seed in (1, 1, 2, 3)]
    assert (drawn[0] == drawn[1]).all()
    assert any((drawn[0] != other).any() for other in drawn[2:])


def test_the_exported_predictor_is_the_trained_network() -> None:
    views, pretext, _ = make("classification")
    predictor = pretext.encoder().eval()
    data = batch(views.evaluation, pretext)
    assert predictor(data["image"]).shape == (4, 3)
    assert predictor.tokens(data["image"]).shape == (4, 16, 32)
    assert torch.equal(predictor(data["image"]), pretext.eval().predictor.logits(data["image"]))


def test_a_wrong_encoder_is_named() -> None:
    method = find_method("finetune_classification")
    for encoder, message in (
        ({}, "name no method"),
        ({"method": "crocco"}, "did you mean 'croco'"),
        ({"method": "croco", "model": {"encoder_dmi": 3}}, "encoder_dmi"),
    ):
        with pytest.raises(ValidationError, match=message):
            method.Config.model_validate({"model": {"encoder": encoder, "classes": 2, "image_size": 32}})


def test_label_maps_are_drawn_in_the_colours_that_the_legend_names() -> None:
    truth = torch.zeros(1, 8, 8, dtype=torch.long)
    truth[:, 4:], truth[:, :, :2] = 1, NO_CLASS
    drawn = label_maps(torch.rand(1, 3, 8, 8), truth, torch.where(truth == 1, 1, 2), ("sky", "road", "c\u00e4r"))
    own = label_maps(torch.rand(1, 3, 8, 8), truth, torch.where(truth == 1, 1, 2), ("a", "b", "c"), ((1, 2, 3), (4, 5, 6), (7, 8, 9)))
    assert {(4, 5, 6), (7, 8, 9)} <= {tuple(colour) for colour in own.image.reshape(-1, 3).tolist()}  # the data set's own
    sheet, colours = drawn.image, class_colours(3)
    side = 8 * (160 // 8)
    cells = [sheet[20:side:20, start + 10 : start + side : 20] for start in (0, side + 4, 2 * (side + 4))]
    np.testing.assert_array_equal(cells[1][0, 4], colours[0])
    np.testing.assert_array_equal(cells[1][6, 4], colours[1])
    np.testing.assert_array_equal(cells[1][0, 0], [0, 0, 0])
    np.testing.assert_array_equal(cells[2][0, 4], colours[2])
    below = {tuple(pixel) for pixel in sheet[side:].reshape(-1, 3).tolist()}
    assert below >= {tuple(colour) for colour in colours.tolist()}, "each class has its swatch"
    assert "Colours: road, c\u00e4r, sky" in drawn.caption


@pytest.mark.parametrize("decoder", ["mask_transformer", "upernet"])
def test_a_decoder_learns_with_its_encoder_and_is_replayed(decoder: str) -> None:
    views, pretext, _ = make("segmentation", decoder=decoder, decoder_dim=8, decoder_depth=1)
    data = batch(views, pretext)
    optimizer = torch.optim.AdamW(pretext.parameters(), lr=3e-3)
    losses = []
    for _ in range(4):
        found = pretext(data, MicrobatchRng(0, 0, 0))
        optimizer.zero_grad()
        found["cross_entropy"].backward()
        optimizer.step()
        losses.append(found["cross_entropy"].item())
    assert losses[-1] < 0.9 * losses[0]
    assert not [name for name, p in pretext.named_parameters() if p.requires_grad and p.grad is None]
    again = [pretext(data, MicrobatchRng(0, 5, draw))["cross_entropy"].item() for draw in (0, 0, 1)]
    assert again[0] == again[1]
    assert (again[0] == again[2]) is (decoder == "mask_transformer")  # UPerNet's dropout is the microbatch's own
    assert ("auxiliary" in found) is (decoder == "upernet")
    pretext.eval()
    assert pretext.predictor.logits(data["image"][:1]).shape == (1, 3, 32, 32)
    assert "auxiliary" not in pretext(data, MicrobatchRng(0, 0, 0))


def test_the_second_prediction_counts_by_its_weight() -> None:
    losses = []
    for weight in (0.0, 0.4):
        views, pretext, config = make("segmentation", decoder="upernet", decoder_dim=8)
        pretext.config = config.model_copy(update={"pretext": config.pretext.model_copy(update={"auxiliary": weight})})
        losses.append(pretext(batch(views, pretext), MicrobatchRng(0, 0, 0)))
    assert losses[1]["cross_entropy"].item() == pytest.approx((losses[0]["cross_entropy"] + 0.4 * losses[1]["auxiliary"]).item())


def test_upernet_reads_blocks_after_a_third_a_half_two_thirds_and_all() -> None:
    assert spread_blocks(12) == (3, 5, 7, 11)
    assert spread_blocks(24) == (7, 11, 15, 23)
    assert spread_blocks(1) == (0, 0, 0, 0)
    with pytest.raises(CallError, match="there are 2 blocks"):
        make("segmentation", decoder="upernet", hooks=[0, 1, 1, 2])


def test_upernet_is_refused_where_it_has_nothing_to_read_or_average() -> None:
    views, pretext, config = make("segmentation", decoder="upernet", decoder_dim=8)
    with pytest.raises(CallError, match="gives the last one alone"):
        read_blocks(config, SimpleNamespace(depth=2, patch_size=8))
    with pytest.raises(SightlineError, match="no batch statistics"):
        pretext(batch(views, pretext, 1), MicrobatchRng(0, 0, 0))


def test_an_encoder_without_blocks_is_refused_by_its_name() -> None:
    _, _, config = make("classification")
    with pytest.raises(CallError, match="croco with feature maps"):
        backbone_of(torch.nn.Identity(), config)


def test_a_crop_of_one_class_is_drawn_again() -> None:
    views, _, config = make("segmentation")
    picky = type(views)(config.model_copy(update={"augment": config.augment.model_copy(update={"most_of_one_class": 0.75})}))
    whole = sample(size=(32, 128))
    whole["segmentation"] = np.repeat(np.repeat([[0, 0, 0, 0, 0, 0, 1, 2]], 32, axis=0), 16, axis=1).astype(np.uint8)

    def largest(views: Any) -> list[float]:
        counts = [np.bincount(views(whole, keyed_rng("crop", i))["mask"].ravel(), minlength=256)[:3] for i in range(12)]
        return [float(c.max() / c.sum()) for c in counts]

    assert sum(share > 0.75 for share in largest(picky)) < sum(share > 0.75 for share in largest(views))


def test_a_polynomial_decay_is_mmsegmentations_and_is_refused_where_the_paper_has_another() -> None:
    optim = OptimConfig(lr=1.0, power=1.0, warmup="10 steps")
    lr = standard_schedules(optim, Clock(steps=100, batch_size=1, samples=1))["lr"]
    assert [lr(step) for step in (0, 5, 10, 55, 100, 120)] == pytest.approx([0.0, 0.95 * 0.5, 0.9, 0.45, 0.0, 0.0])
    from sightline.methods.loca.schedules import loca_schedules

    with pytest.raises(CallError, match=r"optim\.power"):
        loca_schedules(optim, Clock(steps=100, batch_size=1, samples=1))


ENCODERS: dict[str, dict[str, Any]] = {
    "croco": {"method": "croco", "model": {**CROCO["model"], "position": "cosine"}},
    "loca": {"method": "loca", "model": {"image_size": 32, "patch_size": 8, "encoder_dim": 32, "encoder_depth": 2, "encoder_heads": 2}},
    "conmim": {"method": "conmim", "model": {"image_size": 64, "patch_size": 8, "dim": 32, "depth": 2, "heads": 2}},
    "timm": {
        "method": "timm",
        "model": {"name": "vit_tiny_patch16_224"}
        | {"arguments": {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}},
    },
}


@pytest.mark.parametrize("name", ENCODERS)
def test_stochastic_depth_drops_branches_of_every_encoder(name: str) -> None:
    """A block without its branches hands on what it was given; what is kept counts for more."""
    side = 64 if name == "conmim" else 32
    _, pretext, _ = make("classification", encoder=ENCODERS[name], image_size=side, drop_path=0.5, drop_path_in="every")
    backbone = copy.deepcopy(pretext.predictor.backbone)
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    kept = torch.ones(2, 2, 2, dtype=torch.bool)
    kept[1, :, 0] = False  # of the first image the second block
    with torch.no_grad():
        whole = backbone(images)[0]
        tokens = backbone(images, kept)[0]
        assert torch.equal(backbone(images)[0], whole)  # and nothing of it stays
        assert torch.equal(pretext.predictor.backbone(images)[0], whole)
    assert (tokens[0] - whole[0]).abs().max() > 1e-3 and (tokens[1] - whole[1]).abs().max() > 1e-3
    if name == "conmim":
        return  # its own code, which parity tests hold
    encoder = backbone.encoder
    last = (encoder.network.blocks if name == "timm" else encoder.blocks if name == "loca" else encoder.enc_blocks)[1]
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    hook = last.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
    with torch.no_grad():
        backbone(images, kept)
        hook.remove()
        backbone.branches.keep(None)
        given, out = seen[0]
        middle = given + 2 * last.attn(last.norm1(given))
        expected = middle + 2 * last.mlp(last.norm2(middle))
    assert torch.equal(given[0], out[0])
    torch.testing.assert_close(out[1], expected[1])


def test_stochastic_depth_is_refused_where_the_branches_are_not_known_and_old_runs_keep_theirs() -> None:
    class Plain(torch.nn.Module):
        dim, depth, patch_size = 4, 1, 8

        def layer_of(self, name: str) -> int:
            return 0

    _, pretext, _ = make("classification", drop_path=0.5)
    assert pretext.predictor.backbone.branches is None  # `own`: as runs before had it
    config = make("classification", drop_path=0.5, drop_path_in="every")[2]
    with pytest.raises(CallError, match=r"model.drop_path=0.5: an encoder of croco does not say") as caught:
        backbone_of(Plain(), config)
    assert "model.drop_path=0" in caught.value.hint


def averaged(**task: Any) -> tuple[Any, Any]:
    method = find_method("finetune_classification")
    config = method.Config.model_validate({"model": {"encoder": CROCO, "classes": 3, "image_size": 32}, "pretext": {"ema": 0.9, **task}})
    return method.views(config), method.build(config, BuildContext(seed=0))


def test_the_average_is_timms_is_what_is_kept_and_goes_on_exactly() -> None:
    from timm.utils import ModelEmaV3

    views, pretext = averaged()
    data = batch(views, pretext)
    judge = ModelEmaV3(pretext.student, decay=0.9)
    groups = pretext.param_groups(OptimConfig(lr=1e-3, layer_decay=0.5))
    assert {id(one) for group in groups for one in group.params} == {id(one) for one in pretext.student.parameters()}
    assert len({group.lr_scale for group in groups}) == 4  # embedding, two blocks, what follows

    def step(pretext: Any, index: int) -> None:
        loss = pretext(data, MicrobatchRng(0, index, 0))["cross_entropy"]
        for parameter, gradient in zip(
            pretext.student.parameters(), torch.autograd.grad(loss, list(pretext.student.parameters())), strict=True
        ):
            parameter.data.sub_(gradient)
        pretext.after_step(index, 10)

    for index in range(4):
        step(pretext, index)
        judge.update(pretext.student, step=index + 1)
    for name, value in judge.module.state_dict().items():
        torch.testing.assert_close(pretext.predictor.state_dict()[name], value)
    assert any(not torch.equal(a, b) for a, b in zip(pretext.predictor.parameters(), pretext.student.parameters(), strict=True))
    resumed = averaged()[1]
    resumed.load_state_dict(pretext.state_dict())
    for each in (pretext, resumed):
        step(each, 4)
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in pretext.state_dict().items())
    pretext.eval()
    with torch.no_grad():
        expected = torch.nn.functional.cross_entropy(pretext.predictor.logits(data["image"]), data["label"])
        assert torch.equal(pretext(data, MicrobatchRng(0, 0, 0))["cross_entropy"], expected)
        assert torch.equal(pretext.encoder()(data["image"]), pretext.predictor.logits(data["image"]))


def test_validation_crops_as_the_papers_where_it_is_told() -> None:
    from sightline.methods.ops.crops import resized_centre

    method = find_method("finetune_classification")
    settings = {"model": {"encoder": CROCO, "classes": 3, "image_size": 32}, "augment": {"crop_ratio": 0.875}}
    views = method.views(method.Config.model_validate(settings))
    seen = views.evaluation(sample(), keyed_rng("none"))["image"]
    assert np.array_equal(seen, resized_centre(sample()["image"], (32, 32), 0.875))
    assert not np.array_equal(seen, make("classification")[0].evaluation(sample(), keyed_rng("none"))["image"])
