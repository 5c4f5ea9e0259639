"""`precision: auto`: measures what pays on the machine at hand, on the model at hand."""

from __future__ import annotations

import time
from typing import Any

import torch

from sightline.methods.contract import Batch
from sightline.methods.random import MicrobatchRng

ROUNDS = 5
BF16_MUST_GAIN = 1.15
"""bf16 is taken where it is at least this much faster: below that its rounding buys nothing."""


def choose_precision(
    pretext: Any, batch: Batch, weights: dict[str, float], device: torch.device, samples: int = 4
) -> tuple[str, dict[str, float]]:
    """(`fp32` or `bf16`, seconds of a forward + backward in each; of a matrix product where that decides). Leaves gradients and buffers."""
    from .step import buffers_kept, total

    if (product := _product_seconds(device))["bf16"] > product["fp32"]:  # no instructions for it: no network can gain
        return "fp32", product

    small = {name: value[:samples] for name, value in batch.items()}
    times: dict[str, list[float]] = {"fp32": [], "bf16": []}
    with buffers_kept(pretext):
        for _ in range(ROUNDS):  # in turns: a machine that is busy for a moment must not decide
            for precision, taken in times.items():
                start = time.perf_counter()
                prepared = pretext.to_device(small)
                with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
                    loss = total(pretext(prepared, MicrobatchRng(0, 0, 0)), weights)
                loss.backward()  # type: ignore[no-untyped-call]
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                taken.append(time.perf_counter() - start)
    seconds = {precision: min(taken[1:]) for precision, taken in times.items()}
    pretext.zero_grad(set_to_none=True)
    return ("bf16" if seconds["fp32"] > BF16_MUST_GAIN * seconds["bf16"] else "fp32"), seconds


def _product_seconds(device: torch.device, size: int = 1024) -> dict[str, float]:
    """Least seconds of a square matrix product in each precision, measured in turns."""
    factors = {"fp32": torch.ones(size, size, device=device), "bf16": torch.ones(size, size, device=device, dtype=torch.bfloat16)}
    seconds: dict[str, list[float]] = {name: [] for name in factors}
    for _ in range(ROUNDS):
        for name, factor in factors.items():
            start = time.perf_counter()
            factor @ factor
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds[name].append(time.perf_counter() - start)
    return {name: min(values[1:]) for name, values in seconds.items()}
