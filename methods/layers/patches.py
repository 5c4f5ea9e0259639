"""Images as patches: patch vectors are channel-last (row, column, channel), patches in raster order; images need not be square."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.nn.functional import linear

EPS = 1e-6  # inside the root of the per-patch standard deviation


def patchify(images: Shaped[Tensor, "b c h w"], patch: int) -> Shaped[Tensor, "b n p"]:
    """b x (h/p * w/p) x (p * p * c), channel fastest inside a patch vector."""
    b, c, h, w = images.shape
    cells = images.reshape(b, c, h // patch, patch, w // patch, patch)
    return cells.permute(0, 2, 4, 3, 5, 1).reshape(b, (h // patch) * (w // patch), patch * patch * c)


def unpatchify(patches: Shaped[Tensor, "b n p"], patch: int, grid: tuple[int, int]) -> Shaped[Tensor, "b c h w"]:
    """The inverse of `patchify` for a (rows, columns) grid."""
    b, _, size = patches.shape
    channels = size // patch**2
    cells = patches.reshape(b, *grid, patch, patch, channels)
    return cells.permute(0, 5, 1, 3, 2, 4).reshape(b, channels, grid[0] * patch, grid[1] * patch)


def patch_statistics(patches: Float[Tensor, "b n p"]) -> tuple[Float[Tensor, "b n 1"], Float[Tensor, "b n 1"]]:
    """Mean and standard deviation of each patch: unbiased variance, eps inside the root, so a constant patch gives sqrt(eps)."""
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return mean, (variance + EPS).sqrt()


def take(rows: Shaped[Tensor, "b n d"], index: Int[Tensor, "b k"]) -> Shaped[Tensor, "b k d"]:
    """Rows by number, for each sample its own numbers."""
    b, n, _ = rows.shape
    flat = index + n * torch.arange(b, device=index.device)[:, None]
    return rows.flatten(0, 1).index_select(0, flat.flatten()).view(b, index.shape[1], -1)


class PatchEmbed(nn.Module):
    """The patch convolution (kernel = stride = patch) as a matrix product on patch vectors, so that hidden patches cost nothing."""

    def __init__(self, patch: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=patch, stride=patch)

    def forward(self, patches: Float[Tensor, "b n p"]) -> Float[Tensor, "b n d"]:
        weight = self.proj.weight.permute(0, 2, 3, 1).flatten(1)
        return linear(patches, weight, self.proj.bias)
