"""Heads that make maps of the image's size from the patch tokens of several blocks: DPT (Ranftl et al., ICCV 2021) and a linear map.

Names of DPT's parameters are those of the published CroCo-Stereo and CroCo-Flow files, without the second names that these hold.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate, relu

from ..layers.patches import unpatchify

STAGES = 4
WIDTHS = (96, 192, 384, 768)
FEATURES = 256
LAST = 32
Tokens = Sequence[Float[Tensor, "b n _d"]]
"""Of image 1 after each block: those of the encoder, then those of a decoder."""


def default_hooks(encoder_depth: int, decoder_depth: int = 0) -> tuple[int, int, int, int]:
    """Which entries of the list of tokens DPT reads, from the finest stage to the coarsest.

    Encoder alone: the last block and three before it, `encoder_depth // 4` blocks apart. With a decoder: its last block and three before
    it, a third of its depth apart (8: 3, 12: 4, 24: 8), which may reach back into the encoder. The authors have no rule for other depths
    of a decoder; for an encoder of fewer than four blocks theirs takes the last one four times, ours spreads them.
    """
    total = encoder_depth + decoder_depth
    if total < 1:
        raise ValueError("a network without blocks has no tokens to hook")
    step = -(-decoder_depth // 3) if decoder_depth else encoder_depth // STAGES
    hooks = [total - 1 - step * back for back in reversed(range(STAGES))]
    if hooks[0] < 0 or not step:
        hooks = np.round(np.linspace(0, total - 1, STAGES)).astype(int).tolist()
    first, second, third, fourth = hooks
    return first, second, third, fourth


class ResidualUnit(nn.Module):
    """x + conv(relu(conv(relu(x)))), 3 x 3."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        out: Tensor = x + self.conv2(relu(self.conv1(relu(x))))
        return out


class Fusion(nn.Module):
    """The coarser map with the finer one added, enlarged. The coarsest stage has nothing to add; its `resConfUnit1` is never used."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.resConfUnit1 = ResidualUnit(width)
        self.resConfUnit2 = ResidualUnit(width)
        self.out_conv = nn.Conv2d(width, width, 1)

    def forward(
        self, x: Float[Tensor, "b c h w"], finer: Float[Tensor, "b c h w"] | None, size: tuple[int, int]
    ) -> Float[Tensor, "b c _h _w"]:
        if finer is not None:
            x = x + self.resConfUnit1(finer)
        out: Tensor = self.out_conv(enlarged(self.resConfUnit2(x), size))
        return out


def _map(tokens: Float[Tensor, "b n d"], grid: tuple[int, int]) -> Float[Tensor, "b d _h _w"]:
    return tokens.transpose(1, 2).reshape(tokens.shape[0], tokens.shape[2], *grid)


def enlarged(x: Float[Tensor, "b c h w"], size: tuple[int, int]) -> Float[Tensor, "b c _h _w"]:
    """Bilinear, corners on corners."""
    return interpolate(x, size=size, mode="bilinear", align_corners=True)


class Scratch(nn.Module):
    """The part of DPT after its stages have their own widths."""

    def __init__(self, widths: Sequence[int], features: int) -> None:
        super().__init__()
        for i, width in enumerate(widths, start=1):
            setattr(self, f"layer{i}_rn", nn.Conv2d(width, features, 3, padding=1, bias=False))
            setattr(self, f"refinenet{i}", Fusion(features))

    def forward(self, stages: Sequence[Float[Tensor, "b _c _h _w"]]) -> Float[Tensor, "b c h w"]:
        """From coarse to fine: to the size of the next finer stage, the last one doubled."""
        maps = [getattr(self, f"layer{i}_rn")(stage) for i, stage in enumerate(stages, start=1)]
        x: Tensor | None = None
        for i in range(len(maps), 0, -1):
            h, w = maps[i - 2].shape[2:] if i > 1 else (2 * side for side in maps[0].shape[2:])
            fuse: Fusion = getattr(self, f"refinenet{i}")
            x = fuse(maps[i - 1], None, (h, w)) if x is None else fuse(x, maps[i - 1], (h, w))
        assert x is not None
        return x


class DptHead(nn.Module):
    """Maps of `channels` values a pixel, no activation at the end. `dims`: the widths of the hooked tokens.

    Any grid and any patch: stages are fused at each other's sizes and the result has the image's, which for patches of 16 and sides that
    are multiples of 32 is what the authors compute.
    """

    def __init__(
        self,
        dims: Sequence[int],
        hooks: Sequence[int],
        channels: int,
        widths: Sequence[int] = WIDTHS,
        features: int = FEATURES,
        last: int = LAST,
    ) -> None:
        super().__init__()
        if not len(dims) == len(hooks) == len(widths) == STAGES:
            raise ValueError(
                f"DPT has {STAGES} stages; given are {len(hooks)} hooks, {len(dims)} widths of tokens and {len(widths)} of stages"
            )
        self.hooks, self.channels = tuple(hooks), channels
        w1, w2, w3, w4 = widths
        self.act_1_postprocess = nn.Sequential(nn.Conv2d(dims[0], w1, 1), nn.ConvTranspose2d(w1, w1, 4, stride=4))
        self.act_2_postprocess = nn.Sequential(nn.Conv2d(dims[1], w2, 1), nn.ConvTranspose2d(w2, w2, 2, stride=2))
        self.act_3_postprocess = nn.Sequential(nn.Conv2d(dims[2], w3, 1))
        self.act_4_postprocess = nn.Sequential(nn.Conv2d(dims[3], w4, 1), nn.Conv2d(w4, w4, 3, stride=2, padding=1))
        self.scratch = Scratch(widths, features)
        self.scratch.get_submodule("refinenet4.resConfUnit1").requires_grad_(False)  # never used, and DDP would wait for it
        self.head = nn.Sequential(
            nn.Conv2d(features, features // 2, 3, padding=1),
            nn.Identity(),  # enlarged to the image here
            nn.Conv2d(features // 2, last, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(last, channels, 1),
        )

    def forward(self, tokens: Tokens, grid: tuple[int, int], size: tuple[int, int]) -> Float[Tensor, "b c h w"]:
        """`grid`: (rows, columns) of patches; `size`: (height, width) of the image."""
        processes = (self.act_1_postprocess, self.act_2_postprocess, self.act_3_postprocess, self.act_4_postprocess)
        stages = [process(_map(tokens[hook], grid)) for hook, process in zip(self.hooks, processes, strict=True)]
        x = enlarged(self.head[0](self.scratch(stages)), size)
        out: Tensor = self.head[2:](x)
        return out


class LinearHead(nn.Module):
    """One linear map a token of the last block: the patch's pixels in raster order, channels fastest."""

    def __init__(self, dim: int, patch: int, channels: int) -> None:
        super().__init__()
        self.patch, self.channels = patch, channels
        self.proj = nn.Linear(dim, patch * patch * channels)

    def forward(self, tokens: Tokens, grid: tuple[int, int], size: tuple[int, int]) -> Float[Tensor, "b c h w"]:
        return unpatchify(self.proj(tokens[-1]), self.patch, grid)


@torch.no_grad()
def initialise_head(head: nn.Module, generator: torch.Generator) -> None:
    """PyTorch's defaults for convolutions and linear maps, without its global generator."""
    for module in head.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            bound = 1 / math.sqrt(module.weight[0].numel())
            nn.init.uniform_(module.weight, -bound, bound, generator=generator)
            if module.bias is not None:
                nn.init.uniform_(module.bias, -bound, bound, generator=generator)


@torch.no_grad()
def start_at(head: DptHead | LinearHead, value: float) -> None:
    """Make `value` the mean of the first channel where the last map has nothing to say: its bias."""
    last = head.head[-1] if isinstance(head, DptHead) else head.proj
    bias = last.bias
    assert isinstance(bias, Tensor)
    bias.view(-1, head.channels)[:, 0] = value
