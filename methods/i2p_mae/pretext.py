"""I2P-MAE (Zhang et al., CVPR 2023, arXiv 2212.06785): hidden parts of a cloud are rebuilt, visible ones must know 2-D features."""

from __future__ import annotations

import copy
import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import layer_norm, mse_loss, normalize

from ..contract import Batch, BuildContext, Visualisation
from ..layers.drop_path import draw_kept, linear_rates
from ..layers.initial import uninitialised, weight_rng
from ..layers.points import chamfer_distances, take
from ..optim import Clock, OptimConfig, ParamGroup, Schedule, decay_groups
from ..random import MicrobatchRng
from .config import I2PConfig
from .diagnostics import SAMPLES, feature_metrics, health_metrics, neighbour_metrics, reconstruction_visualisation
from .network import (
    Blocks,
    Encoded,
    Groups,
    HierarchicalEncoder,
    PointEncoder,
    TokenPropagation,
    group_points,
    place_embed,
    put,
    spread_masks,
)
from .schedules import i2p_schedules
from .views2d import at_points

HEAD_BYTES = 128 * 2**20
"""Most bytes of predicted features at once: the head makes 12,288 numbers a token."""


class Hidden(NamedTuple):
    """What is hidden of the clouds of a microbatch."""

    saliency: Float[Tensor, "b g"] | None
    masks: list[Bool[Tensor, "b _"]]
    """Of each scale, the finest first."""


class Rebuilt(NamedTuple):
    """The decoder's tokens at the middle scale, and what it had on the way."""

    coarse: Float[Tensor, "b h e"]
    spread: Float[Tensor, "b g d"]
    fine: Float[Tensor, "b g d"]
    tokens: Float[Tensor, "b g d"]


class I2PMaePretext(nn.Module):
    """The torch half of I2P-MAE: a `Pretext`.

    A batch holds, for each sample, `points` (n x 3), and `features` (views x channels x h x w) and `saliency` (views x h x w) of the depth
    views.
    """

    encoder_prefixes = ("h_encoder.",)

    def __init__(self, config: I2PConfig) -> None:
        super().__init__()
        self.config = config
        self.sample_losses: dict[str, Tensor] = {}
        model = config.model
        _, middle, top = model.dims
        self.mask_token = nn.Parameter(torch.zeros(1, top))
        self.h_encoder = HierarchicalEncoder(model)
        rates = linear_rates(model.drop_path, sum(model.decoder_depths))
        first, second = model.decoder_depths
        self.h_decoder = nn.ModuleList(
            [
                Blocks(top, model.heads, model.mlp_ratio, rates[:first]),
                Blocks(middle, model.heads, model.mlp_ratio, rates[first : first + second]),
            ]
        )
        self.decoder_pos_embeds = nn.ModuleList([place_embed(top), place_embed(middle)])
        self.token_prop = TokenPropagation(top, middle, model.decoder_up_blocks)
        self.decoder_norm = nn.LayerNorm(middle)
        self.rec_head_3d = nn.Linear(middle, 3 * model.neighbours[1])
        self.rec_head_2d = nn.Linear(middle, model.teacher_dim * model.neighbours[1] * config.pretext.views)

    def to_device(self, batch: Batch) -> Batch:
        return batch

    def forward(self, batch: Batch, rng: MicrobatchRng) -> dict[str, Tensor]:
        points = batch["points"]
        scales = group_points(points, self.config.model, skip_origin=self.config.pretext.official)
        hidden = self.hide(batch, scales, rng)
        encoded = self.h_encoder.encode(scales, hidden.masks, self.kept("encoder", sum(self.config.model.depths), len(points), rng))
        rebuilt = self.rebuild(scales, hidden.masks, encoded, self.kept("decoder", sum(self.config.model.decoder_depths), len(points), rng))
        mask = hidden.masks[1]
        taught = "features" in batch
        self.sample_losses = {}
        return {
            "points": self.points_loss(rebuilt.tokens, scales[1], mask) + self.no_gradient_is_missing(taught),
            "features": self.features_loss(rebuilt.tokens, batch, scales, mask) if taught else points.new_zeros(()),
            "visible": (~mask).float().mean(),
        }

    def no_gradient_is_missing(self, taught: bool) -> Tensor:
        """0, with gradients of 0 for what no loss reaches: the finest scale's norm, which the network has and never uses, and without a
        teacher the head of features. DDP waits for all gradients."""
        assert self.h_encoder.encoder_norms is not None
        idle = [*self.h_encoder.encoder_norms[0].parameters(), *([] if taught else self.rec_head_2d.parameters())]
        return torch.stack([p.sum() for p in idle]).sum() * 0.0

    def kept(self, what: str, depth: int, batch: int, rng: MicrobatchRng) -> Tensor | None:
        if not self.training:
            return None
        return draw_kept(self.config.model.drop_path, depth, batch, rng.torch(f"drop path {what}"), self.mask_token.device)

    def hide(self, batch: Batch, scales: list[Groups], rng: MicrobatchRng) -> Hidden:
        """Guided: the tokens with the largest saliency / temperature + Gumbel noise stay visible, which is a draw without replacement by
        the softmax of the saliency. Inverse: of its negative."""
        config, centres = self.config, scales[2].centres
        b, g = centres.shape[:2]
        uniform = torch.rand(b, g, generator=rng.torch("mask"), dtype=torch.float64).to(centres.device)
        score = -torch.log(-torch.log(uniform.clamp(1e-300, 1 - 1e-16)))
        saliency = None
        if config.pretext.mask != "random":
            saliency = self.saliency_at(batch, centres)
            sign = 1 if config.pretext.mask == "guided" else -1
            score = score + sign * saliency.double() / config.pretext.mask_temperature
        shown = score.topk(g - config.masked, dim=1).indices
        top = torch.ones(b, g, dtype=torch.bool, device=centres.device).scatter_(1, shown, False)
        return Hidden(saliency, spread_masks(top, scales, official=config.pretext.official))

    def saliency_at(self, batch: Batch, centres: Float[Tensor, "b g 3"]) -> Float[Tensor, "b g"]:
        """Mean over the views of the saliency at the pixels of the centres."""
        maps = batch["saliency"].float()
        views = range(self.config.pretext.views)
        each = [at_points(maps[:, view, None], batch["points"], centres, view)[..., 0] for view in views]
        return torch.stack(each).mean(dim=0)

    def rebuild(self, scales: list[Groups], masks: list[Tensor], encoded: Encoded, kept: Tensor | None) -> Rebuilt:
        """Tokens of the middle scale, visible and hidden alike."""
        order = torch.argsort(masks[2].to(torch.uint8), dim=1, stable=True)
        centres = take(scales[2].centres, order)
        hidden = self.mask_token.expand(len(order), order.shape[1] - encoded.out[2].shape[1], -1)
        x = torch.cat([encoded.out[2], hidden.to(encoded.out[2].dtype)], dim=1)
        first = self.config.model.decoder_depths[0]
        coarse = self.h_decoder[0](x, self.decoder_pos_embeds[0](centres), None, None if kept is None else kept[:first])
        seen = encoded.out[1]
        own = put(seen.new_zeros(*masks[1].shape, seen.shape[2]), encoded.packed[1], seen)
        spread = self.token_prop(own, scales[1].centres, coarse, centres)
        places = self.decoder_pos_embeds[1](scales[1].centres)
        fine = self.h_decoder[1](spread, places, None, None if kept is None else kept[first:])
        return Rebuilt(coarse, spread, fine, self.decoder_norm(fine))

    def points_loss(self, tokens: Float[Tensor, "b g d"], groups: Groups, mask: Bool[Tensor, "b g"]) -> Tensor:
        """Chamfer distance (`chamfer`) of the hidden groups."""
        predicted = self.rec_head_3d(tokens[mask]).float()
        if not len(predicted):
            return tokens.sum() * 0.0
        ours, theirs = chamfer_distances(predicted.unflatten(1, (-1, 3)), groups.relative[mask])
        self._tell("points", ours.detach().mean(dim=1) + theirs.detach().mean(dim=1), mask.nonzero(as_tuple=True)[0], len(mask))
        return ours.mean() + theirs.mean()

    def features_loss(self, tokens: Float[Tensor, "b g d"], batch: Batch, scales: list[Groups], mask: Bool[Tensor, "b g"]) -> Tensor:
        """Mean squared error over all numbers, made in parts. 0 where no token is asked for."""
        asked = self.asked(mask)
        targets = self.target_features(batch, scales)
        numbers = self.rec_head_2d.out_features
        rows = max(1, HEAD_BYTES // (4 * numbers))
        of_sample, of_token = asked.nonzero(as_tuple=True)
        if not len(of_sample):
            return tokens.sum() * 0.0
        total, errors = tokens.new_zeros((), dtype=torch.float32), []
        for sample, token in zip(torch.split(of_sample, rows), torch.split(of_token, rows), strict=True):
            wanted = targets[sample[:, None], scales[1].members[sample, token]]
            squared = mse_loss(self.rec_head_2d(tokens[sample, token]).float(), wanted.flatten(1).float(), reduction="none")
            errors.append(squared.detach().mean(dim=1))
            total = total + squared.sum()
        self._tell("features", torch.cat(errors), of_sample, len(tokens))
        return total / (len(of_sample) * numbers)

    def asked(self, mask: Bool[Tensor, "b g"]) -> Bool[Tensor, "b g"]:
        """The middle tokens whose features are predicted."""
        return {"visible": ~mask, "masked": mask, "all": torch.ones_like(mask)}[self.config.pretext.features_on]

    def _tell(self, name: str, errors: Float[Tensor, " k"], of_sample: Int[Tensor, " k"], samples: int) -> None:
        """Mean error of each sample's tokens; where none of its tokens counts, that of all."""
        sums, counts = (errors.new_zeros(samples).index_add_(0, of_sample, each) for each in (errors, torch.ones_like(errors)))
        self.sample_losses[name] = torch.where(counts > 0, sums / counts.clamp_min(1), errors.mean())

    @torch.no_grad()
    def target_features(self, batch: Batch, scales: list[Groups]) -> Float[Tensor, "b n vc"]:
        """The teacher's features of the finest centres, view after view: all neighbours of the middle scale are among them."""
        maps = batch["features"].float()
        views = range(self.config.pretext.views)
        return torch.cat([self.scaled(at_points(maps[:, view], batch["points"], scales[0].centres, view)) for view in views], dim=-1)

    def scaled(self, features: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """As `pretext.target` says."""
        match self.config.pretext.target:
            case "l2":
                return normalize(features, dim=-1)
            case "standardised":
                return layer_norm(features, features.shape[-1:])
        return features

    def after_step(self, step: int, steps: int) -> None:
        """Nothing to do: the teacher is not trained."""

    def param_groups(self, optim: OptimConfig) -> list[ParamGroup]:
        """No decay for tensors of one dimension, and for all whose name has "token" in it: token embedding and propagation whole."""
        return decay_groups(self.named_parameters(), no_decay)

    def schedules(self, optim: OptimConfig, clock: Clock) -> dict[str, Schedule]:
        return i2p_schedules(optim, clock, self.config.pretext.official)

    @torch.no_grad()
    def embeddings(self, batch: Batch) -> Float[Tensor, "b d"]:
        scales = group_points(batch["points"], self.config.model, skip_origin=self.config.pretext.official)
        masks = [torch.zeros(scale.centres.shape[:2], dtype=torch.bool, device=scale.centres.device) for scale in scales]
        if self.config.pretext.official:
            masks = spread_masks(masks[2], scales, official=True)
        return self.h_encoder.encode(scales, masks).out[2].float().amax(dim=1)

    @torch.no_grad()
    def health(self, batch: Batch, rng: MicrobatchRng) -> dict[str, Tensor]:
        tokens = self.encoder().to(batch["points"].device).eval().tokens(batch["points"])
        scales = group_points(batch["points"], self.config.model, skip_origin=self.config.pretext.official)
        hidden = scales[1].relative[self.hide(batch, scales, rng).masks[1]]
        targets = self.target_features(batch, scales) if "features" in batch else None
        return health_metrics(tokens, self(batch, rng), hidden, targets)

    @torch.no_grad()
    def visualisations(self, batch: Batch, rng: MicrobatchRng) -> list[Visualisation]:
        batch = {name: value[:SAMPLES] for name, value in batch.items()}
        scales = group_points(batch["points"], self.config.model, skip_origin=self.config.pretext.official)
        masks = self.hide(batch, scales, rng).masks
        tokens = self.rebuild(scales, masks, self.h_encoder.encode(scales, masks), None).tokens
        predicted = self.rec_head_3d(tokens).float().unflatten(2, (-1, 3))
        return [reconstruction_visualisation(batch, scales[1], masks[1], predicted, self.config.pretext.views)]

    @torch.no_grad()
    def control_metrics(self, batch: Batch, other: Batch, rng: MicrobatchRng) -> dict[str, Tensor]:
        """Errors of each sample, and those of what anyone could say: see `feature_metrics`, with a teacher, and `neighbour_metrics`."""
        scales = group_points(batch["points"], self.config.model, skip_origin=self.config.pretext.official)
        masks = self.hide(batch, scales, rng).masks
        tokens = self.rebuild(scales, masks, self.h_encoder.encode(scales, masks), None).tokens
        groups, mask, of_features = scales[1], masks[1], dict[str, Tensor]()
        if "features" in batch:
            self.features_loss(tokens, batch, scales, mask)
            others = group_points(other["points"], self.config.model, skip_origin=self.config.pretext.official)
            own, elsewhere = self.target_features(batch, scales), self.target_features(other, others)
            of_features = feature_metrics(self.sample_losses["features"], own, elsewhere, groups, self.asked(mask))
        return {**of_features, **neighbour_metrics(self.rec_head_3d(tokens[mask]).float().unflatten(1, (-1, 3)), groups, mask)}

    def encoder(self) -> PointEncoder:
        encoder = PointEncoder(self.config)
        encoder.load_state_dict(copy.deepcopy(self.h_encoder.state_dict()))
        return encoder


def no_decay(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim == 1 or name.endswith(".bias") or "token" in name


def build(config: I2PConfig, context: BuildContext) -> I2PMaePretext:
    """A freshly initialised `I2PMaePretext` on the CPU, the same for the same `context.seed`; no global generator is used."""
    pretext = uninitialised(lambda: I2PMaePretext(config))
    initialise(pretext, weight_rng("i2p_mae", context.seed))
    return pretext


@torch.no_grad()
def initialise(pretext: nn.Module, generator: torch.Generator) -> None:
    """A pretext or a classifier. Encoder and mask token: normal(0, 0.02), biases 0. Decoder blocks: Xavier uniform, biases 0. The rest as
    PyTorch does it: uniform within 1 / sqrt(inputs), biases too. Norms 1 / 0."""
    norms = {id(p) for m in pretext.modules() if isinstance(m, (nn.LayerNorm, nn.BatchNorm1d)) for p in m.parameters()}
    state = pretext.state_dict(keep_vars=True)
    for name, tensor in state.items():
        last = name.rpartition(".")[2]
        if id(tensor) in norms or last.startswith(("running_", "num_")):
            tensor.fill_(1.0 if last in ("weight", "running_var") else 0.0)
        elif name.startswith("h_encoder.") or name == "mask_token":
            tensor.zero_() if last == "bias" else tensor.normal_(std=0.02, generator=generator)
        elif name.startswith("h_decoder."):
            bound = math.sqrt(6 / sum(tensor.shape)) if tensor.ndim == 2 else 0.0
            tensor.uniform_(-bound, bound, generator=generator)
        else:
            inputs = state[name.removesuffix("bias") + "weight"].shape[1] if last == "bias" else tensor.shape[1]
            tensor.uniform_(-(inputs**-0.5), inputs**-0.5, generator=generator)
