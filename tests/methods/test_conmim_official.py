"""ConMIM's published layout, both ways."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sightline.methods.conmim import method, official
from sightline.methods.conmim.config import ConMIMConfig
from sightline.methods.conmim.pretext import ConMIMPretext
from sightline.methods.contract import BuildContext
from sightline.methods.errors import SightlineError

TINY = {"image_size": 64, "patch_size": 16, "dim": 64, "depth": 2, "heads": 4, "projector_hidden": 12, "projector_dim": 6}


def tiny(pretext: dict[str, Any] | None = None, **model: Any) -> ConMIMConfig:
    return ConMIMConfig.model_validate({"model": {**TINY, **model}, "pretext": pretext or {}})


def built(config: ConMIMConfig, seed: int = 0) -> ConMIMPretext:
    """With a teacher that is not the student."""
    pretext: ConMIMPretext = method.build(config, BuildContext(seed=seed))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in pretext.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))
    return pretext


def files(pretext: ConMIMPretext) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    student, _ = official.save(pretext.state_dict(), pretext.config, "student")
    teacher, _ = official.save(pretext.state_dict(), pretext.config, "teacher")
    head = {"lm_head.weight": torch.zeros(8, 64), "lm_head.bias": torch.zeros(8)}
    return student | head, teacher | head


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor], atol: float = 0.0) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], atol=atol, rtol=0, msg=name)


@pytest.mark.parametrize("bias", ["none", "shared", "per_block", "both"])
def test_both_files_go_out_and_come_back(bias: str) -> None:
    config = tiny(relative_bias=bias, position_table=bias != "shared", layer_scale=None if bias == "both" else 0.1)
    pretext, fresh = built(config), method.build(config, BuildContext(seed=5))
    student, teacher = files(pretext)
    content = {"student": {"model": student, "epoch": 3}, "teacher": {"model": teacher}}
    state, match = official.load(content, fresh.state_dict(), config)
    same(state, pretext.state_dict())
    assert not match.missing and not match.resized
    assert set(match.unexpected) == {f"{who}.lm_head.{what}" for who in ("student", "teacher") for what in ("weight", "bias")}
    assert set(match.matched) == {f"{w}.{n}" for w, f in (("student", student), ("teacher", teacher)) for n in f if "lm_head" not in n}


@pytest.mark.parametrize("wrapper", ["model", "module", "state_dict", None])
def test_one_file_fills_both_networks_however_it_is_wrapped(wrapper: str | None) -> None:
    pretext = built(tiny())
    _, teacher = files(pretext)
    content = {wrapper: teacher, "optimizer": {"lr": 1}, "args": "..."} if wrapper else teacher
    state, match = official.load(content, pretext.state_dict(), pretext.config)
    for name, tensor in pretext.teacher.state_dict().items():
        assert torch.equal(state[f"student.{name}"], tensor) and torch.equal(state[f"teacher.{name}"], tensor)
    assert not match.missing and set(match.unexpected) == {"lm_head.weight", "lm_head.bias"}
    assert "rel_pos_bias.relative_position_index" in match.matched


def test_half_precision_becomes_ours_and_counters_stay_integers() -> None:
    pretext = built(tiny())
    student, _ = files(pretext)
    halved = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in student.items()}
    state, _ = official.load({"module": halved}, pretext.state_dict(), pretext.config)
    assert {name: t.dtype for name, t in state.items()} == {name: t.dtype for name, t in pretext.state_dict().items()}
    assert (state["student.backbone.cls_token"] - pretext.student.backbone.cls_token).abs().max() < 1e-2


def test_the_network_of_the_encoder_is_exported_unless_told() -> None:
    for who in ("teacher", "student"):
        pretext = built(tiny({"encoder": who}))
        tensors, said = official.save(pretext.state_dict(), pretext.config)
        assert torch.equal(tensors["cls_token"], getattr(pretext, who).backbone.cls_token)
        assert said["use_lm_head"] is False and said["embed_dim"] == 64 and said["use_shared_rel_pos_bias"] is True
        assert tensors["rel_pos_bias.relative_position_index"].dtype == torch.int64


@pytest.mark.parametrize(
    "model",
    [
        {},
        {"relative_bias": "none", "position_table": True, "heads": 1},
        {"relative_bias": "both", "mlp_ratio": 2.5, "layer_scale": None},
        {"relative_bias": "per_block", "image_size": 96, "depth": 3, "dim": 32, "heads": 8},
    ],
)
def test_settings_are_read_from_the_tensors(model: dict[str, Any]) -> None:
    config = tiny(**model)
    student, _ = files(built(config))
    sections = official.settings_of({"model": student})
    assert ConMIMConfig.model_validate(sections).model == config.model


def test_another_image_size_gets_resized_tables() -> None:
    pretext, larger = built(tiny(position_table=True)), tiny(position_table=True, image_size=96)
    student, _ = files(pretext)
    into = method.build(larger, BuildContext(seed=0))
    state, match = official.load(student, into.state_dict(), larger)
    assert set(match.resized) == {"pos_embed", "rel_pos_bias.relative_position_bias_table"}
    into.load_state_dict(state, strict=True)
    assert torch.equal(into.teacher.backbone.pos_embed[:, 0], pretext.student.backbone.pos_embed[:, 0])


def test_a_fine_tuned_file_brings_its_backbone_and_says_what_it_lacks() -> None:
    """What the authors published: tables in each block, no mask token, projector and final norm."""
    config = tiny(relative_bias="per_block")
    pretext = built(config)
    student, _ = files(pretext)
    drop = ("mask_token", "norm.", "projectors.", "lm_head.")
    tuned = {n: t for n, t in student.items() if not n.startswith(drop)} | {"fc_norm.weight": torch.ones(64), "head.bias": torch.ones(10)}
    assert "projector_dim" not in official.settings_of({"module": tuned})["model"]
    state, match = official.load({"module": tuned}, pretext.state_dict(), config)
    assert set(match.unexpected) == {"fc_norm.weight", "head.bias"}
    assert all(name.startswith(drop) for name in match.missing) and {"mask_token", "norm.weight"} <= set(match.missing)
    assert torch.equal(state["teacher.backbone.blocks.1.attn.q_bias"], pretext.student.backbone.blocks[1].attn.q_bias)


def test_nothing_that_fits_and_wrong_shapes_are_errors() -> None:
    pretext = built(tiny())
    for content in ({}, {"model": {}}, {"model": {"encoder.weight": torch.zeros(2)}}, {"args": 1}):
        with pytest.raises(SightlineError, match="has a ConMIM name"):
            official.load(content, pretext.state_dict(), pretext.config)
        with pytest.raises(SightlineError, match="has a ConMIM name"):
            official.settings_of(content)
    student, _ = files(pretext)
    student["norm.weight"] = torch.ones(7)
    with pytest.raises(SightlineError, match=r"norm.weight has shape \(7,\) in the checkpoint, \(64,\) in the model"):
        official.load(student, pretext.state_dict(), pretext.config)
    student, _ = files(pretext)
    table = "rel_pos_bias.relative_position_bias_table"
    student[table] = student[table][:-5]
    with pytest.raises(SightlineError, match="belongs to no square grid"):
        official.load(student, pretext.state_dict(), pretext.config)
