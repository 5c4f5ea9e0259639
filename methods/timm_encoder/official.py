"""Weights of timm models, in timm's own layout or in one that timm understands (OpenAI's CLIP, DINO, DINOv2, torchvision's ResNet)."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..contract import Content, LoadReport, Sections
from ..errors import SightlineError
from ..state_dicts import APART, find, fitted, nothing
from .config import TimmConfig, TimmModel
from .network import TimmEncoder

PREFIX = "inner.network."
NAME_IT = "name the timm model that these weights belong to: model.name=..."
MARKS = {
    "dinov2": re.compile(r"\.ls1\.gamma$|(^|\.)register_tokens$|\.mlp\.w12\."),
    "mae": re.compile(r"(^|\.)decoder_(embed|pred|blocks)\."),
    "clip": re.compile(r"(^|\.)(class_embedding|ln_pre\.weight)$"),
    "dino": re.compile(r"(^|\.)head\.(mlp\.|last_layer)"),
}
"""Names of tensors that only files of a layout have."""


def other_layout(names: Iterable[str], besides: str = "") -> str:
    """What to do about names that another layout has; empty where none has them."""
    names = list(names)
    found = (layout for layout, mark in MARKS.items() if layout != besides and any(map(mark.search, names)))
    return "".join(f"these are names of another layout: --method {layout}" for layout in [*found][:1])


def timm_state(tensors: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """The weights under timm's names, by the filter that timm has for this family."""
    convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    return dict(convert(dict(tensors), network)) if convert else dict(tensors)


def settings_of(content: Content) -> Sections:
    """What `save`, or timm's own `config.json`, has beside the tensors; a file of weights does not say which timm model it belongs to."""
    fields = TimmModel.model_fields.keys()
    if fields <= content.keys():
        return {"model": {name: content[name] for name in fields}}
    if isinstance(content.get("architecture"), str) and isinstance(content.get("pretrained_cfg"), Mapping):
        arguments = {name: value for name, value in (content.get("model_args") or {}).items() if name != "num_classes"}
        images = {name: content["pretrained_cfg"][name] for name in ("mean", "std", "input_size") if name in content["pretrained_cfg"]}
        return {"model": {"name": content["architecture"], "arguments": {**arguments, "pretrained_cfg_overlay": images}}}
    return {}


def load(content: Content, into: Mapping[str, Tensor], config: TimmConfig) -> tuple[dict[str, Tensor], LoadReport]:
    """State for a `TimmEncoder` of `config`. Raises `SightlineError` where nothing fits, a shape differs, or it is no `ImageEncoder`."""
    encoder = TimmEncoder(config.model).eval()
    names = encoder.network.state_dict().keys()
    found = find(content, names, least=len(names) // 4)
    tensors = found.tensors
    if not tensors:
        raise SightlineError(f"no tensors of weights under {', '.join(map(str, list(content)[:5])) or 'nothing'}", "name a file of weights")
    with torch.inference_mode():
        encoder.saliency(torch.zeros(1, 3, *encoder.image_size))
    theirs = timm_state(tensors, encoder.network)
    state = {PREFIX + name: fitted(name, tensor, into[PREFIX + name]) for name, tensor in theirs.items() if PREFIX + name in into}
    for name, tensor in state.items():
        if tensor.shape != into[name].shape:
            raise SightlineError(
                f"{name.removeprefix(PREFIX)} has shape {tuple(tensor.shape)} in the file, {tuple(into[name].shape)} "
                f"in {config.model.name}",
                NAME_IT,
            )
    if not state and any(APART.search(name) for name in tensors):
        raise nothing(content, found, "timm", "blocks.0.attn.qkv.weight")
    if not state:
        raise SightlineError(
            f"none of the {len(tensors)} tensors has a place in {config.model.name}; the first is {next(iter(tensors), 'absent')!r}",
            NAME_IT,
        )
    missing = tuple(name.removeprefix(PREFIX) for name in into if name not in state and not name.endswith("num_batches_tracked"))
    if missing:
        raise SightlineError(
            f"{len(missing)} of the {len(into)} tensors of {config.model.name} are missing from the file: {', '.join(missing[:4])}", NAME_IT
        )
    unexpected = tuple(name for name in theirs if PREFIX + name not in into)
    parts = {name.removeprefix(PREFIX).partition(".")[0] for name in into}
    if over := [name for name in unexpected if name.partition(".")[0] in parts]:
        raise SightlineError(
            f"{len(over)} tensors have no place in {config.model.name}: {', '.join(over[:4])}", other_layout(tensors) or NAME_IT
        )
    resized = tuple(name for name in theirs if name in tensors and theirs[name].shape != tensors[name].shape)
    matched = tuple(name.removeprefix(PREFIX) for name in state)
    other = other_layout([*tensors, *found.outside])
    notes = (f"{config.model.name} normalises images by mean and std 0.5; {other}",) if other and (encoder.mean == 0.5).all() else ()
    return state, LoadReport(matched, missing, (*unexpected, *found.outside), resized, taken=found.taken, others=found.others, notes=notes)


def save(state: Mapping[str, Tensor], config: TimmConfig) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors under timm's names, the model's name and arguments)."""
    return {name.removeprefix(PREFIX): tensor for name, tensor in state.items()}, config.model.model_dump(mode="json")
