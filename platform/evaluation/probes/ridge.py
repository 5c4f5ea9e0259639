"""Ridge regression in closed form from sums, so features are never stored: memory grows with their width, not with their number."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float


@dataclass
class Moments:
    """Sums over samples (x, y) with k targets: all that least squares needs to know. Add up with `+`."""

    count: int
    x: Float[torch.Tensor, " d"]
    y: Float[torch.Tensor, " k"]
    xx: Float[torch.Tensor, "d d"]
    xy: Float[torch.Tensor, "d k"]
    yy: Float[torch.Tensor, " k"]

    @classmethod
    def of(cls, x: Float[torch.Tensor, "n d"], y: Float[torch.Tensor, "n k"]) -> Moments:
        return cls(len(y), x.sum(0), y.sum(0), x.T @ x, x.T @ y, (y * y).sum(0))

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            self.count + other.count, self.x + other.x, self.y + other.y, self.xx + other.xx, self.xy + other.xy, self.yy + other.yy
        )


def total(parts: Sequence[Moments]) -> Moments:
    return functools.reduce(operator.add, parts)


@dataclass(frozen=True)
class LinearHead:
    """y = x @ weight + bias, k outputs."""

    weight: Float[torch.Tensor, "d k"]
    bias: Float[torch.Tensor, " k"]

    def __call__(self, x: Float[torch.Tensor, "*batch d"]) -> Float[torch.Tensor, "*batch k"]:
        return x @ self.weight + self.bias

    def mean_squared_error(self, on: Moments) -> float:
        """Mean over the samples behind `on` of the squared length of x @ weight + bias - y."""
        w, b = self.weight, self.bias
        error = (w * (on.xx @ w)).sum(0) + on.count * b * b + on.yy + 2 * b * (on.x @ w) - 2 * (w * on.xy).sum(0) - 2 * b * on.y
        return float(error.clamp_min(0).sum()) / on.count


def ridge(moments: Moments, penalty: float) -> LinearHead:
    """Minimises mean |z @ v + b - y|^2 + penalty |v|^2, with z the features standardised by the mean and deviation of `moments`."""
    n = moments.count
    mean_x, mean_y = moments.x / n, moments.y / n
    covariance = moments.xx / n - torch.outer(mean_x, mean_x)
    variance = covariance.diagonal().clamp_min(0)
    scale = torch.where(variance > 1e-10 * variance.max().clamp_min(1e-30), variance.sqrt(), torch.inf)  # a constant feature says nothing
    correlation = covariance / torch.outer(scale, scale)
    target = (moments.xy / n - torch.outer(mean_x, mean_y)) / scale[:, None]
    system = correlation + penalty * torch.eye(len(scale), dtype=target.dtype)
    weight = torch.linalg.solve(system, target) / scale[:, None]
    return LinearHead(weight, mean_y - mean_x @ weight)


def choose_ridge(folds: Mapping[int, Moments], penalties: Sequence[float]) -> tuple[float, LinearHead]:
    """The penalty with the least squared error when each fold is predicted from the others, and the head fitted with it on everything.

    Fold -1 joins only the final fit. Two other folds are needed.
    """
    usable = {fold: moments for fold, moments in folds.items() if fold >= 0}
    errors = dict.fromkeys(penalties, 0.0)
    for held_out, moments in usable.items():
        rest = total([other for fold, other in usable.items() if fold != held_out])
        for penalty in penalties:
            errors[penalty] += ridge(rest, penalty).mean_squared_error(moments) * moments.count
    best = min(errors, key=lambda penalty: errors[penalty])
    return best, ridge(total(list(folds.values())), best)
