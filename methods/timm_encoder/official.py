"""Weights of timm models, in timm's own layout or in one that timm understands (OpenAI's CLIP, DINO, DINOv2, torchvision's ResNet)."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..contract import Content, LoadReport, Sections
from ..errors import SightlineError
from ..state_dicts import APART, find, fitted, nothing
from .config import TimmConfig, TimmModel
from .network import TimmEncoder

PREFIX = "inner.network."


def timm_state(tensors: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """The weights under timm's names, by the filter that timm has for this family."""
    convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    return dict(convert(dict(tensors), network)) if convert else dict(tensors)


def settings_of(content: Content) -> Sections:
    """What `save` put beside the tensors; else nothing: a file of weights does not say which timm model it belongs to."""
    fields = TimmModel.model_fields.keys()
    return {"model": {name: content[name] for name in fields}} if fields <= content.keys() else {}


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
                "name the timm model that these weights belong to: model.name=...",
            )
    if not state and any(APART.search(name) for name in tensors):
        raise nothing(content, found, "timm", "blocks.0.attn.qkv.weight")
    if not state:
        raise SightlineError(
            f"none of the {len(tensors)} tensors has a place in {config.model.name}; the first is {next(iter(tensors), 'absent')!r}",
            "name the timm model that these weights belong to: model.name=...",
        )
    missing = tuple(name.removeprefix(PREFIX) for name in into if name not in state)
    unexpected = tuple(name for name in theirs if PREFIX + name not in into)
    resized = tuple(name for name in theirs if name in tensors and theirs[name].shape != tensors[name].shape)
    matched = tuple(name.removeprefix(PREFIX) for name in state)
    return state, LoadReport(matched, missing, (*unexpected, *found.outside), resized, taken=found.taken, others=found.others)


def save(state: Mapping[str, Tensor], config: TimmConfig) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors under timm's names, the model's name and arguments)."""
    return {name.removeprefix(PREFIX): tensor for name, tensor in state.items()}, config.model.model_dump(mode="json")
