"""The authors' network for fine-tuning on clouds: nothing is hidden, tokens look at their surroundings alone, a head of three layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..i2p_mae.config import I2PModel
from ..i2p_mae.network import Groups, HierarchicalEncoder, group_points
from ..layers.points import squared_distances

HIDDEN = 256
DROPPED = 0.5
"""Of the features between the layers of the head, in training."""
Pooling = Literal["sum", "concat"]
"""Mean and largest over the tokens: added (ModelNet40) or side by side (ScanObjectNN)."""


def near(scales: Sequence[Groups], radii: Sequence[float]) -> list[Bool[Tensor, "b _ _"]]:
    """Which tokens of each scale are less than its radius apart."""
    return [squared_distances(s.centres, s.centres).sqrt() < radius for s, radius in zip(scales, radii, strict=True)]


class PointClassifier(nn.Module):
    """Clouds in, class logits out. Parameter names are those of the published fine-tuned checkpoints."""

    task, input, output = "classification", "points", "logits"
    class_names: tuple[str, ...] = ()
    """In the order of the logits."""
    normalised = True
    """Whether the clouds it was trained on are centred, the farthest point at distance 1."""

    def __init__(self, model: I2PModel, radii: Sequence[float], pooling: Pooling, classes: int, official: bool = True) -> None:
        super().__init__()
        self.model, self.radii, self.pooling, self.official = model, tuple(radii), pooling, official
        self.points, self.classes = model.points, classes
        top = model.dims[2]
        self.h_encoder = HierarchicalEncoder(model, norms=False)
        self.norm = nn.LayerNorm(top)
        self.cls_head_finetune = nn.Sequential(
            # The identities stand for the authors' dropout: torch's draws from the global generator and could not be replayed.
            *(nn.Linear(top if pooling == "sum" else 2 * top, HIDDEN), nn.BatchNorm1d(HIDDEN), nn.ReLU(), nn.Identity()),
            *(nn.Linear(HIDDEN, HIDDEN), nn.BatchNorm1d(HIDDEN), nn.ReLU(), nn.Identity()),
            nn.Linear(HIDDEN, classes),
        )

    def tokens(self, points: Float[Tensor, "b n 3"], kept: Tensor | None = None) -> Float[Tensor, "b g d"]:
        """Before the norm."""
        scales = group_points(points, self.model, skip_origin=self.official)
        nothing = [torch.zeros(s.centres.shape[:2], dtype=torch.bool, device=points.device) for s in scales]
        out: Tensor = self.h_encoder.encode(scales, nothing, kept, near(scales, self.radii)).out[2]
        return out

    def pooled(self, tokens: Float[Tensor, "b g d"]) -> Float[Tensor, "b e"]:
        tokens = self.norm(tokens)
        mean, largest = tokens.mean(dim=1), tokens.amax(dim=1)
        return mean + largest if self.pooling == "sum" else torch.cat([mean, largest], dim=1)

    def head(self, pooled: Float[Tensor, "b e"], alive: Bool[Tensor, "2 b h"] | None = None) -> Float[Tensor, "b c"]:
        """`alive`: the features that are not dropped after the first and after the second layer; None: all."""
        x, drops = pooled, iter(() if alive is None else alive)
        for layer in self.cls_head_finetune:
            x = layer(x)
            if alive is not None and isinstance(layer, nn.Identity):
                x = x * next(drops).to(x.dtype) / (1 - DROPPED)
        return x

    def logits(
        self, points: Float[Tensor, "b n 3"], kept: Tensor | None = None, alive: Bool[Tensor, "2 b h"] | None = None
    ) -> Float[Tensor, "b c"]:
        """`kept`: branches of the encoder that are not dropped."""
        return self.head(self.pooled(self.tokens(points, kept)), alive)

    def forward(self, points: Float[Tensor, "b n 3"]) -> Float[Tensor, "b c"]:
        return self.logits(points)


def smoothed_cross_entropy(logits: Float[Tensor, "b c"], labels: Int[Tensor, " b"], smoothing: float) -> Float[Tensor, ""]:
    """Cross-entropy with `smoothing` of the target shared by the other classes alone (PyTorch's gives the true class a part of it, too)."""
    log_p = torch.log_softmax(logits.float(), dim=1)
    others = smoothing / (logits.shape[1] - 1)
    target = torch.full_like(log_p, others).scatter_(1, labels[:, None], 1 - smoothing)
    return -(target * log_p).sum(dim=1).mean()
