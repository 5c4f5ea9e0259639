"""The torch half of the masked autoencoder: encode the visible patches, predict the hidden ones."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from sightline.methods.contract import Batch, BuildContext, Visualisation
from sightline.methods.layers.colour import imagenet_normalise, to_float
from sightline.methods.layers.initial import uninitialised, weight_rng
from sightline.methods.layers.patches import PatchEmbed, patch_statistics, patchify, take, unpatchify
from sightline.methods.layers.positions import sincos_table
from sightline.methods.layers.transformer import EncoderBlock, layer_norm
from sightline.methods.optim import Clock, OptimConfig, ParamGroup, Schedule, decay_groups, standard_schedules
from sightline.methods.random import MicrobatchRng

from . import MaeConfig, Model


class MaeEncoder(nn.Module):
    """An `ImageEncoder`: float32 RGB in [0, 1] of the registered size."""

    position: Tensor

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.dim, self.depth, self.patch_size = model.dim, model.depth, model.patch_size
        self.image_size = (model.image_size, model.image_size)
        self.embed = PatchEmbed(model.patch_size, model.dim)
        self.register_buffer("position", sincos_table(model.dim, model.grid))
        self.blocks = nn.ModuleList(EncoderBlock(model.dim, model.heads, 4.0) for _ in range(model.depth))
        self.norm = layer_norm(model.dim)

    def encode(self, patches: Tensor, position: Tensor) -> Tensor:
        return self.blocks_of(patches, position)[-1]

    def blocks_of(self, patches: Tensor, position: Tensor) -> list[Tensor]:
        x, outputs = self.embed(patches).float() + position, []
        for block in self.blocks:
            x = block(x)
            outputs.append(x)
        outputs[-1] = self.norm(x)
        return outputs

    def block_tokens(self, images: Tensor) -> list[Tensor]:
        """For the heads of depth, stereo and flow."""
        return self.blocks_of(patchify(imagenet_normalise(images), self.patch_size), self.position)

    def layer_of(self, name: str) -> int:
        """Depth of a parameter, for layer-wise learning rates in fine-tuning."""
        part, _, rest = name.partition(".")
        return int(rest.partition(".")[0]) + 1 if part == "blocks" else self.depth + 1 if part == "norm" else 0

    def tokens(self, images: Tensor) -> Tensor:
        return self.encode(patchify(imagenet_normalise(images), self.patch_size), self.position)

    def saliency(self, images: Tensor) -> Tensor:
        return torch.softmax(self.tokens(images).square().mean(dim=-1), dim=-1)

    def forward(self, images: Tensor) -> Tensor:
        return self.tokens(images)


class MaePretext(nn.Module):
    def __init__(self, config: MaeConfig) -> None:
        super().__init__()
        model = config.model
        self.config, self.backbone = config, MaeEncoder(model)
        self.visible = model.grid[0] * model.grid[1] - int(config.pretext.mask_ratio * model.grid[0] * model.grid[1])
        self.mask_token = nn.Parameter(torch.zeros(1, 1, model.dim))
        self.decoder = nn.ModuleList(EncoderBlock(model.dim, model.heads, 4.0) for _ in range(model.decoder_depth))
        self.head = nn.Sequential(layer_norm(model.dim), nn.Linear(model.dim, 3 * model.patch_size**2))

    def to_device(self, batch: Batch) -> Batch:
        images = imagenet_normalise(to_float(batch["image"]))
        return {"patches": take(patchify(images, self.config.model.patch_size), batch["order"]), "order": batch["order"]}

    def predict(self, batch: Batch) -> Tensor:
        """Of the hidden patches, in the order of `batch`."""
        position = self.backbone.position[batch["order"]]
        seen = self.backbone.encode(batch["patches"][:, : self.visible], position[:, : self.visible])
        hidden = self.mask_token.expand(len(position), position.shape[1] - self.visible, -1)
        x = torch.cat([seen, hidden], dim=1) + position
        for block in self.decoder:
            x = block(x)
        out: Tensor = self.head(x[:, self.visible :]).float()
        return out

    def forward(self, batch: Batch, rng: MicrobatchRng) -> dict[str, Tensor]:
        target = batch["patches"][:, self.visible :]
        mean, std = patch_statistics(target)
        return {"reconstruction": (self.predict(batch) - (target - mean) / std).square().mean()}

    def after_step(self, step: int, steps: int) -> None:
        """Nothing to do: no teacher."""

    def param_groups(self, optim: OptimConfig) -> list[ParamGroup]:
        return decay_groups(self.named_parameters(), lambda name, p: p.ndim == 1)

    def schedules(self, optim: OptimConfig, clock: Clock) -> dict[str, Schedule]:
        return standard_schedules(optim, clock)

    def encoder(self) -> nn.Module:
        return copy.deepcopy(self.backbone)

    def visualisations(self, batch: Batch, rng: MicrobatchRng) -> list[Visualisation]:
        mean, std = patch_statistics(batch["patches"][:, self.visible :])
        filled = torch.cat([batch["patches"][:, : self.visible], self.predict(batch) * std + mean], dim=1)
        images = unpatchify(take(filled, batch["order"].argsort(dim=1)), self.config.model.patch_size, self.config.model.grid)
        row = (images * 0.226 + 0.45).clamp(0, 1).permute(2, 0, 3, 1).flatten(1, 2)
        return [Visualisation("Reconstructions", "hidden patches as the network completes them", (row * 255).byte().cpu().numpy())]


@torch.no_grad()
def build(config: MaeConfig, context: BuildContext) -> MaePretext:
    pretext, generator = uninitialised(lambda: MaePretext(config)), weight_rng("outside_mae", context.seed)
    for name, parameter in pretext.named_parameters():
        if parameter.ndim > 1:
            nn.init.xavier_uniform_(parameter.flatten(1), generator=generator)
        else:
            parameter.fill_(1.0 if ("norm" in name and name.endswith("weight")) or name == "head.0.weight" else 0.0)
    pretext.backbone.position.copy_(sincos_table(config.model.dim, config.model.grid))
    return pretext
