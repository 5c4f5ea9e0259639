"""Published ViTs in the layouts of their authors, as models of timm: DINO, DINOv2, CLIP, open_clip and MAE.

Their shapes tell which model they are; what shapes do not tell (heads, activation, normalisation of images) is the authors', so a layout is
named, not guessed. timm converts and resizes the tensors. What has no place, or is missing, is an error.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ..contract import Content, LoadReport, Sections
from ..errors import SightlineError
from ..state_dicts import find, nothing
from . import official
from .config import TimmConfig

CHUNKED = re.compile(r"^blocks\.\d+\.(\d+)\.")
"""DINOv2 trains its blocks in chunks, in which a block keeps its own number."""
VIT = ("cls_token", "pos_embed", "patch_embed.proj.weight")
HEAD_DIM = 64
"""Channels of an attention head in the models of these authors that timm does not name."""


@dataclass(frozen=True)
class Layout:
    """An `Official` of one family: reads its files as `TimmEncoder`s."""

    id: str
    """As `sightline import --method` takes it."""
    title: str
    models: Mapping[tuple[int, int, int, int], str]
    """(width, blocks, side of a patch, register tokens) -> the model of timm. A model of other sizes has the rest from the first."""
    side: int
    """Pixels of a side of the images that the models of timm are made for."""
    beside: re.Pattern[str]
    """Names of tensors of other networks in the same file."""
    anchors: tuple[str, ...] = VIT
    tower: str = ""
    """What timm expects before the names."""

    def settings_of(self, content: Content) -> Sections:
        """timm's model and its arguments, from the shapes. Raises `SightlineError` where they are not those of this layout."""
        tensors = self._own(content)[0]
        clip = self.anchors is not VIT
        convolution, places = ("conv1.weight", "positional_embedding") if clip else ("patch_embed.proj.weight", "pos_embed")
        width, patch = tensors[convolution].shape[0], tensors[convolution].shape[-1]
        block = re.compile(r"(?:transformer\.resblocks|blocks)\.(\d+)\.")
        depth = 1 + max((int(found[1]) for name in tensors if (found := block.match(name))), default=-1)
        registers = tensors["register_tokens"].shape[1] if "register_tokens" in tensors else 0
        grid = math.isqrt(tensors[places].shape[-2] - 1)
        if grid * grid != tensors[places].shape[-2] - 1:
            raise SightlineError(
                f"{tensors[places].shape[-2]} places of tokens are no square and a class token", "its layout is another one, or it is cut"
            )
        arguments: dict[str, Any] = {}
        name = self.models.get((width, depth, patch, registers))
        if name is None:
            name, arguments = self._unnamed(tensors, width, depth, patch, registers)
        if "fc_norm.weight" in tensors:
            arguments["global_pool"] = "avg"
        if grid * patch != self.side:
            arguments["img_size"] = grid * patch
        return {"model": {"name": name, "arguments": arguments}}

    def _unnamed(self, tensors: Mapping[str, Tensor], width: int, depth: int, patch: int, registers: int) -> tuple[str, dict[str, Any]]:
        """(the model of timm whose make it is, what differs)."""
        gated = "blocks.0.mlp.w12.weight" in tensors
        makes = [name for (*_, many), name in self.models.items() if bool(many) == bool(registers) and (not gated or "giant" in name)]
        if not makes:
            raise SightlineError(f"{self.title} has no register tokens or gated MLPs; the file has", official.other_layout(tensors))
        name = makes[0]
        wide = next(tensors[n].shape[0] for n in tensors if re.search(r"\.0\.mlp\.(w12|fc1|c_fc)\.weight$", n))
        arguments: dict[str, Any] = {"embed_dim": width, "depth": depth, "patch_size": patch}
        if wide != 4 * width or gated:
            arguments["mlp_ratio"] = (wide + 0.5) / width  # timm rounds the product down
        if registers:
            arguments["reg_tokens"] = registers
        if "proj" in tensors:
            arguments["num_classes"] = tensors["proj"].shape[1]
        if width % HEAD_DIM:
            raise SightlineError(
                f"its width {width} is no multiple of {HEAD_DIM}, so its number of attention heads is not known",
                f"give it: model.name={name} model.arguments='{{{', '.join(f'{k}: {v}' for k, v in arguments.items())}, num_heads: ...}}'",
            )
        return name, {**arguments, "num_heads": width // HEAD_DIM}

    def load(self, content: Content, into: Mapping[str, Tensor], config: TimmConfig) -> tuple[dict[str, Tensor], LoadReport]:
        """As `official.load`. Raises `SightlineError` where tensors of the encoder are missing or left over."""
        tensors, report = self._own(content)
        offered = {self.tower + name: tensor for name, tensor in tensors.items()}
        if self.id == "dinov2":
            offered.setdefault("mask_token", tensors["cls_token"])  # by which timm knows the layout
        state, match = official.load({"model": offered}, into, config)
        if over := [name for name in match.unexpected if not self.beside.match(name) and not name.startswith("head.")]:
            raise SightlineError(
                f"{len(over)} tensors have no place in {config.model.name}: {', '.join(over[:4])}",
                official.other_layout(over, self.id.removeprefix("open_")) or official.NAME_IT,
            )
        projection = tuple(name for name in match.unexpected if name.startswith("head."))
        notes = (*match.notes, *self._notes(config))
        return state, replace(
            match, unexpected=(), left_out=(*report.left_out, *projection), taken=report.taken, others=report.others, notes=notes
        )

    save = staticmethod(official.save)

    def _notes(self, config: TimmConfig) -> list[str]:
        heads = config.model.arguments.get("num_heads")
        if config.model.name not in self.models.values() or heads is None:
            return []
        return [f"the file does not tell the number of attention heads; {heads} are assumed (model.arguments='{{num_heads: N}}' sets it)"]

    def _own(self, content: Content) -> tuple[dict[str, Tensor], LoadReport]:
        """(tensors of the encoder by the authors' names, what is said of the others)."""
        found = find(content, self.anchors, least=2)
        tensors = {CHUNKED.sub(r"blocks.\1.", name): tensor for name, tensor in found.tensors.items()}
        needed = self.anchors
        if absent := [name for name in needed if name not in tensors]:
            other = official.other_layout([*found.tensors, *found.outside], self.id.removeprefix("open_"))
            if other and len(absent) == len(needed):
                raise SightlineError(f"the file is not of {self.title}: it has no {', '.join(absent)}", other)
            if len(absent) == len(needed):
                raise nothing(content, found, self.title, needed[2])
            raise SightlineError(f"the file has no {', '.join(absent)}: it is no whole encoder of {self.title}", other or official.NAME_IT)
        beside = tuple(name for name in tensors if self.beside.match(name))
        own = {name: tensor for name, tensor in tensors.items() if name not in beside}
        return own, LoadReport((), (), (), left_out=(*beside, *found.outside), taken=found.taken, others=found.others)


def _clip(sizes: Mapping[str, tuple[int, int, int]]) -> dict[tuple[int, int, int, int], str]:
    return {(*size, 0): name for name, size in sizes.items()}


def dino() -> Layout:
    return Layout(
        "dino",
        "DINO",
        {
            (384, 12, 16, 0): "vit_small_patch16_224.dino",
            (384, 12, 8, 0): "vit_small_patch8_224.dino",
            (768, 12, 16, 0): "vit_base_patch16_224.dino",
            (768, 12, 8, 0): "vit_base_patch8_224.dino",
        },
        side=224,
        beside=re.compile(r"head\."),
    )


def dinov2() -> Layout:
    sizes = {"small": (384, 12), "base": (768, 12), "large": (1024, 24), "giant": (1536, 40)}
    return Layout(
        "dinov2",
        "DINOv2",
        {
            (*size, 14, registers): f"vit_{name}_patch14{'_reg4' if registers else ''}_dinov2.lvd142m"
            for registers in (0, 4)
            for name, size in sizes.items()
        },
        side=518,
        beside=re.compile(r"mask_token$|(dino|ibot)_head\.|head\."),
    )


def mae() -> Layout:
    return Layout(
        "mae",
        "MAE",
        {
            (768, 12, 16, 0): "vit_base_patch16_224.mae",
            (1024, 24, 16, 0): "vit_large_patch16_224.mae",
            (1280, 32, 14, 0): "vit_huge_patch14_224.mae",
        },
        side=224,
        beside=re.compile(r"mask_token$|decoder_|head\."),
    )


def clip() -> Layout:
    """OpenAI's, whose activation is QuickGELU. (The visual tower alone; ResNets are another make.)"""
    return _tower(
        "clip",
        "CLIP",
        {
            "vit_base_patch16_clip_quickgelu_224.openai": (768, 12, 16),
            "vit_base_patch32_clip_quickgelu_224.openai": (768, 12, 32),
            "vit_large_patch14_clip_quickgelu_224.openai": (1024, 24, 14),
        },
    )


def open_clip() -> Layout:
    """Of open_clip, whose models have GELU where their name does not say `quickgelu`."""
    return _tower(
        "open_clip",
        "open_clip",
        {
            "vit_base_patch16_clip_224.laion2b": (768, 12, 16),
            "vit_base_patch32_clip_224.laion2b": (768, 12, 32),
            "vit_large_patch14_clip_224.datacompxl": (1024, 24, 14),
            "vit_huge_patch14_clip_224.laion2b": (1280, 32, 14),
            "vit_giant_patch14_clip_224.laion2b": (1408, 40, 14),
            "vit_gigantic_patch14_clip_224.laion2b": (1664, 48, 14),
        },
    )


def _tower(name: str, title: str, sizes: Mapping[str, tuple[int, int, int]]) -> Layout:
    return Layout(
        name,
        title,
        _clip(sizes),
        side=224,
        beside=re.compile(r"(?!)"),
        anchors=("class_embedding", "ln_pre.weight", "conv1.weight"),
        tower="visual.",
    )
