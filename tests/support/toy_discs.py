"""Labelled toy clouds, and an I2P-MAE of a few thousand weights for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sightline.platform.data.clouds import encode_points
from sightline.platform.data.writer import ShardWriter

ENCODER: dict[str, Any] = {
    "method": "i2p_mae",
    "model": {"points": 64, "groups": [16, 8, 4], "neighbours": [6, 4, 3], "dims": [12, 24, 48], "depths": [1, 1, 1], "heads": 2}
    | {"embed": [8, 16]},
    "pretext": {"mask": "random", "mask_ratio": 0.5},
    "loss": {"features": 0.0},
}
MODEL: dict[str, Any] = {"points": 64, "neighbours": [6, 4, 3], "radius": [0.6, 0.9, 1.5]}
"""Of the classifier."""


def toy_cloud(label: int, seed: int, points: int = 96) -> np.ndarray:
    """Class 0 is a flat disc, class 1 a sphere."""
    cloud = np.random.default_rng(seed).normal(size=(points, 3)).astype(np.float32)
    cloud /= np.linalg.norm(cloud, axis=1, keepdims=True)
    if label == 0:
        cloud[:, 1] *= 0.05
    return cloud


def write_clouds(folder: Path, rows: int, seed: int, points: int = 96) -> Path:
    with ShardWriter(folder, "points", classes=("disc", "sphere")) as writer:
        for index in range(rows):
            cloud = encode_points(toy_cloud(index % 2, 1000 * seed + index, points))
            writer.write({"id": f"{seed}-{index:04d}", "points": cloud, "label": index % 2})
    return folder
