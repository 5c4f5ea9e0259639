"""Visualisation and health of I2P-MAE: the cloud, what the encoder sees of it, what the decoder makes of that, and the depth views."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import interpolate

from ..contract import Batch, Visualisation
from ..layers.health import effective_rank, feature_std
from ..layers.points import chamfer, chamfer_distances
from ..ops.clouds import draw_cloud
from ..ops.image_grid import SIDE, image_grid
from .network import Groups
from .views2d import depth_images

SAMPLES = 6
HEAT = torch.tensor([1.0, 0.55, 0.0])


def health_metrics(
    tokens: Float[Tensor, "b g d"],
    losses: Mapping[str, Tensor],
    hidden: Float[Tensor, "h k 3"],
    targets: Float[Tensor, "b n c"] | None,
) -> dict[str, Tensor]:
    """Of a microbatch: the coarsest `tokens` with nothing hidden, the `losses`, the neighbours of the `hidden` tokens about their centres,
    and with a teacher its features `targets`.

    `effective_rank`, `feature_std` of the tokens. `points_explained`: 1 - the Chamfer distance over that of a network that puts all
    neighbours at their token's centre. `features_explained`: the share of the variance of the 2-D features that is predicted; 0 for a
    network that always says their mean.
    """
    centred = chamfer(torch.zeros_like(hidden), hidden)
    metrics = {"effective_rank": effective_rank(tokens), "feature_std": feature_std(tokens)}
    metrics["points_explained"] = 1 - losses["points"] / centred.clamp_min(1e-12)
    if targets is not None:
        spread = targets.flatten(0, 1).var(dim=0, correction=0).mean()
        metrics["features_explained"] = 1 - losses["features"] / spread.clamp_min(1e-12)
    return metrics


def feature_metrics(
    errors: Float[Tensor, " b"],
    targets: Float[Tensor, "b n c"],
    elsewhere: Float[Tensor, "e n c"],
    groups: Groups,
    asked: Bool[Tensor, "b g"],
) -> dict[str, Tensor]:
    """`errors` of each sample's features, and those of always saying the mean feature of these samples and of others (`elsewhere`): both as
    shares of the latter's mean, so 1 is no knowledge."""
    apart = (targets - torch.cat([targets, elsewhere]).mean(dim=(0, 1))).square().mean(dim=-1)
    samples = torch.arange(len(apart), device=apart.device)[:, None, None]
    at_tokens = apart[samples, groups.members].mean(dim=-1)
    of_mean = (at_tokens * asked).sum(dim=1) / asked.sum(dim=1).clamp_min(1)
    unit = of_mean.mean().clamp_min(1e-12)
    return {"features_error": errors / unit, "features_error_mean": of_mean / unit}


def neighbour_metrics(predicted: Float[Tensor, "h k 3"], groups: Groups, mask: Bool[Tensor, "b g"]) -> dict[str, Tensor]:
    """Chamfer distance of each sample's hidden tokens: of what is `predicted`; of the mean of all predictions, the same at every token; and
    of all neighbours at the centre. All as shares of the last one's mean."""
    true, of_sample = groups.relative[mask], mask.nonzero(as_tuple=True)[0]
    one = predicted.mean(dim=0, keepdim=True)
    said = {"points_error": predicted, "points_error_one_shape": one.expand_as(predicted), "points_error_centre": torch.zeros_like(true)}
    errors = {}
    for name, points in said.items():
        ours, theirs = chamfer_distances(points, true)
        sums = true.new_zeros(len(mask)).index_add_(0, of_sample, ours.mean(dim=1) + theirs.mean(dim=1))
        errors[name] = sums / mask.sum(dim=1).clamp_min(1)
    unit = errors["points_error_centre"].mean().clamp_min(1e-12)
    return {name: error / unit for name, error in errors.items()}


def reconstruction_visualisation(
    batch: Batch, groups: Groups, mask: Bool[Tensor, "b g"], predicted: Float[Tensor, "b g k 3"], views: int
) -> Visualisation:
    """Rows of clouds: whole, visible part, rebuilt, then the depth views with the teacher's saliency.

    `groups`, `mask`, `predicted`: of the middle scale; its hidden tokens, and their neighbours as they are rebuilt, about the centres.
    """
    points = batch["points"]
    around = predicted + groups.centres[:, :, None]
    columns: list[list[Tensor]] = [[], [], []]
    for i, cloud in enumerate(points):
        hidden = mask[i]
        seen = groups.around[i][~hidden].flatten(0, 1)
        centre, size = cloud.mean(dim=0), (cloud - cloud.mean(dim=0)).norm(dim=1).amax()
        for column, shown in zip(columns, (cloud, seen, torch.cat([seen, around[i][hidden].flatten(0, 1)])), strict=True):
            column.append(drawn((shown - centre) / size))
    images = [torch.stack(column) for column in columns]
    taught = "saliency" in batch
    for view in range(views if taught else 0):
        images.append(with_saliency(depth_images(points, view + 1)[-len(points) :], batch["saliency"][:, view].float()))
    what = "; the depth views, the 2-D teacher's saliency in orange" if taught else ""
    share = 1 - mask.float().mean().item()
    caption = (
        f"Left to right: the cloud as the network gets it ({points.shape[1]} points); the neighbourhoods of the {share:.0%} of its middle "
        f"tokens that the encoder sees; these with the hidden ones rebuilt{what}."
    )
    return Visualisation("What is rebuilt of a cloud", caption, image_grid(images))


def drawn(points: Float[Tensor, "n 3"]) -> Float[Tensor, "3 s s"]:
    return torch.from_numpy(draw_cloud(points.cpu().float().numpy(), SIDE)).permute(2, 0, 1) / 255


def with_saliency(depth: Float[Tensor, "b 224 224"], saliency: Float[Tensor, "b h w"]) -> Float[Tensor, "b 3 s s"]:
    """The depth image in grey, orange where the teacher looks most."""
    grey = interpolate(depth[:, None], size=(SIDE, SIDE), mode="bilinear", antialias=True).cpu().expand(-1, 3, -1, -1)
    low, high = saliency.flatten(1).amin(dim=1), saliency.flatten(1).amax(dim=1)
    light = ((saliency.cpu() - low.cpu()[:, None, None]) / (high - low).clamp_min(1e-12).cpu()[:, None, None])[:, None]
    light = 0.7 * interpolate(light, size=(SIDE, SIDE), mode="bilinear")
    return grey * (1 - light) + light * HEAT.view(3, 1, 1)
