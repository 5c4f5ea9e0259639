"""The published ConMIM layout, both ways: dicts of tensors in, dicts out. Reads and writes no file.

The authors save two files: the student (`checkpoint-N.pth`) and the teacher (`checkpoint_copy-N.pth`), each with its weights under
`model`. A single file fills student *and* teacher, as the authors' trainer starts the teacher; a dict with both, `{"student": ...,
"teacher": ...}`, fills each from its own. Only fine-tuned networks were ever published: they lack the mask token, the projector and
(with mean pooling) the final norm, which then stay as they are and are reported missing.

Our names are theirs behind `student.` or `teacher.`, and `backbone.` for what is not the projector. Their unused `lm_head` is not
built here: on import it is reported as unexpected, and an export says `use_lm_head: false`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from ..contract import Content, LoadReport, Sections
from ..errors import SightlineError
from ..state_dicts import find, fitted, nothing
from .backbone import relative_index
from .config import ConMIMConfig, ConMIMModel
from .resize import CLASS_ROWS, resize_bias, resize_positions

ANCHORS = ("patch_embed.proj.weight", "blocks.0.attn.qkv.weight")
"""Names of every file of this layout."""
LAYOUT = "ConMIM", "blocks.0.attn.qkv.weight"
TABLE, INDEX = "relative_position_bias_table", "relative_position_index"
SAME = {
    "img_size": "image_size",
    "patch_size": "patch_size",
    "embed_dim": "dim",
    "depth": "depth",
    "num_heads": "heads",
    "mlp_ratio": "mlp_ratio",
    "use_abs_pos_emb": "position_table",
    "drop_path_rate": "drop_path",
    "mlp_dim": "projector_hidden",
    "dim": "projector_dim",
}
"""Their setting -> ours, where the values are the same."""
BIAS = {"none": (False, False), "shared": (True, False), "per_block": (False, True), "both": (True, True)}
"""Our `relative_bias` -> their (`use_shared_rel_pos_bias`, `use_rel_pos_bias`)."""
HEAD_WIDTH = 64
"""Of all published sizes: what is taken where no table tells the number of heads."""
Network = Literal["student", "teacher"]


def settings_of(content: Content) -> Sections:
    """Our `model` settings: those that `save` put beside the tensors, else from their shapes: a square grid, heads of 64 where there is
    no bias table.

    The first value of the layer scale and the normalisation are not in the tensors; they are left at their defaults.
    """
    if "embed_dim" in content:
        return {"model": settings_from_official(content)}
    found = find(networks(content)["student"], ANCHORS)
    state = found.tensors
    blocks = {int(m[1]) for name in state if (m := re.match(r"blocks\.(\d+)\.", name))}
    if "patch_embed.proj.weight" not in state or not blocks:
        raise nothing(content, found, *LAYOUT)
    if max(blocks) + 1 != len(blocks):
        raise SightlineError(f"the file names block {max(blocks)} and has {len(blocks)} blocks", "get the whole file")
    dim, _, _, patch = state["patch_embed.proj.weight"].shape
    shared, own = f"rel_pos_bias.{TABLE}" in state, f"blocks.0.attn.{TABLE}" in state
    table = state.get(f"rel_pos_bias.{TABLE}", state.get(f"blocks.0.attn.{TABLE}"))
    model: dict[str, Any] = {
        "patch_size": patch,
        "dim": dim,
        "depth": max(blocks) + 1,
        "heads": table.shape[1] if table is not None else max(1, dim // HEAD_WIDTH),
        "mlp_ratio": state["blocks.0.mlp.fc1.weight"].shape[0] / dim,
        "position_table": "pos_embed" in state,
        "relative_bias": next(ours for ours, theirs in BIAS.items() if theirs == (shared, own)),
    }
    if "blocks.0.gamma_1" not in state:
        model["layer_scale"] = None
    if table is not None:
        model["image_size"] = _table_side(table) * patch
    elif "pos_embed" in state:
        model["image_size"] = _side(state["pos_embed"].shape[1] - 1, "pos_embed") * patch
    if "projectors.6.weight" in state:
        model["projector_dim"], model["projector_hidden"] = state["projectors.6.weight"].shape
    return {"model": model}


def settings_from_official(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Our `model` settings from the keyword arguments of the authors' model."""
    model = {ours: kwargs[theirs] for theirs, ours in SAME.items() if theirs in kwargs}
    flags = bool(kwargs.get("use_shared_rel_pos_bias", False)), bool(kwargs.get("use_rel_pos_bias", False))
    model["relative_bias"] = next(ours for ours, theirs in BIAS.items() if theirs == flags)
    model["layer_scale"] = kwargs.get("init_values") or None
    return model


def load(content: Content, into: Mapping[str, Tensor], config: ConMIMConfig) -> tuple[dict[str, Tensor], LoadReport]:
    """State for a pretext of `config` whose present state is `into`, from one or both of the authors' files.

    Tables of another grid are resized, as fine-tuning does it. Tensors take the type of ours. Missing ones are left out, so load with
    `strict=False` after reading the `LoadReport`. Raises `SightlineError` where nothing matches or a shape differs.
    """
    given = networks(content)
    both = given["student"] is not given["teacher"]
    state: dict[str, Tensor] = {}
    matches: list[LoadReport] = []
    for network, foreign in given.items():
        loaded, match = _load_network(foreign, {n: t for n, t in into.items() if n.startswith(f"{network}.")}, config.model)
        state |= {our_name(name, network): tensor for name, tensor in loaded.items()}
        matches.append(match)
    if not both:
        return state, matches[0]
    lists = {
        field: tuple(f"{network}.{name}" for network, match in zip(given, matches, strict=True) for name in getattr(match, field))
        for field in ("matched", "missing", "unexpected", "resized", "others")
    }
    return state, LoadReport(**lists, taken=" and ".join(f"{n}.{m.taken}" for n, m in zip(given, matches, strict=True)))


def _load_network(content: Content, into: Mapping[str, Tensor], model: ConMIMModel) -> tuple[dict[str, Tensor], LoadReport]:
    """(state by official names, match) of one network; `into` by our names."""
    found = find(content, ANCHORS)
    foreign = found.tensors
    expected = {official_name(name): tensor for name, tensor in into.items()}
    tables = {name.replace(TABLE, INDEX): name for name in expected if name.endswith(TABLE)}
    state, resized = {}, []
    for name in sorted(expected.keys() & foreign.keys()):
        tensor, wanted = fitted(name, foreign[name], expected[name]), expected[name]
        if tensor.shape != wanted.shape and (name == "pos_embed" or name.endswith(TABLE)):
            tensor = _resized(name, tensor, model)
            resized.append(name)
        if tensor.shape != wanted.shape:
            raise SightlineError(
                f"{name} has shape {tuple(foreign[name].shape)} in the checkpoint, {tuple(wanted.shape)} in the model",
                "give the settings the checkpoint was trained with: model.dim, model.depth, model.heads, model.patch_size, ...",
            )
        state[name] = tensor
    known = expected.keys() | tables.keys()
    match = LoadReport(
        matched=tuple(sorted(known & foreign.keys())),
        missing=tuple(sorted(expected.keys() - foreign.keys())),
        unexpected=(*sorted(foreign.keys() - known), *found.outside),
        resized=tuple(resized),
        taken=found.taken,
        others=found.others,
    )
    if not state:
        raise nothing(content, found, *LAYOUT)
    return state, match


def save(state: Mapping[str, Tensor], config: ConMIMConfig, network: Network | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(what the authors keep under `model`, the keyword arguments of their model) of a pretext's state.

    `network`: "student" as in their `checkpoint-N.pth`, "teacher" as in `checkpoint_copy-N.pth`, which they fine-tune; by default the
    one whose backbone is the encoder (`pretext.encoder`).
    """
    network = network or config.pretext.encoder
    model = config.model
    tensors = {official_name(name): tensor for name, tensor in state.items() if name.startswith(f"{network}.")}
    for name in [name for name in tensors if name.endswith(TABLE)]:
        tensors[name.replace(TABLE, INDEX)] = relative_index(model.grid)
    shared, own = BIAS[model.relative_bias]
    kwargs: dict[str, Any] = {theirs: getattr(model, ours) for theirs, ours in SAME.items()}
    kwargs |= {"use_shared_rel_pos_bias": shared, "use_rel_pos_bias": own, "init_values": model.layer_scale}
    h, w = model.image_size
    kwargs |= {"img_size": h if h == w else (h, w), "use_mlp_projectors": True, "use_lm_head": False}
    return tensors, kwargs


def official_name(ours: str) -> str:
    return ours.split(".", 1)[1].removeprefix("backbone.")


def our_name(official: str, network: Network) -> str:
    return f"{network}.{official}" if official.startswith("projectors.") else f"{network}.backbone.{official}"


def networks(content: Content) -> dict[Network, Mapping[str, Any]]:
    """The content of the student's and of the teacher's file; the same object where there is only one file."""
    if set(content) == {"student", "teacher"}:
        return {"student": content["student"], "teacher": content["teacher"]}
    return {"student": content, "teacher": content}


def _resized(name: str, table: Tensor, model: ConMIMModel) -> Tensor:
    if name == "pos_embed":
        side = _side(table.shape[1] - 1, name)
        return resize_positions(table, (side, side), model.grid)
    side = _table_side(table)
    return resize_bias(table, (side, side), model.grid)


def _table_side(table: Tensor) -> int:
    return (_side(table.shape[0] - CLASS_ROWS, TABLE) + 1) // 2


def _side(cells: int, name: str) -> int:
    side = math.isqrt(max(0, cells))
    if side**2 != cells or not side:
        raise SightlineError(
            f"{name} belongs to no square grid ({cells} cells)", "give the checkpoint's own image size as model.image_size=[height,width]"
        )
    return side
