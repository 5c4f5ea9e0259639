"""LOCA's losses and the balance of its cluster assignments."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from .. import collective
from ..layers.patches import take

EPS = 1e-8
"""Added to the count of valid tokens."""


@torch.no_grad()
def sinkhorn(parts: Sequence[Float[Tensor, "b n k"]], iterations: int, everywhere: bool = False) -> None:
    """In place: each column divided by its sum over all parts (with `everywhere`, of all ranks), then each row by its own sum.

    Float32. A column that is 0 throughout gives NaN, as in the authors' code.
    """
    for _ in range(iterations):
        columns = torch.stack([part.sum(dim=(0, 1)) for part in parts]).sum(dim=0)
        if everywhere:
            collective.sum_(columns)
        for part in parts:
            part /= columns
            part /= part.sum(dim=-1, keepdim=True)


def position_errors(logits: Float[Tensor, "b t n"], targets: Int[Tensor, "b t"]) -> Float[Tensor, "b t"]:
    """Cross-entropy of each token; of tokens without a target (-1) it means nothing."""
    return cross_entropy(logits.flatten(0, 1), targets.flatten().clamp_min(0), reduction="none").view_as(targets)


def cluster_errors(log_p: Float[Tensor, "b t k"], assignments: Float[Tensor, "b n k"], targets: Int[Tensor, "b t"]) -> Float[Tensor, "b t"]:
    """Cross-entropy between the prediction for a query token and the assignment of its reference patch, as `position_errors`."""
    return -(take(assignments, targets.clamp_min(0)) * log_p).sum(dim=-1)


def over_valid(errors: Float[Tensor, "b t"], targets: Int[Tensor, "b t"]) -> Float[Tensor, ""]:
    """Mean over the microbatch's valid tokens; 0 where none is valid."""
    valid = targets >= 0
    return (errors * valid).sum() / (valid.sum() + EPS)


def over_valid_of_samples(errors: Float[Tensor, "b t"], targets: Int[Tensor, "b t"]) -> Float[Tensor, " b"]:
    """Mean over each sample's valid tokens; where it has none, that over the microbatch's."""
    valid = targets >= 0
    count = valid.sum(dim=1)
    return torch.where(count > 0, (errors * valid).sum(dim=1) / count.clamp_min(1), over_valid(errors, targets))


def position_loss(logits: Float[Tensor, "b t n"], targets: Int[Tensor, "b t"]) -> Float[Tensor, ""]:
    """`position_errors`, mean over valid tokens."""
    return over_valid(position_errors(logits, targets), targets)


def cluster_loss(log_p: Float[Tensor, "b t k"], assignments: Float[Tensor, "b n k"], targets: Int[Tensor, "b t"]) -> Float[Tensor, ""]:
    """`cluster_errors`, mean over valid tokens."""
    return over_valid(cluster_errors(log_p, assignments, targets), targets)


def mean_entropy(own: Float[Tensor, " k"], mean: Float[Tensor, " k"]) -> Float[Tensor, ""]:
    """Sum p log p of the `mean` prediction over the whole batch; the gradient flows through `own`, this microbatch's mean prediction.

    The derivative by p is log p + 1, a constant once p is known. Averaged over the microbatches, whose mean is p, the gradients of
    sum (log p + 1) p_own are that of sum p log p.
    """
    log_mean = mean.log()
    reach = ((log_mean + 1) * own).sum()
    return reach - reach.detach() + (mean * log_mean).sum()
