"""The published I2P-MAE layout, both ways: dicts of tensors in, dicts out. Reads and writes no file.

A file holds the weights under `base_model`, with `module.` before every name where the authors' launcher wrapped the model, and the
2-D teacher's weights (`clip_model.*`), which are not taken: a teacher is named by `model.teacher`. Our names are theirs but for the
token propagation; linear maps are convolutions of width 1 there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..contract import Content, LoadReport, Sections
from ..errors import SightlineError
from ..state_dicts import find, fitted, nothing
from .config import I2PConfig

ANCHORS = ("h_encoder.token_embed.0.first_conv.0.weight", "h_encoder.encoder_blocks.0.blocks.0.norm1.weight")
"""Names of every file of this layout."""
TEACHER = "clip_model."
PROPAGATION = (
    (re.compile(r"^token_prop\.0\.fuse\.net\."), "token_prop.fuse."),
    (re.compile(r"^token_prop\.0\.extraction\.operation\."), "token_prop.extraction."),
)
CONVOLUTIONS = re.compile(r"(first_conv\.[03]|second_conv\.[03]|token_prop\.0\.fuse\.net\.0|net[12]\.0|rec_head_[23]d)\.weight$")
VIEWS = 3


def to_ours(name: str) -> str:
    """Our name for one of theirs."""
    for pattern, ours in PROPAGATION:
        name = pattern.sub(ours, name)
    return name


def to_theirs(name: str) -> str:
    return name.replace("token_prop.fuse.", "token_prop.0.fuse.net.").replace(
        "token_prop.extraction.", "token_prop.0.extraction.operation."
    )


def weights(content: Content) -> dict[str, Tensor]:
    """Tensors by their names, whatever the file wraps them in."""
    found = find(content, ANCHORS)
    if not any(name in found.tensors for name in ANCHORS):
        raise nothing(content, found, "I2P-MAE", ANCHORS[0])
    return found.tensors


def settings_of(content: Content) -> Sections:
    """Our settings, by the shapes of the tensors and, over these, by the settings that `save` put beside them. Heads, points, groups, drop
    path and the finest scale's neighbours are not in the tensors: where nothing is beside them they are left at their defaults."""
    state = weights(content)

    members = _shape(state, "rec_head_3d.weight")[0] // 3
    features = _shape(state, "rec_head_2d.weight")[0] // members
    model: dict[str, Any] = {
        **encoder_shapes(state),
        "decoder_depths": tuple(_count(state, rf"h_decoder\.{i}\.blocks\.(\d+)\.") for i in range(2)),
        "decoder_up_blocks": _count(state, r"token_prop\.0\.extraction\.operation\.(\d+)\."),
        "teacher_dim": features // VIEWS,
    }
    if members != 8:
        model["neighbours"] = (16, members, 8)
    model |= settings_from_official(content)
    pretext = {"views": features // model["teacher_dim"]}
    if "mask_ratio" in content:
        pretext["mask_ratio"] = content["mask_ratio"]
    return {"model": model, "pretext": pretext}


def encoder_shapes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The `model` settings that the shapes of the encoder's tensors tell."""
    dims = tuple(_shape(state, f"h_encoder.encoder_pos_embeds.{i}.2.weight")[0] for i in range(3))
    return {
        "dims": dims,
        "depths": tuple(_count(state, rf"h_encoder\.encoder_blocks\.{i}\.blocks\.(\d+)\.") for i in range(3)),
        "embed": tuple(_shape(state, f"h_encoder.token_embed.0.first_conv.{i}.weight")[0] for i in (0, 3)),
        "mlp_ratio": _shape(state, "h_encoder.encoder_blocks.0.blocks.0.mlp.fc1.weight")[0] / dims[0],
    }


def _shape(state: Mapping[str, Tensor], name: str) -> tuple[int, ...]:
    if name not in state:
        raise SightlineError(f"{name} is not in the file", "name a checkpoint of I2P-MAE")
    return tuple(state[name].shape)


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    return len({m[1] for name in state if (m := re.match(pattern, name))})


SAME = {
    "npoints": "points",
    "num_groups": "groups",
    "group_sizes": "neighbours",
    "encoder_dims": "dims",
    "encoder_depths": "depths",
    "num_heads": "heads",
    "decoder_depths": "decoder_depths",
    "drop_path_rate": "drop_path",
}
"""Their setting -> ours, where the values are the same."""


def settings_from_official(theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Our `model` settings from the authors' names and values, as far as they are given."""
    ours: dict[str, Any] = {}
    for name, key in SAME.items():
        if name in theirs:
            ours[key] = tuple(theirs[name]) if isinstance(theirs[name], (list, tuple)) else theirs[name]
    match theirs.get("decoder_up_blocks"):
        case [int(first), *_]:
            ours["decoder_up_blocks"] = first
    match theirs.get("clip_config"):
        case {"feat_dim": int(width)} if width > 0:
            ours["teacher_dim"] = width
    return ours


def load(content: Content, into: Mapping[str, Tensor], config: I2PConfig) -> tuple[dict[str, Tensor], LoadReport]:
    """State for a pretext of `config` whose present state is `into`. Raises `SightlineError` where nothing matches or a shape differs."""
    found = find(content, ANCHORS)
    theirs = found.tensors
    state: dict[str, Tensor] = {}
    matched, unexpected, left_out = [], [], []
    for name, tensor in theirs.items():
        if name.startswith(TEACHER):
            left_out.append(name)
            continue
        ours = to_ours(name)
        if ours not in into:
            unexpected.append(name)
            continue
        value = tensor.squeeze(-1) if CONVOLUTIONS.search(name) and tensor.ndim == 3 else tensor
        if value.shape != into[ours].shape:
            raise SightlineError(
                f"{name} has shape {tuple(tensor.shape)} in the file, {tuple(into[ours].shape)} in this network",
                "use the settings of the network that was saved",
            )
        state[ours] = fitted(name, value, into[ours])
        matched.append(name)
    if not matched:
        raise nothing(content, found, "I2P-MAE", ANCHORS[0])
    missing = tuple(to_theirs(name) for name in into if name not in state)
    unexpected += [name for name in found.outside if not name.startswith(TEACHER)]
    left_out += [name for name in found.outside if name.startswith(TEACHER)]
    return state, LoadReport(tuple(matched), missing, tuple(unexpected), left_out=tuple(left_out), taken=found.taken, others=found.others)


def save(state: Mapping[str, Tensor], config: I2PConfig) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors under the official names, without the teacher; the authors' settings)."""
    model, tensors = config.model, {}
    for name, tensor in state.items():
        theirs = to_theirs(name)
        tensors[theirs] = tensor.unsqueeze(-1) if CONVOLUTIONS.search(theirs) else tensor
    settings: dict[str, Any] = {theirs: _plain(getattr(model, ours)) for theirs, ours in SAME.items()}
    settings |= {
        "NAME": "I2P_MAE",
        "mask_ratio": config.pretext.mask_ratio,
        "decoder_dims": [model.dims[2], model.dims[1]],
        "decoder_up_blocks": [model.decoder_up_blocks],
        "local_radius": [0, 0, 0],
        "clip_config": {"feat_dim": model.teacher_dim},
    }
    return tensors, settings


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
