"""What CroCo shows and claims of itself: completed images, and how much the second view helps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from ..contract import Batch, Visualisation
from ..layers.colour import imagenet_denormalise
from ..layers.patches import patch_statistics, patchify, unpatchify
from ..ops.image_grid import mosaic

if TYPE_CHECKING:
    from .pretext import Completion, CrocoPretext

SAMPLES = 6


def predicted_pixels(pretext: CrocoPretext, completion: Completion) -> Float[Tensor, "b k p"]:
    """Predictions in the scale of the input: with `norm_pix` the true patch's mean and standard deviation are put back."""
    if not pretext.config.pretext.norm_pix:
        return completion.prediction
    mean, std = patch_statistics(completion.patches)
    return completion.prediction * std + mean


def to_unit(patches: Float[Tensor, "b k p"]) -> Float[Tensor, "b k p"]:
    """Normalised patch vectors as pixels in [0, 1]; the channel runs fastest, so each pixel is an image of 1 x 1."""
    pixels = imagenet_denormalise(patches.reshape(-1, 3, 1, 1))
    return pixels.reshape(patches.shape).clamp(0, 1)


@torch.no_grad()
def completion_visualisation(pretext: CrocoPretext, batch: Batch) -> Visualisation:
    """Rows of samples: image 1, what the encoder sees of it, the completion, image 2."""
    model, config = pretext.config.model, pretext.config
    image1, image2, mask = (batch[k][:SAMPLES] for k in ("image1", "image2", "mask"))
    done = pretext.complete(image1, image2, mask, config.hidden)
    whole = to_unit(patchify(image1, model.patch_size))
    cells = done.cells[..., None].expand_as(done.prediction)
    completed = whole.scatter(1, cells, to_unit(predicted_pixels(pretext, done)))
    masked = torch.where(mask[..., None], 0.5, whole)
    columns = [unpatchify(p, model.patch_size, model.grid) for p in (whole, masked, completed)]
    columns.append(imagenet_denormalise(image2).clamp(0, 1))
    given = "The mean and contrast of each hidden patch are the true ones; its pattern is predicted. " if config.pretext.norm_pix else ""
    caption = (
        f"Left to right: image 1; the {model.patches - config.hidden} of {model.patches} patches the encoder sees; "
        f"its completion (visible patches pasted in); image 2, the other view. {given}Colours are as the network saw them, jittered."
    )
    return Visualisation("Cross-view completion", caption, mosaic(columns))


@torch.no_grad()
def cross_view_metrics(pretext: CrocoPretext, batch: Batch, other: Batch) -> dict[str, Tensor]:
    """PSNR and loss of each sample with three second views, the same mask in all; `other`: as many samples, of other scenes."""
    image2 = batch["image2"]
    second_views = {
        "true_view": image2,
        "other_view": other["image2"],
        "mean_colour": image2.mean(dim=(2, 3), keepdim=True).expand_as(image2),
    }
    figures = {}
    for name, view in second_views.items():
        done = pretext.complete(batch["image1"], view, batch["mask"], pretext.config.hidden)
        squared = (to_unit(predicted_pixels(pretext, done)) - to_unit(done.patches)).square().mean(dim=(1, 2))
        figures[f"psnr_{name}"] = -10 * squared.clamp_min(1e-10).log10()
        figures[f"loss_{name}"] = pretext.errors(done).mean(dim=1)
    return figures
