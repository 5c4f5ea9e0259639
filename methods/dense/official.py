"""The layout of the published CroCo-Stereo and CroCo-Flow files, both ways: dicts of tensors and settings in, dicts out.

Tensors lie under `model`: encoder and decoder as in a file of pre-training, without mask token and prediction head, and the head below
`head.dpt.`. `args` holds the settings: `croco_args` (the network's, as in pre-training), `task`, `criterion` as text, `crop`, and
`tile_conf_mode`. Their head keeps some tensors twice, under a second name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from torch import Tensor

from ..contract import Content, LoadReport
from ..croco.config import CrocoModel
from ..croco.official import parse_call, settings_from_official, settings_to_official
from ..errors import SightlineError
from ..layers.positions import resize_table, sincos_table
from ..state_dicts import find, fitted, nothing
from .config import CriterionName, DenseModel, TwoViewModel, decoder_settings
from .criteria import Criterion

ANCHORS = ("patch_embed.proj.weight", "enc_blocks.0.attn.qkv.weight", "head.dpt.act_1_postprocess.0.weight")
HEAD = "head.dpt."
TABLES = ("enc_pos_embed", "dec_pos_embed")
HEADS = {384: 6, 512: 16, 768: 12, 1024: 16}
"""Heads of the published widths, for a file that holds no settings."""
CHANNELS = {"stereo": 1, "flow": 2}
MONOCULAR_TABLE = 512
"""Width of the decoder's table that files of a network without decoder hold, too; nothing uses it."""
GIVE = "give the settings with section.key=value, for example model.image_size=[352,704]"


@dataclass(frozen=True)
class DenseFile:
    """What a file says besides its tensors. Empty or None where it does not say."""

    model: DenseModel
    task: str = ""
    criterion: Criterion | None = None
    tile_weight: str = ""
    channels: int = 1
    """Of the head's map, confidence included."""


def settings_of(content: Content) -> DenseFile:
    """By what `args` says and, where that is silent, by names and shapes of tensors. Raises `SightlineError` where both do not suffice."""
    tensors = find(content, ANCHORS).tensors
    if not all(anchor in tensors for anchor in ANCHORS):
        raise nothing(content, find(content, ANCHORS), "CroCo-Stereo or CroCo-Flow", ANCHORS[2])
    args = content.get("args")
    args = args if isinstance(args, Mapping) else {}
    kwargs = args.get("croco_args")
    given = dict(kwargs) if isinstance(kwargs, Mapping) else _from_shapes(tensors)
    given.setdefault("patch_size", tensors[ANCHORS[0]].shape[-1])
    settings = settings_from_official(given)["model"]
    size = _image_size(tensors, args.get("crop"), settings.get("image_size"), int(given["patch_size"]))
    encoder = CrocoModel.model_validate({**settings, "image_size": size})
    two_views = any(name.startswith("dec_blocks.") for name in tensors)
    values: dict[str, Any] = {"encoder": {"method": "croco", "model": encoder.model_dump(mode="json")}, "image_size": size}
    values |= _head_of(tensors)
    if two_views:
        values |= decoder_of(encoder)
    model = (TwoViewModel if two_views else DenseModel).model_validate(values)
    text = args.get("criterion")
    return DenseFile(
        model,
        task=str(args.get("task") or ""),
        criterion=criterion_from_text(text) if isinstance(text, str) else None,
        tile_weight=str(args.get("tile_conf_mode") or ""),
        channels=int(tensors[f"{HEAD}head.4.weight"].shape[0]),
    )


def decoder_of(encoder: CrocoModel) -> dict[str, Any]:
    """The settings of the decoder that CroCo pre-trains, as a `TwoViewModel` has them."""
    return decoder_settings(encoder.model_dump(mode="json"))


def criterion_from_text(text: str) -> Criterion:
    """Of a text like `LaplacianLossBounded2(max_gtnorm=None, a=3.0, b=3.0)`. Nothing is evaluated. Raises `SightlineError`."""
    name, values, unread = parse_call(text)
    kinds: dict[str, CriterionName] = {"bounded2": "bounded2", "bounded": "bounded", "laplac": "laplacian", "l1": "l1"}
    kind = next((kind for part, kind in kinds.items() if part in name.lower()), None)
    known = {"a": "a", "b": "b", "max_gtnorm": "max_norm"}
    if kind is None or unread or values.keys() - known.keys():
        raise SightlineError(
            f"the criterion {text!r} is none of CroCo's", f"known: Laplacian, Bounded, Bounded2 and L1, with {', '.join(known)}"
        )
    if kind == "bounded" and "max_gtnorm" not in values:
        values["max_gtnorm"] = 1e4
    try:
        numbers = {known[key]: None if value is None else float(value) for key, value in values.items()}
        return Criterion(kind, numbers.get("a"), numbers.get("b"), numbers.get("max_norm"))
    except (ValueError, TypeError) as error:
        raise SightlineError(f"the criterion {text!r}: {error}", GIVE) from None


def official_name(name: str) -> str:
    """Of a tensor of our networks, `encoder.`, `decoder.` or `head.` first."""
    part, _, rest = name.partition(".")
    return HEAD + rest if part == "head" else rest


def second_name(official: str) -> str | None:
    """Under which their head keeps the same tensor again."""
    if match := re.fullmatch(rf"({re.escape(HEAD)}scratch\.)layer([1-4])_rn(\..+)", official):
        return f"{match[1]}layer_rn.{int(match[2]) - 1}{match[3]}"
    if match := re.fullmatch(rf"({re.escape(HEAD)})act_([1-4])_postprocess(\..+)", official):
        return f"{match[1]}act_postprocess.{int(match[2]) - 1}{match[3]}"
    return None


def save(
    state: Mapping[str, Tensor], model: DenseModel, task: str, criterion: Criterion, tile_weight: str
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(`model`, what stands beside it) of a published file, from the state of our network. Raises `SightlineError` for what the layout
    has no place for: another encoder than CroCo's, a decoder unlike it, a linear head, hooks of one's own."""
    if model.encoder.get("method") != "croco":
        raise SightlineError(
            f"the layout is of CroCo's encoder; this one is of {model.encoder.get('method')!r}", "export it to safetensors"
        )
    if model.head != "dpt" or model.hooks is not None:
        raise SightlineError("the layout has no place for a linear head, nor for hooks", "only a dpt head with its default hooks")
    encoder = CrocoModel.model_validate(model.encoder.get("model") or {})
    if isinstance(model, TwoViewModel) and (own := decoder_of(encoder)) != {name: getattr(model, name) for name in own}:
        raise SightlineError("the decoder's positions or norms are not those of the encoder's settings", "export it to safetensors")
    size = encoder.image_size
    if encoder.position == "cosine" and size != model.image_size:
        size = model.image_size  # their tables have the size of the crop
    tensors: dict[str, Tensor] = {}
    for name, tensor in state.items():
        official = official_name(name)
        if official in TABLES:
            tensor = resize_table(tensor, encoder.grid, encoder.model_copy(update={"image_size": size}).grid)
        tensors[official] = tensor
        if (again := second_name(official)) is not None:
            tensors[again] = tensor
    if encoder.position == "cosine" and not isinstance(model, TwoViewModel):
        tensors["dec_pos_embed"] = sincos_table(MONOCULAR_TABLE, encoder.model_copy(update={"image_size": size}).grid)
    kwargs = settings_to_official(encoder.model_copy(update={"image_size": size}))
    args = {
        "croco_args": kwargs,
        "task": task,
        "criterion": criterion.text(),
        "crop": list(model.image_size),
        "tile_conf_mode": tile_weight,
    }
    return tensors, {"args": args}


def load(content: Content, into: Mapping[str, Tensor], model: DenseModel) -> tuple[dict[str, Tensor], LoadReport]:
    """State of our network of `model`, whose present state is `into`; see `croco.official.from_official`, which is for pre-training.

    A table of another grid is resized. Where the two copies of a tensor of the head differ, the file is refused.
    """
    found = find(content, ANCHORS)
    expected = {official_name(name): name for name in into}
    if not found.tensors.keys() & expected.keys():
        raise nothing(content, found, "CroCo-Stereo or CroCo-Flow", ANCHORS[2])
    state: dict[str, Tensor] = {}
    resized, copies = [], set()
    for official, name in expected.items():
        again = second_name(official)
        tensor, other = found.tensors.get(official), found.tensors.get(again) if again else None
        if other is not None:
            copies.add(again)
            if tensor is not None and not (tensor.shape == other.shape and bool((tensor == other).all())):
                raise SightlineError(
                    f"{official} and {again}, two names of one tensor, differ in the file", "get it again from its publisher"
                )
            tensor = other if tensor is None else tensor
        if tensor is None:
            continue
        wanted = into[name]
        if official in TABLES and tensor.shape != wanted.shape:
            tensor = _resized(official, tensor, model)
            resized.append(official)
        if tensor.shape != wanted.shape:
            raise SightlineError(f"{official} has shape {tuple(tensor.shape)} in the checkpoint, {tuple(wanted.shape)} in the model", GIVE)
        state[name] = fitted(official, tensor, wanted)
    taken = {official for official, name in expected.items() if name in state}
    rest = found.tensors.keys() - taken - cast("set[str]", copies)
    unused = {"dec_pos_embed"} & rest if not isinstance(model, TwoViewModel) else set()
    match = LoadReport(
        matched=tuple(sorted(taken)),
        missing=tuple(sorted(expected.keys() - taken)),
        unexpected=(*sorted(rest - unused), *found.outside),
        resized=tuple(sorted(resized)),
        left_out=tuple(sorted(unused)),
    )
    return state, replace(match, taken=found.taken, others=found.others)


def _resized(name: str, table: Tensor, model: DenseModel) -> Tensor:
    encoder = CrocoModel.model_validate(model.encoder.get("model") or {})
    side = round(table.shape[0] ** 0.5)
    if table.ndim != 2 or side**2 != table.shape[0]:
        raise SightlineError(f"{name} has shape {tuple(table.shape)}: only tables of a square grid can be resized", GIVE)
    return resize_table(table, (side, side), encoder.grid)


def _image_size(tensors: Mapping[str, Tensor], crop: Any, own: Any, patch: int) -> tuple[int, int]:
    """Of the tables where there are any, else of the crops. Raises `SightlineError` for a table whose grid nothing tells."""
    table = tensors.get("enc_pos_embed")
    sizes = [pair for value in (crop, own) if (pair := _pair(value)) is not None]
    if table is None:
        return sizes[0] if sizes else (224, 224)
    count, side = int(table.shape[0]), round(int(table.shape[0]) ** 0.5)
    for h, w in [*sizes, (side * patch, side * patch)]:
        if (h // patch) * (w // patch) == count:
            return h, w
    raise SightlineError(f"enc_pos_embed has {count} rows, and nothing in the file tells the shape of their grid", GIVE)


def _pair(value: Any) -> tuple[int, int] | None:
    if isinstance(value, int) and value > 0:
        return value, value
    if isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(side, int) and side > 0 for side in value):
        return value[0], value[1]
    return None


def _head_of(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    stages = [int(tensors[f"{HEAD}act_{i}_postprocess.0.weight"].shape[0]) for i in (1, 2, 3, 4)]
    features = int(tensors[f"{HEAD}scratch.layer1_rn.weight"].shape[0])
    return {"widths": stages, "features": features, "last": int(tensors[f"{HEAD}head.2.weight"].shape[0])}


def _from_shapes(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """`croco_args` of a file that holds none: depths by counting, heads by the published widths."""
    dims = {"enc": int(tensors[ANCHORS[0]].shape[0])}
    if "decoder_embed.weight" in tensors:
        dims["dec"] = int(tensors["decoder_embed.weight"].shape[0])
    kwargs: dict[str, Any] = {"pos_embed": "cosine" if "enc_pos_embed" in tensors else "RoPE100"}
    for stack, dim in dims.items():
        if dim not in HEADS:
            raise SightlineError(f"the file holds no settings, and {dim} is no published width, so its heads are unknown", GIVE)
        depth = len({name.split(".")[1] for name in tensors if name.startswith(f"{stack}_blocks.")})
        kwargs |= {f"{stack}_embed_dim": dim, f"{stack}_depth": depth, f"{stack}_num_heads": HEADS[dim]}
    return kwargs
