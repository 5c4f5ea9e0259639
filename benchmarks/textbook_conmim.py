"""ConMIM as one writes it from the paper: the yardstick of `step.py`, fp32, nothing clever, nothing of Sightline's.

Explicit softmax attention with the bias looked up in every forward that uses it, masked patches embedded and then blended away, the
projector on all tokens of both networks, similarities of all patches and only then the masked rows, the teacher moved parameter by
parameter. Parameter names are those of the published layout; its unused language-model head is left out. No dropout, no drop path.
"""

from __future__ import annotations

import copy

import torch
from jaxtyping import Bool, Float, Int
from textbook_layers import Mlp
from torch import Tensor, nn
from torch.nn.functional import linear, normalize


def relative_index(rows: int, columns: int) -> Int[Tensor, "n n"]:
    """The entry of the bias table for each query and key; class token first: key patch n, key class n + 1, both n + 2."""
    row = torch.arange(rows).repeat_interleave(columns)
    column = torch.arange(columns).repeat(rows)
    between = (row[:, None] - row[None, :] + rows - 1) * (2 * columns - 1) + (column[:, None] - column[None, :] + columns - 1)
    entries = (2 * rows - 1) * (2 * columns - 1)
    index = torch.empty(rows * columns + 1, rows * columns + 1, dtype=torch.long)
    index[1:, 1:] = between
    index[0, 1:] = entries
    index[1:, 0] = entries + 1
    index[0, 0] = entries + 2
    return index


def bias_of(table: Float[Tensor, "entries h"], index: Int[Tensor, "n n"]) -> Float[Tensor, "h n n"]:
    return table[index.flatten()].reshape(*index.shape, -1).permute(2, 0, 1)


def table_of(grid: tuple[int, int], heads: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros((2 * grid[0] - 1) * (2 * grid[1] - 1) + 3, heads))


class SharedBias(nn.Module):
    """One bias for each head, query and key, for all blocks."""

    relative_position_index: Tensor

    def __init__(self, grid: tuple[int, int], heads: int) -> None:
        super().__init__()
        self.relative_position_bias_table = table_of(grid, heads)
        self.register_buffer("relative_position_index", relative_index(*grid))

    def forward(self) -> Float[Tensor, "h n n"]:
        return bias_of(self.relative_position_bias_table, self.relative_position_index)


class Attention(nn.Module):
    relative_position_index: Tensor | None

    def __init__(self, dim: int, heads: int, grid: tuple[int, int], own_bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.v_bias = nn.Parameter(torch.zeros(dim))
        self.proj = nn.Linear(dim, dim)
        self.relative_position_bias_table = table_of(grid, heads) if own_bias else None
        self.register_buffer("relative_position_index", relative_index(*grid) if own_bias else None)

    def forward(self, x: Float[Tensor, "b n c"], shared: Float[Tensor, "h n n"] | None) -> Float[Tensor, "b n c"]:
        b, n, c = x.shape
        bias = torch.cat([self.q_bias, torch.zeros_like(self.v_bias), self.v_bias])
        q, k, v = linear(x, self.qkv.weight, bias).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        if self.relative_position_bias_table is not None and self.relative_position_index is not None:
            logits = logits + bias_of(self.relative_position_bias_table, self.relative_position_index)
        if shared is not None:
            logits = logits + shared
        out: Tensor = self.proj((logits.softmax(dim=-1) @ v).transpose(1, 2).flatten(2))
        return out


class Block(nn.Module):
    def __init__(self, dim: int, heads: int, mlp_ratio: float, grid: tuple[int, int], own_bias: bool, layer_scale: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads, grid, own_bias)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.gamma_1 = nn.Parameter(torch.ones(dim)) if layer_scale else 1.0
        self.gamma_2 = nn.Parameter(torch.ones(dim)) if layer_scale else 1.0

    def forward(self, x: Float[Tensor, "b n c"], shared: Float[Tensor, "h n n"] | None) -> Float[Tensor, "b n c"]:
        x = x + self.gamma_1 * self.attn(self.norm1(x), shared)
        x = x + self.gamma_2 * self.mlp(self.norm2(x))
        return x


class Network(nn.Module):
    """Backbone and projector: what the student is, and the teacher."""

    def __init__(
        self,
        patch_size: int,
        grid: tuple[int, int],
        dim: int,
        depth: int,
        heads: int,
        mlp_ratio: float,
        absolute_positions: bool,
        block_bias: bool,
        shared_bias: bool,
        layer_scale: bool,
        projector_hidden: int,
        projector_dim: int,
    ) -> None:
        super().__init__()
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, dim, kernel_size=patch_size, stride=patch_size)})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, grid[0] * grid[1] + 1, dim)) if absolute_positions else None
        self.rel_pos_bias = SharedBias(grid, heads) if shared_bias else None
        self.blocks = nn.ModuleList(Block(dim, heads, mlp_ratio, grid, block_bias, layer_scale) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.projectors = nn.Sequential(
            nn.Linear(dim, projector_hidden, bias=False),
            nn.BatchNorm1d(projector_hidden),
            nn.ReLU(),
            nn.Linear(projector_hidden, projector_hidden, bias=False),
            nn.BatchNorm1d(projector_hidden),
            nn.ReLU(),
            nn.Linear(projector_hidden, projector_dim, bias=False),
            nn.BatchNorm1d(projector_dim, affine=False),
        )

    def tokens(self, images: Float[Tensor, "b 3 h w"], mask: Bool[Tensor, "b n"]) -> Float[Tensor, "b m c"]:
        """All tokens after the final norm, class token first."""
        x = self.patch_embed["proj"](images).flatten(2).transpose(1, 2)
        hidden = mask[:, :, None].to(x.dtype)
        x = x * (1 - hidden) + self.mask_token * hidden
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        if self.pos_embed is not None:
            x = x + self.pos_embed
        shared = self.rel_pos_bias() if self.rel_pos_bias is not None else None
        for block in self.blocks:
            x = block(x, shared)
        out: Tensor = self.norm(x)
        return out

    def forward(self, images: Float[Tensor, "b 3 h w"], mask: Bool[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        """Projected patches. The class token takes part in the batch statistics and is left out afterwards."""
        x = self.tokens(images, mask)
        z: Tensor = self.projectors(x.flatten(0, 1)).reshape(*x.shape[:2], -1)
        return z[:, 1:]


class TextbookConmim(nn.Module):
    """Student and teacher with the loss; `sizes` are the arguments of `Network`."""

    def __init__(self, temperature: float, **sizes: object) -> None:
        super().__init__()
        self.temperature = temperature
        self.student = Network(**sizes)  # type: ignore[arg-type]
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)

    def logits(
        self, student_image: Float[Tensor, "b 3 h w"], teacher_image: Float[Tensor, "b 3 h w"], mask: Bool[Tensor, "b n"]
    ) -> Float[Tensor, "b n n"]:
        """Cosine of each student patch with each teacher patch of the same image, over the temperature."""
        with torch.no_grad():
            target = self.teacher(teacher_image, torch.zeros_like(mask))
        predicted = self.student(student_image, mask)
        return normalize(predicted, dim=-1) @ normalize(target, dim=-1).transpose(1, 2) / self.temperature

    def forward(
        self, student_image: Float[Tensor, "b 3 h w"], teacher_image: Float[Tensor, "b 3 h w"], mask: Bool[Tensor, "b n"]
    ) -> Float[Tensor, ""]:
        """The loss: cross-entropy of each patch's own position, mean over all masked patches of the batch (`mask` True)."""
        logits = self.logits(student_image, teacher_image, mask)
        own = logits.log_softmax(dim=-1).diagonal(dim1=1, dim2=2)
        return -own[mask].mean()

    @torch.no_grad()
    def move_teacher(self, momentum: float) -> None:
        """After the optimiser's step; batch statistics are the teacher's own."""
        for teacher, student in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            teacher.mul_(momentum).add_(student, alpha=1 - momentum)
