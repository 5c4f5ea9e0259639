"""CroCo's pretext task: hide most of image 1, complete it with the help of image 2."""

from __future__ import annotations

import copy
import math
import re

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..contract import Batch, BuildContext, Visualisation
from ..layers.colour import colour_jitter, imagenet_normalise, to_float
from ..layers.initial import uninitialised, weight_rng
from ..layers.patches import patchify, take
from ..layers.positions import sincos_table
from ..optim import Clock, OptimConfig, ParamGroup, Schedule, layer_groups, standard_schedules
from ..random import MicrobatchRng
from .config import CrocoConfig
from .diagnostics import SAMPLES, completion_visualisation, cross_view_metrics, health_metrics, second_views
from .network import Completion, CrocoDecoder, CrocoEncoder


class CrocoPretext(nn.Module):
    """The torch half of CroCo: a `Pretext`. After `to_device` a batch holds normalised `image1`, `image2` and `mask`."""

    encoder_prefixes = ("backbone.",)

    def __init__(self, config: CrocoConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = CrocoEncoder(config.model)
        self.decoder = CrocoDecoder(config.model)
        self.sample_losses: dict[str, Tensor] = {}

    def to_device(self, batch: Batch) -> Batch:
        """uint8 b x h x w x 3 -> normalised float32 b x 3 x h x w, jittered; both views in one go."""
        b = len(batch["image1"])
        images = to_float(torch.cat([batch["image1"], batch["image2"]]))
        if any(self.config.augment.model_dump().values()):
            images = colour_jitter(images, torch.cat([batch["jitter1"], batch["jitter2"]]))
        images = imagenet_normalise(images)
        return {"image1": images[:b], "image2": images[b:], "mask": batch["mask"]}

    def complete(
        self,
        image1: Float[Tensor, "b 3 h w"],
        image2: Float[Tensor, "b 3 h w"],
        mask: Bool[Tensor, "b n"],
        hidden: int,
        every: bool = False,
    ) -> Completion:
        """The network's answer for the hidden cells, or for `every` cell (then visible ones first, both parts in raster order).

        `mask`: True = hidden, `hidden` of them in each row. Nothing is computed for hidden patches before the decoder.
        """
        p = self.config.model.patch_size
        order = mask.int().argsort(dim=1, stable=True)
        visible = order.shape[1] - hidden
        patches1 = take(patchify(image1, p), order)
        x1, x2 = self.backbone.encode_pair(patches1[:, :visible], patchify(image2, p), order[:, :visible])
        first = 0 if every else visible
        prediction = self.decoder(x1, x2, order, first).float()
        return Completion(prediction, patches1[:, first:], order[:, first:], self.config.pretext.norm_pix)

    def forward(self, batch: Batch, rng: MicrobatchRng) -> dict[str, Tensor]:
        """`reconstruction`: the loss pooled over the hidden patches of the microbatch (all patches without `hidden_only`)."""
        every = not self.config.pretext.hidden_only
        completion = self.complete(batch["image1"], batch["image2"], batch["mask"], self.config.hidden, every)
        errors = completion.errors()
        self.sample_losses = {"reconstruction": errors.detach().mean(dim=1)}
        return {"reconstruction": errors.mean()}

    def after_step(self, step: int, steps: int) -> None:
        """Nothing to do: no teacher."""

    def param_groups(self, optim: OptimConfig) -> list[ParamGroup]:
        """No decay for tensors of one dimension and biases; the mask token decays. `optim.layer_decay` scales lr by depth."""
        model = self.config.model
        top = model.encoder_depth + model.decoder_depth + 1
        return layer_groups(
            self.named_parameters(),
            lambda name: layer_id(name, model.encoder_depth, model.decoder_depth),
            top,
            optim.layer_decay,
            lambda name, p: p.ndim == 1 or name.endswith(".bias"),
        )

    def schedules(self, optim: OptimConfig, clock: Clock) -> dict[str, Schedule]:
        """The reference's law: set at every step, linear warm-up from 0, cosine to `min_lr`."""
        return standard_schedules(optim, clock)

    def encoder(self) -> nn.Module:
        return copy.deepcopy(self.backbone)

    @torch.no_grad()
    def embeddings(self, batch: Batch) -> Float[Tensor, "b d"]:
        return self.backbone.encode(batch["image1"]).float().mean(dim=1)

    @torch.no_grad()
    def health(self, batch: Batch, rng: MicrobatchRng) -> dict[str, Tensor]:
        image1, image2, mask = batch["image1"], batch["image2"], batch["mask"]
        own, swapped = (self.complete(image1, view, mask, self.config.hidden) for view in (image2, image2.roll(1, dims=0)))
        return health_metrics(own, swapped, self.backbone.encode(image1))

    @torch.no_grad()
    def visualisations(self, batch: Batch, rng: MicrobatchRng) -> list[Visualisation]:
        image1, image2, mask = (batch[name][:SAMPLES] for name in ("image1", "image2", "mask"))
        done = self.complete(image1, image2, mask, self.config.hidden)
        return [completion_visualisation(image1, image2, mask, done, self.config.model)]

    @torch.no_grad()
    def control_metrics(self, batch: Batch, other: Batch, rng: MicrobatchRng) -> dict[str, Tensor]:
        views = second_views(batch["image2"], other["image2"])
        return cross_view_metrics(
            {name: self.complete(batch["image1"], view, batch["mask"], self.config.hidden) for name, view in views.items()}
        )


def layer_id(name: str, encoder_depth: int, decoder_depth: int) -> int:
    """Depth of a parameter for layer-wise learning rates, 0 .. encoder_depth + decoder_depth + 1."""
    if match := re.search(r"\b(enc|dec)_blocks\.(\d+)\.", name):
        return int(match[2]) + 1 + (encoder_depth if match[1] == "dec" else 0)
    part = name.split(".")[1]
    fixed = {"patch_embed": 0, "mask_token": 0, "enc_norm": encoder_depth, "decoder_embed": encoder_depth}
    return fixed.get(part, encoder_depth + decoder_depth + (part != "dec_norm"))


def build(config: CrocoConfig, context: BuildContext) -> CrocoPretext:
    """A freshly initialised `CrocoPretext` on the CPU, the same for the same `context.seed`; no global generator is used."""
    pretext = uninitialised(lambda: CrocoPretext(config))
    initialise(pretext, weight_rng("croco", context.seed))
    return pretext


@torch.no_grad()
def initialise(pretext: CrocoPretext, generator: torch.Generator) -> None:
    """Linear: Xavier-uniform (qkv as one matrix), bias 0. Patch convolution: Xavier on its matrix view, bias as PyTorch's default.
    Norms 1 / 0, mask token N(0, 0.02^2), tables by their formula."""
    for module in pretext.modules():
        match module:
            case nn.Linear():
                nn.init.xavier_uniform_(module.weight, generator=generator)
                nn.init.zeros_(module.bias)
            case nn.LayerNorm():
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
            case nn.Conv2d():
                nn.init.xavier_uniform_(module.weight.flatten(1), generator=generator)
                bound = 1 / math.sqrt(module.weight[0].numel())
                assert module.bias is not None
                nn.init.uniform_(module.bias, -bound, bound, generator=generator)
    nn.init.normal_(pretext.decoder.mask_token, std=0.02, generator=generator)
    if pretext.config.model.position == "cosine":
        model = pretext.config.model
        pretext.backbone.enc_pos_embed.copy_(sincos_table(model.encoder_dim, model.grid))
        pretext.decoder.dec_pos_embed.copy_(sincos_table(model.decoder_dim, model.grid))
