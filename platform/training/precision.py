"""`precision: auto`: measures which precision is faster for this model on this machine."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch

from sightline.methods import collective
from sightline.methods.contract import Batch, Pretext
from sightline.methods.random import MicrobatchRng
from sightline.platform.core.files import read_record, write_record
from sightline.platform.data.loader.blocks import Columns

from .step import buffers_kept, tensors, total

PRECISIONS = ("fp32", "bf16")
"""Those that `auto` chooses from. `tf32` is fp32 whose matrix products a GPU rounds to TF32; a recipe or a person asks for it."""
ROUNDS = 5
BF16_MUST_GAIN = 1.15
"""bf16 is chosen where it is at least this much faster; a smaller gain is not worth its rounding."""


def allow_tf32(allowed: bool) -> None:
    """Whether float32 products and convolutions on GPUs may be rounded to TF32, in this process. PyTorch allows it in convolutions."""
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed


def run_precision(wanted: str, folder: Path, pretext: Pretext, columns: Columns, weights: Mapping[str, float], device: torch.device) -> str:
    """The precision of a run: `wanted`, or for `auto` what rank 0 measured once and noted in the run's `folder`.

    Called by all ranks together.
    """
    if wanted != "auto":
        return wanted
    choice = torch.zeros(1, dtype=torch.int64, device=device)
    if collective.rank() == 0:
        choice += PRECISIONS.index(_noted_precision(folder / "precision.json", pretext, columns, weights, device))
    return PRECISIONS[int(collective.broadcast(choice))]


def _noted_precision(note: Path, pretext: Pretext, columns: Columns, weights: Mapping[str, float], device: torch.device) -> str:
    with suppress(OSError, ValueError):  # a damaged note is measured again
        if (noted := read_record(note).get("precision")) in PRECISIONS:
            return str(noted)
    chosen, seconds = choose_precision(pretext, tensors(columns, device), weights, device)
    write_record(note, {"precision": chosen, "seconds": seconds})
    return chosen


def choose_precision(
    pretext: Pretext, batch: Batch, weights: Mapping[str, float], device: torch.device, samples: int = 4
) -> tuple[str, dict[str, float]]:
    """(`fp32` or `bf16`, seconds of a forward and backward pass in each; of a matrix product where that decides).

    Gradients and buffers of `pretext` stay as they are.
    """
    if (product := _product_seconds(device))["bf16"] > product["fp32"]:  # the CPU has no bf16 instructions: no network can gain
        return "fp32", product

    small = {name: value[:samples] for name, value in batch.items()}
    times: dict[str, list[float]] = {"fp32": [], "bf16": []}
    with buffers_kept(pretext):
        for _ in range(ROUNDS):  # alternating, so that a moment in which the machine is busy does not decide
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
    """Least seconds of a square matrix product in each precision, measured alternately."""
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
