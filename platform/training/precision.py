"""`precision: auto`: measures which precision is faster for this model on this machine, and remembers it there."""

from __future__ import annotations

import hashlib
import json
import math
import platform
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from sightline.methods import collective
from sightline.methods.contract import Batch, Pretext
from sightline.methods.errors import MachineError
from sightline.methods.random import MicrobatchRng
from sightline.platform.core.files import make_folder, read_record, write_record
from sightline.platform.core.version import installed_version
from sightline.platform.data.loader.blocks import Columns

from .step import buffers_kept, tensors, total

PRECISIONS = ("fp32", "bf16")
"""Those that `auto` chooses from. `tf32` is fp32 whose matrix products a GPU rounds to TF32; a recipe or a person asks for it."""
ROUNDS = 5
"""Of the products that show whether the machine has bf16 at all."""
BF16_MUST_GAIN = 1.15
"""bf16 is chosen where it is at least this much faster; a smaller gain is not worth its rounding."""
FAR = 1.2
"""Two pairs decide where both lie this factor beyond the bar or short of it."""
CHANCE = 1 / 64
"""Else the sign test does, once as one-sided a result comes by chance no more often than this: six pairs of six, nine of ten."""
MOST_PAIRS = 12
"""Where these do not decide the two are a tie, and fp32 is taken."""
WARM_UP_SAMPLES = 2
LONGEST_PASS = 5.0
"""Seconds of an fp32 pass. Where a microbatch takes longer, as many of its samples are measured as take that: such large networks spend
their time in products whose rate does not depend on the number of samples."""


def allow_tf32(allowed: bool) -> None:
    """Whether float32 products and convolutions on GPUs may be rounded to TF32, in this process. PyTorch allows it in convolutions."""
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed


def run_precision(
    wanted: str,
    folder: Path,
    what: Mapping[str, Any],
    pretext: Pretext,
    columns: Columns,
    weights: Mapping[str, float],
    device: torch.device,
) -> str:
    """The precision of a run: `wanted`, or for `auto` what rank 0 measured and noted in the run's `folder`.

    `what` is trained: JSON-able values. What was measured of the same on the same machine, library and version is taken from the folder
    `precision` beside that of the runs. Called by all ranks together.
    """
    if wanted != "auto":
        return wanted
    choice = torch.zeros(1, dtype=torch.int64, device=device)
    if collective.rank() == 0:
        choice += PRECISIONS.index(_noted_precision(folder, what, pretext, columns, weights, device))
    return PRECISIONS[int(collective.broadcast(choice))]


def _noted_precision(
    folder: Path, what: Mapping[str, Any], pretext: Pretext, columns: Columns, weights: Mapping[str, float], device: torch.device
) -> str:
    """From the run's own note, or from the machine's, or measured."""
    note = folder / "precision.json"
    if (noted := _read(note, {})) is not None:
        return str(noted["precision"])
    measured_on = {
        "machine": torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name(),
        "device": device.type,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "sightline": installed_version(),
        "microbatch": {name: list(column.shape) for name, column in columns.items()},
        "what": what,
    }
    text = json.dumps(measured_on, sort_keys=True, default=str)
    memory = folder.parents[1] / "precision" / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
    known = _read(memory, json.loads(text))
    if known is None:
        chosen, seconds = choose_precision(pretext, tensors(columns, device), weights, device)
        known = {"precision": chosen, "seconds": seconds, "measured_on": json.loads(text)}
        with suppress(OSError, MachineError):  # it saves the next run a measurement, no more
            make_folder(memory.parent)
            write_record(memory, known)
    write_record(note, {"precision": known["precision"], "seconds": known["seconds"]})
    return str(known["precision"])


def _read(note: Path, measured_on: Mapping[str, Any]) -> dict[str, Any] | None:
    """A note of what was measured on this; a damaged one is none."""
    with suppress(OSError, ValueError):
        found = read_record(note)
        if found.get("precision") in PRECISIONS and isinstance(found.get("seconds"), dict) and found.get("measured_on", {}) == measured_on:
            return found
    return None


def _cpu_name() -> str:
    """As the kernel names it, with the widest instructions that PyTorch uses on it."""
    name = platform.processor() or platform.machine()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"


def choose_precision(pretext: Pretext, batch: Batch, weights: Mapping[str, float], device: torch.device) -> tuple[str, dict[str, float]]:
    """(`fp32` or `bf16`, seconds of a forward and backward pass of `batch` in each; of a matrix product where that decides).

    Pairs of passes, one in each precision, until `clear_choice` has an answer; of a part of `batch` where a pass would take longer than
    `LONGEST_PASS`. On a CPU the time of the calling thread is taken: it does
    not count while other processes have the core. Gradients and buffers of `pretext` stay as they are.
    """
    if (product := _product_seconds(device))["bf16"] > product["fp32"]:  # the CPU has no bf16 instructions: no network can gain
        return "fp32", product

    def seconds(precision: str, batch: Batch) -> float:
        start = _now(device)
        prepared = pretext.to_device(dict(batch))
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
            loss = total(pretext(prepared, MicrobatchRng(0, 0, 0)), weights)
        loss.backward()  # type: ignore[no-untyped-call]
        return _now(device) - start

    taken: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
    choice = None
    with buffers_kept(pretext):
        for precision in ("bf16", "fp32", "fp32"):  # the first ones also set things up
            few = seconds(precision, {name: value[:WARM_UP_SAMPLES] for name, value in batch.items()})
        samples = max(WARM_UP_SAMPLES, int(LONGEST_PASS / (few / WARM_UP_SAMPLES)))
        batch = {name: value[:samples] for name, value in batch.items()}
        while choice is None:
            for precision, values in taken.items():
                values.append(seconds(precision, batch))
            choice = clear_choice([slow / fast for slow, fast in zip(taken["fp32"], taken["bf16"], strict=True)])
    pretext.zero_grad(set_to_none=True)
    return choice, {precision: min(values) for precision, values in taken.items()}


def clear_choice(ratios: Sequence[float]) -> str | None:
    """What pairs say whose fp32 took `ratios` times as long as their bf16; None where another pair is needed. See the constants above."""
    if len(ratios) >= 2:
        if min(ratios) > BF16_MUST_GAIN * FAR:
            return "bf16"
        if max(ratios) < BF16_MUST_GAIN / FAR:
            return "fp32"
    above = sum(ratio > BF16_MUST_GAIN for ratio in ratios)
    if _by_chance(above, len(ratios)) <= CHANCE:
        return "bf16"
    if _by_chance(len(ratios) - above, len(ratios)) <= CHANCE or len(ratios) >= MOST_PAIRS:
        return "fp32"
    return None


def _by_chance(heads: int, tosses: int) -> float:
    """How likely a fair coin gives at least so many heads."""
    return sum(math.comb(tosses, n) for n in range(heads, tosses + 1)) * 0.5**tosses


def _now(device: torch.device) -> float:
    if device.type != "cuda":
        return time.thread_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def _product_seconds(device: torch.device, size: int = 1024) -> dict[str, float]:
    """Least seconds of a square matrix product in each precision, measured alternately."""
    factors = {"fp32": torch.ones(size, size, device=device), "bf16": torch.ones(size, size, device=device, dtype=torch.bfloat16)}
    seconds: dict[str, list[float]] = {name: [] for name in factors}
    for _ in range(ROUNDS):
        for name, factor in factors.items():
            start = _now(device)
            factor @ factor
            seconds[name].append(_now(device) - start)
    return {name: min(values[1:]) for name, values in seconds.items()}
