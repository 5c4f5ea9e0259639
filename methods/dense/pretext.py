"""The torch half of dense tasks: an encoder and a head, trained on maps of truth."""

from __future__ import annotations

import copy
import math
import re
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..contract import Batch, BuildContext, Visualisation
from ..layers.colour import colour_jitter, to_float
from ..ops.colour_maps import turbo
from ..ops.dense_metrics import depth_metrics, depth_sums
from ..ops.image_grid import image_grid
from ..ops.tiling import TiledPrediction, predict_fitted
from ..optim import Clock, OptimConfig, ParamGroup, Schedule, layer_groups, standard_schedules
from ..random import MicrobatchRng
from .config import DenseModel, DenseTask, DepthConfig, EncoderModel
from .criteria import Criterion
from .network import OneViewNetwork, TwoViewNetwork, build_network

SHOWN = 6
CLOSEST = 1e-3
"""Metres: the least depth that is predicted and measured."""


class FineTunedEncoder(nn.Module):
    """A network as it is registered and used. It is an `ImageEncoder`, too.

    `network` has an `encoder`, and a `decoder` where it sees two views.
    """

    output: str
    output_unit: str

    def __init__(self, model: EncoderModel, network: Any) -> None:
        super().__init__()
        self.network, self.image_size = network, model.image_size
        self.dim, self.patch_size = int(network.encoder.dim), network.patch_size

    def tokens(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        tokens: Tensor = self.network.encoder.tokens(images)
        return tokens

    def saliency(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n"]:
        saliency: Tensor = self.network.encoder.saliency(images)
        return saliency


class DensePredictor(FineTunedEncoder):
    """With maps of what is predicted."""

    network: OneViewNetwork | TwoViewNetwork


class DepthPredictor(DensePredictor):
    """Images in [0, 1] in, metres out."""

    output, output_unit = "depth", "metres"

    def __init__(self, config: DepthConfig, network: OneViewNetwork) -> None:
        super().__init__(config.model, network)
        self.logarithmic = config.pretext.target == "log"

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b h w"]:
        raw = self.network(images)[:, 0].float()
        metres: Tensor = raw.exp() if self.logarithmic else raw.clamp_min(CLOSEST)
        return metres

    def of_any_size(self, images: Float[Tensor, "b 3 h w"], overlap: float | None = None) -> TiledPrediction:
        """Metres, of images resized so that a crop just fits, in tiles: as the network saw them."""
        return predict_fitted(lambda one: self(one)[:, None], images, self.image_size, ("",), 0.5 if overlap is None else overlap)


class FineTuning(nn.Module):
    """What the tasks share: the trainer sees a `Pretext` like any other."""

    encoder_prefixes = ("predicting.network.encoder.",)
    predicting: FineTunedEncoder

    def __init__(self, model: EncoderModel, predicting: FineTunedEncoder) -> None:
        super().__init__()
        self.predicting = predicting
        for name, parameter in predicting.network.encoder.named_parameters():
            if model.frozen or name.endswith("mask_token"):  # nothing is masked, and DDP would wait for its gradient
                parameter.requires_grad_(False)

    def after_step(self, step: int, steps: int) -> None:
        """Nothing to do: no teacher."""

    def param_groups(self, optim: OptimConfig) -> list[ParamGroup]:
        """No decay for tensors of one dimension; a layer's rate is `optim.layer_decay` ** (layers above it): encoder, decoder, head."""
        network = self.predicting.network
        decoder = getattr(network, "decoder", None)
        top = network.encoder.depth + 1 + (decoder.depth + 1 if decoder is not None else 0)

        def layer_of(name: str) -> int:
            part, _, rest = name.removeprefix("predicting.network.").partition(".")
            if part == "encoder":
                return int(network.encoder.layer_of(rest))
            if part == "decoder":
                block = re.match(r"dec_blocks\.(\d+)\.", rest)
                after = decoder.depth if decoder is not None else 0
                return int(network.encoder.depth) + 1 + (int(block[1]) + 1 if block else after if rest.startswith("dec_norm") else 0)
            return int(top)

        return layer_groups(
            self.named_parameters(),
            layer_of,
            top,
            optim.layer_decay,
            lambda name, p: p.ndim == 1 or name.endswith((".bias", "pos_embed", "cls_token")),
        )

    def schedules(self, optim: OptimConfig, clock: Clock) -> dict[str, Schedule]:
        return standard_schedules(optim, clock)

    def encoder(self) -> nn.Module:
        return copy.deepcopy(self.predicting)


class DensePretext(FineTuning):
    """Trained on maps of truth."""

    predicting: DensePredictor

    def __init__(self, model: DenseModel, task: DenseTask, predicting: DensePredictor) -> None:
        super().__init__(model, predicting)
        self.criterion = Criterion(task.criterion, task.a, task.b, task.max_norm)

    def loss(self, raw: Float[Tensor, "b c h w"], target: Float[Tensor, "b t h w"]) -> Tensor:
        """The criterion of what the network gives; a target that is not finite does not count."""
        channels = target.shape[1]
        return self.criterion(raw[:, :channels], target, raw[:, channels:] if self.criterion.with_confidence else None)


class DepthPretext(DensePretext):
    predicting: DepthPredictor

    def __init__(self, config: DepthConfig, network: OneViewNetwork) -> None:
        super().__init__(config.model, config.pretext, DepthPredictor(config, network))
        self.typical = config.pretext.typical

    def to_device(self, batch: Batch) -> Batch:
        return {"image": colour_jitter(to_float(batch["image"]), batch["jitter"]), "depth": batch["depth"].float()}

    def forward(self, batch: Batch, rng: MicrobatchRng) -> dict[str, Tensor]:
        """`regression`: the criterion over the pixels whose depth is known; `absrel`: mean relative error over them."""
        depth, raw = batch["depth"], self.predicting.network(batch["image"]).float()
        known = depth > 0
        logarithmic = self.predicting.logarithmic
        target = torch.where(known, depth.clamp_min(CLOSEST).log() if logarithmic else depth, torch.inf)
        loss = self.loss(raw, target[:, None])
        with torch.no_grad():
            metres = raw[:, 0].exp() if logarithmic else raw[:, 0]
            absrel = _mean((metres - depth).abs() / depth.clamp_min(CLOSEST), known)
        return {"regression": loss, "absrel": absrel}

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
        """Metrics of each image, with its own prediction and with that of an image of another scene; AbsRel of two constants."""
        true = batch["depth"].cpu().numpy()
        found: dict[str, Tensor] = {}
        for given, images in (("", batch["image"]), ("_other_image", other["image"])):
            metrics = depth_metrics(depth_sums(self.predicting(images).cpu().numpy(), true, low=CLOSEST))
            found |= {f"{name}{given}": torch.from_numpy(metrics[name]) for name in MEASURED}
        own_mean = np.nanmean(np.where(true > 0, true, np.nan), axis=(1, 2), keepdims=True)
        constants = {"absrel_own_mean": own_mean}
        if self.typical is not None:
            constants["absrel_typical"] = np.array(self.typical)
        for name, constant in constants.items():
            sums = depth_sums(np.broadcast_to(constant, true.shape), true, low=CLOSEST)
            found[name] = torch.from_numpy(depth_metrics(sums)["absrel"])
        return found


MEASURED = ("absrel", "rmse", "rmse_log", "log10", "delta1", "delta2", "delta3")


def _mean(values: Float[Tensor, "b h w"], counts: Bool[Tensor, "b h w"]) -> Float[Tensor, ""]:
    return torch.where(counts, values, 0.0).sum() / counts.sum().clamp_min(1)


def build_depth(config: DepthConfig, context: BuildContext) -> DepthPretext:
    """The network on the CPU, the same for the same `context.seed`; the encoder's weights are random until `init` fills them."""
    channels = 1 + (config.pretext.criterion != "l1")
    typical = config.pretext.typical
    first = math.log(typical) if typical and config.pretext.target == "log" else typical
    network = build_network(config.model, channels, context, first)
    assert isinstance(network, OneViewNetwork)
    return DepthPretext(config, network)
