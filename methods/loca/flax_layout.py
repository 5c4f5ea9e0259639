"""Where each parameter of ours stands in the authors' tree of Flax parameters, and in what shape."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from torch import Tensor

from .config import LocaConfig

CONV = "ToTokenSequence_0/embedding/kernel"
GRID = "ToTokenSequence_0/posembed_input"
PREDICTOR = "position_predictor"
HEAD = "projection_head_for_clustering_prediction"
PROTOTYPES = f"{HEAD}/prototypes/kernel"
ATTENTION = "MultiHeadDotProductAttention_0"
Kind = Literal["plain", "conv", "grid", "dense", "heads_in", "heads_bias", "heads_out"]


class Leaf(NamedTuple):
    """One tensor of theirs. `ours`: the name inside a `LocaNetwork`; `part`: which third of a fused tensor."""

    path: str
    ours: str
    kind: Kind
    part: int = 0
    parts: int = 1


def leaves(config: LocaConfig) -> list[Leaf]:
    """All parameters of one network, in the order of the network."""
    found = [
        Leaf(CONV, "encoder.patch_embed.proj.weight", "conv"),
        Leaf(CONV.replace("kernel", "bias"), "encoder.patch_embed.proj.bias", "plain"),
    ]
    found.append(Leaf(GRID, "encoder.pos_embed", "grid"))
    for i in range(config.model.encoder_depth):
        theirs, ours = f"encoderblock_{i}", f"encoder.blocks.{i}"
        found += [*_norm(f"{theirs}/LayerNorm_0", f"{ours}.norm1"), *_fused(f"{theirs}/{ATTENTION}", f"{ours}.attn")]
        found += [*_norm(f"{theirs}/LayerNorm_1", f"{ours}.norm2"), *_mlp(f"{theirs}/MlpBlock_0", f"{ours}.mlp")]
    found += _norm("encoder_norm", "encoder.norm")
    theirs, ours = "cross_attention_block", "position.block"
    for i, name in enumerate(("norm1", "norm_y", "norm2")):
        found += _norm(f"{theirs}/LayerNorm_{i}", f"{ours}.{name}")
    for name in ("query", "key", "value"):
        path, module = f"{theirs}/{ATTENTION}/{name}", f"{ours}.cross_attn.proj{name[0]}"
        found += [Leaf(f"{path}/kernel", f"{module}.weight", "heads_in"), Leaf(f"{path}/bias", f"{module}.bias", "heads_bias")]
    found += [*_out(f"{theirs}/{ATTENTION}", f"{ours}.cross_attn"), *_mlp(f"{theirs}/MlpBlock_0", f"{ours}.mlp")]
    found += [*_norm("final_norm", "position.norm"), *_dense(PREDICTOR, "position.predictor")]
    if config.pretext.clustering:
        for i in range(3):
            found += _dense(f"{HEAD}/Dense_{i}", f"cluster.fc{i + 1}")
        found.append(Leaf(PROTOTYPES, "cluster.prototypes", "dense"))
    return found


def _norm(path: str, module: str) -> Iterator[Leaf]:
    yield Leaf(f"{path}/scale", f"{module}.weight", "plain")
    yield Leaf(f"{path}/bias", f"{module}.bias", "plain")


def _dense(path: str, module: str) -> Iterator[Leaf]:
    yield Leaf(f"{path}/kernel", f"{module}.weight", "dense")
    yield Leaf(f"{path}/bias", f"{module}.bias", "plain")


def _mlp(path: str, module: str) -> Iterator[Leaf]:
    yield from _dense(f"{path}/Dense_0", f"{module}.fc1")
    yield from _dense(f"{path}/Dense_1", f"{module}.fc2")


def _out(path: str, module: str) -> Iterator[Leaf]:
    yield Leaf(f"{path}/out/kernel", f"{module}.proj.weight", "heads_out")
    yield Leaf(f"{path}/out/bias", f"{module}.proj.bias", "plain")


def _fused(path: str, module: str) -> Iterator[Leaf]:
    for part, name in enumerate(("query", "key", "value")):
        yield Leaf(f"{path}/{name}/kernel", f"{module}.qkv.weight", "heads_in", part, 3)
        yield Leaf(f"{path}/{name}/bias", f"{module}.qkv.bias", "heads_bias", part, 3)
    yield from _out(path, module)


def to_torch(kind: Kind, tensor: Tensor) -> Tensor:
    """A tensor of theirs in our shape; one third of a fused one. Grids of 1 x rows x columns x d, 1 x n x d or n x d."""
    match kind:
        case "conv":
            return tensor.permute(3, 2, 0, 1)
        case "grid":
            return tensor.reshape(1, -1, tensor.shape[-1])
        case "dense":
            return tensor.T
        case "heads_in":
            return tensor.flatten(1).T
        case "heads_bias":
            return tensor.flatten()
        case "heads_out":
            return tensor.flatten(0, 1).T
        case _:
            return tensor


def to_flax(leaf: Leaf, tensor: Tensor, config: LocaConfig) -> Tensor:
    """The inverse; `tensor` is the whole of ours, also where it is fused."""
    heads = config.model.encoder_heads
    tensor = tensor.chunk(leaf.parts)[leaf.part]
    match leaf.kind:
        case "conv":
            return tensor.permute(2, 3, 1, 0)
        case "grid":
            return tensor.view(1, *config.model.grid, -1)
        case "dense":
            return tensor.T
        case "heads_in":
            return tensor.T.reshape(tensor.shape[1], heads, -1)
        case "heads_bias":
            return tensor.reshape(heads, -1)
        case "heads_out":
            return tensor.T.reshape(heads, -1, tensor.shape[0])
        case _:
            return tensor
