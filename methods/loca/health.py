"""Figures of LOCA's representation and of what it has learned: cheap enough to be taken during training."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from ..contract import Batch
from ..layers.health import agreement, effective_rank, feature_std
from ..random import MicrobatchRng
from .pretext import position_loss

if TYPE_CHECKING:
    from .pretext import LocaPretext


@torch.no_grad()
def health_figures(pretext: LocaPretext, batch: Batch, noise: MicrobatchRng) -> dict[str, Tensor]:
    """On one group, taken for the whole batch.

    `position_accuracy`, `valid` as in training; `chance_gap`: ln(patches) minus the position loss. `feature_std`, `effective_rank`: of
    the patches of all references, as the kept encoder sees them. With clustering: `prediction_entropy`: of the mean prediction, as a share
    of ln(prototypes); `clusters_used`: exp(entropy) / prototypes, the share of prototypes that would give it if used alike;
    `target_entropy`: mean entropy of a patch's assignment, as a share of ln(prototypes); `teacher_agreement`: cosine of student's and
    teacher's features of the references.
    """
    config = pretext.config
    whole = pretext.alone(batch, noise)
    losses = pretext.losses(whole, noise, everywhere=False)
    student = pretext.student.encoder.encode(batch["reference"])
    kept = student
    gap = math.log(config.model.patches) - losses["position"]
    figures = {"position_accuracy": losses["accuracy"], "valid": losses["valid"], "chance_gap": gap}
    if pretext.teacher is not None:
        teacher = pretext.teacher.encoder.encode(batch["reference"])
        kept = teacher if config.pretext.encoder == "teacher" else student
        prototypes = config.pretext.prototypes
        entropy = -losses["entropy"]
        figures |= {
            "prediction_entropy": entropy / math.log(prototypes),
            "clusters_used": entropy.exp() / prototypes,
            "target_entropy": torch.special.entr(whole["assignments"]).sum(dim=-1).mean() / math.log(prototypes),
            "teacher_agreement": agreement(student, teacher),
        }
    return {**figures, "feature_std": feature_std(kept), "effective_rank": effective_rank(kept)}


@torch.no_grad()
def reference_claims(pretext: LocaPretext, batch: Batch, other: Batch, noise: MicrobatchRng) -> dict[str, Tensor]:
    """Position accuracy and loss of each sample with its own reference and with that of `other`: what the head takes from the reference.

    What is left with another image's reference was told by the query alone. A sample without a query token on its reference counts 0.
    """
    draws = pretext.draw(batch, noise)
    targets = pretext.query_targets(batch, draws)
    accuracy, loss = {}, {}
    for name, source in (("own_reference", batch), ("other_reference", other)):
        logits = pretext.answer(batch, draws, pretext.see_reference(source, draws).kept).positions
        accuracy[f"accuracy_{name}"] = accuracies(logits, targets)
        loss[f"loss_{name}"] = torch.stack([position_loss(one[None], t[None]) for one, t in zip(logits, targets, strict=True)])
    return accuracy | loss


def accuracies(logits: Float[Tensor, "b t n"], targets: Tensor) -> Float[Tensor, " b"]:
    """Of each sample: the share of its tokens on the reference that are placed on the right patch."""
    valid = targets >= 0
    right = (logits.argmax(dim=-1) == targets) & valid
    return right.sum(dim=1) / valid.sum(dim=1).clamp_min(1)
