"""The published CroCo layout, both ways (`contract.Official`): dicts of tensors and settings in, dicts out. Reads and writes no file.

Tensors lie under `model`. Our names are theirs behind `backbone.` or `decoder.`; their settings are the keyword arguments of their
`CroCoNet`: as `croco_kwargs` in v2's files, as text in `args.model` in the trainer's own, and v1's file has none.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from ..contract import Content, LoadReport, Sections
from ..errors import SightlineError
from ..layers.positions import resize_table
from ..state_dicts import find, fitted, nothing
from .config import CrocoConfig, CrocoModel

ANCHORS = ("patch_embed.proj.weight", "enc_blocks.0.attn.qkv.weight")
"""Names of every file of this layout."""
CLASS = "CroCoNet"
MAX_TEXT = 20_000
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


GIVE = "give the settings: --preset RECIPE, or section.key=value, for example model.encoder_dim=1024 model.encoder_depth=24"


def official_name(name: str) -> str:
    return name.split(".", 1)[1]


def our_name(official: str) -> str:
    return f"{'backbone' if official.split('.')[0] in BACKBONE else 'decoder'}.{official}"


def settings_of(content: Content) -> Sections:
    """Our `model` and `pretext` settings. A file that names none has the authors' defaults, which are ours; one of these without
    position tables is v2's, whose rotary embedding has the base 100."""
    tensors = find(content, ANCHORS).tensors
    if (kwargs := content.get("croco_kwargs")) is None and (text := _text(content)):
        patch = {"patch_size": tensors[ANCHORS[0]].shape[-1]} if ANCHORS[0] in tensors else {}
        kwargs = patch | kwargs_from_text(text)
    if kwargs is None and "enc_pos_embed" not in tensors:
        kwargs = {"pos_embed": "RoPE100"}
    return settings_from_official(kwargs)


def load(content: Content, into: Mapping[str, Tensor], config: CrocoConfig) -> tuple[dict[str, Tensor], LoadReport]:
    """State for a `CrocoPretext` of `config`, whose present state is `into`: see `from_official`."""
    found = find(content, ANCHORS)
    if not found.tensors.keys() & {official_name(name) for name in into}:
        raise nothing(content, found, "CroCo", ANCHORS[0])
    state, match = from_official(found.tensors, into, config)
    unexpected = (*match.unexpected, *found.outside)
    return state, replace(match, unexpected=unexpected, taken=found.taken, others=found.others, notes=_notes(content))


def save(state: Mapping[str, Tensor], config: CrocoConfig) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What lies under `model` in a v2 file, and what stands beside it."""
    tensors, kwargs = to_official(state, config)
    return tensors, {"croco_kwargs": kwargs}


def to_official(state: Mapping[str, Tensor], config: CrocoConfig) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(`model`, `croco_kwargs`) of a published file from the state and settings of a `CrocoPretext`."""
    kwargs = {**settings_to_official(config.model), "mask_ratio": config.pretext.mask_ratio}
    return {official_name(name): tensor for name, tensor in state.items()}, kwargs


def settings_to_official(model: CrocoModel) -> dict[str, Any]:
    """The network's part of `croco_kwargs`. Raises `SightlineError` for a setting that the layout has no place for."""
    if model.position == "rope" and model.rope_f0 != 1:
        raise SightlineError(
            f"the published layout has no place for model.rope_f0 = {model.rope_f0}", "only models with rope_f0 = 1 can be exported"
        )
    h, w = model.image_size
    kwargs: dict[str, Any] = {theirs: getattr(model, ours) for theirs, ours in SAME.items()}
    kwargs["img_size"] = h if h == w else (h, w)
    kwargs["pos_embed"] = "cosine" if model.position == "cosine" else f"RoPE{model.rope_base:g}"
    return kwargs


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

    Literals, inf and nan only; nothing is evaluated. Of a class that builds on CroCo, such as DUSt3R's `AsymmetricCroCo3DStereo`, the
    settings that it shares with CroCo are taken. Raises `SightlineError` that names the class for anything else.
    """
    name, values, unread = parse_call(text)
    own = {*SAME, "img_size", "mask_ratio", "pos_embed"}
    if name == CLASS:
        wrong = unread
    else:
        wrong = [key for key in unread if key in own]
        values = {key: value for key, value in values.items() if key in own}
        if not values and not wrong:
            raise SightlineError(f"the settings in the file are of {name}, which shares none with {CLASS}", GIVE)
    if wrong:
        raise SightlineError(f"cannot read the settings of {name}: the value of {wrong[0]} is no literal", GIVE)
    return values


def parse_call(text: str) -> tuple[str, dict[str, Any], list[str]]:
    """(class, literal values by keyword, keywords of other values) of a text like `Class(key=value)`."""
    shown = f"{text[:60]}..." if len(text) > 60 else text
    try:
        if len(text) > MAX_TEXT:
            raise ValueError(f"{len(text):,} characters")
        call = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise SightlineError(f"cannot read the settings {shown!r}: {type(error).__name__}: {error}", GIVE) from None
    named = isinstance(call, ast.Call) and isinstance(call.func, ast.Name | ast.Attribute)
    if not isinstance(call, ast.Call) or not named or call.args or any(keyword.arg is None for keyword in call.keywords):
        raise SightlineError(f"cannot read the settings {shown!r}: they are no call with values by keyword", GIVE)
    values, unread = {}, []
    for keyword in call.keywords:
        try:
            values[str(keyword.arg)] = ast.literal_eval(_Infinities().visit(keyword.value))
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            unread.append(str(keyword.arg))
    return ast.unparse(call.func).rpartition(".")[2], values, unread


class _Infinities(ast.NodeTransformer):
    """`inf` and `nan`, bare or of math, NumPy or torch, as numbers: a printed float reads back so."""

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.Constant(float(node.id)) if node.id in ("inf", "nan") else node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        return ast.Constant(float(node.attr)) if node.attr in ("inf", "nan") else node


def _text(content: Content) -> str | None:
    args = content.get("args")
    text = args.get("model") if isinstance(args, Mapping) else None
    return text if isinstance(text, str) else None


def _notes(content: Content) -> tuple[str, ...]:
    """What to say of weights that belong to a class that builds on CroCo."""
    text = _text(content)
    try:
        name, values, unread = parse_call(text) if text and "croco_kwargs" not in content else (CLASS, {}, [])
    except SightlineError:
        return ("the settings in the file could not be read and were not used",)
    if name == CLASS:
        return ()
    other = [key for key in (*values, *unread) if key not in (*SAME, "img_size", "mask_ratio", "pos_embed")]
    return (f"the file is of {name}: its settings are taken as far as {CLASS} has them, without {', '.join(other) or 'exception'}",)


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
                "give the settings the checkpoint was trained with: --preset RECIPE, or section.key=value (croco_kwargs, args.model)",
            )
        state[our_name(name)] = fitted(name, tensor, expected[name])
    match = LoadReport(
        matched=tuple(sorted(expected.keys() & model.keys())),
        missing=tuple(sorted(expected.keys() - model.keys())),
        unexpected=tuple(sorted(model.keys() - expected.keys())),
        resized=tuple(sorted(resized)),
    )
    if not match.matched:
        raise SightlineError(
            f"none of the {len(model)} tensors has a CroCo name; the first is {next(iter(model), 'absent')!r}",
            f"name a checkpoint of CroCo: names like {ANCHORS[0]!r}, whatever stands before them; or choose an entry with --key",
        )
    return state, match


def _resized(name: str, table: Tensor, model: CrocoModel) -> Tensor:
    if table.ndim != 2 or math.isqrt(table.shape[0]) ** 2 != table.shape[0]:
        raise SightlineError(
            f"{name} has shape {tuple(table.shape)}: only tables of a square grid can be resized", "give the image size of the checkpoint"
        )
    side = math.isqrt(table.shape[0])
    return resize_table(table, (side, side), model.grid)
