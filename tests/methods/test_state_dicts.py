"""One reader of state dicts for all methods: whatever a trainer wraps them in, the same weights come in, and it is said which."""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import Tensor

from sightline.methods.catalog import find_method
from sightline.methods.contract import BuildContext, MethodConfig, Official
from sightline.methods.croco.official import kwargs_from_text
from sightline.methods.errors import SightlineError
from sightline.methods.state_dicts import below, entries, find

TINY: dict[str, dict[str, Any]] = {
    "croco": {"image_size": 32, "encoder_dim": 16, "encoder_depth": 2, "encoder_heads": 2, "decoder_dim": 16, "decoder_depth": 1}
    | {"decoder_heads": 2, "position": "rope"},
    "conmim": {"image_size": 64, "dim": 16, "depth": 2, "heads": 2, "projector_dim": 8, "projector_hidden": 16},
    "i2p_mae": {"dims": (12, 24, 36), "depths": (1, 1, 1), "heads": 3, "points": 64, "groups": (16, 8, 4), "embed": (16, 32)}
    | {"neighbours": (4, 4, 4), "teacher_dim": 12},
    "loca": {"image_size": 32, "patch_size": 8, "encoder_dim": 16, "encoder_depth": 2, "encoder_heads": 2},
    "timm": {"name": "vit_tiny_patch16_224", "arguments": {"img_size": 32, "embed_dim": 24, "depth": 2, "num_heads": 2}},
}
METHODS = tuple(TINY)


@lru_cache
def published(method_id: str) -> tuple[MethodConfig, Official, dict[str, Tensor], dict[str, Tensor]]:
    """(settings, layout, state of ours, tensors by the names of the layout)"""
    method = find_method(method_id)
    config = method.Config.model_validate({"model": TINY[method_id], "pretext": {}, "loss": {}, "augment": {}})
    state = method.build(config, BuildContext(seed=1)).state_dict()
    assert method.official is not None
    official = method.official()
    return config, official, state, official.save(state, config)[0]


def load(method_id: str, content: dict[str, Any]) -> tuple[dict[str, Tensor], Any]:
    config, official, state, _ = published(method_id)
    fresh = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    return official.load(content, fresh, config)


def whole(method_id: str, state: dict[str, Tensor]) -> bool:
    _, _, ours, _ = published(method_id)
    return state.keys() == ours.keys() and all(torch.equal(state[name], tensor) for name, tensor in ours.items())


def prefixed(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize("method_id", METHODS)
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_wrappers_of_ddp_and_compile_come_off_in_every_method(method_id: str, prefix: str) -> None:
    tensors = prefixed(published(method_id)[3], prefix)
    for content in (
        tensors,
        *({entry: tensors, "epoch": 3, "optimizer": {"state": {0: torch.ones(2)}}} for entry in ("model", "state_dict")),
    ):
        state, report = load(method_id, content)
        assert whole(method_id, state) and not report.missing and not report.unexpected


@pytest.mark.parametrize("method_id", [m for m in METHODS if m != "loca"])
@pytest.mark.parametrize("prefix", ["model.", "net.", "backbone.", "encoder.", "model.backbone.", "my_lightning_part.inner.module."])
def test_what_lightning_and_others_put_before_the_names_comes_off(method_id: str, prefix: str) -> None:
    tensors = {**prefixed(published(method_id)[3], prefix), "train_accuracy.total": torch.zeros(3)}
    content = {"state_dict": tensors, "pytorch-lightning_version": "2.5", "hyper_parameters": {"x": torch.ones(1)}, "callbacks": {}}
    state, report = load(method_id, content)
    assert whole(method_id, state) and not report.missing
    assert report.unexpected == ("train_accuracy.total",) and "state_dict, names after" in report.taken


@pytest.mark.parametrize("method_id", [m for m in METHODS if m != "loca"])
@pytest.mark.parametrize(("average", "order"), [("model_ema", 1), ("ema_state_dict", -1), ("state_dict_ema", 1), ("ema", -1)])
def test_an_average_comes_before_the_raw_weights_and_it_is_said(method_id: str, average: str, order: int) -> None:
    tensors = published(method_id)[3]
    raw = {name: tensor + 1 if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    both = {"model": raw, average: prefixed(tensors, "module.")}
    content = dict(list(both.items())[::order])
    state, report = load(method_id, content)
    assert whole(method_id, state) and (report.taken, report.others) == (average, ("model",))
    state, report = load(method_id, below(content, "model"))
    assert not whole(method_id, state) and not report.missing and not report.others
    state, report = load(method_id, below(content, average))
    assert whole(method_id, state)


def test_an_average_inside_a_lightning_module_and_a_teacher_come_first() -> None:
    tensors = published("croco")[3]
    raw = {name: tensor + 1 for name, tensor in tensors.items()}
    for first, second in (("model_ema.module.", "model."), ("teacher.backbone.", "student.backbone."), ("ema_model.", "online_model.")):
        state, report = load("croco", {"state_dict": {**prefixed(raw, second), **prefixed(tensors, first)}})
        assert whole("croco", state) and first.split(".")[0] in report.taken and second.split(".")[0] in report.others[0]
    state, _ = load("croco", below({"state_dict": {**prefixed(raw, "student."), **prefixed(tensors, "teacher.")}}, "state_dict.student"))
    assert torch.equal(state["backbone.enc_norm.bias"], raw["enc_norm.bias"])


@pytest.mark.parametrize("method_id", METHODS)
def test_what_holds_no_weights_of_the_method_is_refused_with_counts(method_id: str) -> None:
    for content, said in (
        ({"model": {"layer.weight": torch.ones(2), "layer.bias": torch.ones(2)}}, "none of the 2 tensors"),
        ({"optimizer": {"state": {"0": {"exp_avg": torch.ones(2)}}}}, "none of the|no tensors"),
        ({"epoch": 3}, "none of the 0 tensors|no tensors"),
    ):
        with pytest.raises(SightlineError, match=said):
            load(method_id, content)


@pytest.mark.parametrize("method_id", METHODS)
@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn, torch.bool])
def test_codes_of_quantised_networks_are_no_weights(method_id: str, dtype: torch.dtype) -> None:
    tensors = dict(published(method_id)[3])
    name = next(name for name, tensor in tensors.items() if tensor.ndim == 2 and tensor.is_floating_point())
    tensors[name] = tensors[name].to(dtype)
    with pytest.raises(SightlineError, match=r"holds (int8|uint8|float8_e4m3fn|bool) where the network has real numbers"):
        load(method_id, {"model": tensors})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("method_id", METHODS)
def test_other_real_types_become_ours(method_id: str, dtype: torch.dtype) -> None:
    _, _, ours, tensors = published(method_id)
    state, _ = load(method_id, {"model": {n: t.to(dtype) if t.is_floating_point() else t for n, t in tensors.items()}})
    assert {name: tensor.dtype for name, tensor in state.items()} == {name: tensor.dtype for name, tensor in ours.items()}
    for name, tensor in ours.items():
        torch.testing.assert_close(state[name], tensor, atol=1e-2, rtol=1e-2)


def test_tensors_that_are_no_plain_ones_are_named() -> None:
    anchor = "patch_embed.proj.weight"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        codes = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)
    for tensor, said in (
        (codes, "quantised"),
        (torch.ones(2, 2).to_sparse(), "sparse"),
    ):
        with pytest.raises(SightlineError, match=f"1 tensors are {said}.*, the first is 'w'"):
            find({anchor: torch.ones(1), "w": tensor}, (anchor,))


def test_a_key_that_is_not_there_lists_what_is() -> None:
    content = {"model": {"a": torch.ones(1)}, "optimizer": {"b": torch.ones(1)}, "args": {"x": 1}}
    with pytest.raises(SightlineError, match="no tensors under 'ema'") as caught:
        below(content, "ema")
    assert caught.value.hint == "it has model (1 tensors), optimizer (1 tensors)"
    assert below(content, "model")["args"] == {"x": 1} and "optimizer" not in below(content, "model")
    circle: dict[str, Any] = {"w": torch.ones(1)}
    circle["me"] = circle
    assert [path for path, _ in entries({"a": circle})] == ["a"]


DUST3R = (
    "AsymmetricCroCo3DStereo(pos_embed='RoPE100', patch_embed_cls='ManyAR_PatchEmbed', img_size=(512, 512), head_type='dpt', "
    "output_mode='pts3d', depth_mode=('exp', -inf, inf), conf_mode=('exp', 1, float('inf')), enc_embed_dim=1024, enc_depth=24)"
)


def test_trainers_texts_of_other_classes_give_what_they_share_with_croco() -> None:
    assert kwargs_from_text(DUST3R) == {"pos_embed": "RoPE100", "img_size": (512, 512), "enc_embed_dim": 1024, "enc_depth": 24}
    assert kwargs_from_text("models.croco.CroCoNet(enc_depth=3, mask_ratio=inf)") == {"enc_depth": 3, "mask_ratio": float("inf")}
    tensors = published("croco")[3]
    _, report = load("croco", {"model": tensors, "args": {"model": DUST3R}})
    assert "AsymmetricCroCo3DStereo" in report.notes[0] and "patch_embed_cls, head_type" in report.notes[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("VisionTransformer(depth=12)", "are of VisionTransformer, which shares none with CroCoNet"),
        ("AsymmetricCroCo3DStereo(enc_depth=f(3))", "settings of AsymmetricCroCo3DStereo: the value of enc_depth is no literal"),
        ("CroCoNet(24)", "no call with values by keyword"),
        ("(" * 1000 + ")" * 1000, "SyntaxError"),
        ("-" * 15_000 + "1", "RecursionError|MemoryError|no call"),
        ("CroCoNet(x=" + "-" * 15_000 + "1)", "RecursionError|MemoryError|no literal"),
        ("x" * 30_000, "30,000 characters"),
        ("", "SyntaxError"),
        ("CroCoNet(\0)", "cannot read the settings"),
    ],
)
def test_texts_that_are_no_settings_name_the_class_and_what_helps(text: str, said: str) -> None:
    with pytest.raises(SightlineError, match=said) as caught:
        kwargs_from_text(text)
    assert "malformed" not in str(caught.value) and "section.key=value" in caught.value.hint
