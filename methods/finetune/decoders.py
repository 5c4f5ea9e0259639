"""Decoders of segmentation on the tokens of a plain ViT: UPerNet (Xiao et al., ECCV 2018) on four of its blocks, as for BEiT and MAE, and
Segmenter's mask transformer (Strudel et al., ICCV 2021). Both give logits on a grid coarser than the image.

By hand, not from a library: their dropout is drawn by the step's own generator, so that a run can be replayed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate, normalize, relu

from ..layers.transformer import EncoderBlock, layer_norm

BINS = (1, 2, 3, 6)
"""Sides of the grids that pyramid pooling averages over."""
STAGES = 4
DROPPED = 0.1
"""Share of the features before the last map that training drops, whole channels of a sample."""
AUXILIARY_STAGE = 2
"""The stage of the auxiliary head: patches as they are, two thirds up the encoder."""
AUXILIARY_WIDTH = 256

Maps = Float[Tensor, "b _c _h _w"]
Alive = Bool[Tensor, "b _c"] | None
"""The channels that are not dropped; None: all."""


def spread_blocks(depth: int) -> tuple[int, int, int, int]:
    """The blocks that UPerNet reads: after a third, a half, two thirds and all of them (12: 3, 5, 7, 11 from 0; 24: 7, 11, 15, 23)."""
    first, second, third, fourth = (max(1, round(depth * share)) - 1 for share in (1 / 3, 1 / 2, 2 / 3, 1))
    return first, second, third, fourth


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, side: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, side, padding=side // 2, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Maps) -> Maps:
        return relu(self.norm(self.conv(x)))


class ToClasses(nn.Module):
    """Dropout of channels, then one linear map a cell."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, classes, 1)

    def forward(self, x: Maps, alive: Alive) -> Maps:
        if alive is not None:
            x = x * (alive.to(x.dtype) / (1 - DROPPED))[:, :, None, None]
        out: Tensor = self.conv(x)
        return out


class Scales(nn.Module):
    """Four maps of patches, each of the grid, as a pyramid: 4, 2, 1 and 1/2 times its sides."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.up4 = nn.Sequential(
            nn.ConvTranspose2d(dim, dim, 2, stride=2), nn.BatchNorm2d(dim), nn.GELU(), nn.ConvTranspose2d(dim, dim, 2, stride=2)
        )
        self.up2 = nn.ConvTranspose2d(dim, dim, 2, stride=2)
        self.down2 = nn.MaxPool2d(2)

    def forward(self, maps: Sequence[Maps]) -> list[Maps]:
        first, second, third, fourth = maps
        return [self.up4(first), self.up2(second), third, self.down2(fourth)]


class UPerNet(nn.Module):
    """Pyramid pooling on the coarsest stage, then a feature pyramid whose stages are joined at the finest one's size."""

    def __init__(self, dim: int, width: int, classes: int) -> None:
        super().__init__()
        self.scales = Scales(dim)
        self.pools = nn.ModuleList(ConvNorm(dim, width, 1) for _ in BINS)
        self.pooled = ConvNorm(dim + len(BINS) * width, width, 3)
        self.lateral = nn.ModuleList(ConvNorm(dim, width, 1) for _ in range(STAGES - 1))
        self.smooth = nn.ModuleList(ConvNorm(width, width, 3) for _ in range(STAGES - 1))
        self.join = ConvNorm(STAGES * width, width, 3)
        self.classify = ToClasses(width, classes)

    def forward(self, maps: Sequence[Maps], alive: Alive = None) -> Maps:
        """`maps`: the four blocks' patches as b x d x rows x columns."""
        stages = self.scales(maps)
        coarsest = stages[-1]
        size = coarsest.shape[2:]
        context = [enlarged(pool(adaptive_avg_pool2d(coarsest, side)), size) for side, pool in zip(BINS, self.pools, strict=True)]
        top = self.pooled(torch.cat([coarsest, *context], dim=1))
        found = [top]
        for stage, lateral in zip(reversed(stages[:-1]), reversed(self.lateral), strict=True):
            found.insert(0, lateral(stage) + enlarged(found[0], stage.shape[2:]))
        smoothed = [smooth(x) for smooth, x in zip(self.smooth, found[:-1], strict=True)]
        joined = torch.cat([enlarged(x, found[0].shape[2:]) for x in (*smoothed, top)], dim=1)
        out: Tensor = self.classify(self.join(joined), alive)
        return out


class AuxiliaryHead(nn.Module):
    """A second prediction from one stage, for training alone."""

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.conv = ConvNorm(dim, AUXILIARY_WIDTH, 3)
        self.classify = ToClasses(AUXILIARY_WIDTH, classes)

    def forward(self, maps: Sequence[Maps], alive: Alive = None) -> Maps:
        out: Tensor = self.classify(self.conv(maps[AUXILIARY_STAGE]), alive)
        return out


class MaskTransformer(nn.Module):
    """A token for each class goes through some blocks with the patches; a class's map is the cosine of its token with each patch,
    normalised over the classes. Without the authors' dropout inside the blocks."""

    def __init__(self, dim: int, depth: int, classes: int) -> None:
        super().__init__()
        heads = max(1, dim // 64)
        if dim % heads:
            raise ValueError(f"heads of 64 do not divide the encoder's width {dim}: use another decoder")
        self.classes = classes
        self.proj_dec = nn.Linear(dim, dim)
        self.cls_emb = nn.Parameter(torch.empty(1, classes, dim))
        self.blocks = nn.ModuleList(EncoderBlock(dim, heads, 4.0) for _ in range(depth))
        self.decoder_norm = layer_norm(dim)
        self.proj_patch = nn.Parameter(torch.empty(dim, dim))
        self.proj_classes = nn.Parameter(torch.empty(dim, dim))
        self.mask_norm = layer_norm(classes)

    def forward(self, tokens: Float[Tensor, "b n d"], grid: tuple[int, int]) -> Maps:
        x = torch.cat([self.proj_dec(tokens), self.cls_emb.expand(len(tokens), -1, -1)], dim=1)
        for block in self.blocks:
            x = block(x)
        x = self.decoder_norm(x)
        patches, classes = x[:, : -self.classes] @ self.proj_patch, x[:, -self.classes :] @ self.proj_classes
        cosines = normalize(patches.float(), dim=-1) @ normalize(classes.float(), dim=-1).transpose(1, 2)
        return as_maps(self.mask_norm(cosines), grid)


def as_maps(tokens: Float[Tensor, "b n d"], grid: tuple[int, int]) -> Maps:
    """Patches in raster order as b x d x rows x columns."""
    return tokens.transpose(1, 2).reshape(tokens.shape[0], tokens.shape[2], *grid)


def enlarged(x: Maps, size: Sequence[int]) -> Maps:
    """Bilinear, as mmsegmentation has it: corners are not on corners."""
    return interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


def draw_alive(batch: int, width: int, generator: torch.Generator, device: torch.device) -> Bool[Tensor, "b c"]:
    """Channels that dropout leaves. `generator` is one of the CPU, so that a GPU drops the same."""
    return (torch.rand(batch, width, generator=generator) >= DROPPED).to(device)


@torch.no_grad()
def initialise_decoder(decoder: nn.Module, generator: torch.Generator) -> None:
    """Convolutions He-normal, the last ones N(0, 0.01^2); linear maps and class tokens N(0, 0.02^2) cut at two deviations, the two matrices
    of the mask transformer N(0, 1 / d); biases 0, norms 1 / 0."""
    for module in decoder.modules():
        match module:
            case ToClasses():
                nn.init.normal_(module.conv.weight, std=0.01, generator=generator)
            case MaskTransformer():
                nn.init.trunc_normal_(module.cls_emb, std=0.02, a=-0.04, b=0.04, generator=generator)
                for matrix in (module.proj_patch, module.proj_classes):
                    nn.init.normal_(matrix, std=1 / math.sqrt(len(matrix)), generator=generator)
            case nn.BatchNorm2d() | nn.LayerNorm():
                module.reset_parameters()
            case nn.Linear():
                nn.init.trunc_normal_(module.weight, std=0.02, a=-0.04, b=0.04, generator=generator)
        if isinstance(module, nn.ConvTranspose2d):
            nn.init.normal_(module.weight, std=math.sqrt(1 / len(module.weight)), generator=generator)
        if isinstance(module, ConvNorm):
            nn.init.kaiming_normal_(module.conv.weight, generator=generator)
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
