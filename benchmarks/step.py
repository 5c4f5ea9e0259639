"""Step: forward + backward + optimiser of CroCo beside a plain textbook implementation, and beside the machine's matmul rate.

  python benchmarks/step.py [--threads 1] [--blocks 5] [--out step.json]

Two networks: the recipe `croco-tiny` in its groups of 16, and that of `croco-v2-base-small` (ViT-B/16, small decoder, 224 px) in groups
of 4 on a CPU. Ours goes through `Stepper`, as in a run: AdamW (fused), gradient norm and finite check included. The textbook is
`textbook_croco.py` in fp32 with `torch.optim.AdamW` as it comes. Both start from the same weights, and nothing is timed before their
losses agree on the same batch. The batch is ready on the device: decoding, colour jitter and normalisation count in neither.

All variants and the matrix products take turns within a block (A B C A B C ...). Ratios are taken inside a block; their median and
range over the blocks are printed. "Of matmul" is the rate of the step's matrix products and attention (counted once, on our network,
without recomputation: the same work for every row) over that of large square products in the same precision and block.
Aims on a CPU: fp32 no slower than the textbook; where the CPU has bf16 instructions (the matmul rows show it), ViT-B at least 1.8 times
as fast in bf16 as in fp32. `<- auto` marks what `precision: auto` picked in this very run; it is that row, not timed again.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from textbook_croco import TextbookCroco
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from sightline.methods.catalog import find_method
from sightline.methods.contract import Batch, Live
from sightline.methods.croco.config import CrocoConfig
from sightline.methods.croco.official import to_official
from sightline.methods.croco.pretext import CrocoPretext
from sightline.methods.errors import SightlineError
from sightline.methods.optim import OptimConfig
from sightline.methods.random import Noise, keyed_rng, sample_rng
from sightline.platform import config
from sightline.platform.data.stream import Columns, Group
from sightline.platform.precision import choose_precision
from sightline.platform.step import Stepper, tensors, total

TINY, BASE = "croco-tiny", "croco-v2-base-small"
TOLERANCE = 1e-4
"""Largest difference of the two losses, both near 1 on fresh weights."""
WEIGHTS = {"reconstruction": 1.0}
QUICK = {"model.encoder_depth": 1, "model.decoder_depth": 1, "model.image_size": 64}


@dataclass(frozen=True)
class Scale:
    """How much is measured: `block_seconds` is the least time a block gives a variant, in whole steps."""

    overrides: dict[str, Any]
    groups: dict[str, int]
    blocks: int
    block_seconds: float
    matmul: int


@dataclass(frozen=True)
class Measured:
    """One network on one machine; seconds by variant, one value a block."""

    recipe: str
    parameters: int
    group: int
    losses: dict[str, float]
    auto: str
    flops: int
    seconds: dict[str, list[float]]
    matmul_flops_per_second: dict[str, list[float]]


def synthetic_columns(settings: CrocoConfig, samples: int, seed: int = 0) -> Columns:
    """The views of pairs of noise images, as the stream would give them."""
    views = find_method("croco").views(settings)
    height, width = settings.model.image_size
    images = keyed_rng("benchmark", seed).integers(0, 256, (samples, 2, height, width, 3), dtype=np.uint8)
    rows = [views({"image1": a, "image2": b}, sample_rng(seed, index)) for index, (a, b) in enumerate(images)]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def textbook_of(pretext: CrocoPretext) -> TextbookCroco:
    """The textbook's network of the same sizes with a copy of the same weights. It knows rotary positions and the papers' loss only."""
    settings = pretext.config
    model, task = settings.model, settings.pretext
    if model.position != "rope" or model.rope_f0 != 1 or not (model.norm_memory and task.norm_pix and task.hidden_only):
        raise SightlineError("the textbook CroCo has rotary positions, normalised memory and targets, and a loss on hidden patches only")
    textbook = TextbookCroco(
        patch_size=model.patch_size,
        enc_embed_dim=model.encoder_dim,
        enc_depth=model.encoder_depth,
        enc_num_heads=model.encoder_heads,
        dec_embed_dim=model.decoder_dim,
        dec_depth=model.decoder_depth,
        dec_num_heads=model.decoder_heads,
        mlp_ratio=model.mlp_ratio,
        rope_base=model.rope_base,
    )
    textbook.load_state_dict(to_official(pretext.state_dict(), settings)[0])
    return textbook.to(next(pretext.parameters()).device)


def equal_losses(pretext: CrocoPretext, textbook: TextbookCroco, batch: Batch) -> dict[str, float]:
    """The loss of each on `batch` (after `to_device`). Raises `SightlineError` where they differ by more than `TOLERANCE`."""
    with torch.no_grad():
        ours = float(total(pretext(batch, Noise(0, 0, 0)), WEIGHTS))
        theirs = float(textbook(batch["image1"], batch["image2"], batch["mask"]))
    if not abs(ours - theirs) <= TOLERANCE:
        raise SightlineError(f"loss {ours:.6f}, textbook's {theirs:.6f}: they do not compute the same, so nothing was timed")
    return {"ours": ours, "textbook": theirs}


def count_flops(pretext: CrocoPretext, batch: Batch) -> int:
    """Floating-point operations of matrix products and attention in a forward + backward; a multiply-add is two."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # fused attention would count its recomputation, too
        loss = total(pretext(batch, Noise(0, 0, 0)), WEIGHTS)
        loss.backward()  # type: ignore[no-untyped-call]
    pretext.zero_grad(set_to_none=True)
    return int(counter.get_total_flops())


def our_step(pretext: CrocoPretext, experiment: config.Experiment, ready: Batch, device: torch.device) -> Callable[[str], None]:
    """One step of a run in `fp32` or `bf16`; both share weights and optimiser, which are fp32 in either."""
    pretext.to_device = lambda batch: ready  # type: ignore[method-assign]  # preparing the batch is not what is timed
    clock = experiment.clock(samples=100 * experiment.batch.size)
    stepper = Stepper(pretext, experiment.optim, clock, WEIGHTS, 0, "fp32", device)
    steps = iter(range(sys.maxsize))

    def step(precision: str) -> None:
        stepper.precision = precision
        number = next(steps)
        result = stepper.step(number, [Group(number, 0, {}, (), ())])
        if not result.finite:
            raise SightlineError(f"a gradient of step {number} in {precision} is not finite: what it timed means nothing")

    return step


def textbook_step(textbook: TextbookCroco, optim: OptimConfig, lr: float, ready: Batch) -> Callable[[], None]:
    """The loop body of a textbook: no fused update, the loss read at every step."""
    named = list(textbook.named_parameters())
    plain = [p for name, p in named if p.ndim == 1 or name.endswith(".bias")]
    decayed = [p for name, p in named if not (p.ndim == 1 or name.endswith(".bias"))]
    groups = [{"params": decayed, "weight_decay": optim.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=optim.betas)

    def step() -> None:
        loss = textbook(ready["image1"], ready["image2"], ready["mask"])
        if not math.isfinite(loss.item()):
            raise SightlineError("the textbook's loss is not finite: what it timed means nothing")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def matmul_of(size: int, dtype: torch.dtype, device: torch.device) -> Callable[[], None]:
    """A product of two square matrices of `size`: 2 * size^3 operations."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(size, size, generator=generator).to(device, dtype) for _ in range(2))
    out = torch.empty_like(a)

    def product() -> None:
        torch.mm(a, b, out=out)

    return product


def seconds_of(call: Callable[[], None], least: float, device: torch.device) -> float:
    """Mean seconds of a call, called until `least` seconds have passed."""
    calls, start = 0, time.perf_counter()
    while True:
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        calls += 1
        if (passed := time.perf_counter() - start) >= least:
            return passed / calls


def measure(recipe: str, scale: Scale, device: torch.device, say: Callable[[str], None]) -> Measured:
    experiment = config.load(recipe, scale.overrides)
    settings = experiment.settings
    assert isinstance(settings, CrocoConfig)
    group = scale.groups[recipe]
    pretext = find_method("croco").build(settings, Live(seed=0)).to(device).train()
    textbook = textbook_of(pretext).train()
    raw = tensors(synthetic_columns(settings, group), device)
    ready = pretext.to_device(raw)
    losses = equal_losses(pretext, textbook, ready)
    say(f"{recipe}: losses agree, {losses['ours']:.6f} and {losses['textbook']:.6f}")
    flops = count_flops(pretext, ready)
    auto, _ = choose_precision(pretext, raw, WEIGHTS, device)
    say(f"{recipe}: {flops / 1e9:.1f} GFLOP a step; precision: auto picks {auto}")
    step = our_step(pretext, experiment, ready, device)
    calls: dict[str, Callable[[], None]] = {
        "textbook fp32": textbook_step(textbook, experiment.optim, experiment.optim.peak_lr(experiment.batch.size), ready),
        "ours fp32": lambda: step("fp32"),
        "ours bf16": lambda: step("bf16"),
        "matmul fp32": matmul_of(scale.matmul, torch.float32, device),
        "matmul bf16": matmul_of(scale.matmul, torch.bfloat16, device),
    }
    for call in calls.values():  # the first call lays out memory, optimiser state and kernels
        seconds_of(call, 0.0, device)
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for block in range(scale.blocks):
        for name, call in calls.items():
            seconds[name].append(seconds_of(call, scale.block_seconds, device))
        say(f"{recipe}: block {block + 1}/{scale.blocks}  " + "  ".join(f"{name} {seconds[name][-1]:.3g} s" for name in calls))
    rates = {name: [2 * scale.matmul**3 / s for s in seconds.pop(f"matmul {name}")] for name in ("fp32", "bf16")}
    parameters = sum(p.numel() for p in pretext.parameters())
    return Measured(recipe, parameters, group, losses, auto, flops, seconds, rates)


def spread(values: Sequence[float], digits: str) -> str:
    """`median (least - most)`."""
    return f"{statistics.median(values):{digits}} ({min(values):{digits}} - {max(values):{digits}})"


def ratios(measured: Measured, slow: str, fast: str) -> list[float]:
    """How many times faster `fast` is, block by block."""
    return [a / b for a, b in zip(measured.seconds[slow], measured.seconds[fast], strict=True)]


def of_matmul(measured: Measured, name: str) -> list[float]:
    """The step's rate over the matmul rate of the same precision, block by block."""
    rates = measured.matmul_flops_per_second[name.rpartition(" ")[2]]
    return [measured.flops / s / rate for s, rate in zip(measured.seconds[name], rates, strict=True)]


def table_of(measured: Measured) -> Table:
    work = f"group of {measured.group} pairs, {measured.flops / 1e9:.1f} GFLOP"
    title = f"{measured.recipe}: {measured.parameters / 1e6:.1f} M parameters, {work}"
    table = Table(title=title, title_justify="left", caption="median (least - most) over the blocks", caption_justify="left")
    table.add_column("")
    for heading in ("seconds a step", "times textbook", "times ours fp32", "of matmul"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, values in measured.seconds.items():
        mark = "  <- auto" if name == f"ours {measured.auto}" else ""
        against = [spread(ratios(measured, other, name), ".2f") if other != name else "1" for other in ("textbook fp32", "ours fp32")]
        table.add_row(name + mark, spread(values, ".3f"), *against, spread(of_matmul(measured, name), ".2f"))
    for precision, rates in measured.matmul_flops_per_second.items():
        table.add_row(f"matmul {precision}", spread([r / 1e9 for r in rates], ".0f") + " GFLOP/s", "", "", "1")
    return table


def as_json(measured: Measured) -> dict[str, Any]:
    """Everything that was measured, and the ratios made of it, block by block and as medians."""
    made = {
        "times_textbook": {name: ratios(measured, "textbook fp32", name) for name in measured.seconds},
        "times_ours_fp32": {name: ratios(measured, "ours fp32", name) for name in measured.seconds},
        "of_matmul": {name: of_matmul(measured, name) for name in measured.seconds},
    }
    medians = {kind: {name: statistics.median(values) for name, values in by_name.items()} for kind, by_name in made.items()}
    return {**asdict(measured), **made, "medians": medians}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="torch threads, on a CPU (default 1)")
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--base-group", type=int, help="pairs in a group of ViT-B (default: 4 on a CPU, the recipe's on a GPU)")
    parser.add_argument("--quick", action="store_true", help="a smoke run: 2 blocks on cut-down networks; its figures mean nothing")
    parser.add_argument("--out", help="JSON file")
    args = parser.parse_args()
    if min(args.threads, args.blocks, 1 if args.base_group is None else args.base_group) < 1:
        parser.error("--threads, --blocks and --base-group must be at least 1")
    torch.set_num_threads(args.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    base_group = args.base_group or (4 if device.type == "cpu" else config.load(BASE).batch.group)
    if args.quick:
        scale = Scale(QUICK, {TINY: 2, BASE: 1}, blocks=2, block_seconds=0.0, matmul=256)
    else:
        groups = {TINY: config.load(TINY).batch.group, BASE: base_group}
        scale = Scale({}, groups, args.blocks, block_seconds=1.0, matmul=2048 if device.type == "cpu" else 8192)
    progress = Console(stderr=True)
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"CPU ({torch.backends.cpu.get_cpu_capability()}), {args.threads} thread{'s' * (args.threads > 1)}"
    )
    tables, results = [], []
    for recipe in (TINY, BASE):
        measured = measure(recipe, scale, device, lambda line: progress.print(line, highlight=False, soft_wrap=True))
        tables.append(table_of(measured))
        results.append(as_json(measured))
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(f"{name}, torch {torch.__version__}{'; smoke run: the figures mean nothing' * args.quick}", highlight=False)
    for table in tables:
        console.print(table)
    if args.out:
        report = {
            "device": name,
            "torch": torch.__version__,
            "threads": args.threads,
            "blocks": scale.blocks,
            "quick": args.quick,
            "networks": results,
        }
        Path(args.out).write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    try:
        main()
    except SightlineError as error:
        sys.exit(f"error: {error}")
