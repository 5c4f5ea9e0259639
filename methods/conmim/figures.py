"""What ConMIM says of itself: is it only the position that is learnt, and does the representation collapse?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..contract import Batch
from ..layers.health import agreement, effective_rank, feature_std
from ..random import MicrobatchRng

if TYPE_CHECKING:
    from .pretext import ConMIMPretext


@torch.no_grad()
def health(pretext: ConMIMPretext, batch: Batch, noise: MicrobatchRng) -> dict[str, Tensor]:
    """Figures of one group. `swapped_teacher_gap`: nats by which the loss rises with the next image's teacher; 0: only position is learnt.

    `chance_gap`: ln(patches) minus the loss. `feature_std` is of the student's features at hidden places, `effective_rank` of the
    teacher's patch tokens as a share of their width, `agreement` the mean cosine of both networks' features at hidden places.
    """
    mask = batch["mask"]
    tokens, wanted = pretext.teach(batch["teacher"], noise)
    _, found = pretext.study(batch, noise)
    own = pretext.contrast(found, wanted, mask)
    swapped = pretext.contrast(found, wanted.roll(1, dims=0), mask)
    loss = own.mean(own.errors())
    hidden = found[mask]
    return {
        "accuracy": own.mean((own.logits.argmax(dim=-1) == own.labels).float()),
        "swapped_teacher_gap": swapped.mean(swapped.errors()) - loss,
        "chance_gap": math.log(mask.shape[1]) - loss,
        "feature_std": feature_std(hidden),
        "effective_rank": effective_rank(tokens[:, 1:]),
        "agreement": agreement(hidden, wanted[mask]),
    }


@torch.no_grad()
def teacher_claims(pretext: ConMIMPretext, batch: Batch, other: Batch, noise: MicrobatchRng) -> dict[str, Tensor]:
    """Loss of each sample with its own teacher's features and with those of another scene's image, the same mask and student."""
    _, found = pretext.study(batch, noise)
    losses = {}
    for name, images in (("own", batch["teacher"]), ("other", other["teacher"])):
        pairs = pretext.contrast(found, pretext.teach(images, noise)[1], batch["mask"])
        losses[f"loss_{name}_teacher"] = pairs.errors().sum(dim=1) / pairs.valid.sum(dim=1).clamp_min(1)
    return losses
