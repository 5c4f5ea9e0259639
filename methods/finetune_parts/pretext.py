"""The torch half of part segmentation: the network, trained end to end on the parts of points."""

from __future__ import annotations

import copy

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..contract import Batch, BuildContext, Visualisation
from ..errors import SightlineError
from ..i2p_mae.pretext import initialise, no_decay
from ..i2p_mae.schedules import i2p_schedules
from ..layers.drop_path import draw_kept
from ..layers.initial import uninitialised, weight_rng
from ..ops.clouds import draw_cloud
from ..ops.colour_maps import turbo
from ..ops.image_grid import SIDE, image_grid
from ..optim import Clock, OptimConfig, ParamGroup, Schedule, decay_groups
from ..random import MicrobatchRng
from .config import FinetunePartsConfig
from .network import DROPPED, PartSegmenter
from .views import NO_PART

SHOWN = 6


class FinetunePartsPretext(nn.Module):
    """A `Pretext`. A batch holds `points` (b x n x 3), `part` (b x n) and `label` (b)."""

    encoder_prefixes = ("predictor.h_encoder.",)

    def __init__(self, config: FinetunePartsConfig) -> None:
        super().__init__()
        self.config = config
        self.predictor = PartSegmenter(config.model, config.pretext.official)

    def to_device(self, batch: Batch) -> Batch:
        return batch

    def forward(self, batch: Batch, rng: MicrobatchRng) -> dict[str, Tensor]:
        points, parts, labels = batch["points"], batch["part"], batch["label"]
        if self.training and len(points) < 2:
            raise SightlineError("a microbatch of one cloud has no batch statistics", "use batch.microbatch=2 or more")
        draws = self.draws(points, rng) if self.training else ()
        logits = self.predictor.logits(points, labels, *draws).float()
        loss = cross_entropy(logits.flatten(0, 1), parts.flatten(), ignore_index=NO_PART)
        with torch.no_grad():
            known = parts != NO_PART
            right = (self.predictor.found(logits, labels) == parts) & known
        return {"cross_entropy": loss, "accuracy": right.sum() / known.sum()}

    def draws(self, points: Float[Tensor, "b n 3"], rng: MicrobatchRng) -> tuple[Tensor | None, Bool[Tensor, "b n h"]]:
        """(branches that are kept, features of the head that are not dropped)."""
        model, device = self.config.model, points.device
        kept = draw_kept(model.drop_path, sum(self.predictor.model.depths), len(points), rng.torch("drop_path"), device)
        shape = (*points.shape[:2], model.head[0])
        return kept, torch.rand(shape, generator=rng.torch("dropout", device), device=device) >= DROPPED

    def after_step(self, step: int, steps: int) -> None:
        """Nothing to do: no teacher."""

    def param_groups(self, optim: OptimConfig) -> list[ParamGroup]:
        return decay_groups(self.named_parameters(), no_decay)

    def schedules(self, optim: OptimConfig, clock: Clock) -> dict[str, Schedule]:
        return i2p_schedules(optim, clock, self.config.pretext.official)

    def encoder(self) -> PartSegmenter:
        return copy.deepcopy(self.predictor)

    @torch.no_grad()
    def visualisations(self, batch: Batch, rng: MicrobatchRng) -> list[Visualisation]:
        """Clouds with their true parts and with those that are found."""
        points, parts, labels = (batch[name][:SHOWN] for name in ("points", "part", "label"))
        found = self.predictor.found(self.predictor.logits(points, labels), labels)
        missed = torch.where(found == parts, NO_PART, parts)
        own = [self.config.model.parts_of[int(label)] for label in labels]
        columns = [torch.stack(list(map(coloured, points, shown, own))) for shown in (parts, found, missed)]
        caption = (
            "Left to right: the cloud with its true parts, a colour for each part of its category; the parts that are found among those of "
            "its category; in colour the points whose part is missed. Grey: no part."
        )
        return [Visualisation("Which part each point is taken for", caption, image_grid(columns))]


def coloured(points: Float[Tensor, "n 3"], parts: Int[Tensor, " n"], own: tuple[int, ...]) -> Float[Tensor, "3 s s"]:
    """A picture of the cloud with a colour for each part of its category, grey for none."""
    palette = turbo((torch.arange(len(own)).numpy() + 0.5) / len(own)) / 255
    table = {part: palette[place] for place, part in enumerate(own)}
    colours = torch.tensor([list(table.get(part, (0.8, 0.8, 0.8))) for part in parts.tolist()]).double().numpy()
    cloud = points.cpu().float().numpy()
    return torch.from_numpy(draw_cloud(cloud, SIDE, colours)).permute(2, 0, 1) / 255


def build(config: FinetunePartsConfig, context: BuildContext) -> FinetunePartsPretext:
    """The network on the CPU, the same for the same `context.seed`; the encoder's weights are random until `init` fills them."""
    pretext = uninitialised(lambda: FinetunePartsPretext(config))
    initialise(pretext.predictor, weight_rng("finetune_parts", context.seed))
    return pretext
