"""LOCA as one writes it from the paper: the yardstick of `step.py`, fp32, nothing clever, nothing of Sightline's.

Explicit softmax attention with separate query, key and value matrices, position tables resized in every forward that needs another grid,
all views through the network one after the other, the reference tiled for the focal queries, the teacher moved parameter by parameter.
Clustering is on. What is drawn (kept tokens, dropped branches) is handed in. Parameter names are PyTorch's usual ones; `from_flax` says
where the published tree has them.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import interpolate, log_softmax, softmax

Kept = Bool[Tensor, "l 2 b"]
"""Stochastic depth: True = the branch (attention, MLP) of this block is kept for this sample."""


def attend(q: Float[Tensor, "b n c"], k: Float[Tensor, "b m c"], v: Float[Tensor, "b m c"], heads: int) -> Float[Tensor, "b n c"]:
    """softmax(q k^T / sqrt(d)) v for each head."""
    q, k, v = (t.reshape(*t.shape[:2], heads, -1).transpose(1, 2) for t in (q, k, v))
    weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1)
    out: Tensor = (weights @ v).transpose(1, 2).flatten(2)
    return out


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, x: Float[Tensor, "b n c"], y: Float[Tensor, "b m c"]) -> Float[Tensor, "b n c"]:
        out: Tensor = self.out(attend(self.query(x), self.key(y), self.value(y), self.heads))
        return out


class Mlp(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU(approximate="tanh")
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        out: Tensor = self.fc2(self.act(self.fc1(x)))
        return out


class Block(nn.Module):
    def __init__(self, dim: int, heads: int, hidden: int, drop_path: float) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, hidden)

    def drop(self, branch: Float[Tensor, "b n c"], kept: Bool[Tensor, " b"] | None) -> Float[Tensor, "b n c"]:
        if kept is None:
            return branch
        return branch * kept[:, None, None] / (1 - self.drop_path)

    def forward(self, x: Float[Tensor, "b n c"], kept: Bool[Tensor, "2 b"] | None) -> Float[Tensor, "b n c"]:
        first, second = (None, None) if kept is None else kept
        y = self.norm1(x)
        x = x + self.drop(self.attn(y, y), first)
        x = x + self.drop(self.mlp(self.norm2(x)), second)
        return x


class CrossBlock(nn.Module):
    """Queries look at the reference; no self-attention, no drop path."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm_query = nn.LayerNorm(dim, eps=1e-6)
        self.norm_reference = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads)
        self.norm_mlp = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, hidden)

    def forward(self, x: Float[Tensor, "b n c"], reference: Float[Tensor, "b m c"]) -> Float[Tensor, "b n c"]:
        x = x + self.attn(self.norm_query(x), self.norm_reference(reference))
        x = x + self.mlp(self.norm_mlp(x))
        return x


class ClusterHead(nn.Module):
    """Cosines of projected features with the prototypes; neither is kept at unit length."""

    def __init__(self, dim: int, hidden: int, bottleneck: int, prototypes: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        self.fc3 = nn.Linear(hidden, bottleneck)
        self.act = nn.GELU(approximate="tanh")
        self.prototypes = nn.Linear(bottleneck, prototypes, bias=False)

    def forward(self, x: Float[Tensor, "t c"]) -> Float[Tensor, "t k"]:
        x = self.fc3(self.act(self.fc2(self.act(self.fc1(x)))))
        x = x / x.norm(dim=-1, keepdim=True)
        weight = self.prototypes.weight
        out: Tensor = x @ (weight / (weight.norm(dim=-1, keepdim=True) + 1e-10)).T
        return out


class Network(nn.Module):
    """Encoder, position head and cluster head: what the student is, and the teacher."""

    def __init__(
        self,
        patch_size: int,
        grid: tuple[int, int],
        dim: int,
        depth: int,
        heads: int,
        mlp_dim: int,
        head_hidden: int,
        head_bottleneck: int,
        prototypes: int,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, dim, kernel_size=patch_size, stride=patch_size)
        self.pos_embed = nn.Parameter(torch.zeros(1, *grid, dim))
        self.blocks = nn.ModuleList(Block(dim, heads, mlp_dim, drop_path * i / max(1, depth - 1)) for i in range(depth))
        self.encoder_norm = nn.LayerNorm(dim, eps=1e-6)
        self.cross = CrossBlock(dim, heads, mlp_dim)
        self.final_norm = nn.LayerNorm(dim, eps=1e-6)
        self.position_predictor = nn.Linear(dim, grid[0] * grid[1])
        self.head = ClusterHead(dim, head_hidden, head_bottleneck, prototypes)

    def encode(
        self, images: Float[Tensor, "b 3 h w"], kept: Kept | None = None, tokens: Int[Tensor, " s"] | None = None
    ) -> Float[Tensor, "b n c"]:
        """Patch features; `tokens`: the patches that are encoded, in this order, the same for all images (default all)."""
        x = self.patch_embed(images)
        table = self.pos_embed.permute(0, 3, 1, 2)
        if table.shape[2:] != x.shape[2:]:
            table = interpolate(table, size=x.shape[2:], mode="bilinear", align_corners=False, antialias=True)
        x = (x + table).flatten(2).transpose(1, 2)
        if tokens is not None:
            x = x[:, tokens]
        for index, block in enumerate(self.blocks):
            x = block(x, None if kept is None else kept[index])
        out: Tensor = self.encoder_norm(x)
        return out

    def locate(self, features: Float[Tensor, "b n c"], reference: Float[Tensor, "b s c"]) -> Float[Tensor, "b n p"]:
        """Logits over the positions in the reference."""
        out: Tensor = self.position_predictor(self.final_norm(self.cross(features, reference)))
        return out


class Views(NamedTuple):
    """Images of a group, standardised. Focal queries lie query-major: query 1 of all images, then query 2 of all, ...

    Targets: the reference patch under each patch of a query, raster order, -1 where it lies outside.
    """

    reference: Float[Tensor, "b 3 h w"]
    random: Float[Tensor, "b 3 h w"]
    focal: Float[Tensor, "fb 3 u v"]
    random_target: Int[Tensor, "b n"]
    focal_target: Int[Tensor, "fb m"]


class Draws(NamedTuple):
    """What is drawn once for a group: patches kept, and branches kept by stochastic depth (None: all)."""

    reference_tokens: Int[Tensor, " s"]
    random_tokens: Int[Tensor, " r"]
    reference_kept: Kept | None = None
    random_kept: Kept | None = None
    focal_kept: Kept | None = None


class TextbookLoca(nn.Module):
    """Student and teacher with the losses; `sizes` are the arguments of `Network`."""

    def __init__(self, temperature: float, sharpening: float, sinkhorn_iterations: int, **sizes: object) -> None:
        super().__init__()
        self.temperature, self.sharpening, self.iterations = temperature, sharpening, sinkhorn_iterations
        self.student = Network(**sizes)  # type: ignore[arg-type]
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)

    def assignments(self, cosines: Float[Tensor, "t k"]) -> Float[Tensor, "t k"]:
        """Sinkhorn: columns and rows of the sharpened probabilities divided by their sums in turn."""
        q = softmax(cosines / self.sharpening, dim=-1)
        for _ in range(self.iterations):
            q = q / q.sum(dim=0, keepdim=True)
            q = q / q.sum(dim=1, keepdim=True)
        return q

    def forward(self, views: Views, draws: Draws) -> Float[Tensor, ""]:
        """The loss: the sum of the terms, whose weights are 1."""
        return torch.stack(list(self.terms(views, draws).values())).sum()

    def terms(self, views: Views, draws: Draws) -> dict[str, Float[Tensor, ""]]:
        """`position`: cross-entropy of each query patch's place; `cluster`: of its reference patch's assignment, both over the patches
        that lie on the reference; `entropy`: sum p log p of the mean prediction of all query patches."""
        b, n = views.random_target.shape
        with torch.no_grad():
            features = self.teacher.encode(views.reference, draws.reference_kept)
            targets = self.assignments(self.teacher.head(features.flatten(0, 1))).reshape(b, n, -1)
            reference = features[:, draws.reference_tokens]
        random = self.student.encode(views.random, draws.random_kept, draws.random_tokens)
        focal = self.student.encode(views.focal, draws.focal_kept)
        queries = len(focal) // b

        places = torch.cat([views.random_target[:, draws.random_tokens].flatten(), views.focal_target.flatten()])
        valid = (places >= 0).float()
        located = [self.student.locate(random, reference), self.student.locate(focal, reference.repeat(queries, 1, 1))]
        logits = torch.cat([part.flatten(0, 1) for part in located])
        own = log_softmax(logits, dim=-1).gather(1, places.clamp_min(0)[:, None])[:, 0]
        position = -(valid * own).sum() / (valid.sum() + 1e-8)

        cosines = torch.cat([self.student.head(random.flatten(0, 1)), self.student.head(focal.flatten(0, 1))])
        images = torch.arange(b, device=places.device)
        owners = torch.cat([images.repeat_interleave(random.shape[1]), images.repeat_interleave(focal.shape[1]).repeat(queries)])
        wanted = targets[owners, places.clamp_min(0)]
        predicted = log_softmax(cosines / self.temperature, dim=-1)
        cluster = -(valid * (wanted * predicted).sum(dim=-1)).sum() / (valid.sum() + 1e-8)
        mean = softmax(cosines / self.temperature, dim=-1).mean(dim=0)
        return {"position": position, "cluster": cluster, "entropy": (mean * mean.log()).sum()}

    @torch.no_grad()
    def move_teacher(self, momentum: float) -> None:
        """After the optimiser's step."""
        for teacher, student in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            teacher.mul_(momentum).add_(student, alpha=1 - momentum)


NAMES = (
    (r"ToTokenSequence_0/embedding", "patch_embed"),
    (r"ToTokenSequence_0/posembed_input", "pos_embed"),
    (r"encoderblock_(\d+)/LayerNorm_0", r"blocks.\1.norm1"),
    (r"encoderblock_(\d+)/LayerNorm_1", r"blocks.\1.norm2"),
    (r"encoderblock_(\d+)", r"blocks.\1"),
    (r"cross_attention_block/LayerNorm_0", "cross.norm_query"),
    (r"cross_attention_block/LayerNorm_1", "cross.norm_reference"),
    (r"cross_attention_block/LayerNorm_2", "cross.norm_mlp"),
    (r"cross_attention_block", "cross"),
    (r"projection_head_for_clustering_prediction/Dense_0", "head.fc1"),
    (r"projection_head_for_clustering_prediction/Dense_1", "head.fc2"),
    (r"projection_head_for_clustering_prediction/Dense_2", "head.fc3"),
    (r"projection_head_for_clustering_prediction", "head"),
    (r"MultiHeadDotProductAttention_0", "attn"),
    (r"MlpBlock_0/Dense_0", "mlp.fc1"),
    (r"MlpBlock_0/Dense_1", "mlp.fc2"),
    (r"(kernel|scale)$", "weight"),
    (r"/", "."),
)


def from_flax(tree: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State of a `Network` from the published leaves by path (`encoder_norm/scale`): convolutions HWIO, matrices [in, out]."""
    state = {}
    for path, leaf in tree.items():
        name = path
        for pattern, word in NAMES:
            name = re.sub(pattern, word, name)
        if path.endswith("embedding/kernel"):
            leaf = leaf.permute(3, 2, 0, 1)
        elif path.endswith("kernel"):
            leaf = (leaf.flatten(0, 1) if "/out/" in path else leaf.flatten(1)).T
        elif re.search("/(query|key|value)/bias", path):
            leaf = leaf.flatten()
        state[name] = leaf
    return state
