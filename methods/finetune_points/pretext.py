"""The torch half of fine-tuning on clouds: the authors' classifier, trained end to end on labels."""

from __future__ import annotations

import copy

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..contract import Batch, BuildContext
from ..errors import SightlineError
from ..finetune.pretext import accuracy
from ..i2p_mae.pretext import initialise, no_decay
from ..i2p_mae.schedules import i2p_schedules
from ..layers.drop_path import draw_kept
from ..layers.initial import uninitialised, weight_rng
from ..optim import Clock, OptimConfig, ParamGroup, Schedule, decay_groups
from ..random import MicrobatchRng
from .config import FinetunePointsConfig
from .network import DROPPED, HIDDEN, PointClassifier, smoothed_cross_entropy


class FinetunePointsPretext(nn.Module):
    """A `Pretext`. A batch holds `points` (b x n x 3) and `label`."""

    encoder_prefixes = ("predictor.h_encoder.",)

    def __init__(self, config: FinetunePointsConfig) -> None:
        super().__init__()
        self.config, model = config, config.model
        self.predictor = PointClassifier(model.network, model.radius, model.pooling, model.classes, config.pretext.official)
        self.predictor.class_names = model.class_names
        self.predictor.normalised = config.augment.normalise

    def to_device(self, batch: Batch) -> Batch:
        return batch

    def forward(self, batch: Batch, rng: MicrobatchRng) -> dict[str, Tensor]:
        points, labels = batch["points"], batch["label"]
        if not self.training:
            logits = self.predictor.logits(points).float()
            return {"cross_entropy": cross_entropy(logits, labels), "accuracy": accuracy(logits, labels)}
        if len(points) < 2:
            raise SightlineError("a microbatch of one cloud has no batch statistics", "use batch.microbatch=2 or more")
        if self.config.augment.rotation:
            points = turned(points, self.config.augment.rotation, rng)
        logits = self.predictor.logits(points, *self.draws(len(points), rng, points.device)).float()
        loss = smoothed_cross_entropy(logits, labels, self.config.pretext.label_smoothing)
        return {"cross_entropy": loss, "accuracy": accuracy(logits, labels)}

    def draws(self, batch: int, rng: MicrobatchRng, device: torch.device) -> tuple[Tensor | None, Bool[Tensor, "2 b h"]]:
        """(branches that are kept, features of the head that are not dropped)."""
        kept = draw_kept(self.config.model.drop_path, sum(self.predictor.model.depths), batch, rng.torch("drop_path"), device)
        alive = (torch.rand(2, batch, HIDDEN, generator=rng.torch("dropout")) >= DROPPED).to(device)
        return kept, alive

    def after_step(self, step: int, steps: int) -> None:
        """Nothing to do: no teacher."""

    def param_groups(self, optim: OptimConfig) -> list[ParamGroup]:
        return decay_groups(self.named_parameters(), no_decay)

    def schedules(self, optim: OptimConfig, clock: Clock) -> dict[str, Schedule]:
        return i2p_schedules(optim, clock, self.config.pretext.official)

    def encoder(self) -> PointClassifier:
        return copy.deepcopy(self.predictor)


def turned(points: Float[Tensor, "b n 3"], most: float, rng: MicrobatchRng) -> Float[Tensor, "b n 3"]:
    """All clouds of the microbatch turned about y by one angle from U(-most, most), in degrees."""
    angle = torch.deg2rad(torch.tensor(rng.numpy("rotation").uniform(-most, most), dtype=torch.float32))
    sin, cos = angle.sin(), angle.cos()
    x, y, z = points.unbind(dim=-1)
    return torch.stack([cos * x + sin * z, y, cos * z - sin * x], dim=-1)


def build(config: FinetunePointsConfig, context: BuildContext) -> FinetunePointsPretext:
    """The network on the CPU, the same for the same `context.seed`; the encoder's weights are random until `init` fills them."""
    pretext = uninitialised(lambda: FinetunePointsPretext(config))
    initialise(pretext.predictor, weight_rng("finetune_points", context.seed))
    return pretext
