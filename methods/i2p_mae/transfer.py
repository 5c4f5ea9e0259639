"""The authors' network for fine-tuning: nothing is hidden, tokens look at their surroundings alone, a head of three layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..layers.points import squared_distances
from .config import I2PModel
from .network import Groups, HierarchicalEncoder, group_points

HIDDEN = 256
Pooling = Literal["sum", "concat"]
"""Mean and largest over the tokens: added (ModelNet40) or side by side (ScanObjectNN)."""


class PointClassifier(nn.Module):
    """Parameter names are those of the published fine-tuned checkpoints."""

    def __init__(self, model: I2PModel, radii: Sequence[float], pooling: Pooling, classes: int) -> None:
        super().__init__()
        self.model, self.radii, self.pooling = model, tuple(radii), pooling
        top = model.dims[2]
        self.h_encoder = HierarchicalEncoder(model, norms=False)
        self.norm = nn.LayerNorm(top)
        self.cls_head_finetune = nn.Sequential(
            *(nn.Linear(top if pooling == "sum" else 2 * top, HIDDEN), nn.BatchNorm1d(HIDDEN), nn.ReLU(), nn.Dropout(0.5)),
            *(nn.Linear(HIDDEN, HIDDEN), nn.BatchNorm1d(HIDDEN), nn.ReLU(), nn.Dropout(0.5)),
            nn.Linear(HIDDEN, classes),
        )

    def tokens(self, points: Float[Tensor, "b n 3"], kept: Tensor | None = None) -> Float[Tensor, "b g d"]:
        """Before the norm."""
        scales = group_points(points, self.model, skip_origin=True)
        nothing = [torch.zeros(s.centres.shape[:2], dtype=torch.bool, device=points.device) for s in scales]
        out: Tensor = self.h_encoder.encode(scales, nothing, kept, self.near(scales)).out[2]
        return out

    def near(self, scales: Sequence[Groups]) -> list[Bool[Tensor, "b _ _"]]:
        """Which tokens of each scale are less than its radius apart."""
        return [squared_distances(s.centres, s.centres).sqrt() < radius for s, radius in zip(scales, self.radii, strict=True)]

    def pooled(self, tokens: Float[Tensor, "b g d"]) -> Float[Tensor, "b e"]:
        tokens = self.norm(tokens)
        mean, largest = tokens.mean(dim=1), tokens.amax(dim=1)
        return mean + largest if self.pooling == "sum" else torch.cat([mean, largest], dim=1)

    def forward(self, points: Float[Tensor, "b n 3"], kept: Tensor | None = None) -> Float[Tensor, "b c"]:
        logits: Tensor = self.cls_head_finetune(self.pooled(self.tokens(points, kept)))
        return logits


def smoothed_cross_entropy(logits: Float[Tensor, "b c"], labels: Int[Tensor, " b"], smoothing: float) -> Float[Tensor, ""]:
    """Cross-entropy with `smoothing` of the target shared by the other classes alone (PyTorch's gives the true class a part of it, too)."""
    log_p = torch.log_softmax(logits.float(), dim=1)
    others = smoothing / (logits.shape[1] - 1)
    target = torch.full_like(log_p, others).scatter_(1, labels[:, None], 1 - smoothing)
    return -(target * log_p).sum(dim=1).mean()
