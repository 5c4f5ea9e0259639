"""The torch half of stereo and optical flow: an encoder of both views, a decoder between them, and a head for lengths in pixels."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from ..contract import Batch, BuildContext, Visualisation
from ..layers.colour import colour_jitter, to_float
from ..ops.colour_maps import flow_colours, turbo
from ..ops.dense_metrics import Metrics, flow_metrics, flow_sums, stereo_metrics, stereo_sums
from ..ops.image_grid import image_grid
from ..ops.tiling import EVEN_TILES, FLOW_TILES, STEREO_TILES, Axis, TiledPrediction, TileWeight, predict_in_tiles
from ..random import MicrobatchRng
from .config import FlowConfig, StereoConfig, StereoTask
from .network import TwoViewNetwork, build_network
from .pretext import SHOWN, DensePredictor, DensePretext
from .two_views import STILL

MEASURED = {
    "disparity": {"epe": "avgerr", "rmse": "rmse", "bad_1": "bad@1.0", "bad_2": "bad@2.0", "bad_3": "bad@3.0", "d1": "D1"},
    "flow": {"epe": "EPE", "bad_1": "bad@1.0", "bad_3": "bad@3.0", "bad_5": "bad@5.0", "fl": "Fl"}
    | {"epe_slow": "s0-10", "epe_middle": "s10-40", "epe_fast": "s40+"},
}
"""What is measured of each image -> its name among the benchmarks' metrics."""
SHOWN_ERROR = 5.0
"""Pixels: the error with the last colour of the map of errors."""


class TwoViewPredictor(DensePredictor):
    """Pairs of images in [0, 1] in, lengths in pixels of the first image's pixels out. `raw` and `of_any_size` give a confidence, too."""

    output_unit = "pixels"
    pair: tuple[str, str]
    axes: ClassVar[tuple[Axis, ...]]
    own_tiles: ClassVar[TileWeight]
    network: TwoViewNetwork

    def __init__(self, config: StereoConfig | FlowConfig, network: TwoViewNetwork) -> None:
        super().__init__(config.model, network)
        task = config.pretext
        self.overlap = task.overlap
        self.weight = EVEN_TILES if task.criterion == "l1" else TileWeight.parse(task.tiles) if task.tiles else self.own_tiles

    def raw(self, images1: Float[Tensor, "b 3 h w"], images2: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c h w"]:
        """Lengths, and after them the raw confidence where the criterion has one, of images of `image_size`."""
        out: Tensor = self.network(images1, images2).float()
        return out

    def of_any_size(
        self, images1: Float[Tensor, "b 3 h w"], images2: Float[Tensor, "b 3 h w"], overlap: float | None = None
    ) -> TiledPrediction:
        """In tiles of `image_size`. How unsure: the raw confidence."""
        shared = self.overlap if overlap is None else overlap
        return predict_in_tiles(self.raw, (images1, images2), self.image_size, self.axes, shared, self.weight, soft=True)


class StereoPredictor(TwoViewPredictor):
    """Disparity: the pixel (x, y) of the left image is seen at (x - disparity, y) in the right one."""

    output, pair, axes, own_tiles = "disparity", ("left image", "right image"), ("x",), STEREO_TILES

    def forward(self, pairs: Float[Tensor, "b 2 3 h w"]) -> Float[Tensor, "b h w"]:
        return self.raw(pairs[:, 0], pairs[:, 1])[:, 0]


class FlowPredictor(TwoViewPredictor):
    """Optical flow: the pixel (x, y) of the first image is seen at (x + flow[0], y + flow[1]) in the second."""

    output, pair, axes, own_tiles = "flow", ("first image", "second image"), ("x", "y"), FLOW_TILES

    def forward(self, pairs: Float[Tensor, "b 2 3 h w"]) -> Float[Tensor, "b 2 h w"]:
        return self.raw(pairs[:, 0], pairs[:, 1])[:, :2]


class TwoViewPretext(DensePretext):
    """After `to_device` a batch holds float `image1`, `image2` in [0, 1] and the truth, b x channels x h x w, NaN where not known."""

    other_parts: ClassVar[dict[str, str]] = {"decoder.": "predicting.network.decoder."}
    predicting: TwoViewPredictor

    def __init__(self, config: StereoConfig | FlowConfig, predicting: TwoViewPredictor) -> None:
        super().__init__(config.model, config.pretext, predicting)
        self.name = predicting.output
        self.constant: tuple[str, float] | None = ("epe_no_motion", 0.0)
        """A constant that knows nothing of the pair, and the name of its metric."""
        if isinstance(config.pretext, StereoTask):
            self.constant = None if config.pretext.typical is None else ("epe_typical", config.pretext.typical)

    def to_device(self, batch: Batch) -> Batch:
        b = len(batch["image1"])
        images = to_float(torch.cat([batch["image1"], batch["image2"]]))
        colours = torch.cat([batch["colour1"], batch["colour2"]])
        if bool((colours != torch.tensor(STILL, device=colours.device)).any()):
            images = colour_jitter(images, colours[:, :8]) ** colours[:, 8].view(-1, 1, 1, 1)
        return {"image1": images[:b], "image2": images[b:], self.name: batch[self.name].float().permute(0, 3, 1, 2)}

    def forward(self, batch: Batch, rng: MicrobatchRng) -> dict[str, Tensor]:
        """`regression`: the criterion over the known pixels; `epe`: the mean length of the error over them, in pixels."""
        truth, raw = batch[self.name], self.predicting.raw(batch["image1"], batch["image2"])
        known = torch.isfinite(truth).all(dim=1, keepdim=True)
        loss = self.loss(raw, torch.where(known, truth, torch.inf))
        with torch.no_grad():
            off = torch.where(known, raw[:, : truth.shape[1]] - truth, 0.0)
            epe = torch.linalg.vector_norm(off, dim=1).sum() / known.sum().clamp_min(1)
        return {"regression": loss, "epe": epe}

    def metrics(self, predicted: Float[Tensor, "b c h w"], truth: Float[Tensor, "b c h w"]) -> Metrics:
        """Of each image."""
        p, t = (values.detach().cpu().numpy() for values in (predicted, truth))
        found = stereo_metrics(stereo_sums(p[:, 0], t[:, 0])) if self.name == "disparity" else flow_metrics(flow_sums(p, t))
        shares = ("bad", "d1", "fl")  # in per cent among the benchmarks' metrics, shares here
        return {own: found[theirs] / (100 if own.startswith(shares) else 1) for own, theirs in MEASURED[self.name].items()}

    @torch.no_grad()
    def control_metrics(self, batch: Batch, other: Batch, rng: MicrobatchRng) -> dict[str, Tensor]:
        """Of each image, with its own second image and with that of another pair, fitted to its size; EPE of two constants. Images of
        any size."""
        first, truth = batch["image1"], batch[self.name]
        found: dict[str, Tensor] = {}
        for given, second in (("", batch["image2"]), ("_other_image", other["image2"])):
            if second.shape != first.shape:
                second = interpolate(second, size=first.shape[2:], mode="bilinear", antialias=True)
            metrics = self.metrics(self.predicting.of_any_size(first, second).values, truth)
            found |= {f"{name}{given}": torch.from_numpy(np.asarray(value)) for name, value in metrics.items()}
        constants = {"epe_own_mean": truth.nanmean(dim=(2, 3), keepdim=True)}
        if self.constant is not None:
            name, value = self.constant
            constants[name] = torch.full_like(truth[:, :, :1, :1], value)
        for name, constant in constants.items():
            found[name] = torch.from_numpy(np.asarray(self.metrics(constant.expand_as(truth), truth)["epe"]))
        return found

    @torch.no_grad()
    def visualisations(self, batch: Batch, rng: MicrobatchRng) -> list[Visualisation]:
        """Both images, truth, prediction, error and, where it is predicted, the expected error of some samples."""
        first, second, truth = (batch[name][:SHOWN] for name in ("image1", "image2", self.name))
        found = self.predicting.of_any_size(first, second)
        return [draw_lengths(self, first, second, found, truth)]


def draw_lengths(pretext: TwoViewPretext, first: Tensor, second: Tensor, found: TiledPrediction, truth: Tensor) -> Visualisation:
    """A row a sample: both images, truth, prediction, error, expected error."""
    true, predicted = (values.cpu().double().numpy() for values in (truth, found.values))
    known = np.isfinite(true).all(axis=1)
    lengths = np.linalg.norm(true, axis=1)[known]
    longest = float(np.quantile(lengths, 0.98)) if lengths.size else 1.0
    if pretext.name == "flow":
        colours = [flow_colours(np.moveaxis(values, 1, -1), longest) for values in (true, predicted)]
        words = f"true flow; predicted flow (hue: direction; full colour from {longest:.1f} pixels on; black unknown)"
    else:
        low = float(np.quantile(lengths, 0.02)) if lengths.size else 0.0
        colours = [turbo((values[:, 0] - low) / (longest - low + 1e-9)) for values in (true, predicted)]
        words = f"true disparity; predicted disparity (from {low:.1f} pixels, blue, to {longest:.1f}, red; black unknown)"
    error = np.where(known, np.linalg.norm(predicted - true, axis=1), np.nan)
    colours.append(turbo(error / SHOWN_ERROR))
    words = f"Left to right: both images; {words}; length of the error, from 0 (blue) to {SHOWN_ERROR:g} pixels and more (red)"
    if found.confidence is not None:
        expected = pretext.criterion.log_scale(found.confidence).exp().cpu().double().numpy()
        colours.append(turbo(expected / SHOWN_ERROR))
        words += "; the error that the network expects, in the same colours"
    maps = [torch.from_numpy(one).permute(0, 3, 1, 2).float() / 255 for one in colours]
    title = "Optical flow" if pretext.name == "flow" else "Disparity"
    return Visualisation(title, words + ".", image_grid([first.cpu(), second.cpu(), *maps]))


def build_stereo(config: StereoConfig, context: BuildContext) -> TwoViewPretext:
    """The network on the CPU, the same for the same `context.seed`; what `init` does not fill stays random."""
    return TwoViewPretext(config, StereoPredictor(config, _network(config, 1, context, config.pretext.typical)))


def build_flow(config: FlowConfig, context: BuildContext) -> TwoViewPretext:
    """As `build_stereo`, of two channels."""
    return TwoViewPretext(config, FlowPredictor(config, _network(config, 2, context)))


def _network(config: StereoConfig | FlowConfig, channels: int, context: BuildContext, first: float | None = None) -> TwoViewNetwork:
    network = build_network(config.model, channels + (config.pretext.criterion != "l1"), context, first)
    assert isinstance(network, TwoViewNetwork)
    return network
