"""What LOCA shows of itself: where it believes its queries to lie."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from ..contract import Batch, Visualisation
from ..layers.colour import imagenet_denormalise
from ..layers.positions import grid_positions
from ..ops.image_grid import enlarge, mosaic, zoom
from ..random import MicrobatchRng

if TYPE_CHECKING:
    from .pretext import LocaPretext

SAMPLES, QUERIES = 6, 3
COLOURS = ((0.90, 0.62, 0.0), (0.34, 0.71, 0.91), (0.0, 0.62, 0.45))
"""Orange, sky blue, green: apart for all eyes (Okabe and Ito)."""
DIM = 0.4
"""How bright the patches are that queries do not see."""


@torch.no_grad()
def position_picture(pretext: LocaPretext, batch: Batch, noise: MicrobatchRng) -> Visualisation:
    """Rows of samples: the reference with true boxes and predicted patches of some queries, then these queries in frames."""
    batch = {name: value[:SAMPLES] for name, value in batch.items()}
    model, f = pretext.config.model, batch["focal"].shape[1]
    draws = pretext.draw(batch, noise)
    places = pretext.answer(batch, draws, pretext.see_reference(batch, draws).kept).positions.argmax(dim=-1).cpu()
    first = len(draws.query)
    if f:
        places = places[:, first:].view(len(places), f, -1)[:, :QUERIES]
        crops, boxes, what = batch["focal"][:, :QUERIES], batch["focal_box"][:, :QUERIES], "focal queries"
    else:
        places, crops, boxes, what = places[:, None], batch["query"][:, None], batch["query_box"][:, None], "the random query"
    seen = torch.full((model.patches,), DIM)
    seen[draws.reference.cpu()] = 1
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
        f"Left: the reference; the {len(draws.reference)} of {model.patches} patches that queries see are bright. Then {what}. A box on "
        "the reference is where the query of that colour was cut out (the part inside the reference), each dot is where the network puts "
        "one of its patches: right are dots inside their box. Queries may be mirrored. Colours are as the network saw them, augmented."
    )
    return Visualisation("Where queries lie", caption, mosaic(columns))


def frame(image: Float[Tensor, "3 h w"], box: tuple[int, int, int, int], colour: Float[Tensor, " 3"]) -> None:
    """Draws the outline (top, left, bottom, right) into the image, two pixels wide."""
    top, left, bottom, right = box
    inside = torch.zeros(image.shape[1:], dtype=torch.bool)
    inside[top:bottom, left:right] = True
    inside[top + 2 : bottom - 2, left + 2 : right - 2] = False
    image[:, inside] = colour[:, None]
