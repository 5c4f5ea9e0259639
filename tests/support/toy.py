"""A toy data set and a toy experiment: CroCo at 64 px, small enough that a step takes milliseconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

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
    "batch": {"size": 12, "group": 2},
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
