"""Visualisation and control metrics of CroCo: completed images, and how much the second view helps."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..contract import Visualisation
from ..layers.colour import imagenet_denormalise
from ..layers.health import effective_rank, feature_std
from ..layers.patches import patchify, unpatchify
from ..ops.image_grid import image_grid
from .config import CrocoModel
from .network import Completion

SAMPLES = 6


def to_unit(patches: Float[Tensor, "b k p"]) -> Float[Tensor, "b k p"]:
    """Normalised patch vectors as pixels in [0, 1]; the channel runs fastest, so each pixel is an image of 1 x 1."""
    pixels = imagenet_denormalise(patches.reshape(-1, 3, 1, 1))
    return pixels.reshape(patches.shape).clamp(0, 1)


def completion_visualisation(
    image1: Float[Tensor, "b 3 h w"], image2: Float[Tensor, "b 3 h w"], mask: Bool[Tensor, "b n"], done: Completion, model: CrocoModel
) -> Visualisation:
    """Rows of samples: image 1, what the encoder sees of it, the completion `done` of its hidden patches, image 2."""
    whole = to_unit(patchify(image1, model.patch_size))
    cells = done.cells[..., None].expand_as(done.prediction)
    completed = whole.scatter(1, cells, to_unit(done.pixels()))
    masked = torch.where(mask[..., None], 0.5, whole)
    columns = [unpatchify(p, model.patch_size, model.grid) for p in (whole, masked, completed)]
    columns.append(imagenet_denormalise(image2).clamp(0, 1))
    given = "The mean and contrast of each hidden patch are the true ones; its pattern is predicted. " if done.normalised else ""
    caption = (
        f"Left to right: image 1; the {model.patches - done.cells.shape[1]} of {model.patches} patches the encoder sees; "
        f"its completion (visible patches pasted in); image 2, the other view. {given}Colours are as the network saw them, jittered."
    )
    return Visualisation("Cross-view completion", caption, image_grid(columns))


def health_metrics(own: Completion, swapped: Completion, tokens: Float[Tensor, "b n d"]) -> dict[str, Tensor]:
    """Of one microbatch. `own`, `swapped`: hidden patches completed with the true second view and with that of another pair.

    `explained`: share of the variance of hidden patches that is predicted; 0 for a network that always says the mean patch.
    `swapped_view_gap`: by how much the loss rises with the other; 0: the second view is not used. It is left out of a microbatch of one
    pair, which has no other. `feature_std`, `effective_rank`: of the encoder's `tokens` of image 1 with nothing hidden.
    """
    loss = own.errors().mean()
    spread = own.targets().flatten(0, 1).var(dim=0, correction=1).mean()
    metrics = {"explained": 1 - loss / spread.clamp_min(1e-12)}
    if len(tokens) > 1:
        metrics["swapped_view_gap"] = swapped.errors().mean() - loss
    return {**metrics, "feature_std": feature_std(tokens), "effective_rank": effective_rank(tokens)}


def second_views(own: Float[Tensor, "b 3 h w"], other: Float[Tensor, "b 3 h w"]) -> dict[str, Float[Tensor, "b 3 h w"]]:
    """The conditions of the control metrics. `other`: second views of other scenes."""
    return {"true_view": own, "other_view": other, "mean_colour": own.mean(dim=(2, 3), keepdim=True).expand_as(own)}


def cross_view_metrics(completions: Mapping[str, Completion]) -> dict[str, Tensor]:
    """PSNR and loss of each sample under each of `second_views`, the same mask in all; and the PSNR of saying the mean patch everywhere."""
    metrics = {}
    for name, done in completions.items():
        metrics[f"psnr_{name}"] = psnr(done)
        metrics[f"loss_{name}"] = done.errors().mean(dim=1)
    targets = done.targets()
    metrics["psnr_mean_patch"] = psnr(done._replace(prediction=targets.mean(dim=(0, 1)).expand_as(targets)))
    return metrics


def psnr(done: Completion) -> Float[Tensor, " b"]:
    """In dB, of the pixels of each sample's hidden patches."""
    squared = (to_unit(done.pixels()) - to_unit(done.patches)).square().mean(dim=(1, 2))
    return -10 * squared.clamp_min(1e-10).log10()
