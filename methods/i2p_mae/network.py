"""I2P-MAE's hierarchical encoder, its exported form, and the decoder's parts. Parameter names are those of the published checkpoints."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import gelu, linear

from ..layers.attention import attend
from ..layers.drop_path import branch_scales, drop_path, linear_rates
from ..layers.points import farthest_point_sampling, nearest, take
from ..layers.transformer import Mlp
from .config import I2PConfig, I2PModel


class Groups(NamedTuple):
    """One scale of a cloud: centres, and for each its nearest points of the scale below, themselves included."""

    picks: Int[Tensor, "b g"]
    """Of the centres, among the points of the scale below."""
    centres: Float[Tensor, "b g 3"]
    members: Int[Tensor, "b g k"]
    """Of each centre, nearest first."""
    around: Float[Tensor, "b g k 3"]
    """The members' coordinates."""

    @property
    def relative(self) -> Float[Tensor, "b g k 3"]:
        return self.around - self.centres[:, :, None]


def group_points(points: Float[Tensor, "b n 3"], model: I2PModel, *, skip_origin: bool) -> list[Groups]:
    """The three scales of a cloud, the finest first."""
    scales = []
    for groups, neighbours in zip(model.groups, model.neighbours, strict=True):
        picks = farthest_point_sampling(points, groups, skip_origin=skip_origin)
        centres = take(points, picks)
        members = nearest(centres, points, neighbours)
        scales.append(Groups(picks, centres, members, take(points, members)))
        points = centres
    return scales


class TokenEmbed(nn.Module):
    """A small PointNet: what the members of a group are, then the largest of each channel.

    The second half reads [largest of the group, own] of each member. The largest is the same for all of a group, so it is multiplied
    once a group and not once a member: the same sum in another order.
    """

    def __init__(self, inputs: int, first: tuple[int, int], second: tuple[int, int]) -> None:
        super().__init__()
        self.first_conv = nn.Sequential(nn.Linear(inputs, first[0]), nn.BatchNorm1d(first[0]), nn.ReLU(), nn.Linear(first[0], first[1]))
        self.second_conv = nn.Sequential(nn.Linear(2 * first[1], second[0]), nn.BatchNorm1d(second[0]), nn.ReLU(), nn.Linear(*second))

    def forward(self, members: Float[Tensor, "b g k c"]) -> Float[Tensor, "b g d"]:
        b, g, k, _ = members.shape
        own = self.first_conv(members.flatten(0, 2))
        width = own.shape[1]
        largest = own.view(b * g, k, width).amax(dim=1)
        mix, norm, relu, out = self.second_conv
        assert isinstance(mix, nn.Linear)
        shared = linear(largest, mix.weight[:, :width], mix.bias)
        mixed = linear(own, mix.weight[:, width:]).view(b * g, k, -1) + shared[:, None]
        tokens: Tensor = out(relu(norm(mixed.flatten(0, 1))))
        return tokens.view(b, g, k, -1).amax(dim=2)


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        seen: Bool[Tensor, " b #n n"] | None,
    ) -> Float[Tensor, "b n d"]:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        out: Tensor = self.proj(attend(q, k, v, None if seen is None else seen[:, None]).flatten(2))
        return out


class Block(nn.Module):
    def __init__(self, dim: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x: Float[Tensor, "b n d"], seen: Tensor | None, scales: Float[Tensor, "2 b"] | None) -> Float[Tensor, "b n d"]:
        first, second = (None, None) if scales is None else scales.unbind(0)
        x = x + drop_path(self.attn(self.norm1(x), seen), first)
        return x + drop_path(self.mlp(self.norm2(x)), second)


class Blocks(nn.Module):
    """Positions are added again before every block."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float, rates: Sequence[float]) -> None:
        super().__init__()
        self.rates = list(rates)
        self.blocks = nn.ModuleList(Block(dim, heads, mlp_ratio) for _ in rates)

    def forward(
        self, x: Float[Tensor, "b n d"], places: Float[Tensor, "b n d"], seen: Tensor | None, kept: Bool[Tensor, "l 2 b"] | None
    ) -> Float[Tensor, "b n d"]:
        """`seen`: the tokens that tokens look at, b x 1 x n or b x n x n; None: all. `kept`: branches that are not dropped."""
        for block, scales in zip(self.blocks, branch_scales(kept, self.rates), strict=True):
            x = block(x + places, seen, scales)
        return x


def place_embed(dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, dim), nn.GELU(), nn.Linear(dim, dim))


class Packed(NamedTuple):
    """The visible tokens of each sample, in index order, at the front of rows that are as long as the longest."""

    picks: Int[Tensor, "b l"]
    valid: Bool[Tensor, "b l"]

    @property
    def seen(self) -> Bool[Tensor, "b 1 l"] | None:
        exporting = torch.compiler.is_exporting()  # where nothing may depend on values
        return self.valid[:, None] if exporting or not bool(self.valid.all()) else None


def pack(visible: Bool[Tensor, "b g"]) -> Packed:
    longest = visible.shape[1] if torch.compiler.is_exporting() else int(visible.sum(dim=1).amax())
    picks = torch.argsort((~visible).to(torch.uint8), dim=1, stable=True)[:, :longest]
    return Packed(picks, visible.gather(1, picks))


def put(base: Float[Tensor, "b g d"], packed: Packed, values: Float[Tensor, "b l d"]) -> Float[Tensor, "b g d"]:
    """`base` with the packed tokens in their places."""
    rows = packed.picks[..., None].expand_as(values)
    return base.scatter(1, rows, torch.where(packed.valid[..., None], values, base.gather(1, rows)))


def spread_masks(top: Bool[Tensor, "b g"], scales: Sequence[Groups], *, official: bool) -> list[Bool[Tensor, "b _"]]:
    """Hidden tokens of each scale, the finest first: a token is visible where a visible token of the scale above has it as a member.

    `official`: where anything is hidden in a scale, token 0 of the first sample below is visible, as the released code has it.
    """
    masks = [top]
    for upper, lower in zip(scales[:0:-1], scales[-2::-1], strict=True):
        visible = torch.zeros(lower.centres.shape[:2], dtype=torch.uint8, device=top.device)
        shown = (~masks[0])[..., None].expand(upper.members.shape).to(torch.uint8)
        visible.scatter_reduce_(1, upper.members.flatten(1), shown.flatten(1), "amax")
        if official:
            visible[0, 0] = torch.maximum(visible[0, 0], masks[0].any().to(torch.uint8))
        masks.insert(0, ~visible.bool())
    return masks


class Encoded(NamedTuple):
    """Of each scale: all tokens as embedded, the visible ones packed, and those after the encoder and its norm."""

    embedded: list[Tensor]
    packed: list[Packed]
    out: list[Tensor]


class HierarchicalEncoder(nn.Module):
    def __init__(self, model: I2PModel, norms: bool = True) -> None:
        super().__init__()
        dims, self.depths = model.dims, model.depths
        self.token_embed = nn.ModuleList(
            [TokenEmbed(3, model.embed, (2 * model.embed[1], dims[0]))]
            + [TokenEmbed(below, (below, below), (dim, dim)) for below, dim in pairwise(dims)]
        )
        self.encoder_pos_embeds = nn.ModuleList(place_embed(dim) for dim in dims)
        rates = linear_rates(model.drop_path, sum(model.depths))
        first = [sum(model.depths[:i]) for i in range(4)]
        self.encoder_blocks = nn.ModuleList(
            Blocks(dim, model.heads, model.mlp_ratio, rates[first[i] : first[i + 1]]) for i, dim in enumerate(dims)
        )
        self.encoder_norms = nn.ModuleList(nn.LayerNorm(dim) for dim in dims) if norms else None

    def encode(
        self,
        scales: Sequence[Groups],
        masks: Sequence[Bool[Tensor, "b _"]],
        kept: Bool[Tensor, "l 2 b"] | None = None,
        near: Sequence[Bool[Tensor, "b _ _"]] | None = None,
    ) -> Encoded:
        """`near`: which tokens of each scale look at which, where nothing is hidden (fine-tuning); default: all at all."""
        encoded = Encoded([], [], [])
        members, used = scales[0].relative, 0
        for i, (groups, mask) in enumerate(zip(scales, masks, strict=True)):
            tokens = self.token_embed[i](members)
            packed = pack(~mask)
            blocks = self.encoder_blocks[i]
            places = self.encoder_pos_embeds[i](take(groups.centres, packed.picks))
            n = self.depths[i]
            seen = packed.seen if near is None else near[i]
            x = blocks(take(tokens, packed.picks), places, seen, None if kept is None else kept[used : used + n])
            used += n
            if i + 1 < len(scales):
                members = take(put(tokens, packed, x), scales[i + 1].members)
            encoded.embedded.append(tokens)
            encoded.packed.append(packed)
            encoded.out.append(x if self.encoder_norms is None else self.encoder_norms[i](x))
        return encoded


def interpolate(points: Float[Tensor, "b n 3"], centres: Float[Tensor, "b g 3"], tokens: Float[Tensor, "b g d"]) -> Float[Tensor, "b n d"]:
    """Tokens at points: those of the three nearest centres, weighted by the inverse squared distance."""
    near = nearest(points, centres, min(3, centres.shape[1]))
    squared = (take(centres, near) - points[:, :, None]).square().sum(dim=-1)
    weights = 1 / (squared + 1e-8)
    weights = weights / weights.sum(dim=-1, keepdim=True)
    return (take(tokens, near) * weights[..., None]).sum(dim=2)


class PointEncoder(HierarchicalEncoder):
    """Clouds in, tokens of the coarsest scale out. Coordinates as in training: centred on the mean, the farthest point at distance 1."""

    def __init__(self, config: I2PConfig) -> None:
        super().__init__(config.model)
        self.model, self.official = config.model, config.pretext.official
        self.dim, self.groups = config.model.dims[2], config.model.groups[2]
        self.points, self.least = config.model.points, config.model.groups[0]

    def scales(self, points: Float[Tensor, "b n 3"]) -> list[Groups]:
        return group_points(points, self.model, skip_origin=self.official)

    @property
    def grouping(self) -> Hashable:
        return self.model.groups, self.model.neighbours, self.official

    def tokens(self, points: Float[Tensor, "b n 3"], scales: list[Groups] | None = None) -> Float[Tensor, "b g d"]:
        """After the final norm. With the official masks finer tokens that are in no neighbourhood take no part."""
        scales = self.scales(points) if scales is None else scales
        masks = [torch.zeros(s.centres.shape[:2], dtype=torch.bool, device=points.device) for s in scales]
        if self.official:
            masks = spread_masks(masks[2], scales, official=True)
        out: Tensor = self.encode(scales, masks).out[2]
        return out

    def forward(self, points: Float[Tensor, "b n 3"]) -> Float[Tensor, "b g d"]:
        return self.tokens(points)

    def pooled(self, points: Float[Tensor, "b n 3"], scales: list[Groups] | None = None) -> Float[Tensor, "b d"]:
        """The largest of each channel over the tokens, which is what the authors' SVM reads."""
        return self.tokens(points, scales).amax(dim=1)

    def at_points(self, points: Float[Tensor, "b n 3"], scales: list[Groups] | None = None) -> Float[Tensor, "b n e"]:
        """The tokens of all scales at each point, side by side (e = sum of the widths); no token is left out."""
        scales = self.scales(points) if scales is None else scales
        masks = [torch.zeros(s.centres.shape[:2], dtype=torch.bool, device=points.device) for s in scales]
        found = self.encode(scales, masks).out
        return torch.cat([interpolate(points, s.centres, tokens) for s, tokens in zip(scales, found, strict=True)], dim=-1)


class Unit(nn.Module):
    """GELU(BN(W GELU(BN(W z))) + z)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.net1 = nn.Sequential(nn.Linear(dim, dim), nn.BatchNorm1d(dim), nn.GELU())
        self.net2 = nn.Sequential(nn.Linear(dim, dim), nn.BatchNorm1d(dim))

    def forward(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        return gelu(self.net2(self.net1(z)) + z)


class TokenPropagation(nn.Module):
    """Coarse tokens spread over finer centres: the three nearest, weighted by the inverse squared distance, beside the finer tokens."""

    def __init__(self, coarse: int, fine: int, units: int) -> None:
        super().__init__()
        self.fuse = nn.Sequential(nn.Linear(fine + coarse, fine), nn.BatchNorm1d(fine), nn.GELU())
        self.extraction = nn.Sequential(*(Unit(fine) for _ in range(units)))

    def forward(
        self,
        fine: Float[Tensor, "b g d"],
        fine_centres: Float[Tensor, "b g 3"],
        coarse: Float[Tensor, "b h e"],
        coarse_centres: Float[Tensor, "b h 3"],
    ) -> Float[Tensor, "b g d"]:
        z = torch.cat([fine, interpolate(fine_centres, coarse_centres, coarse)], dim=-1)
        out: Tensor = self.extraction(self.fuse(z.flatten(0, 1)))
        return out.view_as(fine)
