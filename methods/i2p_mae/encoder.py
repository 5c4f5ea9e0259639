"""The exported encoder of clouds."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from .config import I2PConfig
from .network import Groups, HierarchicalEncoder, group_points, spread_masks


class PointEncoder(HierarchicalEncoder):
    """Clouds in, tokens of the coarsest scale out. Coordinates as in training: centred on the mean, the farthest point at distance 1."""

    def __init__(self, config: I2PConfig) -> None:
        super().__init__(config.model)
        self.model, self.official = config.model, config.pretext.official
        self.dim, self.groups = config.model.dims[2], config.model.groups[2]
        self.points, self.least = config.model.points, config.model.groups[0]

    def scales(self, points: Float[Tensor, "b n 3"]) -> list[Groups]:
        return group_points(points, self.model, skip_origin=self.official)

    def tokens(self, points: Float[Tensor, "b n 3"]) -> Float[Tensor, "b g d"]:
        """After the final norm. With the official masks finer tokens that are in no neighbourhood take no part."""
        scales = self.scales(points)
        masks = [torch.zeros(s.centres.shape[:2], dtype=torch.bool, device=points.device) for s in scales]
        if self.official:
            masks = spread_masks(masks[2], scales, official=True)
        out: Tensor = self.encode(scales, masks).out[2]
        return out

    def forward(self, points: Float[Tensor, "b n 3"]) -> Float[Tensor, "b g d"]:
        return self.tokens(points)

    def pooled(self, points: Float[Tensor, "b n 3"]) -> Float[Tensor, "b d"]:
        """The largest of each channel over the tokens, which is what the authors' SVM reads."""
        return self.tokens(points).amax(dim=1)
