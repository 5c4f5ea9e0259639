"""CroCo's pretext task: hide most of image 1, complete it with the help of image 2."""

from __future__ import annotations

import copy
import math
import re
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..contract import Batch, BuildContext, Visualisation
from ..layers.colour import colour_jitter, imagenet_normalise
from ..layers.patches import patch_statistics, patchify, take
from ..layers.positions import sincos_table
from ..optim import Clock, OptimConfig, ParamGroup, Schedule, decay_groups, standard_schedules
from ..random import MicrobatchRng, key
from .config import CrocoConfig
from .decoder import CrocoDecoder
from .encoder import CrocoEncoder


class Completion(NamedTuple):
    """Predicted and true patch vectors of image 1 at `cells` of the grid, both in the scale of the input images."""

    prediction: Float[Tensor, "b k p"]
    patches: Float[Tensor, "b k p"]
    cells: Int[Tensor, "b k"]


class CrocoPretext(nn.Module):
    """The torch half of CroCo: a `Pretext`. After `to_device` a batch holds normalised `image1`, `image2` and `mask`."""

    encoder_prefixes = ("backbone.",)

    def __init__(self, config: CrocoConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = CrocoEncoder(config.model)
        self.decoder = CrocoDecoder(config.model)

    def to_device(self, batch: Batch) -> Batch:
        """uint8 b x h x w x 3 -> normalised float32 b x 3 x h x w, jittered; both views in one go."""
        b = len(batch["image1"])
        images = torch.cat([batch["image1"], batch["image2"]]).permute(0, 3, 1, 2).float() / 255
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
        return Completion(self.decoder(x1, x2, order, first).float(), patches1[:, first:], order[:, first:])

    def errors(self, completion: Completion) -> Float[Tensor, "b k"]:
        """Squared error of each patch against the (normalised) pixels, mean over its values; float32."""
        target = completion.patches
        if self.config.pretext.norm_pix:
            mean, std = patch_statistics(target)
            target = (target - mean) / std
        return (completion.prediction - target).square().mean(dim=-1)

    def forward(self, batch: Batch, noise: MicrobatchRng) -> dict[str, Tensor]:
        """`reconstruction`: the loss pooled over the hidden patches of the group (all patches without `hidden_only`)."""
        every = not self.config.pretext.hidden_only
        completion = self.complete(batch["image1"], batch["image2"], batch["mask"], self.config.hidden, every)
        return {"reconstruction": self.errors(completion).mean()}

    def after_step(self, step: int, steps: int) -> None:
        """Nothing to do: no teacher."""

    def param_groups(self, optim: OptimConfig) -> list[ParamGroup]:
        """No decay for tensors of one dimension and biases; the mask token decays. `optim.layer_decay` scales lr by depth."""
        model = self.config.model
        top = model.encoder_depth + model.decoder_depth + 1
        layers: dict[int, list[tuple[str, nn.Parameter]]] = {}
        for name, parameter in self.named_parameters():
            layer = layer_id(name, model.encoder_depth, model.decoder_depth) if optim.layer_decay != 1 else top
            layers.setdefault(layer, []).append((name, parameter))
        groups = []
        for layer in sorted(layers):
            for group in decay_groups(layers[layer], lambda name, p: p.ndim == 1 or name.endswith(".bias")):
                group.lr_scale = optim.layer_decay ** (top - layer)
                group.name = group.name if optim.layer_decay == 1 else f"layer{layer}.{group.name}"
                groups.append(group)
        return groups

    def schedules(self, optim: OptimConfig, clock: Clock) -> dict[str, Schedule]:
        """The reference's law: set at every step, linear warm-up from 0, cosine to `min_lr`."""
        return standard_schedules(optim, clock)

    def encoder(self) -> nn.Module:
        return copy.deepcopy(self.backbone)

    def visualisations(self, batch: Batch, noise: MicrobatchRng) -> list[Visualisation]:
        from .pictures import completion_visualisation

        return [completion_visualisation(self, batch)]

    def control_metrics(self, batch: Batch, other: Batch, noise: MicrobatchRng) -> dict[str, Tensor]:
        from .pictures import cross_view_metrics

        return cross_view_metrics(self, batch, other)


def layer_id(name: str, encoder_depth: int, decoder_depth: int) -> int:
    """Depth of a parameter for layer-wise learning rates, 0 .. encoder_depth + decoder_depth + 1."""
    if match := re.search(r"\b(enc|dec)_blocks\.(\d+)\.", name):
        return int(match[2]) + 1 + (encoder_depth if match[1] == "dec" else 0)
    part = name.split(".")[1]
    fixed = {"patch_embed": 0, "mask_token": 0, "enc_norm": encoder_depth, "decoder_embed": encoder_depth}
    return fixed.get(part, encoder_depth + decoder_depth + (part != "dec_norm"))


def build(config: CrocoConfig, context: BuildContext) -> CrocoPretext:
    """A freshly initialised `CrocoPretext` on the CPU, the same for the same `context.seed`; no global generator is used."""
    with torch.device("meta"):  # PyTorch's own initialisation would draw from the global generator, and take as long again
        pretext = CrocoPretext(config)
    pretext.to_empty(device="cpu")
    initialise(pretext, torch.Generator().manual_seed(key("weights", "croco", context.seed) >> 1))
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
