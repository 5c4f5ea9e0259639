"""The authors' settings as they stand in ConMIM's vectors, and ours for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from parity_harness import ParityError

from sightline.methods.conmim import official
from sightline.methods.conmim.backbone import table_rows
from sightline.methods.conmim.config import ConMIMConfig

FIXED = {
    "in_chans": 3,
    "qkv_bias": True,
    "qk_scale": None,
    "drop_rate": 0.0,
    "attn_drop_rate": 0.0,
    "attn_head_dim": None,
    "norm_layer": "LayerNorm(eps=1e-6)",
}
"""What our network never varies; a file that does is no vector of ours."""


PRETRAINED = {"init_std": 0.02, "use_mlp_projectors": True}


OTHERWISE = {"norm_eps": 1e-6, "bn_eps": 1e-5, "bn_momentum": 0.1, "act": "gelu (exact erf)", "dtype": "float32"}


SECOND = (6, 6)


def check_fixed(where: str, settings: Mapping[str, Any], fixed: Mapping[str, Any]) -> None:
    if odd := {k: settings[k] for k, v in fixed.items() if k in settings and settings[k] != v}:
        raise ParityError(f"{where}: settings our network does not have: {odd}")


def config_of(where: str, kwargs: Mapping[str, Any], task: Mapping[str, Any] | None = None) -> ConMIMConfig:
    """Our settings for the authors' model arguments."""
    known = {*official.SAME, *FIXED, *PRETRAINED, "vocab_size", "init_values", "use_lm_head", "use_rel_pos_bias", "use_shared_rel_pos_bias"}
    known |= {"num_classes", "use_mean_pooling", "init_scale"}
    if strange := kwargs.keys() - known:
        raise ParityError(f"{where}: unknown model settings {sorted(strange)}")
    check_fixed(where, kwargs, {**FIXED, **PRETRAINED})
    model = official.settings_from_official(kwargs)
    return ConMIMConfig.model_validate({"model": model, "pretext": {"mask": "random", "mask_ratio": 0.5, **(task or {})}})


def not_built(kwargs: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Parameters of the authors' model that nothing uses, and that ours leaves out, by name with their shapes: a head, or without it a
    second shared table, always of 6 x 6 patches."""
    if kwargs.get("use_lm_head", True):
        return {"lm_head.weight": (kwargs["vocab_size"], kwargs["embed_dim"]), "lm_head.bias": (kwargs["vocab_size"],)}
    if kwargs.get("use_shared_rel_pos_bias"):
        return {f"rel_pos_bias2.{official.TABLE}": (table_rows(SECOND), kwargs["num_heads"])}
    return {}
