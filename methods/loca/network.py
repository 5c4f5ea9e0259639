"""LOCA's network: encoder, position head, cluster head. Student and teacher are two of it."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import gelu, linear

from ..layers.patches import PatchEmbed
from ..layers.transformer import Attention, CrossAttention, CrossBlock, Mlp, layer_norm
from .config import LocaConfig
from .encoder import LocaEncoder

EPS = 1e-10  # added to the norm of a prototype
TRUNCATED_STD = 0.87962566103423978
"""Standard deviation of a standard normal truncated at -2 and 2."""


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
