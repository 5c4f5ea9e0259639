"""The torch half of surface normals: an encoder and a head, trained on normals that follow from depth."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from ..contract import Batch, BuildContext, Visualisation
from ..layers.colour import colour_jitter, to_float
from ..ops.colour_maps import normal_colours, turbo
from ..ops.dense_metrics import normal_angles, normal_metrics
from ..ops.image_grid import image_grid
from ..ops.tiling import TiledPrediction, predict_fitted
from ..random import MicrobatchRng
from .config import NormalsConfig
from .network import OneViewNetwork, build_network
from .pretext import SHOWN, DensePredictor, FineTuning

MEASURED = {
    "mean_angle": "mean",
    "median_angle": "median",
    "within_11": "within_11.25",
    "within_22": "within_22.5",
    "within_30": "within_30",
}
"""What is measured of each image -> its name among the benchmarks' metrics."""
FACING = (0.0, 0.0, -1.0)
SHOWN_ERROR = 45.0
"""Degrees: the error with the last colour of the map of errors."""


class NormalsPredictor(DensePredictor):
    """Images in [0, 1] in, unit normals out: x right, y down, z forward, on the side that the camera sees."""

    output, output_unit = "normals", ""
    network: OneViewNetwork

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        return normalize(self.network(images).float(), dim=1)

    def of_any_size(self, images: Float[Tensor, "b 3 h w"], overlap: float | None = None) -> TiledPrediction:
        """Of images resized so that a crop just fits, in tiles: as the network saw them. Where tiles meet, the mean direction."""
        found = predict_fitted(self, images, self.image_size, ("", "", ""), 0.5 if overlap is None else overlap)
        return TiledPrediction(normalize(found.values, dim=1), None)


class NormalsPretext(FineTuning):
    predicting: NormalsPredictor

    def __init__(self, config: NormalsConfig, network: OneViewNetwork) -> None:
        super().__init__(config.model, NormalsPredictor(config.model, network))

    def to_device(self, batch: Batch) -> Batch:
        image = colour_jitter(to_float(batch["image"]), batch["jitter"])
        return {"image": image, "normals": batch["normals"].float().permute(0, 3, 1, 2)}

    def forward(self, batch: Batch, rng: MicrobatchRng) -> dict[str, Tensor]:
        """`regression`: mean over the pixels whose normal is known of 1 - cos of the angle to it."""
        true = batch["normals"]
        known = torch.isfinite(true).all(dim=1)
        cos = (self.predicting(batch["image"]) * torch.where(known[:, None], true, 0.0)).sum(dim=1)
        return {"regression": torch.where(known, 1 - cos, 0.0).sum() / known.sum().clamp_min(1)}

    @torch.no_grad()
    def control_metrics(self, batch: Batch, other: Batch, rng: MicrobatchRng) -> dict[str, Tensor]:
        """Metrics of each image, with its own prediction and with that of an image of another scene; the mean angle of two constants."""
        true = batch["normals"].cpu().double().numpy()
        found: dict[str, Tensor] = {}
        for given, images in (("", batch["image"]), ("_other_image", other["image"])):
            of_images = _metrics(self.predicting(images).cpu().numpy(), true)
            found |= {f"{own}{given}": of_images[theirs] for own, theirs in MEASURED.items()}
        facing = np.array(FACING).reshape(1, 3, 1, 1)
        for name, constant in (("facing", facing), ("own_mean", np.nanmean(true, axis=(2, 3), keepdims=True))):
            found[f"mean_angle_{name}"] = _metrics(np.broadcast_to(constant, true.shape), true)["mean"]
        return found

    @torch.no_grad()
    def visualisations(self, batch: Batch, rng: MicrobatchRng) -> list[Visualisation]:
        """Image, true and predicted normals, and the angle between them."""
        images, true = batch["image"][:SHOWN], batch["normals"][:SHOWN].cpu().double().numpy()
        predicted = self.predicting(images).cpu().double().numpy()
        known = np.isfinite(true).all(axis=1)
        angles = np.full(known.shape, np.nan)
        angles[known] = normal_angles(predicted, true)
        maps = [*(normal_colours(np.moveaxis(one, 1, -1)) for one in (true, predicted)), turbo(angles / SHOWN_ERROR)]
        pictures = [torch.from_numpy(one).permute(0, 3, 1, 2).float() / 255 for one in maps]
        caption = (
            "Left to right: image; true normals; predicted normals (red: to the right, green: upwards, blue: to the camera; black "
            f"unknown); angle between them, from 0 (blue) to {SHOWN_ERROR:g} degrees and more (red)."
        )
        return [Visualisation("Normals", caption, image_grid([images.cpu().float(), *pictures]))]


def _metrics(predicted: np.ndarray, true: np.ndarray) -> dict[str, Tensor]:
    """`normal_metrics` of each image."""
    rows = [normal_metrics(normal_angles(p[None], t[None])) for p, t in zip(predicted, true, strict=True)]
    return {name: torch.tensor([row[name] for row in rows], dtype=torch.float64) for name in rows[0]}


def build_normals(config: NormalsConfig, context: BuildContext) -> NormalsPretext:
    """The network on the CPU, the same for the same `context.seed`; the encoder's weights are random until `init` fills them."""
    network = build_network(config.model, 3, context)
    assert isinstance(network, OneViewNetwork)
    return NormalsPretext(config, network)
