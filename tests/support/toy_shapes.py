"""Clouds whose class and parts are plain to see, and encoders of clouds whose features are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from sightline.methods.random import keyed_rng
from sightline.platform.data.clouds import encode_parts, encode_points
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.writer import ShardWriter

POINTS = 64
EXTENT = np.array([[1, 1, 1], [1, 1, 0.2], [1, 0.2, 0.2], [1, 1, 0.5], [1, 0.5, 0.5], [1, 0.5, 0.2]])
"""Of balls, plates, rods, and what lies between."""


class Extents(torch.nn.Module):
    """Features that hold what the clouds show: the deviation along each axis; of a point, its coordinates and their signs."""

    dim, points = 3, POINTS

    def tokens(self, points: torch.Tensor) -> torch.Tensor:
        return points.std(dim=1)[:, None]

    def pooled(self, points: torch.Tensor) -> torch.Tensor:
        return self.tokens(points).amax(dim=1)

    def at_points(self, points: torch.Tensor) -> torch.Tensor:
        return torch.cat([points, points.sign()], dim=-1)


class BlindToClouds(Extents):
    """Features that depend on the seed alone."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.register_buffer("table", torch.randn(1, 8, generator=torch.Generator().manual_seed(seed)))

    def tokens(self, points: torch.Tensor) -> torch.Tensor:
        return self.table.expand(len(points), 1, -1)

    def at_points(self, points: torch.Tensor) -> torch.Tensor:
        return self.table[:, None].expand(*points.shape[:2], -1)


class Normed(Extents):
    """Extents behind a BatchNorm, whose running statistics a fresh network does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(3)

    def tokens(self, points: torch.Tensor) -> torch.Tensor:
        return self.norm(super().tokens(points)[:, 0])[:, None]


def make_clouds(
    folder: Path, rows: int, *, classes: int = 3, labels: bool = True, names: str = "bpr", parts: bool = False, points: int = 100
) -> Dataset:
    """Noisy balls, plates, rods and others, turn and turn about. The parts of a class: where x is negative, and the rest."""
    rng = keyed_rng("toy clouds", folder.name)
    listed = [f"{name}/{side}" for name in names for side in ("left", "right")] if parts else ()
    with ShardWriter(folder, "points", classes=list(names), parts=listed) as writer:
        for index in range(rows):
            kind = index % classes
            cloud = rng.normal(size=(points, 3)) * EXTENT[kind] * rng.uniform(0.9, 1.1, 3)
            row = {"id": f"{folder.name}{index}", "points": encode_points(cloud)}
            if labels:
                row["label"] = kind
            if parts:
                row["part"] = encode_parts((2 * kind + (cloud[:, 0] > cloud[:, 0].mean())).astype(int), points)
            writer.write(row)
    return Dataset.open(folder)
