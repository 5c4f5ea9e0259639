"""Visualisation, health and control metrics of LOCA: where it believes its queries to lie, and what it takes from the reference."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import interpolate

from ..contract import Batch, Visualisation
from ..layers.colour import imagenet_denormalise
from ..layers.health import agreement, effective_rank, feature_std
from ..layers.positions import grid_positions
from ..ops.image_grid import enlarge, image_grid, zoom
from .config import LocaConfig, LocaModel
from .loss import position_loss

SAMPLES, QUERIES = 6, 3
COLOURS = ((0.90, 0.62, 0.0), (0.34, 0.71, 0.91), (0.0, 0.62, 0.45))
"""Orange, sky blue, green: apart for all eyes (Okabe and Ito)."""
DIM = 0.4
"""How bright the patches are that queries do not see."""


def health_metrics(
    losses: Mapping[str, Tensor],
    assignments: Float[Tensor, "b n k"] | None,
    student: Float[Tensor, "b n d"],
    teacher: Float[Tensor, "b n d"] | None,
    config: LocaConfig,
) -> dict[str, Tensor]:
    """Of `losses` of a microbatch, and of the `student`'s and, with clustering, the `teacher`'s features of its references.

    `position_accuracy`, `valid` as in training; `chance_gap`: ln(patches) minus the position loss. `feature_std`, `effective_rank`: of
    the patches of all references, as the kept encoder sees them. With clustering: `prediction_entropy`: of the mean prediction, as a share
    of ln(prototypes); `clusters_used`: exp(entropy) / prototypes, the share of prototypes that would give it if used alike;
    `target_entropy`: mean entropy of a patch's assignment, as a share of ln(prototypes); `teacher_agreement`: cosine of student's and
    teacher's features of the references.
    """
    kept = student
    gap = math.log(config.model.patches) - losses["position"]
    metrics = {"position_accuracy": losses["accuracy"], "valid": losses["valid"], "chance_gap": gap}
    if teacher is not None and assignments is not None:
        kept = teacher if config.pretext.encoder == "teacher" else student
        prototypes = config.pretext.prototypes
        entropy = -losses["entropy"]
        metrics |= {
            "prediction_entropy": entropy / math.log(prototypes),
            "clusters_used": entropy.exp() / prototypes,
            "target_entropy": torch.special.entr(assignments).sum(dim=-1).mean() / math.log(prototypes),
            "teacher_agreement": agreement(student, teacher),
        }
    return {**metrics, "feature_std": feature_std(kept), "effective_rank": effective_rank(kept)}


def reference_metrics(logits: Mapping[str, Float[Tensor, "b t n"]], targets: Int[Tensor, "b t"]) -> dict[str, Tensor]:
    """Position accuracy and loss of each sample with each reference: what the head takes from the reference; and accuracy of guessing.

    What is left with another image's reference was told by the query alone. A sample without a query token on its reference counts 0.
    """
    accuracy, loss = {}, {}
    for name, positions in logits.items():
        accuracy[f"accuracy_{name}"] = accuracies(positions, targets)
        loss[f"loss_{name}"] = torch.stack([position_loss(one[None], t[None]) for one, t in zip(positions, targets, strict=True)])
    chance = (targets >= 0).any(dim=1) / next(iter(logits.values())).shape[2]
    return {**accuracy, "accuracy_chance": chance, **loss}


def accuracies(logits: Float[Tensor, "b t n"], targets: Int[Tensor, "b t"]) -> Float[Tensor, " b"]:
    """Of each sample: the share of its tokens on the reference that are placed on the right patch."""
    valid = targets >= 0
    right = (logits.argmax(dim=-1) == targets) & valid
    return right.sum(dim=1) / valid.sum(dim=1).clamp_min(1)


def position_visualisation(
    batch: Batch, positions: Float[Tensor, "b t n"], reference_tokens: Int[Tensor, " s"], query_tokens: int, model: LocaModel
) -> Visualisation:
    """Rows of samples: the reference with true boxes and predicted patches of some queries, then these queries in frames.

    `positions`: logits of the query's `query_tokens` tokens and of each focal query's. `reference_tokens`: those that queries see.
    """
    f = batch["focal"].shape[1]
    places = positions.argmax(dim=-1).cpu()
    if f:
        places = places[:, query_tokens:].view(len(places), f, -1)[:, :QUERIES]
        crops, boxes, what = batch["focal"][:, :QUERIES], batch["focal_box"][:, :QUERIES], "focal queries"
    else:
        places, crops, boxes, what = places[:, None], batch["query"][:, None], batch["query_box"][:, None], "the random query"
    seen = torch.full((model.patches,), DIM)
    seen[reference_tokens.cpu()] = 1
    bright = interpolate(seen.view(1, 1, *model.grid), size=model.image_size, mode="nearest")
    factor = zoom(model.image_size)
    size = (model.image_size[0] * factor, model.image_size[1] * factor)
    references = enlarge(imagenet_denormalise(batch["reference"]).clamp(0, 1).cpu() * bright, factor)
    columns = [references]
    centres = ((grid_positions(model.grid) + 0.5) * model.patch_size * factor).long()
    for q in range(crops.shape[1]):
        colour = torch.tensor(COLOURS[q])
        crop = interpolate(imagenet_denormalise(crops[:, q]).clamp(0, 1).cpu(), size=size, mode="nearest")
        for i, image in enumerate(crop):
            frame(image, (0, 0, *size), colour)
            _, y, x, h, w = boxes[i, q].tolist()
            if h > 0 and w > 0:
                side = [round(v * s) for v, s in zip((y, x, y + h, x + w), size * 2, strict=True)]
                frame(references[i], tuple(side), colour)
            for y, x in centres[places[i, q]].tolist():
                references[i][:, max(0, y - 2) : y + 3, max(0, x - 2) : x + 3] = colour[:, None, None]
        columns.append(crop)
    caption = (
        f"Left: the reference; the {len(reference_tokens)} of {model.patches} patches that queries see are bright. Then {what}. A box on "
        "the reference is where the query of that colour was cut out (the part inside the reference), each dot is where the network puts "
        "one of its patches: right are dots inside their box. Queries may be mirrored. Colours are as the network saw them, augmented."
    )
    return Visualisation("Where queries lie", caption, image_grid(columns))


def frame(image: Float[Tensor, "3 h w"], box: tuple[int, int, int, int], colour: Float[Tensor, " 3"]) -> None:
    """Draws the outline (top, left, bottom, right) into the image, two pixels wide."""
    top, left, bottom, right = box
    inside = torch.zeros(image.shape[1:], dtype=torch.bool)
    inside[top:bottom, left:right] = True
    inside[top + 2 : bottom - 2, left + 2 : right - 2] = False
    image[:, inside] = colour[:, None]
