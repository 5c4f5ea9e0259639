"""Encoders out of timm: tokens and saliency of every family, their own normalisation, weights in timm's and in the authors' layouts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from sightline.methods.contract import BuildContext, Official
from sightline.methods.errors import CallError, SightlineError
from sightline.methods.timm_encoder import method, official
from sightline.methods.timm_encoder.config import TimmConfig, TimmModel
from sightline.methods.timm_encoder.network import TimmEncoder
from sightline.methods.timm_encoder.pretext import TimmPretext, build

pytestmark = pytest.mark.filterwarnings("ignore")  # timm and torchvision warn of their own
VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
MODELS: dict[str, dict[str, Any]] = {
    "ViT": {"name": "vit_tiny_patch16_224", "arguments": VIT},
    "ViT without class token": {"name": "vit_base_patch16_gap_224", "arguments": VIT},
    "ViT with registers": {"name": "vit_small_patch14_reg4_dinov2", "arguments": VIT},
    "CLIP": {"name": "vit_base_patch16_clip_quickgelu_224", "project": True, "arguments": {**VIT, "num_classes": 24}},
    "BEiT": {"name": "beit_base_patch16_224", "arguments": VIT},
    "hybrid": {"name": "vit_tiny_r_s16_p8_224", "arguments": {"img_size": 64, "embed_dim": 32, "depth": 1, "num_heads": 2}},
    "ResNet": {"name": "resnet10t", "arguments": {"channels": [8, 16, 24, 32]}},
    "ConvNeXt": {"name": "convnext_atto", "arguments": {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]}},
    "Swin": {
        "name": "swin_tiny_patch4_window7_224",
        "arguments": {"img_size": 64, "window_size": 2, "embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 2, 2]},
    },
}
SHAPES = {  # tokens, width, patch
    "ViT": (16, 32, 8),
    "ViT without class token": (16, 32, 8),
    "ViT with registers": (16, 32, 8),
    "CLIP": (16, 24, 8),
    "BEiT": (16, 32, 8),
    "hybrid": (4, 32, 32),
    "ResNet": (4, 32, 32),
    "ConvNeXt": (4, 32, 32),
    "Swin": (4, 128, 32),
}


def config(kind: str = "ViT") -> TimmConfig:
    return TimmConfig.model_validate({"model": MODELS[kind]})


def pretext(kind: str = "ViT", seed: int = 0) -> TimmPretext:
    """With every weight moved, so that biases and scales that begin at 0 or 1 matter."""
    made = build(config(kind), BuildContext(seed=seed)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return made


def images(side: int = 32, count: int = 3) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", MODELS)
def test_every_family_gives_one_token_and_one_share_a_patch(kind: str) -> None:
    tokens, width, patch = SHAPES[kind]
    encoder = pretext(kind).encoder()
    side = int(tokens**0.5) * patch
    assert (encoder.dim, encoder.patch_size) == (width, patch)
    with torch.no_grad():
        found, saliency = encoder.tokens(images(side)), encoder.saliency(images(side))
        alone = encoder.tokens(images(side)[1:2]), encoder.saliency(images(side)[1:2])
        assert torch.equal(encoder(images(side)), found)
    assert found.shape == (3, tokens, width) and saliency.shape == (3, tokens)
    assert (saliency >= 0).all() and saliency.std(dim=1).min() > 0
    torch.testing.assert_close(saliency.sum(dim=1), torch.ones(3))
    torch.testing.assert_close(alone, (found[1:2], saliency[1:2]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["ViT", "ResNet", "Swin"])
def test_tokens_lie_in_raster_order(kind: str) -> None:
    """A change of the last patch alone changes the last token most."""
    encoder = pretext(kind).encoder()
    side, patch = int(SHAPES[kind][0] ** 0.5) * encoder.patch_size, encoder.patch_size
    changed = images(side)
    for row, column, token in ((0, -1, side // patch - 1), (-1, 0, SHAPES[kind][0] - side // patch)):
        other = changed.clone()
        rows, columns = (slice(0, patch) if at == 0 else slice(-patch, None) for at in (row, column))
        other[:, :, rows, columns] = 1 - other[:, :, rows, columns]
        with torch.no_grad():
            moved = (encoder.tokens(other) - encoder.tokens(changed)).norm(dim=2)
        assert moved.argmax(dim=1).tolist() == [token] * 3


@pytest.mark.parametrize(
    ("kind", "mean", "std"),
    [
        ("ViT", (0.5,) * 3, (0.5,) * 3),
        ("ResNet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("CLIP", (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    ],
)
def test_its_own_normalisation_is_inside(kind: str, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    encoder = pretext(kind).encoder()
    seen: list[Tensor] = []
    encoder.network.forward_features = lambda x: seen.append(x) or type(encoder.network).forward_features(encoder.network, x)
    side = encoder.image_size[0] if kind != "ResNet" else 64
    with torch.no_grad():
        encoder.tokens(images(side))
        encoder.saliency(images(side))
    expected = (images(side) - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    assert len(seen) == 2
    for given in seen:
        torch.testing.assert_close(given, expected)


def by_hand(network: Any, x: Tensor) -> Tensor:
    """The attention of the last block, head by head, in float64: b x heads x m x m."""
    network = network.double()
    x = x.double()
    with torch.no_grad():
        x = network.norm_pre(network.patch_drop(network._pos_embed(network.patch_embed(x))))
        for block in network.blocks[:-1]:
            x = block(x)
        last = network.blocks[-1]
        heads, width = last.attn.num_heads, x.shape[-1] // last.attn.num_heads
        q, k, _ = last.attn.qkv(last.norm1(x)).chunk(3, dim=-1)
        matrices = []
        for head in range(heads):
            own = slice(head * width, (head + 1) * width)
            scores = q[..., own] @ k[..., own].transpose(1, 2) / width**0.5
            matrices.append(scores.exp() / scores.exp().sum(dim=-1, keepdim=True))
    return torch.stack(matrices, dim=1)


@pytest.mark.parametrize(("kind", "prefix"), [("ViT", 1), ("ViT with registers", 5), ("CLIP", 1), ("ViT without class token", 0)])
def test_saliency_is_the_attention_of_the_class_token(kind: str, prefix: int) -> None:
    """Without one: what a patch receives from all patches."""
    encoder = pretext(kind).encoder()
    with torch.no_grad():
        saliency = encoder.saliency(images())
    mean, std = encoder.mean.double(), encoder.std.double()
    matrix = by_hand(encoder.network, (images().double() - mean) / std).mean(dim=1)
    rows = matrix[:, 0, prefix:] if prefix else matrix.mean(dim=1)
    torch.testing.assert_close(saliency, (rows / rows.sum(dim=1, keepdim=True)).float(), atol=1e-6, rtol=1e-4)


def test_the_fused_attention_of_other_encoders_stays() -> None:
    import timm

    encoder = pretext().encoder()
    assert not encoder.network.blocks[-1].attn.fused_attn
    assert timm.create_model("vit_tiny_patch16_224", **VIT).blocks[-1].attn.fused_attn


def test_without_attention_saliency_is_the_length_of_the_features() -> None:
    encoder = pretext("ConvNeXt").encoder()
    with torch.no_grad():
        length = encoder.tokens(images(64)).norm(dim=-1)
        torch.testing.assert_close(encoder.saliency(images(64)), length / length.sum(dim=1, keepdim=True))


def test_the_same_seed_gives_the_same_weights_and_the_global_generator_stays() -> None:
    before = torch.get_rng_state()
    one, same, other = (build(config(), BuildContext(seed=seed)).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("model", "says", "hint"),
    [
        ({"name": "vit_tiny_pach16_224"}, "no model 'vit_tiny_pach16_224'", "did you mean 'vit_tiny_patch16_224'"),
        ({"name": "zzzz"}, "no model 'zzzz'", "list_models"),
        ({"name": "vit_tiny_patch16_224", "arguments": {"depht": 2}}, "depht", "model.arguments"),
        ({"name": "resnet10t", "project": True}, "has no head", "model.project=false"),
    ],
)
def test_what_timm_cannot_make_is_told_with_the_hint(model: dict[str, Any], says: str, hint: str) -> None:
    with pytest.raises(CallError, match=says) as caught:
        TimmEncoder(TimmModel.model_validate(model))
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    "model",
    [
        {"name": "hf-hub:timm/vit_tiny_patch16_224"},
        {"name": "timm/vit_tiny_patch16_224"},
        {"name": "local-dir:here"},
        {"name": "vit_tiny_patch16_224", "arguments": {"checkpoint_path": "x.pth"}},
        {"name": "vit_tiny_patch16_224", "arguments": {"pretrained": True}},
    ],
)
def test_no_setting_fetches_anything(model: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="import"):
        TimmModel.model_validate(model)


@pytest.mark.parametrize("name", ["cait_xxs24_224", "xcit_nano_12_p8_224"])
def test_a_network_without_attention_for_each_patch_is_refused_on_its_way_in(name: str) -> None:
    """One attends to the class token in further blocks, the other to channels."""
    small = TimmConfig.model_validate({"model": {"name": name, "arguments": {"img_size": 32, "embed_dim": 32, "depth": 1, "num_heads": 2}}})
    made = build(small, BuildContext(seed=0)).eval()
    with torch.no_grad(), pytest.raises(CallError, match=f"{name} does not have one feature a patch"):
        official.load(official.save(made.state_dict(), small)[0], made.state_dict(), small)


def test_images_are_whole_patches_where_the_networks_own_size_is_none() -> None:
    assert pretext("ResNet").encoder().image_size == (192, 192)  # timm says 176


def test_images_that_patches_do_not_tile_are_refused() -> None:
    with torch.no_grad(), pytest.raises(CallError, match="for 80 x 80 pixels") as caught:
        pretext("ResNet").encoder().tokens(images(80))
    assert "multiples of 32" in caught.value.hint


def test_it_is_not_trained_here() -> None:
    with pytest.raises(CallError, match="not trained here"):
        method.views(config())
    assert method.official is not None and isinstance(method.official(), Official)


def loaded(kind: str, content: dict[str, Any]) -> tuple[dict[str, Tensor], Any]:
    into = build(config(kind), BuildContext(seed=9)).state_dict()
    state, match = official.load(content, into, config(kind))
    assert state.keys() <= into.keys()
    return state, match


@pytest.mark.parametrize("kind", MODELS)
def test_weights_go_out_and_come_back(kind: str) -> None:
    made = pretext(kind)
    tensors, settings = official.save(made.state_dict(), config(kind))
    content = {"model": tensors, **settings}
    assert official.settings_of(content) == {"model": config(kind).model.model_dump(mode="json")}
    state, match = loaded(kind, content)
    assert not match.missing and not match.unexpected and not match.resized
    assert len(match.matched) == len(made.state_dict())
    assert all(torch.equal(state[name], value) for name, value in made.state_dict().items())


def test_dinov2s_own_names_are_understood() -> None:
    made = pretext("ViT with registers")
    network: nn.Module = made.inner.network
    theirs = {name: value.clone() for name, value in network.state_dict().items()}
    first = torch.full((1, 1, 32), 0.25)
    theirs["register_tokens"] = theirs.pop("reg_token")
    theirs["pos_embed"] = torch.cat([first, theirs["pos_embed"]], dim=1)  # theirs has a place for the class token
    theirs["cls_token"] = theirs["cls_token"] - first
    theirs["mask_token"] = torch.zeros(1, 32)
    state, match = loaded("ViT with registers", theirs)
    assert not match.missing and not match.unexpected
    again = build(config("ViT with registers"), BuildContext(seed=9)).eval()
    again.load_state_dict(state)
    with torch.no_grad():
        torch.testing.assert_close(again.inner.tokens(images()), made.inner.tokens(images()), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("wrap", ["state_dict", "model", "teacher", "state_dict_ema"])
@pytest.mark.parametrize("prefix", ["", "module.", "backbone."])
def test_the_wrappers_of_training_codes_are_taken_off(wrap: str, prefix: str) -> None:
    theirs = pretext().inner.network.state_dict()
    state, match = loaded("ViT", {wrap: {prefix + name: value for name, value in theirs.items()}, "epoch": 3})
    assert not match.missing and all(torch.equal(state[f"inner.network.{name}"], value) for name, value in theirs.items())


def test_heads_are_left_and_tables_for_other_sizes_are_resized_and_told() -> None:
    theirs = pretext().inner.network.state_dict()
    content = {**theirs, "head.weight": torch.zeros(10, 32), "pos_embed": torch.randn(1, 65, 32)}
    state, match = loaded("ViT", content)
    assert match.unexpected == ("head.weight",) and match.resized == ("pos_embed",)
    assert state["inner.network.pos_embed"].shape == (1, 17, 32)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"blocks.0.mlp.fc1.bias": torch.zeros(5)}, r"blocks\.0\.mlp\.fc1\.bias has shape \(5,\) in the file, \(128,\)"),
        ({"norm.weight": torch.zeros(33)}, r"norm\.weight has shape \(33,\)"),
    ],
)
def test_a_wrong_shape_is_refused_by_name(change: dict[str, Tensor], says: str) -> None:
    with pytest.raises(SightlineError, match=says):
        loaded("ViT", {**pretext().inner.network.state_dict(), **change})


@pytest.mark.parametrize(
    ("content", "says"), [({"a.weight": torch.zeros(2)}, "none of the 1 tensors"), ({"epoch": 1}, "no tensors of weights under epoch")]
)
def test_a_file_of_something_else_is_refused(content: dict[str, Any], says: str) -> None:
    with pytest.raises(SightlineError, match=says):
        loaded("ResNet", content)
