"""LOCA's network: encoder, position head, cluster head. Student and teacher are two of it."""

from __future__ import annotations

import re

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import gelu, linear

from ..layers.colour import imagenet_normalise
from ..layers.drop_path import branch_scales, linear_rates
from ..layers.patches import PatchEmbed, patchify
from ..layers.positions import squeeze_table
from ..layers.transformer import Attention, CrossAttention, CrossBlock, EncoderBlock, Mlp, layer_norm
from .config import LocaConfig, LocaModel

EPS = 1e-10  # added to the norm of a prototype
TRUNCATED_STD = 0.87962566103423978
"""Standard deviation of a standard normal truncated at -2 and 2."""


class LocaEncoder(nn.Module):
    """The part that is kept after pre-training: a ViT without class token, learned positions, tanh GELU. Parameter names are timm's.

    As an `ImageEncoder` it takes float32 RGB in [0, 1] of any size that the patch divides; the grid of positions is resized (bilinear,
    antialiased).
    """

    def __init__(self, model: LocaModel) -> None:
        super().__init__()
        self.dim, self.patch_size, self.image_size, self.depth = model.encoder_dim, model.patch_size, model.image_size, model.encoder_depth
        self.grid = model.grid
        self.patch_embed = PatchEmbed(model.patch_size, model.encoder_dim)
        self.pos_embed = nn.Parameter(torch.empty(1, model.patches, model.encoder_dim))
        self.rates = linear_rates(model.drop_path, model.encoder_depth)
        self.blocks = nn.ModuleList(EncoderBlock(self.dim, model.encoder_heads, model.mlp_ratio, "tanh") for _ in self.rates)
        self.norm = layer_norm(self.dim)

    def embed(self, images: Float[Tensor, "b 3 h w"], positions: bool = True, kept: Int[Tensor, " k"] | None = None) -> Tensor:
        """Tokens before the first block, b x n x d; with `kept` those of these patches alone, in this order, and no other is computed."""
        grid = images.shape[2] // self.patch_size, images.shape[3] // self.patch_size
        patches, table = patchify(images, self.patch_size), squeeze_table(self.pos_embed[0], self.grid, grid)
        if kept is not None:
            patches, table = patches[:, kept], table[kept]
        x: Tensor = self.patch_embed(patches).float()  # the residual stream stays float32 under autocast
        return x + table if positions else x

    def encode(
        self,
        images: Float[Tensor, "b 3 h w"],
        positions: bool = True,
        kept: Int[Tensor, " k"] | None = None,
        paths: Bool[Tensor, "l 2 b"] | None = None,
    ) -> Float[Tensor, "b n d"]:
        """Tokens after the final norm, of normalised images. `paths`: which branches are kept (`draw_kept`); None: all."""
        x = self.embed(images, positions, kept)
        for block, scales in zip(self.blocks, branch_scales(paths, self.rates), strict=True):
            x = block(x, scales=scales)
        out: Tensor = self.norm(x)
        return out.float()

    def tokens(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        """Patch tokens of the last block after the final norm, raster order; images in [0, 1]."""
        return self.encode(imagenet_normalise(images))

    def block_tokens(self, images: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b n d"]]:
        """Patch tokens after each block, the last one after the final norm; images in [0, 1]."""
        x, outputs = self.embed(imagenet_normalise(images)), []
        for block in self.blocks:
            x = block(x)
            outputs.append(x)
        return [*outputs[:-1], self.norm(x).float()]

    def saliency(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n"]:
        """The attention each patch receives in the last block, mean over heads and queries; rows sum to 1."""
        return self.tokens_and_saliency(images)[1]

    def tokens_and_saliency(self, images: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b n"]]:
        """Both from one pass."""
        x = self.embed(imagenet_normalise(images))
        for block in self.blocks[:-1]:
            x = block(x)
        last = self.blocks[-1]
        assert isinstance(last, EncoderBlock)
        return self.norm(last(x)).float(), last.attn.weights(last.norm1(x)).mean(dim=(1, 2))

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        return self.tokens(images)

    @property
    def branches(self) -> list[tuple[nn.Module, nn.Module]]:
        return [(block.attn, block.mlp) for block in self.blocks if isinstance(block, EncoderBlock)]

    def layer_of(self, name: str) -> int:
        """Depth of a parameter for layer-wise learning rates: 0 (embedding), 1 .. depth (blocks), depth + 1 (final norm)."""
        if match := re.match(r"blocks\.(\d+)\.", name):
            return int(match[1]) + 1
        return self.depth + 1 if name.startswith("norm.") else 0


class PositionHead(nn.Module):
    """Which patch of the reference a query token lies on: one block of attention to the reference's kept tokens, norm, linear."""

    def __init__(self, config: LocaConfig) -> None:
        super().__init__()
        model = config.model
        self.block = CrossBlock(model.encoder_dim, model.encoder_heads, model.mlp_ratio, "tanh")
        self.norm = layer_norm(model.encoder_dim)
        self.predictor = nn.Linear(model.encoder_dim, model.patches)

    def forward(self, queries: Float[Tensor, "b t d"], reference: Float[Tensor, "b s d"]) -> Float[Tensor, "b t n"]:
        """Logits over the reference's patches, float32. Query tokens do not see each other."""
        logits: Tensor = self.predictor(self.norm(self.block(queries, reference)))
        return logits.float()


class ClusterHead(nn.Module):
    """Cosines between a token, after an MLP, and the prototypes."""

    def __init__(self, dim: int, hidden: int, bottleneck: int, prototypes: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        self.fc3 = nn.Linear(hidden, bottleneck)
        self.prototypes = nn.Parameter(torch.empty(prototypes, bottleneck))

    def forward(self, tokens: Float[Tensor, "*b d"]) -> Float[Tensor, "*b k"]:
        """Float32 under autocast, too: divided by a temperature of 0.05, the rounding of bf16 would be felt."""
        x = gelu(self.fc1(tokens), approximate="tanh")
        x = gelu(self.fc2(x), approximate="tanh")
        x = self.fc3(x).float()
        with torch.autocast(x.device.type, enabled=False):
            x = x / x.norm(dim=-1, keepdim=True)
            return linear(x, self.prototypes / (self.prototypes.norm(dim=-1, keepdim=True) + EPS))


class LocaNetwork(nn.Module):
    """Without clustering there is no cluster head."""

    def __init__(self, config: LocaConfig) -> None:
        super().__init__()
        task = config.pretext
        self.encoder = LocaEncoder(config.model)
        self.position = PositionHead(config)
        self.cluster = (
            ClusterHead(config.model.encoder_dim, task.head_hidden, task.head_bottleneck, task.prototypes) if task.clustering else None
        )


@torch.no_grad()
def initialise(network: LocaNetwork, generator: torch.Generator) -> None:
    """Kernels of attention (q, k, v each on its own) and MLPs: Xavier-uniform; biases 0 in attention, N(0, 1e-6^2) in MLPs.

    Other kernels (patch convolution, predictor, cluster head, prototypes): LeCun-normal, biases 0. Positions: N(0, 1 / d). Norms 1 / 0.
    """
    for module in network.modules():
        match module:
            case Attention() | CrossAttention():
                for layer in module.children():
                    assert isinstance(layer, nn.Linear)
                    for part in range(layer.out_features // layer.in_features):
                        rows = slice(part * layer.in_features, (part + 1) * layer.in_features)
                        nn.init.xavier_uniform_(layer.weight[rows], generator=generator)
                    nn.init.zeros_(layer.bias)
            case Mlp():
                for layer in (module.fc1, module.fc2):
                    nn.init.xavier_uniform_(layer.weight, generator=generator)
                    nn.init.normal_(layer.bias, std=1e-6, generator=generator)
            case nn.LayerNorm():
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
            case PatchEmbed():
                lecun_normal(module.proj.weight.flatten(1), generator)
                assert module.proj.bias is not None
                nn.init.zeros_(module.proj.bias)
            case PositionHead():
                lecun_normal(module.predictor.weight, generator)
                nn.init.zeros_(module.predictor.bias)
            case ClusterHead():
                for layer in (module.fc1, module.fc2, module.fc3):
                    lecun_normal(layer.weight, generator)
                    nn.init.zeros_(layer.bias)
                lecun_normal(module.prototypes, generator)
            case LocaEncoder():
                nn.init.normal_(module.pos_embed, std=module.dim**-0.5, generator=generator)


def lecun_normal(kernel: Float[Tensor, "out in"], generator: torch.Generator) -> None:
    """Variance 1 / inputs, truncated at two deviations of the wider normal that this takes, as Flax does it."""
    std = kernel.shape[1] ** -0.5 / TRUNCATED_STD
    nn.init.trunc_normal_(kernel, std=std, a=-2 * std, b=2 * std, generator=generator)
