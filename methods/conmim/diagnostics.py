"""Visualisation, health and control metrics of ConMIM: is only the position learnt, and does the representation collapse?"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..contract import Visualisation
from ..layers.health import agreement, effective_rank, feature_std
from ..layers.patches import patchify, unpatchify
from ..ops.image_grid import enlarge, image_grid, zoom
from ..random import MicrobatchRng
from .backbone import denormalise
from .config import ConMIMModel
from .loss import Contrast

SAMPLES = 6
QUERIES = 3
TRUE, TOP, HEAT = (0.1, 0.9, 0.2), (0.95, 0.15, 0.1), (1.0, 0.85, 0.1)


def health_metrics(
    own: Contrast, swapped: Contrast, tokens: Float[Tensor, "b n d"], student: Float[Tensor, "m p"], teacher: Float[Tensor, "m p"]
) -> dict[str, Tensor]:
    """Of one microbatch. `own`, `swapped`: with the teacher's features of the same and of another image.

    `swapped_teacher_gap`: nats by which the loss rises with the other image's teacher; 0: only position is learnt. `chance_gap`:
    ln(patches) minus the loss. `feature_std` is of the `student`'s features at hidden places, `effective_rank` of the teacher's patch
    `tokens` as a share of their width, `agreement` the mean cosine of both networks' features at hidden places.
    """
    loss = own.mean(own.errors())
    return {
        "accuracy": own.mean((own.logits.argmax(dim=-1) == own.labels).float()),
        "swapped_teacher_gap": swapped.mean(swapped.errors()) - loss,
        "chance_gap": math.log(own.logits.shape[2]) - loss,
        "feature_std": feature_std(student),
        "effective_rank": effective_rank(tokens),
        "agreement": agreement(student, teacher),
    }


def teacher_metrics(contrasts: Mapping[str, Contrast]) -> dict[str, Tensor]:
    """Loss of each sample with each teacher's features, the same mask and student in all, and of guessing. Without a hidden patch: 0."""
    metrics = {}
    for name, pairs in contrasts.items():
        hidden = pairs.valid.sum(dim=1)
        metrics[f"loss_{name}_teacher"] = pairs.errors().sum(dim=1) / hidden.clamp_min(1)
    return {**metrics, "loss_chance": math.log(pairs.logits.shape[2]) * (hidden > 0)}


def similarity_visualisation(
    images: Float[Tensor, "b 3 h w"], mask: Bool[Tensor, "b n"], pairs: Contrast, model: ConMIMModel, rng: MicrobatchRng
) -> Visualisation:
    """Rows of samples: the image with some hidden patches marked, what the student sees, and a map of similarities for each of them."""
    order = torch.rand(pairs.labels.shape, generator=rng.torch("queries")).to(pairs.valid.device).masked_fill(~pairs.valid, -1)
    rows = order.argsort(dim=1, descending=True)[:, :QUERIES]
    places = pairs.labels.gather(1, rows)
    shares = torch.softmax(pairs.logits, dim=-1).gather(1, rows[..., None].expand(-1, -1, model.patches))

    image = denormalise(images, model).clamp(0, 1)
    patches = patchify(image, model.patch_size)
    seen = unpatchify(torch.where(mask[..., None], 0.5, patches), model.patch_size, model.grid)
    columns = [image, seen]
    for query in range(places.shape[1]):
        columns.append(heat(image, shares[:, query], model.grid))
    factor = zoom(model.image_size)
    columns = [enlarge(column, factor) for column in columns]
    patch = model.patch_size * factor
    for query in range(places.shape[1]):
        columns[0] = outline(columns[0], places[:, query], patch, TRUE)
        columns[2 + query] = outline(columns[2 + query], shares[:, query].argmax(dim=1), patch, TOP)
        columns[2 + query] = outline(columns[2 + query], places[:, query], patch, TRUE)
    caption = (
        f"Left to right: the image, {places.shape[1]} hidden patches marked green; what the student sees of it; for each of these "
        "patches, how the student's feature there is shared out over the teacher's "
        "patches (softmax, brightest = largest). Green: the true place; red: the most similar one, where that is another."
    )
    return Visualisation("Where hidden patches are looked for", caption, image_grid(columns))


def heat(image: Float[Tensor, "b 3 h w"], shares: Float[Tensor, "b n"], grid: tuple[int, int]) -> Float[Tensor, "b 3 h w"]:
    """The darkened grey image, lit where the share of a patch is large."""
    light = (shares / shares.amax(dim=1, keepdim=True)).view(-1, 1, *grid)
    light = light.repeat_interleave(image.shape[2] // grid[0], 2).repeat_interleave(image.shape[3] // grid[1], 3)
    colour = torch.tensor(HEAT, device=image.device).view(3, 1, 1)
    return image.mean(dim=1, keepdim=True) * 0.5 * (1 - light) + light * colour


def outline(
    image: Float[Tensor, "b 3 h w"], place: Int[Tensor, " b"], patch: int, colour: tuple[float, float, float]
) -> Float[Tensor, "b 3 h w"]:
    """A frame round one patch of each image."""
    rows, columns = (torch.arange(size, device=image.device) for size in image.shape[2:])
    width = max(1, patch // 8)
    across = image.shape[3] // patch
    y, x = rows - (place // across * patch)[:, None], columns - (place % across * patch)[:, None]

    def inside(margin: int) -> Tensor:
        found: Tensor = ((y >= margin) & (y < patch - margin))[:, None, :, None] & ((x >= margin) & (x < patch - margin))[:, None, None, :]
        return found

    return torch.where(inside(0) & ~inside(width), torch.tensor(colour, device=image.device).view(3, 1, 1), image)
