"""What ConMIM shows: for hidden patches, how similar each of the teacher's patches is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..contract import Batch, Visualisation
from ..layers.patches import patchify, unpatchify
from ..ops.image_grid import enlarge, mosaic, zoom
from ..random import MicrobatchRng
from .encoder import denormalise

if TYPE_CHECKING:
    from .pretext import ConMIMPretext

SAMPLES = 6
QUERIES = 3
TRUE, TOP, HEAT = (0.1, 0.9, 0.2), (0.95, 0.15, 0.1), (1.0, 0.85, 0.1)


@torch.no_grad()
def similarity_picture(pretext: ConMIMPretext, batch: Batch, noise: MicrobatchRng) -> Visualisation:
    """Rows of samples: the image with some hidden patches marked, what the student sees, and a map of similarities for each of them."""
    model = pretext.config.model
    own = {name: tensor[:SAMPLES] for name, tensor in batch.items()}
    _, wanted = pretext.teach(batch["teacher"], noise)  # the whole group: BatchNorm takes its statistics from it
    _, found = pretext.study(batch, noise)
    pairs = pretext.contrast(found[:SAMPLES], wanted[:SAMPLES], own["mask"])
    order = torch.rand(pairs.labels.shape, generator=noise.torch("queries")).to(pairs.valid.device).masked_fill(~pairs.valid, -1)
    rows = order.argsort(dim=1, descending=True)[:, :QUERIES]
    places = pairs.labels.gather(1, rows)
    shares = torch.softmax(pairs.logits, dim=-1).gather(1, rows[..., None].expand(-1, -1, model.patches))

    image = denormalise(own["student"], model).clamp(0, 1)
    patches = patchify(image, model.patch_size)
    seen = unpatchify(torch.where(own["mask"][..., None], 0.5, patches), model.patch_size, model.grid)
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
    return Visualisation("Where hidden patches are looked for", caption, mosaic(columns))


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
