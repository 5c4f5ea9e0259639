"""Point clouds: farthest point sampling, nearest neighbours, Chamfer distance; the same picks on every device.

Squared distances are sums of squared differences everywhere, never |a|^2 + |b|^2 - 2ab, whose rounding would decide ties.
"""

from __future__ import annotations

import contextlib

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..ops.farthest_point_sampling import NEAR_ORIGIN, tie_order
from ..ops.nearest import nearest_by_tree

LARGEST, LARGEST_ON_CPU = 64 * 2**20, 4 * 2**20
"""Bytes of the largest table of distances that is held at once; larger ones are made in parts. On a CPU it should stay in the cache."""

TREE = 1 << 14
"""Distances of a cloud from which a tree is faster on a CPU."""


def farthest_point_sampling(points: Float[Tensor, "b n 3"], count: int, *, skip_origin: bool = False) -> Int[Tensor, "b g"]:
    """Indices of `count` points: index 0, then always the point farthest from all picks so far; more picks than distinct points repeat.

    Equal distances: with T = min(512, 2^floor(log2 n)), the smaller bit-reversed (index mod T) wins, then the smaller index, as the
    reduction tree of the reference kernel has it. `skip_origin`: points within sqrt(`NEAR_ORIGIN`) of the origin are never picked (but
    index 0), as in that kernel; where no other is left, index 0 is.
    """
    order = torch.from_numpy(tie_order(points.shape[1])).to(points.device)  # begins with index 0
    places = points.detach().float()[:, order].permute(2, 0, 1).contiguous()
    away = places.square()
    x, y, z = away
    least = torch.full_like(x, torch.inf)
    if skip_origin:
        least = torch.where(x + y + z <= NEAR_ORIGIN, -1.0, least)
    last = torch.zeros_like(points[:, 0, 0], dtype=torch.long)
    picks = [last]
    for _ in range(1, count):  # few operations: on a GPU their launches are all that costs
        torch.sub(places, places.gather(2, last[None, :, None].expand(3, -1, -1)), out=away)
        x, y, z = away.square_()
        distance = x + y
        distance += z
        torch.minimum(least, distance, out=least)
        last = least.argmax(dim=1)
        picks.append(last)
    return order[torch.stack(picks, dim=1)]


def nearest(centres: Float[Tensor, "b g 3"], points: Float[Tensor, "b n 3"], count: int) -> Int[Tensor, "b g k"]:
    """Indices of the `count` nearest points of each centre by rising distance; equal distances keep the lower index.

    On a CPU large clouds are searched by a tree, with the same result. Raises `ValueError` where there are fewer points than that.
    """
    b, g, n = *centres.shape[:2], points.shape[1]
    if count > n:
        raise ValueError(f"{count} neighbours of {n} points")
    if torch.compiler.is_exporting():
        return _nearest(centres.detach().float(), points, count)
    if points.device.type == "cpu" and g * n >= TREE:
        pairs = zip(centres.detach().float().numpy(), points.detach().float().numpy(), strict=True)
        with contextlib.suppress(ValueError):  # of a coordinate that is not finite
            return torch.from_numpy(np.stack([nearest_by_tree(*pair, count) for pair in pairs]))
    rows = max(1, (LARGEST_ON_CPU if points.device.type == "cpu" else LARGEST) // (4 * b * n))
    parts = [_nearest(part, points, count) for part in torch.split(centres.detach().float(), rows, dim=1)]
    return torch.cat(parts, dim=1) if g else torch.empty(b, 0, count, dtype=torch.long, device=points.device)


def _nearest(centres: Tensor, points: Tensor, count: int) -> Tensor:
    squared = squared_distances(centres, points.detach().float())
    if torch.compiler.is_exporting():  # no branch may depend on values; the same picks, several times slower
        return squared.sort(dim=-1, stable=True).indices[..., :count]
    found = squared.topk(min(count + 1, squared.shape[-1]), dim=-1, largest=False, sorted=True)
    index, distance = found.indices[..., :count], found.values[..., :count]
    if not bool((found.values[..., 1:] == found.values[..., :-1]).any()):
        return index
    index, low_first = index.sort(dim=-1)
    distance, near_first = distance.gather(-1, low_first).sort(dim=-1, stable=True)
    index = index.gather(-1, near_first)
    if found.values.shape[-1] > count:  # of several points at the last distance `topk` may have taken any
        torn = found.values[..., count] == found.values[..., count - 1]
        if bool(torn.any()):
            index[torn] = squared[torn].sort(dim=-1, stable=True).indices[:, :count]
    return index


def squared_distances(a: Float[Tensor, "*b n 3"], b: Float[Tensor, "*b m 3"]) -> Float[Tensor, "*b n m"]:
    """Made coordinate by coordinate: no n x m x 3 table."""
    out = (a[..., :, None, 0] - b[..., None, :, 0]).square_()
    for axis in (1, 2):
        out += (a[..., :, None, axis] - b[..., None, :, axis]).square_()
    return out


def take(values: Float[Tensor, "b n d"], index: Int[Tensor, " b *g"]) -> Float[Tensor, "b *g d"]:
    """Rows of each sample by index."""
    flat = index.flatten(1)
    rows = values.gather(1, flat[..., None].expand(-1, -1, values.shape[-1]))
    return rows.view(*index.shape, values.shape[-1])


def chamfer(a: Float[Tensor, "m p 3"], b: Float[Tensor, "m q 3"]) -> Float[Tensor, ""]:
    """Mean squared distance of each point of `a` to its nearest of `b`, plus the same from `b` to `a`; no square root, no halving.

    The gradient flows through the chosen pairs alone; of equally near points the lower index is chosen. 0 for no clouds.
    """
    to_b, to_a = chamfer_distances(a, b)
    return to_b.mean() + to_a.mean() if len(a) else (a.sum() + b.sum()) * 0.0


def chamfer_distances(a: Float[Tensor, "m p 3"], b: Float[Tensor, "m q 3"]) -> tuple[Float[Tensor, "m p"], Float[Tensor, "m q"]]:
    """Squared distance of each point to the nearest of the other cloud: of `a`, then of `b`."""
    to_b, to_a = chamfer_pairs(a, b)
    nearest_b = b.gather(1, to_b[..., None].expand(-1, -1, 3))
    nearest_a = a.gather(1, to_a[..., None].expand(-1, -1, 3))
    return (a - nearest_b).square().sum(dim=-1), (b - nearest_a).square().sum(dim=-1)


def chamfer_pairs(a: Float[Tensor, "m p 3"], b: Float[Tensor, "m q 3"]) -> tuple[Int[Tensor, "m p"], Int[Tensor, "m q"]]:
    """Index in `b` of the nearest point of each of `a`, and the other way round."""
    with torch.no_grad():
        squared = squared_distances(a.detach(), b.detach())
        return squared.argmin(dim=2), squared.argmin(dim=1)
