"""The published CroCo layout, both ways (`contract.Official`): dicts of tensors and settings in, dicts out. Reads and writes no file.

Tensors lie under `model`. Our names are theirs behind `backbone.` or `decoder.`; their settings are the keyword arguments of their
`CroCoNet`: as `croco_kwargs` in v2's files, as text in `args.model` in the trainer's own, and v1's file has none.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..contract import Content, LoadReport, Sections
from ..errors import SightlineError
from ..layers.positions import resize_table
from .config import CrocoConfig, CrocoModel

BACKBONE = ("patch_embed", "enc_blocks", "enc_norm", "enc_pos_embed")
TABLES = ("enc_pos_embed", "dec_pos_embed")
SAME = {
    "patch_size": "patch_size",
    "enc_embed_dim": "encoder_dim",
    "enc_depth": "encoder_depth",
    "enc_num_heads": "encoder_heads",
    "dec_embed_dim": "decoder_dim",
    "dec_depth": "decoder_depth",
    "dec_num_heads": "decoder_heads",
    "mlp_ratio": "mlp_ratio",
    "norm_im2_in_dec": "norm_memory",
}
"""Their setting -> ours, where the values are the same. `img_size`, `mask_ratio` and `pos_embed` are translated."""


def official_name(name: str) -> str:
    return name.split(".", 1)[1]


def our_name(official: str) -> str:
    return f"{'backbone' if official.split('.')[0] in BACKBONE else 'decoder'}.{official}"


def settings_of(content: Content) -> Sections:
    """Our `model` and `pretext` settings. A file that names none has the authors' defaults, which are ours; one of these without
    position tables is v2's, whose rotary embedding has the base 100."""
    args = content.get("args")
    text = args.get("model") if isinstance(args, Mapping) else None
    if (kwargs := content.get("croco_kwargs")) is None and isinstance(text, str):
        kwargs = kwargs_from_text(text)
    if kwargs is None and "enc_pos_embed" not in _tensors(content):
        kwargs = {"pos_embed": "RoPE100"}
    return settings_from_official(kwargs)


def load(content: Content, into: Mapping[str, Tensor], config: CrocoConfig) -> tuple[dict[str, Tensor], LoadReport]:
    """State for a `CrocoPretext` of `config`, whose present state is `into`: see `from_official`."""
    return from_official(_tensors(content), into, config)


def save(state: Mapping[str, Tensor], config: CrocoConfig) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What lies under `model` in a v2 file, and what stands beside it."""
    tensors, kwargs = to_official(state, config)
    return tensors, {"croco_kwargs": kwargs}


def _tensors(content: Content) -> dict[str, Tensor]:
    model = content.get("model")
    tensors = {name: value for name, value in model.items() if isinstance(value, Tensor)} if isinstance(model, Mapping) else {}
    if not tensors:
        raise SightlineError(
            f"the file has no tensors under 'model'; it holds {', '.join(map(repr, list(content)[:8])) or 'nothing'}",
            "name a file of the published layout: {'model': state dict, 'croco_kwargs': settings}",
        )
    return tensors


def to_official(state: Mapping[str, Tensor], config: CrocoConfig) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(`model`, `croco_kwargs`) of a published file from the state and settings of a `CrocoPretext`."""
    model = config.model
    if model.position == "rope" and model.rope_f0 != 1:
        raise SightlineError(
            f"the published layout has no place for model.rope_f0 = {model.rope_f0}", "only models with rope_f0 = 1 can be exported"
        )
    h, w = model.image_size
    kwargs: dict[str, Any] = {theirs: getattr(model, ours) for theirs, ours in SAME.items()}
    kwargs["img_size"] = h if h == w else (h, w)
    kwargs["mask_ratio"] = config.pretext.mask_ratio
    kwargs["pos_embed"] = "cosine" if model.position == "cosine" else f"RoPE{model.rope_base:g}"
    return {official_name(name): tensor for name, tensor in state.items()}, kwargs


def settings_from_official(kwargs: Mapping[str, Any] | None) -> Sections:
    """Our `model` and `pretext` settings from `croco_kwargs`; None or {} (v1 files) gives their defaults, which are ours."""
    model: dict[str, Any] = {}
    pretext: dict[str, Any] = {}
    for name, value in (kwargs or {}).items():
        if name in SAME:
            model[SAME[name]] = value
        elif name == "img_size":
            model["image_size"] = tuple(value) if isinstance(value, list | tuple) else value
        elif name == "mask_ratio":
            pretext["mask_ratio"] = value
        elif name == "pos_embed":
            model |= _position(value)
        else:
            raise SightlineError(
                f"unknown CroCo setting {name!r} = {value!r} in the checkpoint",
                f"known: {', '.join([*SAME, 'img_size', 'mask_ratio', 'pos_embed'])}",
            )
    return {"model": model, "pretext": pretext}


def _position(value: str) -> dict[str, Any]:
    if value == "cosine":
        return {"position": "cosine"}
    if match := re.fullmatch(r"RoPE([0-9.]+(?:e[0-9]+)?)", value):
        return {"position": "rope", "rope_base": float(match[1])}
    raise SightlineError(
        f"unknown position embedding pos_embed = {value!r} in the checkpoint", "known: 'cosine' and 'RoPE<base>', for example 'RoPE100'"
    )


def kwargs_from_text(text: str) -> dict[str, Any]:
    """`croco_kwargs` from the text that trainers keep in `args.model`, such as `CroCoNet(enc_depth=24, pos_embed='RoPE100')`.

    Literals only; nothing is evaluated. Raises `SightlineError` for anything else.
    """
    hint = "expected a call with literal keyword values, for example CroCoNet(enc_embed_dim=1024, pos_embed='RoPE100')"
    try:
        call = ast.parse(text.strip(), mode="eval").body
        if not isinstance(call, ast.Call) or call.args or any(k.arg is None for k in call.keywords):
            raise ValueError("not a call with keyword values")
        return {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
    except (SyntaxError, ValueError) as error:
        raise SightlineError(f"cannot read the settings {text!r}: {error}", hint) from error


def from_official(model: Mapping[str, Tensor], into: Mapping[str, Tensor], config: CrocoConfig) -> tuple[dict[str, Tensor], LoadReport]:
    """The state of a `CrocoPretext` of `config`, whose present state is `into`, from a published `model` dict; and what found a place.

    Position tables of another grid are resized. Missing tensors are left out, so load with `strict=False` after reading the
    `LoadReport`. Raises `SightlineError` where nothing matches or a shape differs.
    """
    expected = {official_name(name): tensor for name, tensor in into.items()}
    state, resized = {}, []
    for name in expected.keys() & model.keys():
        tensor = model[name]
        if name in TABLES and tensor.shape != expected[name].shape:
            tensor = _resized(name, tensor, config.model)
            resized.append(name)
        if tensor.shape != expected[name].shape:
            raise SightlineError(
                f"{name} has shape {tuple(tensor.shape)} in the checkpoint, {tuple(expected[name].shape)} in the model",
                "give the settings the checkpoint was trained with (croco_kwargs, or args.model)",
            )
        state[our_name(name)] = tensor
    match = LoadReport(
        matched=tuple(sorted(expected.keys() & model.keys())),
        missing=tuple(sorted(expected.keys() - model.keys())),
        unexpected=tuple(sorted(model.keys() - expected.keys())),
        resized=tuple(sorted(resized)),
    )
    if not match.matched:
        raise SightlineError(
            f"none of the {len(model)} tensors has a CroCo name; the first is {next(iter(model), 'absent')!r}",
            "pass the dict under the key 'model', without a prefix on the names",
        )
    return state, match


def _resized(name: str, table: Tensor, model: CrocoModel) -> Tensor:
    if table.ndim != 2 or math.isqrt(table.shape[0]) ** 2 != table.shape[0]:
        raise SightlineError(
            f"{name} has shape {tuple(table.shape)}: only tables of a square grid can be resized", "give the image size of the checkpoint"
        )
    side = math.isqrt(table.shape[0])
    return resize_table(table, (side, side), model.grid)
