"""Golden losses: the first steps of a method on a fixed tiny set, through the trainer's own step, against a committed file.

`SIGHTLINE_GOLDEN=write pytest -k golden` writes the files anew; say in the commit why the numbers changed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from sightline.methods.contract import BuildContext, Method, Stage, Views
from sightline.methods.optim import Clock, OptimConfig
from sightline.methods.random import keyed_rng, sample_rng
from sightline.platform.data.loader.blocks import staged
from sightline.platform.data.loader.stream import Microbatch
from sightline.platform.training.step import Stepper

FOLDER = Path(__file__).resolve().parents[1] / "golden"
STEPS, MICROBATCH, SLOTS, IMAGES = 20, 8, 2, 24
RTOL = 1e-4
"""Of each loss: other CPUs and versions of PyTorch add in another order, and training carries that on."""


def picture(number: int, size: int = 72) -> np.ndarray:
    """A smooth texture with a disc: uint8, the same on every machine."""
    rng = keyed_rng("golden", number)
    small = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(small).resize((size + 8, size), Image.Resampling.BILINEAR)).copy()
    y, x = np.mgrid[:size, : size + 8]
    centre, radius = rng.integers(16, size - 16, 2), rng.integers(6, 16)
    image[(y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2] = rng.integers(0, 256, 3)
    return image


def cloud(number: int, count: int = 80) -> np.ndarray:
    """Points of an ellipsoid: float32, the same on every machine."""
    rng = keyed_rng("golden cloud", number)
    points = rng.normal(size=(count, 3))
    return (points / np.linalg.norm(points, axis=1, keepdims=True) * rng.uniform(0.3, 1, size=3)).astype(np.float32)


def samples(method: Method, number: int) -> dict[str, np.ndarray]:
    if method.kind == "points":
        return {"points": cloud(number)}
    image = picture(number)
    return {"image": image} if method.kind == "images" else {"image1": image, "image2": np.roll(image, 5, axis=1)}


class Seer(torch.nn.Module):
    """A teacher of 32 px without a draw: 8 fixed sums of each 8 x 8 patch, and its brightness."""

    dim, patch_size, image_size = 8, 8, (32, 32)

    def tokens(self, images: torch.Tensor) -> torch.Tensor:
        patches = torch.nn.functional.unfold(images[:, :1] - 0.5, 8, stride=8).transpose(1, 2)
        return patches @ torch.cos(torch.arange(8 * 64.0).view(64, 8) / 7)

    def saliency(self, images: torch.Tensor) -> torch.Tensor:
        bright = torch.nn.functional.avg_pool2d(images[:, :1], 8).flatten(1)
        return bright / bright.sum(dim=1, keepdim=True)


def losses(
    method: Method,
    sections: Mapping[str, Any],
    lr: float = 1e-3,
    steps: int = STEPS,
    changed: Callable[[torch.nn.Module], object] = lambda pretext: None,
    device: str = "cpu",
) -> list[dict[str, float]]:
    """The total, its terms and the norm of the gradient for `STEPS` steps, means over the microbatches of each step; fp32, one thread.

    `changed`: what is done to the pretext before it trains.

    Diagnostics that count, such as an accuracy, are left out: a single tie that falls the other way would show.
    """
    config = method.Config.model_validate(sections)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        pretext = method.build(config, BuildContext(seed=0)).to(torch.device(device)).train()
        changed(pretext)
        stepper = Stepper(
            pretext=pretext,
            optim=OptimConfig(lr=lr, weight_decay=0.05, clip=1.0),
            clock=Clock(steps=STEPS, batch_size=MICROBATCH * SLOTS, samples=IMAGES),
            weights=config.loss.model_dump(),
            seed=0,
            precision="fp32",
            device=torch.device(device),
        )
        views, found = method.views(config), []
        stage = (
            method.stage(config, BuildContext(seed=0, teachers={name: Seer() for name in method.teachers(config)}))
            if method.stage
            else None
        )
        for step in range(steps):
            result = stepper.step(step, [microbatch(method, views, stage, step, slot) for slot in range(SLOTS)])
            terms = {name: result.losses[name].double().mean().item() for name in ("loss", *stepper.weights)}
            found.append({**terms, "grad_norm": result.grad_norm})
        return found
    finally:
        torch.set_num_threads(threads)


def sections(toy: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a toy that its method reads; I2P-MAE is taught by a `Seer`."""
    held = {name: dict(toy[name]) for name in ("model", "pretext", "loss", "augment") if name in toy}
    if toy["method"] == "i2p_mae":
        held["model"] |= {"teacher": "seer", "teacher_dim": Seer.dim}
    return held


def microbatch(method: Method, views: Views, stage: Stage | None, step: int, slot: int) -> Microbatch:
    first = (step * SLOTS + slot) * MICROBATCH
    rows = [views(samples(method, p % IMAGES), sample_rng(0, p)) for p in range(first, first + MICROBATCH)]
    columns = staged({name: np.stack([row[name] for row in rows]) for name in rows[0]}, stage)
    return Microbatch(step, slot, columns, tuple(map(str, range(MICROBATCH))), ())


def check(name: str, ours: list[dict[str, float]], rtol: float = RTOL, grad_rtol: float = RTOL) -> None:
    """Raises `AssertionError` naming the first number that differs from `tests/golden/<name>.json`, or that the file does not have."""
    path = FOLDER / f"{name}.json"
    if os.environ.get("SIGHTLINE_GOLDEN") == "write":
        FOLDER.mkdir(exist_ok=True)
        path.write_text(json.dumps([{k: float(f"{v:.9g}") for k, v in step.items()} for step in ours], indent=1) + "\n")
    golden = json.loads(path.read_text())
    assert len(golden) == len(ours) == STEPS
    for step, (theirs, mine) in enumerate(zip(golden, ours, strict=True)):
        assert theirs.keys() == mine.keys(), (step, theirs.keys() ^ mine.keys())
        for figure, value in theirs.items():
            limit = (grad_rtol if figure == "grad_norm" else rtol) * max(1.0, abs(value))
            assert abs(mine[figure] - value) <= limit, f"step {step}: {figure} is {mine[figure]}, golden {value}"
