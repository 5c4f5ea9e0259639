"""From pre-training to fine-tuning, as the authors do it: other position tables, no mask token, another pooling."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..layers.initial import uninitialised
from ..layers.transformer import layer_norm
from .backbone import ConMIMBackbone, layer_of, normalise
from .config import ConMIMModel
from .resize import resize_bias, resize_positions

TABLE = "relative_position_bias_table"
SHARED = f"rel_pos_bias.{TABLE}"
Pooling = Literal["mean", "class"]


class ConMIMFinetune(nn.Module):
    """The network for fine-tuning: images in [0, 1] in; patch tokens and pooled features out.

    `mean`: the mean of the last block's patch tokens, no norm before it, `fc_norm` after it. `class`: the class token after the final
    norm. The tokens get the same norm, each on its own.
    """

    def __init__(self, model: ConMIMModel, pooling: Pooling = "mean") -> None:
        super().__init__()
        self.model, self.pooling = model, pooling
        self.dim, self.depth, self.patch_size, self.image_size = model.dim, model.depth, model.patch_size, model.image_size
        self.backbone = ConMIMBackbone(model, masking=False, final_norm=pooling == "class")
        self.fc_norm = layer_norm(model.dim) if pooling == "mean" else None

    def pool(self, last_block: Float[Tensor, "b n1 d"]) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b d"]]:
        """(normed patch tokens, pooled features) of the last block's tokens, the class token first."""
        if self.fc_norm is not None:
            return self.fc_norm(last_block[:, 1:]), self.fc_norm(last_block[:, 1:].mean(dim=1))
        assert self.backbone.norm is not None
        tokens = self.backbone.norm(last_block)
        return tokens[:, 1:], tokens[:, 0]

    def forward(
        self, images: Float[Tensor, "b 3 h w"], kept: Bool[Tensor, "l 2 b"] | None = None
    ) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b d"]]:
        """(patch tokens, pooled features). `kept`: branches that stochastic depth does not drop."""
        return self.pool(self.backbone.blocks_out(normalise(images, self.model), None, kept))

    def block_tokens(self, images: Float[Tensor, "b 3 h w"], kept: Bool[Tensor, "l 2 b"] | None = None) -> list[Float[Tensor, "b n d"]]:
        """Patch tokens after each block, the last one as `forward` gives it."""
        blocks = self.backbone.every_block(normalise(images, self.model), kept)
        return [*(tokens[:, 1:] for tokens in blocks[:-1]), self.pool(blocks[-1])[0]]

    def layer_of(self, name: str) -> int:
        """Depth of a parameter for layer-wise rates: 0 for tokens, positions and patches, i + 1 for block i, depth + 1 for the rest."""
        return layer_of(name.removeprefix("backbone."), self.depth)


def transfer(state: Mapping[str, Tensor], old: ConMIMModel, new: ConMIMModel) -> dict[str, Tensor]:
    """A pre-trained backbone's state for a fine-tuning backbone of `new`: what the two have in common, tables resized to its grid.

    The shared bias table goes into every block that has one of its own, and replaces it: with both kinds on, the blocks' tables are lost,
    as with the authors. A position table is kept where `new` has one.
    """
    state = dict(state)
    if new.relative_bias in ("per_block", "both") and SHARED in state:
        state |= {f"blocks.{i}.attn.{TABLE}": state[SHARED].clone() for i in range(old.depth)}
    for name, tensor in state.items():
        if name.endswith(TABLE):
            state[name] = resize_bias(tensor, old.grid, new.grid)
        elif name == "pos_embed":
            state[name] = resize_positions(tensor, old.grid, new.grid)
    with torch.device("meta"):
        expected = ConMIMBackbone(new, masking=False).state_dict().keys()
    return {name: tensor for name, tensor in state.items() if name in expected}


def empty_network(model: ConMIMModel, pooling: Pooling = "mean") -> ConMIMFinetune:
    """On the CPU, before weights: `fc_norm` is 1 / 0, bias tables are 0, the rest is undefined. No generator is used."""
    network = uninitialised(lambda: ConMIMFinetune(model, pooling))
    network.backbone.fill_index()
    for name, parameter in network.named_parameters():
        if name.endswith(TABLE):
            nn.init.zeros_(parameter)
    if network.fc_norm is not None:
        network.fc_norm.reset_parameters()
    return network


def finetuning(backbone: ConMIMBackbone, old: ConMIMModel, image_size: tuple[int, int], drop_path: float) -> ConMIMFinetune:
    """The authors' network with the weights of a pre-trained `backbone` of settings `old`: a bias table in each block, mean pooling with a
    fresh `fc_norm`; the position table stays where there is one."""
    settings = {**old.model_dump(), "image_size": image_size, "relative_bias": "per_block", "drop_path": drop_path}
    network = empty_network(ConMIMModel.model_validate(settings))
    state = transfer(backbone.state_dict(), old, network.model)
    missing, unexpected = network.backbone.load_state_dict({n: t for n, t in state.items() if not n.startswith("norm.")}, strict=False)
    assert not unexpected and all(name.endswith(TABLE) for name in missing), (missing, unexpected)  # no bias before: tables start at 0
    return network
