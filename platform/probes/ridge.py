"""Ridge regression in closed form from sums, so features are never stored: memory grows with their width, not with their number."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float


@dataclass
class Moments:
    """Sums over samples (x, y): all that least squares needs to know. Add up with `+`."""

    count: int
    x: Float[torch.Tensor, " d"]
    y: Float[torch.Tensor, ""]
    xx: Float[torch.Tensor, "d d"]
    xy: Float[torch.Tensor, " d"]
    yy: Float[torch.Tensor, ""]

    @classmethod
    def of(cls, x: Float[torch.Tensor, "n d"], y: Float[torch.Tensor, " n"]) -> Moments:
        return cls(len(y), x.sum(0), y.sum(), x.T @ x, x.T @ y, y @ y)

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            self.count + other.count, self.x + other.x, self.y + other.y, self.xx + other.xx, self.xy + other.xy, self.yy + other.yy
        )


def total(parts: Sequence[Moments]) -> Moments:
    return functools.reduce(operator.add, parts)


@dataclass(frozen=True)
class LinearHead:
    """y = x @ weight + bias."""

    weight: Float[torch.Tensor, " d"]
    bias: Float[torch.Tensor, ""]

    def __call__(self, x: Float[torch.Tensor, "*batch d"]) -> Float[torch.Tensor, "*batch"]:
        return x @ self.weight + self.bias

    def mean_squared_error(self, on: Moments) -> float:
        """Mean of (x @ weight + bias - y)^2 over the samples behind `on`."""
        w, b = self.weight, self.bias
        total = w @ on.xx @ w + on.count * b * b + on.yy + 2 * b * (w @ on.x) - 2 * (w @ on.xy) - 2 * b * on.y
        return float(total.clamp_min(0)) / on.count


def ridge(moments: Moments, penalty: float) -> LinearHead:
    """Minimises mean (z @ v + b - y)^2 + penalty |v|^2, with z the features standardised by the mean and deviation of `moments`."""
    n = moments.count
    mean_x, mean_y = moments.x / n, moments.y / n
    covariance = moments.xx / n - torch.outer(mean_x, mean_x)
    variance = covariance.diagonal().clamp_min(0)
    scale = torch.where(variance > 1e-10 * variance.max().clamp_min(1e-30), variance.sqrt(), torch.inf)  # a constant feature says nothing
    correlation = covariance / torch.outer(scale, scale)
    target = (moments.xy / n - mean_x * mean_y) / scale
    system = correlation + penalty * torch.eye(len(target), dtype=target.dtype)
    weight = torch.linalg.solve(system, target) / scale
    return LinearHead(weight, mean_y - mean_x @ weight)
