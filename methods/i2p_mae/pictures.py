"""What I2P-MAE shows: the cloud, what the encoder sees of it, what the decoder makes of that, and the views that the 2-D teacher saw."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from ..contract import Batch, Visualisation
from ..ops.clouds import picture
from ..ops.image_grid import SIDE, mosaic
from ..random import MicrobatchRng
from .network import group_points
from .views2d import depth_images

if TYPE_CHECKING:
    from .pretext import I2PMaePretext

SAMPLES = 6
HEAT = torch.tensor([1.0, 0.55, 0.0])


@torch.no_grad()
def reconstruction_picture(pretext: I2PMaePretext, batch: Batch, noise: MicrobatchRng) -> Visualisation:
    """Rows of clouds: whole, visible part, rebuilt, then the depth views with the teacher's saliency."""
    batch = {name: value[:SAMPLES] for name, value in batch.items()}
    points, config = batch["points"], pretext.config
    scales = group_points(points, config.model, skip_origin=config.pretext.official)
    masks = pretext.hide(batch, scales, noise).masks
    tokens = pretext.rebuild(scales, masks, pretext.h_encoder.encode(scales, masks), None).tokens
    around = pretext.rec_head_3d(tokens).float().unflatten(2, (-1, 3)) + scales[1].centres[:, :, None]
    columns: list[list[Tensor]] = [[], [], []]
    for i, cloud in enumerate(points):
        hidden = masks[1][i]
        seen = scales[1].around[i][~hidden].flatten(0, 1)
        centre, size = cloud.mean(dim=0), (cloud - cloud.mean(dim=0)).norm(dim=1).amax()
        for column, shown in zip(columns, (cloud, seen, torch.cat([seen, around[i][hidden].flatten(0, 1)])), strict=True):
            column.append(drawn((shown - centre) / size))
    pictures = [torch.stack(column) for column in columns]
    taught = "saliency" in batch
    for view in range(config.pretext.views if taught else 0):
        pictures.append(with_saliency(depth_images(points, view + 1)[-len(points) :], batch["saliency"][:, view].float()))
    views = "; the depth views, the 2-D teacher's saliency in orange" if taught else ""
    share = 1 - masks[1].float().mean().item()
    caption = (
        f"Left to right: the cloud as the network gets it ({points.shape[1]} points); the neighbourhoods of the {share:.0%} of its middle "
        f"tokens that the encoder sees; these with the hidden ones rebuilt{views}."
    )
    return Visualisation("What is rebuilt of a cloud", caption, mosaic(pictures))


def drawn(points: Float[Tensor, "n 3"]) -> Float[Tensor, "3 s s"]:
    return torch.from_numpy(picture(points.cpu().float().numpy(), SIDE)).permute(2, 0, 1) / 255


def with_saliency(depth: Float[Tensor, "b 224 224"], saliency: Float[Tensor, "b h w"]) -> Float[Tensor, "b 3 s s"]:
    """The depth image in grey, orange where the teacher looks most."""
    grey = interpolate(depth[:, None], size=(SIDE, SIDE), mode="bilinear", antialias=True).cpu().expand(-1, 3, -1, -1)
    low, high = saliency.flatten(1).amin(dim=1), saliency.flatten(1).amax(dim=1)
    light = ((saliency.cpu() - low.cpu()[:, None, None]) / (high - low).clamp_min(1e-12).cpu()[:, None, None])[:, None]
    light = 0.7 * interpolate(light, size=(SIDE, SIDE), mode="bilinear")
    return grey * (1 - light) + light * HEAT.view(3, 1, 1)
