"""Toy clouds, and a toy experiment on them with a teacher: a LOCA of random weights that sees 224 px as 4 x 4 patches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import toy

from sightline.methods.catalog import find_method
from sightline.methods.contract import BuildContext
from sightline.platform import config
from sightline.platform.data.clouds import encode_points
from sightline.platform.data.writer import ShardWriter
from sightline.platform.weights.format import Weights, write_file

SETTINGS: dict[str, Any] = {
    "method": "i2p_mae",
    "model": {
        "points": 64,
        "groups": [16, 12, 8],
        "neighbours": [4, 4, 4],
        "dims": [12, 12, 24],
        "depths": [1, 1, 1],
        "heads": 2,
        "embed": [8, 16],
        "mlp_ratio": 2.0,
    },
    "data": {"block": 16},
    "batch": {"size": 12, "microbatch": 6},
    "optim": {"lr": 1.0e-3, "warmup": "2 steps"},
    "train": {**toy.TOY["train"], "length": "16 steps", "checkpoint_every": "5 steps"},
    "log": {"every": 4},
}


def write_clouds(folder: Path, rows: int = 70, broken: tuple[int, ...] = ()) -> Path:
    """Shells of 96 points; a broken one has all its points in one place."""
    rng = np.random.default_rng(3)
    with ShardWriter(folder, "points") as writer:
        for index in range(rows):
            points = rng.normal(size=(96, 3))
            points /= np.linalg.norm(points, axis=1, keepdims=True) / [1, 0.6, 0.3]
            writer.write({"id": f"{index:04d}", "points": encode_points(np.zeros((96, 3)) if index in broken else points)})
    return folder


def write_teacher(path: Path, seed: int = 0) -> Path:
    """A teacher of random weights as a single file."""
    settings = {
        **toy.TOY_IMAGES["loca"],
        "model": {"image_size": 32, "patch_size": 8, "encoder_dim": 16, "encoder_depth": 1, "encoder_heads": 2},
    }
    experiment = config.load("toy", settings=settings)
    encoder = find_method("loca").build(experiment.method_config, BuildContext(seed=seed)).encoder()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)))
    return write_file(Weights.of("loca", experiment.sections(), "encoder", encoder.state_dict(), "test", str(path)), path)
