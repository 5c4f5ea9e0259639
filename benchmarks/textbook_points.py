"""Point clouds as one handles them without further thought: the yardstick of `tokeniser.py`, and the ground of `textbook_i2p.py`.

Farthest points in a loop over the batch, neighbours by the table of all differences and `topk`, groups by indexing, PointNets of
convolutions of width 1, feature maps resized to 224 x 224 whole before pixels are read, Chamfer distances of the full table.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import grid_sample, interpolate

PLANES = ((0, 1), (2, 0), (1, 2))
"""Axes of the image rows and columns of each view."""
SIZE, SPAN = 224, 221


def square_distance(a: Float[Tensor, "b n 3"], b: Float[Tensor, "b m 3"]) -> Float[Tensor, "b n m"]:
    return ((a[:, :, None] - b[:, None]) ** 2).sum(dim=-1)


def index_points(points: Float[Tensor, "b n c"], index: Int[Tensor, "b ..."]) -> Float[Tensor, "b ... c"]:
    batch = torch.arange(len(points), device=points.device).view(-1, *[1] * (index.ndim - 1))
    return points[batch, index]


def farthest_point_sample(xyz: Float[Tensor, "b n 3"], count: int) -> Int[Tensor, "b g"]:
    """As pointnet2_ops: points near the origin are never picked, but the first."""
    b, n, _ = xyz.shape
    picks = torch.zeros(b, count, dtype=torch.long, device=xyz.device)
    distance = torch.full((b, n), 1e10, device=xyz.device)
    near_origin = (xyz**2).sum(dim=-1) <= 1e-3
    batch = torch.arange(b, device=xyz.device)
    farthest = picks[:, 0]
    for i in range(count):
        picks[:, i] = farthest
        centre = xyz[batch, farthest][:, None]
        distance = torch.minimum(distance, ((xyz - centre) ** 2).sum(dim=-1))
        farthest = distance.masked_fill(near_origin, -1).argmax(dim=-1)
    return picks


def knn(centres: Float[Tensor, "b g 3"], points: Float[Tensor, "b n 3"], k: int) -> Int[Tensor, "b g k"]:
    """Nearest first."""
    return square_distance(centres, points).topk(k, dim=-1, largest=False).indices


class TokenEmbed(nn.Module):
    """Mini-PointNet."""

    def __init__(self, inputs: int, first: tuple[int, int], second: tuple[int, int]) -> None:
        super().__init__()
        self.first_conv = nn.Sequential(nn.Conv1d(inputs, first[0], 1), nn.BatchNorm1d(first[0]), nn.ReLU(), nn.Conv1d(*first, 1))
        self.second_conv = nn.Sequential(nn.Conv1d(2 * first[1], second[0], 1), nn.BatchNorm1d(second[0]), nn.ReLU(), nn.Conv1d(*second, 1))

    def forward(self, members: Float[Tensor, "b g k c"]) -> Float[Tensor, "b g d"]:
        b, g, k, c = members.shape
        local = self.first_conv(members.reshape(b * g, k, c).transpose(1, 2))
        whole = local.max(dim=2, keepdim=True).values
        out: Tensor = self.second_conv(torch.cat([whole.expand(-1, -1, k), local], dim=1)).max(dim=2).values
        return out.reshape(b, g, -1)


def pixel(cloud: Float[Tensor, "b n 3"], points: Float[Tensor, "b ... 3"], view: int) -> tuple[Int[Tensor, "b ..."], Int[Tensor, "b ..."]]:
    """Row and column of points in the depth image of a cloud."""
    plane = list(PLANES[view])
    cloud, points = cloud[..., plane], points[..., plane]
    low = cloud.min(dim=1, keepdim=True).values
    size = (cloud.max(dim=1, keepdim=True).values - low).max(dim=2, keepdim=True).values / SPAN
    cells = torch.floor((cloud - low) / size)
    offset = SIZE // 2 - 1 - torch.floor((cells.max(dim=1, keepdim=True).values + 2) / 2)
    axes = [1] * (points.ndim - 3)
    low, size, offset = (t.view(len(cloud), *axes, 1, -1) for t in (low, size, offset))
    at = (torch.floor((points - low) / size) + 1 + offset).long().clamp(0, SIZE - 1)
    return at[..., 0], at[..., 1]


def back_project(
    maps: Float[Tensor, "b c h w"], cloud: Float[Tensor, "b n 3"], points: Float[Tensor, "b ... 3"], view: int
) -> Float[Tensor, "b ... c"]:
    """The map of a view, resized to the depth image, at the pixels of points."""
    resized = interpolate(maps, size=(SIZE, SIZE), mode="bicubic", align_corners=False)
    row, column = pixel(cloud, points, view)
    batch = torch.arange(len(maps), device=maps.device).view(-1, *[1] * (row.ndim - 1))
    return resized[batch, :, row, column]


def sample_back(
    maps: Float[Tensor, "b c h w"], cloud: Float[Tensor, "b n 3"], points: Float[Tensor, "b ... 3"], view: int
) -> Float[Tensor, "b ... c"]:
    """The same, without the resized map."""
    row, column = (t.flatten(1) for t in pixel(cloud, points, view))
    grid = (2 * torch.stack([column, row], dim=-1)[:, None].to(maps.dtype) + 1) / SIZE - 1
    found = grid_sample(maps, grid, mode="bicubic", padding_mode="border", align_corners=False)
    return found[:, :, 0].transpose(1, 2).reshape(*points.shape[:-1], -1)


def chamfer(a: Float[Tensor, "m p 3"], b: Float[Tensor, "m q 3"]) -> Float[Tensor, ""]:
    squared = square_distance(a, b)
    return squared.min(dim=2).values.mean() + squared.min(dim=1).values.mean()
