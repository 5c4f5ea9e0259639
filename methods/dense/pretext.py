"""The torch half of dense tasks: an encoder and a head, trained on maps of truth."""

from __future__ import annotations

import copy

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..contract import Batch, BuildContext, Visualisation
from ..layers.colour import colour_jitter, to_float
from ..ops.colour_maps import turbo
from ..ops.dense_metrics import depth_metrics, depth_sums
from ..ops.image_grid import image_grid
from ..optim import Clock, OptimConfig, ParamGroup, Schedule, layer_groups, standard_schedules
from ..random import MicrobatchRng
from .config import DepthConfig
from .criteria import Criterion
from .network import OneViewNetwork, build_network

SHOWN = 6
CLOSEST = 1e-3
"""Metres: the least depth that is predicted and measured."""


class DepthPredictor(nn.Module):
    """The fine-tuned network as it is registered and used: images in [0, 1] in, metres out. It is an `ImageEncoder`, too."""

    output, output_unit = "depth", "metres"

    def __init__(self, config: DepthConfig, network: OneViewNetwork) -> None:
        super().__init__()
        self.network, self.image_size, self.logarithmic = network, config.model.image_size, config.pretext.target == "log"
        self.dim, self.patch_size = int(network.encoder.dim), network.patch_size

    def tokens(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        tokens: Tensor = self.network.encoder.tokens(images)
        return tokens

    def saliency(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n"]:
        saliency: Tensor = self.network.encoder.saliency(images)
        return saliency

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b h w"]:
        raw = self.network(images)[:, 0].float()
        metres: Tensor = raw.exp() if self.logarithmic else raw.clamp_min(CLOSEST)
        return metres


class DepthPretext(nn.Module):
    """A `Pretext` like any other for the trainer."""

    encoder_prefixes = ("predicting.network.encoder.",)

    def __init__(self, config: DepthConfig, network: OneViewNetwork) -> None:
        super().__init__()
        self.config, self.predicting = config, DepthPredictor(config, network)
        task = config.pretext
        self.criterion = Criterion(task.criterion, task.a, task.b, task.max_norm)
        for name, parameter in network.encoder.named_parameters():
            if config.model.frozen or name.endswith("mask_token"):  # nothing is masked, and DDP would wait for its gradient
                parameter.requires_grad_(False)

    def to_device(self, batch: Batch) -> Batch:
        return {"image": colour_jitter(to_float(batch["image"]), batch["jitter"]), "depth": batch["depth"].float()}

    def forward(self, batch: Batch, rng: MicrobatchRng) -> dict[str, Tensor]:
        """`regression`: the criterion over the pixels whose depth is known; `absrel`: mean relative error over them."""
        depth, raw = batch["depth"], self.predicting.network(batch["image"]).float()
        known = depth > 0
        logarithmic = self.predicting.logarithmic
        target = torch.where(known, depth.clamp_min(CLOSEST).log() if logarithmic else depth, torch.inf)
        loss = self.criterion(raw[:, :1], target[:, None], raw[:, 1:] if self.criterion.with_confidence else None)
        with torch.no_grad():
            metres = raw[:, 0].exp() if logarithmic else raw[:, 0]
            absrel = _mean((metres - depth).abs() / depth.clamp_min(CLOSEST), known)
        return {"regression": loss, "absrel": absrel}

    def after_step(self, step: int, steps: int) -> None:
        """Nothing to do: no teacher."""

    def param_groups(self, optim: OptimConfig) -> list[ParamGroup]:
        """No decay for tensors of one dimension; the rate of a layer is `optim.layer_decay` ** (layers above it)."""
        encoder, prefix = self.predicting.network.encoder, self.encoder_prefixes[0]
        top = encoder.depth + 1
        return layer_groups(
            self.named_parameters(),
            lambda name: encoder.layer_of(name.removeprefix(prefix)) if name.startswith(prefix) else top,
            top,
            optim.layer_decay,
            lambda name, p: p.ndim == 1 or name.endswith((".bias", "pos_embed", "cls_token")),
        )

    def schedules(self, optim: OptimConfig, clock: Clock) -> dict[str, Schedule]:
        return standard_schedules(optim, clock)

    def encoder(self) -> nn.Module:
        return copy.deepcopy(self.predicting)

    @torch.no_grad()
    def visualisations(self, batch: Batch, rng: MicrobatchRng) -> list[Visualisation]:
        """Image, truth, prediction and relative error of some samples."""
        images, true = batch["image"][:SHOWN], batch["depth"][:SHOWN].cpu().double().numpy()
        predicted = self.predicting(images).cpu().double().numpy()
        true = np.where(true > 0, true, np.nan)
        low, high = (np.nanquantile(true, q) for q in (0.02, 0.98)) if np.isfinite(true).any() else (0.0, 1.0)
        maps = [(true - low) / (high - low + 1e-9), (predicted - low) / (high - low + 1e-9), np.abs(predicted - true) / true]
        columns = [images.cpu().float()]
        columns += [torch.from_numpy(turbo(values)).permute(0, 3, 1, 2).float() / 255 for values in maps]
        caption = (
            f"Left to right: image; true depth; predicted depth, both from {low:.2f} m (blue) to {high:.2f} m (red), black unknown; "
            "relative error, from 0 (blue) to 1 and more (red)."
        )
        return [Visualisation("Depth", caption, image_grid(columns))]

    @torch.no_grad()
    def control_metrics(self, batch: Batch, other: Batch, rng: MicrobatchRng) -> dict[str, Tensor]:
        """Metrics of each image, with its own prediction and with that of an image of another scene."""
        true = batch["depth"].cpu().numpy()
        found: dict[str, Tensor] = {}
        for given, images in (("", batch["image"]), ("_other_image", other["image"])):
            metrics = depth_metrics(depth_sums(self.predicting(images).cpu().numpy(), true, low=CLOSEST))
            found |= {f"{name}{given}": torch.from_numpy(metrics[name]) for name in MEASURED}
        return found


MEASURED = ("absrel", "rmse", "rmse_log", "log10", "delta1", "delta2", "delta3")


def _mean(values: Float[Tensor, "b h w"], counts: Bool[Tensor, "b h w"]) -> Float[Tensor, ""]:
    return torch.where(counts, values, 0.0).sum() / counts.sum().clamp_min(1)


def build_depth(config: DepthConfig, context: BuildContext) -> DepthPretext:
    """The network on the CPU, the same for the same `context.seed`; the encoder's weights are random until `init` fills them."""
    channels = 1 + (config.pretext.criterion != "l1")
    network = build_network(config.model, channels, context)
    assert isinstance(network, OneViewNetwork)
    return DepthPretext(config, network)
