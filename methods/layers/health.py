"""Metrics that tell whether a representation collapses, for any method. They are cheap enough to be taken during training."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize


@torch.no_grad()
def feature_std(features: Float[Tensor, "*n d"]) -> Float[Tensor, ""]:
    """Standard deviation over all rows of the L2-normalised features, mean over dimensions, times sqrt(d).

    1: directions are spread evenly; 0: all rows point the same way (SimSiam, section 4.2).
    """
    rows = normalize(features.flatten(0, -2).float(), dim=-1)
    spread: Tensor = rows.std(dim=0, correction=0).mean() * rows.shape[-1] ** 0.5
    return spread


@torch.no_grad()
def effective_rank(features: Float[Tensor, "*n d"]) -> Float[Tensor, ""]:
    """exp(entropy of the singular values, scaled to sum 1) of the centred rows, as a share of d: RankMe (Garrido et al. 2023).

    1: every dimension carries as much; 1 / d: a single one carries all; 0: the rows are all the same. Never above (rows - 1) / d.
    """
    rows = features.flatten(0, -2).double()
    rows = rows - rows.mean(dim=0)
    wide = rows.shape[0] < rows.shape[1]
    values = torch.linalg.eigvalsh(rows @ rows.T if wide else rows.T @ rows)
    values = values.clamp_min(0)
    singular = torch.where(values > 1e-12 * values.max(), values, 0.0).sqrt()  # what is left are rounding errors of the matrix product
    share = singular / singular.sum().clamp_min(1e-30)
    rank = torch.special.entr(share).sum().exp()
    return (torch.where(singular.sum() > 0, rank, 0.0) / rows.shape[1]).float()


@torch.no_grad()
def agreement(ours: Float[Tensor, "*n d"], theirs: Float[Tensor, "*n d"]) -> Float[Tensor, ""]:
    """Mean cosine of two networks' features of the same places, such as a student's and its teacher's."""
    return cosine_similarity(ours.float(), theirs.float(), dim=-1).mean()
