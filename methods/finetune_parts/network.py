"""Point-M2AE's network for part segmentation: the tokens of all scales at all points, a global feature, the category, three layers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import linear, one_hot

from ..finetune_points.network import near
from ..i2p_mae.network import HierarchicalEncoder, group_points, interpolate
from .config import FinetunePartsModel

DROPPED = 0.5
"""Of the features after the first layer of the head, in training."""


class Layers(nn.Module):
    """Linear, BatchNorm and ReLU for each pair of widths, at every point."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(widths))
        self.norms = nn.ModuleList(nn.BatchNorm1d(after) for after in widths[1:])

    def forward(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n e"]:
        shape, x = x.shape[:-1], x.flatten(0, -2)
        for layer, norm in zip(self.linears, self.norms, strict=True):
            x = norm(layer(x)).relu()
        return x.view(*shape, -1)


class PartSegmenter(nn.Module):
    """Clouds and their categories in, logits of every part at every point out.

    Without a category `forward` takes that whose own parts explain the points best: the largest mean of log(sum of their probabilities).
    """

    task, input, output = "part_segmentation", "points", "logits"
    normalised = True

    def __init__(self, model: FinetunePartsModel, official: bool = True) -> None:
        super().__init__()
        self.model, self.official = model.network, official
        self.points, self.radii = model.points, model.radius
        self.classes, self.class_names = model.parts, model.part_names
        self.categories, self.category_names, self.parts_of = model.classes, model.class_names, model.parts_of
        self.least = self.model.groups[0]
        self.h_encoder = HierarchicalEncoder(self.model, norms=True)
        self.propagation = nn.ModuleList(Layers((3 + dim, *model.propagation)) for dim in self.model.dims)
        self.category = nn.Sequential(
            nn.Linear(model.classes, model.category_dim, bias=False), nn.BatchNorm1d(model.category_dim), nn.LeakyReLU(0.2)
        )
        self.wide = len(self.model.dims) * model.propagation[1]
        first = model.head[0]
        # Of [global, category, local]: what a cloud's points share is multiplied once for the cloud, not for each point.
        self.first = nn.Linear(2 * self.wide + model.category_dim, first)
        self.first_norm = nn.BatchNorm1d(first)
        self.rest = Layers(model.head)
        self.last = nn.Linear(model.head[2], model.parts)

    def local(self, points: Float[Tensor, "b n 3"], kept: Tensor | None = None) -> Float[Tensor, "b n w"]:
        """The features of all scales at each point, side by side. `kept`: branches of the encoder that are not dropped."""
        scales = group_points(points, self.model, skip_origin=self.official)
        nothing = [torch.zeros(s.centres.shape[:2], dtype=torch.bool, device=points.device) for s in scales]
        tokens = self.h_encoder.encode(scales, nothing, kept, near(scales, self.radii)).out
        return torch.cat(
            [
                layers(torch.cat([points, interpolate(points, groups.centres, some)], dim=-1))
                for layers, groups, some in zip(self.propagation, scales, tokens, strict=True)
            ],
            dim=-1,
        )

    def head(
        self, local: Float[Tensor, "b n w"], category: Int[Tensor, " b"], alive: Bool[Tensor, "b n h"] | None = None
    ) -> Float[Tensor, "b n p"]:
        """`alive`: the features that are not dropped after the first layer; None: all."""
        whole = local.amax(dim=1) + local.mean(dim=1)
        shared = torch.cat([whole, self.category(one_hot(category, self.categories).to(whole.dtype))], dim=-1)
        of_cloud, of_point = self.first.weight[:, : -self.wide], self.first.weight[:, -self.wide :]
        x = linear(local, of_point, self.first.bias) + linear(shared, of_cloud)[:, None]
        x = self.first_norm(x.flatten(0, 1)).relu().view_as(x)
        if alive is not None:
            x = x * alive.to(x.dtype) / (1 - DROPPED)
        out: Tensor = self.last(self.rest(x))
        return out

    def logits(
        self,
        points: Float[Tensor, "b n 3"],
        category: Int[Tensor, " b"] | None = None,
        kept: Tensor | None = None,
        alive: Bool[Tensor, "b n h"] | None = None,
    ) -> Float[Tensor, "b n p"]:
        local = self.local(points, kept)
        return self.head(local, self.likely(local) if category is None else category, alive)

    def forward(self, points: Float[Tensor, "b n 3"]) -> Float[Tensor, "b n p"]:
        return self.logits(points)

    def own(self, device: torch.device) -> Bool[Tensor, "c p"]:
        """Which parts each category has."""
        return torch.tensor([[part in own for part in range(self.classes)] for own in self.parts_of], device=device)

    def likely(self, local: Float[Tensor, "b n w"]) -> Int[Tensor, " b"]:
        """The category that explains the points best."""
        scores = []
        for category, own in enumerate(self.own(local.device)):
            tried = torch.full_like(local[:, 0, 0], category, dtype=torch.int64)  # `len` would fix the batch of an exported graph
            shares = self.head(local, tried).log_softmax(dim=-1).masked_fill(~own, -torch.inf).logsumexp(dim=-1)
            scores.append(shares.mean(dim=1))
        return torch.stack(scores).argmax(dim=0)

    def found(self, logits: Float[Tensor, "b n p"], category: Int[Tensor, " b"]) -> Int[Tensor, "b n"]:
        """The part of each point: the likeliest among those of the category."""
        return logits.masked_fill(~self.own(logits.device)[category][:, None], -torch.inf).argmax(dim=-1)
