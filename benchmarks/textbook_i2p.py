"""I2P-MAE as one writes it from the paper: the yardstick of `step.py`, fp32, nothing clever, nothing of Sightline's.

Geometry and PointNets are those of `textbook_points.py`. Visible tokens are padded to the longest sample, with -1e5 on the logits of
padding. Guided masks, features on visible tokens, the released masks. What is drawn (Gumbel noise, kept branches) is handed in. Parameter
names are those of the published checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Bool, Float
from textbook_layers import Mlp
from textbook_points import TokenEmbed, back_project, chamfer, farthest_point_sample, index_points, knn, sample_back, square_distance
from torch import Tensor, nn
from torch.nn.functional import gelu

Kept = Bool[Tensor, "l 2 b"]
"""Stochastic depth: True = the branch (attention, MLP) of this block is kept for this sample."""


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Float[Tensor, "b n d"], bias: Float[Tensor, "b 1 1 n"] | None) -> Float[Tensor, "b n d"]:
        b, n, d = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        logits = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
        if bias is not None:
            logits = logits + bias
        out: Tensor = self.proj((logits.softmax(dim=-1) @ v).transpose(1, 2).reshape(b, n, d))
        return out


class Block(nn.Module):
    def __init__(self, dim: int, heads: int, mlp_ratio: float, drop_path: float) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(dim)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def drop(self, branch: Float[Tensor, "b n d"], kept: Bool[Tensor, " b"] | None) -> Float[Tensor, "b n d"]:
        if kept is None:
            return branch
        return branch * kept[:, None, None] / (1 - self.drop_path)

    def forward(self, x: Float[Tensor, "b n d"], bias: Tensor | None, kept: Bool[Tensor, "2 b"] | None) -> Float[Tensor, "b n d"]:
        first, second = (None, None) if kept is None else kept
        x = x + self.drop(self.attn(self.norm1(x), bias), first)
        x = x + self.drop(self.mlp(self.norm2(x)), second)
        return x


class Blocks(nn.Module):
    def __init__(self, dim: int, heads: int, mlp_ratio: float, drop_paths: Sequence[float]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(dim, heads, mlp_ratio, rate) for rate in drop_paths)

    def forward(self, x: Tensor, pos: Tensor, bias: Tensor | None, kept: Kept | None) -> Tensor:
        for index, block in enumerate(self.blocks):
            x = block(x + pos, bias, None if kept is None else kept[index])
        return x


def pos_embed(dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, dim), nn.GELU(), nn.Linear(dim, dim))


class HierarchicalEncoder(nn.Module):
    def __init__(
        self, embed: tuple[int, int], dims: Sequence[int], depths: Sequence[int], heads: int, mlp_ratio: float, drop_path: float
    ) -> None:
        super().__init__()
        self.token_embed = nn.ModuleList([TokenEmbed(3, embed, (2 * embed[1], dims[0]))])
        self.token_embed.extend(TokenEmbed(below, (below, below), (dim, dim)) for below, dim in pairwise(dims))
        self.encoder_pos_embeds = nn.ModuleList(pos_embed(dim) for dim in dims)
        self.encoder_blocks = nn.ModuleList()
        rates = torch.linspace(0, drop_path, sum(depths), device="cpu").tolist()
        for dim, depth in zip(dims, depths, strict=True):
            self.encoder_blocks.append(Blocks(dim, heads, mlp_ratio, rates[:depth]))
            rates = rates[depth:]
        self.encoder_norms = nn.ModuleList(nn.LayerNorm(dim) for dim in dims)

    def forward(self, centres: list[Tensor], members: list[Tensor], local: Tensor, masks: list[Tensor], kept: Kept | None) -> list[Tensor]:
        """The visible tokens of each scale after its norm, padded to the longest sample."""
        out = []
        tokens = local
        for i, mask in enumerate(masks):
            tokens = self.token_embed[i](local if i == 0 else index_points(tokens, members[i]))
            x, valid = padded(tokens, mask)
            pos = self.encoder_pos_embeds[i](padded(centres[i], mask)[0])
            bias = -1e5 * (~valid)[:, None, None].float()
            depth = len(self.encoder_blocks[i].blocks)
            x = self.encoder_blocks[i](x, pos, bias, None if kept is None else kept[:depth])
            kept = None if kept is None else kept[depth:]
            tokens = tokens.clone()
            tokens[~mask] = x[valid]
            out.append(self.encoder_norms[i](x))
        return out


def padded(tokens: Float[Tensor, "b g d"], mask: Bool[Tensor, "b g"]) -> tuple[Float[Tensor, "b l d"], Bool[Tensor, "b l"]]:
    """The visible tokens (`mask` False) of each sample at the front, zeros behind them; and where tokens are."""
    lengths = (~mask).sum(dim=1)
    valid = torch.arange(int(lengths.max()), device=mask.device) < lengths[:, None]
    x = tokens.new_zeros(*valid.shape, tokens.shape[2])
    x[valid] = tokens[~mask]
    return x, valid


class Residual(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.net1 = nn.Sequential(nn.Conv1d(dim, dim, 1), nn.BatchNorm1d(dim), nn.GELU())
        self.net2 = nn.Sequential(nn.Conv1d(dim, dim, 1), nn.BatchNorm1d(dim))

    def forward(self, z: Float[Tensor, "b d n"]) -> Float[Tensor, "b d n"]:
        return gelu(self.net2(self.net1(z)) + z)


class PointPropagation(nn.Module):
    """As PointNet++'s: the three nearest coarse tokens by inverse squared distance, beside the fine token."""

    def __init__(self, coarse: int, fine: int, units: int) -> None:
        super().__init__()
        self.fuse = nn.ModuleDict({"net": nn.Sequential(nn.Conv1d(fine + coarse, fine, 1), nn.BatchNorm1d(fine), nn.GELU())})
        self.extraction = nn.ModuleDict({"operation": nn.Sequential(*(Residual(fine) for _ in range(units)))})

    def forward(self, fine: Tensor, fine_centres: Tensor, coarse: Tensor, coarse_centres: Tensor) -> Tensor:
        squared, index = square_distance(fine_centres, coarse_centres).topk(3, dim=-1, largest=False)
        weight = 1 / (squared + 1e-8)
        weight = weight / weight.sum(dim=-1, keepdim=True)
        spread = (index_points(coarse, index) * weight[..., None]).sum(dim=2)
        z = self.fuse["net"](torch.cat([fine, spread], dim=-1).transpose(1, 2))
        out: Tensor = self.extraction["operation"](z).transpose(1, 2)
        return out


class TextbookI2P(nn.Module):
    """The network with its losses; the teacher's maps are given."""

    def __init__(
        self,
        groups: Sequence[int],
        neighbours: Sequence[int],
        embed: tuple[int, int],
        dims: Sequence[int],
        depths: Sequence[int],
        decoder_depths: Sequence[int],
        up_blocks: int,
        heads: int,
        mlp_ratio: float,
        drop_path: float,
        masked: int,
        mask_temperature: float,
        features: int,
        resize: bool = True,
    ) -> None:
        """`masked`: hidden tokens of the coarsest scale; `features`: numbers of the teacher at a point, all views together.

        `resize`: the teacher's maps are resized to the size of the depth images before pixels are read, as the paper has it.
        """
        super().__init__()
        self.groups, self.neighbours, self.masked, self.temperature = groups, neighbours, masked, mask_temperature
        self.back_project = back_project if resize else sample_back
        _, middle, top = dims
        self.mask_token = nn.Parameter(torch.zeros(1, top))
        self.h_encoder = HierarchicalEncoder(embed, dims, depths, heads, mlp_ratio, drop_path)
        rates = torch.linspace(0, drop_path, sum(decoder_depths), device="cpu").tolist()
        first = decoder_depths[0]
        self.h_decoder = nn.ModuleList([Blocks(top, heads, mlp_ratio, rates[:first]), Blocks(middle, heads, mlp_ratio, rates[first:])])
        self.decoder_pos_embeds = nn.ModuleList([pos_embed(top), pos_embed(middle)])
        self.token_prop = nn.ModuleList([PointPropagation(top, middle, up_blocks)])
        self.decoder_norm = nn.LayerNorm(middle)
        self.rec_head_3d = nn.Conv1d(middle, 3 * neighbours[1], 1)
        self.rec_head_2d = nn.Conv1d(middle, features * neighbours[1], 1)

    def forward(
        self,
        points: Float[Tensor, "b n 3"],
        features: Float[Tensor, "b v c h w"],
        saliency: Float[Tensor, "b v h w"],
        gumbel: Float[Tensor, "b g"],
        encoder_kept: Kept | None = None,
        decoder_kept: Kept | None = None,
    ) -> Float[Tensor, ""]:
        """The loss: the sum of both terms. `gumbel`: noise on the saliency of the coarsest tokens; the largest stay visible."""
        centres, members, around = [], [], []
        source = points
        for count, k in zip(self.groups, self.neighbours, strict=True):
            centres.append(index_points(source, farthest_point_sample(source, count)))
            members.append(knn(centres[-1], source, k))
            around.append(index_points(source, members[-1]))
            source = centres[-1]
        masks = self.masks(points, saliency, gumbel, centres[2], members)
        encoded = self.h_encoder(centres, members, around[0] - centres[0][:, :, None], masks, encoder_kept)
        decoded = self.decode(centres, masks, encoded, decoder_kept)

        mask, k = masks[1], self.neighbours[1]
        hidden = self.rec_head_3d(decoded[mask][:, :, None]).reshape(-1, k, 3)
        loss_3d = chamfer(hidden, (around[1] - centres[1][:, :, None])[mask])
        with torch.no_grad():
            views = [self.back_project(features[:, view].float(), points, around[1], view) for view in range(features.shape[1])]
            target = torch.cat(views, dim=-1)[~mask]
        predicted = self.rec_head_2d(decoded[~mask][:, :, None]).reshape(target.shape)
        return loss_3d + ((predicted - target) ** 2).mean()

    def masks(self, points: Tensor, saliency: Tensor, gumbel: Tensor, centres: Tensor, members: list[Tensor]) -> list[Tensor]:
        """Hidden tokens of each scale, the finest first. Members of hidden tokens are written to place 0 of the whole batch."""
        views = [self.back_project(saliency[:, view, None], points, centres, view)[..., 0] for view in range(saliency.shape[1])]
        score = torch.stack(views).mean(dim=0) / self.temperature + gumbel
        b, g = score.shape
        masks = [torch.ones(b, g, dtype=torch.bool, device=points.device)]
        masks[0].scatter_(1, score.topk(g - self.masked, dim=1).indices, False)
        for scale in (2, 1):
            below = self.groups[scale - 1]
            index = members[scale] + below * torch.arange(b, device=points.device)[:, None, None]
            index[masks[0]] = 0
            mask = torch.ones(b * below, dtype=torch.bool, device=points.device)
            mask[index.flatten()] = False
            masks.insert(0, mask.reshape(b, below))
        return masks

    def decode(self, centres: list[Tensor], masks: list[Tensor], encoded: list[Tensor], kept: Kept | None) -> Float[Tensor, "b g d"]:
        b, visible, _ = encoded[2].shape
        order = torch.cat([part.nonzero()[:, 1].reshape(b, -1) for part in (~masks[2], masks[2])], dim=1)
        coarse_centres = index_points(centres[2], order)
        x = torch.cat([encoded[2], self.mask_token.expand(b, order.shape[1] - visible, -1)], dim=1)
        first = len(self.h_decoder[0].blocks)
        x = self.h_decoder[0](x, self.decoder_pos_embeds[0](coarse_centres), None, None if kept is None else kept[:first])
        fine = x.new_zeros(*masks[1].shape, encoded[1].shape[2])
        fine[~masks[1]] = encoded[1][padded(fine, masks[1])[1]].to(fine.dtype)
        fine = self.token_prop[0](fine, centres[1], x, coarse_centres)
        fine = self.h_decoder[1](fine, self.decoder_pos_embeds[1](centres[1]), None, None if kept is None else kept[first:])
        out: Tensor = self.decoder_norm(fine)
        return out
