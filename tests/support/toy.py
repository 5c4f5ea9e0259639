"""A toy data set and a toy experiment: CroCo at 64 px, small enough that a step takes milliseconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sightline.platform.data.clouds import encode_points
from sightline.platform.data.images import encode_image
from sightline.platform.data.writer import ShardWriter

TOY: dict[str, Any] = {
    "method": "croco",
    "model": {
        "image_size": 64,
        "position": "rope",
        "encoder_dim": 32,
        "encoder_depth": 1,
        "encoder_heads": 2,
        "decoder_dim": 32,
        "decoder_depth": 1,
        "decoder_heads": 2,
    },
    "pretext": {"mask_ratio": 0.75},
    "batch": {"size": 12, "microbatch": 2},
    "optim": {"lr": 1.0e-3, "warmup": "5 steps"},
    "train": {
        "length": "18 steps",
        "workers": 1,
        "validate_every": "6 steps",
        "checkpoint_every": "6 steps",
        "precision": "fp32",
        "threads": 1,
    },
    "log": {"every": 4},
}


TOY_IMAGES: dict[str, dict[str, Any]] = {
    "conmim": {
        "method": "conmim",
        "model": {"image_size": 32, "patch_size": 8, "dim": 32, "depth": 2, "heads": 2, "projector_hidden": 32, "projector_dim": 16}
        | {"drop_path": 0.2, "position_table": True},
        "pretext": {"mask_cell": 8, "mask_ratio": 0.5},
        "optim": {"lr": 2.0e-3, "warmup": "3 steps"},
    },
    "loca": {
        "method": "loca",
        "model": {"image_size": 32, "patch_size": 8, "encoder_dim": 32, "encoder_depth": 2, "encoder_heads": 2, "drop_path": 0.2},
        "pretext": {"focal_queries": 2, "query_tokens": 6, "prototypes": 24, "head_hidden": 32, "head_bottleneck": 16},
        "augment": {"focal_size": 16},
        "optim": {"lr": 2.0e-3, "warmup": "3 steps", "clip": 1.0},
    },
}
"""The methods on single images, with everything in them that a group or a whole batch shares."""
for _toy in TOY_IMAGES.values():
    _toy |= {"batch": TOY["batch"], "train": {**TOY["train"], "validate_samples": 20}, "log": TOY["log"]}


TOY_POINTS: dict[str, Any] = {
    "method": "i2p_mae",
    "model": {"points": 64, "groups": [32, 16, 8], "neighbours": [4, 4, 4], "dims": [12, 24, 48], "depths": [1, 1, 1], "embed": [8, 16]}
    | {"drop_path": 0.2},
    "optim": {"lr": 3.0e-5, "eps": 1.0e-2},
    "batch": TOY["batch"],
    "train": {**TOY["train"], "length": "20 steps", "validate_samples": 20},
    "log": TOY["log"],
}
"""I2P-MAE on clouds of 64 points; `model.teacher` is still to be named. At larger rates rounding grows a hundredfold in three steps; `eps`
keeps AdamW from full steps along gradients that are zero but for rounding: of biases before BatchNorm, whose running means would lag."""


def write_points(folder: Path, rows: int, seed: int, broken: tuple[int, ...] = ()) -> Path:
    """Points of ellipsoids and of boxes, 70 to 90 of them."""
    rng = np.random.default_rng(seed)
    with ShardWriter(folder, "points", classes=("round", "square")) as writer:
        for index in range(rows):
            points = rng.normal(size=(rng.integers(70, 90), 3))
            points /= np.linalg.norm(points, axis=1, keepdims=True) if index % 2 else np.abs(points).max(axis=1, keepdims=True)
            points = points * rng.uniform(0.3, 1, size=3) * (index not in broken)
            writer.write({"id": f"{seed}-{index:04d}", "scene": f"s{index % 5}", "points": encode_points(points), "label": index % 2})
    return folder


def write_images(folder: Path, rows: int, seed: int) -> Path:
    """Blurred noise of 48 x 56 pixels, in two classes: the second one is brighter."""
    rng = np.random.default_rng(seed)
    with ShardWriter(folder, "images", classes=("dark", "bright")) as writer:
        for index in range(rows):
            label = index % 2
            small = Image.fromarray(rng.integers(60 * label, 190 + 60 * label, (7, 8, 3), dtype=np.uint8))
            image = np.asarray(small.resize((56, 48), Image.Resampling.BICUBIC))
            writer.write({"id": f"{seed}-{index:04d}", "scene": f"s{index % 5}", "image": encode_image(image, 90), "label": label})
    return folder


def write_pairs(folder: Path, rows: int, seed: int, broken: tuple[int, ...] = ()) -> Path:
    """Blurred noise and the same, shifted: something to complete from the other view."""
    rng = np.random.default_rng(seed)
    with ShardWriter(folder, "pairs") as writer:
        for index in range(rows):
            small = Image.fromarray(rng.integers(0, 255, (9, 9, 3), dtype=np.uint8))
            image = np.asarray(small.resize((80, 72), Image.Resampling.BICUBIC))
            first = encode_image(image, 90)
            row = {"id": f"{seed}-{index:04d}", "scene": f"s{index % 5}", "image1": first, "image2": encode_image(np.roll(image, 5, 1), 90)}
            if index in broken:
                row["image1"] = first[: len(first) // 2]
            writer.write(row)
    return folder
