"""Losses of dense regression, some with a predicted confidence (CroCo v2, section 3.4 and appendix C).

With a confidence the error of a pixel is taken to be Laplacian, with a scale exp(s) of which the network predicts the raw value c:
loss = mean(E exp(-s) + s), E the sum over channels of |truth - prediction|. How s follows from c is what the three differ in.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .config import CriterionName, limits_of


@dataclass(frozen=True)
class Criterion:
    """A loss of predicted maps. `a`, `b`: limits of the scale, the authors' where None.

    laplacian: s = c. bounded: exp(s) = (b - a) sigmoid(c) + a. bounded2: s = 2a (sigmoid(c / b) - 0.5). l1 has no confidence.

    A pixel counts where all its channels are finite and, with `max_norm`, their Euclidean norm is smaller than that. With `official` as
    the authors have it: their confidence losses look at the first channel alone, their L1 at each entry on its own, and one channel is
    compared with its sign. They give no number where nothing counts; here that is a loss of 0.
    """

    name: CriterionName
    a: float | None = None
    b: float | None = None
    max_norm: float | None = None
    official: bool = False

    def __post_init__(self) -> None:
        a, b = self.bounds
        object.__setattr__(self, "a", a)
        object.__setattr__(self, "b", b)
        if self.max_norm is not None and not self.max_norm > 0:
            raise ValueError(f"max_norm {self.max_norm:g} leaves no pixel: give a number above 0")

    @property
    def with_confidence(self) -> bool:
        return self.name != "l1"

    @property
    def bounds(self) -> tuple[float, float]:
        """(a, b)."""
        return limits_of(self.name, self.a, self.b)

    def log_scale(self, confidence: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        """s of the raw confidence."""
        a, b = self.bounds
        match self.name:
            case "bounded":
                return torch.log((b - a) * torch.sigmoid(confidence) + a)
            case "bounded2":
                return 2 * a * (torch.sigmoid(confidence / b) - 0.5)
        return confidence

    def counts(self, truth: Float[Tensor, "b c h w"]) -> Bool[Tensor, "b _c h w"]:
        """Which pixels count, b x 1 x h x w; for the authors' L1 which entries, b x c x h x w."""
        finite = torch.isfinite(truth)
        if not self.official:
            finite = finite.all(dim=1, keepdim=True)
        elif self.with_confidence:
            finite = finite[:, :1]
        if self.max_norm is None:
            return finite
        signed = self.official and truth.shape[1] == 1
        size = truth if signed else torch.linalg.vector_norm(truth, dim=1, keepdim=True)
        return finite & (size < self.max_norm)

    def __call__(
        self, prediction: Float[Tensor, "b c h w"], truth: Float[Tensor, "b c h w"], confidence: Float[Tensor, "b 1 h w"] | None = None
    ) -> Float[Tensor, ""]:
        """Mean over all that counts in the batch. What does not count has no part in the loss, nor in its gradient, whatever it holds."""
        if (confidence is not None) != self.with_confidence:
            raise ValueError(f"{self.name} takes {'a' if self.with_confidence else 'no'} confidence")
        counts = self.counts(truth)
        chosen = counts.expand_as(truth)
        # Chosen before anything is computed: a NaN times 0 would be one in the gradient.
        error = (torch.where(chosen, truth, 0.0) - torch.where(chosen, prediction.float(), 0.0)).abs()
        if confidence is None:
            return error.sum() / chosen.sum().clamp_min(1)
        scale = self.log_scale(torch.where(counts, confidence.float(), 0.0))
        losses = error.sum(dim=1, keepdim=True) * torch.exp(-scale) + scale
        return torch.where(counts, losses, 0.0).sum() / counts.sum().clamp_min(1)

    def text(self) -> str:
        """As the authors' files have it, such as `LaplacianLossBounded2(max_gtnorm=None, a=3.0, b=3.0)`."""
        a, b = self.bounds
        names = {"l1": "L1Loss", "laplacian": "LaplacianLoss", "bounded": "LaplacianLossBounded", "bounded2": "LaplacianLossBounded2"}
        limits = f", a={a!r}, b={b!r}" if self.name in ("bounded", "bounded2") else ""
        return f"{names[self.name]}(max_gtnorm={self.max_norm!r}{limits})"
