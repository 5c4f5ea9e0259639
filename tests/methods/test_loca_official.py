"""The published layout, both ways."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sightline.methods.contract import BuildContext
from sightline.methods.errors import SightlineError
from sightline.methods.loca import method, official
from sightline.methods.loca.config import LocaConfig
from sightline.methods.loca.network import LocaNetwork
from sightline.methods.loca.pretext import LocaPretext

TINY = {
    "model": {"image_size": 32, "patch_size": 8, "encoder_dim": 24, "encoder_depth": 2, "encoder_heads": 3},
    "pretext": {"prototypes": 10, "head_hidden": 12, "head_bottleneck": 6, "query_tokens": 7, "focal_queries": 2, "reference_keep": 0.4},
    "augment": {"focal_size": 16},
}
HEAD = "projection_head_for_clustering_prediction"
PUBLISHED = {"ti": (192, 12, 3, 5.52, 12.17), "small": (384, 12, 6, 21.66, 30.07), "base": (768, 12, 12, 85.80, 100.38)}
PUBLISHED |= {"large": (1024, 24, 16, 303.30, 323.97), "huge": (1280, 32, 16, 630.92, 659.24)}


def tiny(**sections: dict[str, Any]) -> LocaConfig:
    return LocaConfig.model_validate({name: {**TINY.get(name, {}), **sections.get(name, {})} for name in {**TINY, **sections}})


def built(config: LocaConfig, seed: int = 0) -> LocaPretext:
    """With a teacher that differs from its student."""
    pretext = method.build(config, BuildContext(seed=seed))
    with torch.no_grad():
        for parameter in pretext.student.parameters():
            parameter.add_(0.25)
    return pretext


def nested(tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, tensor in tensors.items():
        *parents, leaf = path.split("/")
        here = tree
        for parent in parents:
            here = here.setdefault(parent, {})
        here[leaf] = tensor
    return tree


def same(a: LocaPretext, b: LocaPretext) -> bool:
    return all(torch.equal(x, b.state_dict()[name]) for name, x in a.state_dict().items())


@pytest.mark.parametrize("size", PUBLISHED)
def test_the_published_networks_have_their_parameters(size: str) -> None:
    dim, depth, heads, encoder, whole = PUBLISHED[size]
    with torch.device("meta"):
        network = LocaNetwork(LocaConfig.model_validate({"model": {"encoder_dim": dim, "encoder_depth": depth, "encoder_heads": heads}}))
    assert sum(p.numel() for p in network.encoder.parameters()) / 1e6 == pytest.approx(encoder, abs=0.006)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(whole, abs=0.006)


@pytest.mark.parametrize("sections", [{}, {"pretext": {"clustering": False}}, {"model": {"image_size": [16, 40], "mlp_ratio": 2.7}}])
def test_there_and_back_again(sections: dict[str, Any]) -> None:
    config = tiny(**sections)
    pretext, fresh = built(config), built(config, 1)
    tensors, settings = official.save(pretext.state_dict(), config)
    beside = {"model": tensors, **settings}  # as a file of tensors with its settings comes back
    told = official.settings_of(beside)
    rebuilt = LocaConfig.model_validate(told)
    assert rebuilt.reference_tokens == config.reference_tokens
    for section, key in (("pretext", "reference_keep"), ("model", "mlp_ratio")):  # stored as a count, so the share comes back rounded
        told[section][key] = getattr(getattr(config, section), key)
    assert LocaConfig.model_validate(told) == config
    assert int(24 * rebuilt.model.mlp_ratio) == int(24 * config.model.mlp_ratio)
    for content in (
        beside,
        nested(tensors),
        {**nested(tensors), "opt_state": {"mu": {"x": torch.ones(1)}}, "global_step": 3, "state": None},
    ):
        state, match = official.load(content, fresh.state_dict(), config)
        fresh.load_state_dict(state, strict=True)
        assert same(pretext, fresh) and sorted(match.matched) == sorted(tensors) and not match.missing and not match.resized
        assert match.unexpected == (("opt_state",) if "opt_state" in content else ())


@pytest.mark.parametrize(
    "roots", [("params",), ("ema_params",), ("optimizer", "target"), ("optimizer", "target", "params"), ("target",), ()]
)
def test_a_single_tree_fills_student_and_teacher(roots: tuple[str, ...]) -> None:
    config = tiny()
    pretext, fresh = built(config), built(config, 1)
    tensors, _ = official.save(pretext.state_dict(), config)
    content: Any = nested(tensors)["params"]
    for root in reversed(roots):
        content = {root: content}
    state, match = official.load(content, fresh.state_dict(), config)
    fresh.load_state_dict(state, strict=True)
    assert all(torch.equal(t, fresh.teacher.state_dict()[n]) for n, t in pretext.student.state_dict().items())
    assert not match.missing and not match.unexpected and len(match.matched) == len(tensors) // 2
    assert LocaConfig.model_validate({**official.settings_of(content), "augment": {"focal_size": 16}}).model.encoder_depth == 2


def test_names_of_older_releases_are_understood() -> None:
    config = tiny()
    pretext, fresh = built(config), built(config, 1)
    tensors, _ = official.save(pretext.state_dict(), config)
    older: dict[str, torch.Tensor] = {}
    for path, tensor in tensors.items():
        path = path.replace("encoderblock_", "Transformer/encoderblock_").replace(f"{HEAD}/prototypes", "output_projection")
        older[path] = tensor.reshape(1, 16, 24) if path.endswith("posembed_input") else tensor
    state, match = official.load(nested(older), fresh.state_dict(), config)
    fresh.load_state_dict(state, strict=True)
    assert same(pretext, fresh) and not match.missing and not match.unexpected
    assert "params/output_projection/kernel" in match.matched
    wrapped = {f"params/backbone/{p.removeprefix('params/')}": t for p, t in tensors.items() if p.startswith("params/")}
    state, match = official.load(wrapped, fresh.state_dict(), config)
    assert not match.missing and not match.unexpected and torch.equal(state["student.encoder.pos_embed"], pretext.student.encoder.pos_embed)


def test_what_finds_no_place_is_said_and_nothing_is_filled_in() -> None:
    config = tiny()
    pretext, fresh = built(config), built(config, 1)
    tensors, _ = official.save(pretext.state_dict(), config)
    query = "params/encoderblock_0/MultiHeadDotProductAttention_0/query/kernel"
    norm = tensors.pop("params/encoder_norm/scale")
    del tensors[query]
    state, match = official.load({**tensors, "params/surprise/kernel": norm, "params/other/scale": norm}, fresh.state_dict(), config)
    assert set(match.missing) == {
        "params/encoder_norm/scale",
        *(query.replace("query", part) for part in ("query", "key", "value")),  # one matrix of ours
    }
    assert set(match.unexpected) == {
        "params/surprise/kernel",
        "params/other/scale",
        *(query.replace("query", part) for part in ("key", "value")),
    }
    assert "student.encoder.blocks.0.attn.qkv.weight" not in state and "student.encoder.norm.weight" not in state


def test_a_grid_of_another_size_is_resized_without_its_predictor() -> None:
    tensors, _ = official.save(built(tiny()).state_dict(), tiny())
    wide = tiny(model={"image_size": [24, 48]})
    state, match = official.load(tensors, built(wide).state_dict(), wide)
    assert state["teacher.encoder.pos_embed"].shape == (1, 18, 24)
    trees = ("params", "ema_params")
    assert set(match.resized) == {f"{tree}/ToTokenSequence_0/posembed_input" for tree in trees}
    assert (
        set(match.missing)
        == set(match.unexpected)
        == {f"{tree}/position_predictor/{leaf}" for tree in trees for leaf in ("kernel", "bias")}
    )


def test_what_cannot_be_is_named() -> None:
    config = tiny()
    pretext = built(config)
    tensors, _ = official.save(pretext.state_dict(), config)
    with pytest.raises(SightlineError, match=r"none of the 1 tensors has a LOCA name; the first is 'head\.weight'"):
        official.load({"head.weight": torch.zeros(2)}, pretext.state_dict(), config)
    with pytest.raises(SightlineError, match="none of the 0 tensors"):
        official.settings_of({"x": 1})
    with pytest.raises(SightlineError, match="encoder_norm/scale has shape"):
        official.load({**tensors, "params/encoder_norm/scale": torch.zeros(9)}, pretext.state_dict(), config)
    with pytest.raises(SightlineError, match="15 cells is no square"):
        official.load({**tensors, "params/ToTokenSequence_0/posembed_input": torch.zeros(1, 15, 24)}, pretext.state_dict(), config)
