"""Step: forward + backward + optimiser + teacher of each method beside a plain textbook implementation, and the machine's matmul rate.

  python benchmarks/step.py [--recipe conmim-tiny loca-tiny] [--threads 1] [--blocks 5] [--out step.json]

Two networks a method: the tiny recipe in its own groups, and the published size (a ViT-B/16 at 224 px) in small groups on a CPU. Ours
goes through `Stepper`, as in a run: AdamW (fused), gradient norm and finite check included. The textbook is `textbook_<method>.py` in
fp32, and under bf16 autocast as it comes, with `torch.optim.AdamW` as it comes. Both start from the same weights and draws, and nothing is
timed before their losses agree on the same batch. The move of an EMA teacher counts on both sides. The batch is ready on the device:
decoding, colour and normalisation count in neither. Of clouds all that lies between points and update counts: farthest points,
neighbours and groups of three scales, the mask, and the pixels read off the 2-D teacher's maps; render and teacher belong to the stream
(`teacher.py`). I2P-MAE's textbook resizes these maps whole to 224 x 224, as the paper has it: nine tenths of its step on a CPU. The lean
textbook reads the pixels alone (`grid_sample`) and is the rival of the rest; of the two it alone has a bf16 row.

All variants and the matrix products take turns within a block (A B C A B C ...). Ratios are taken inside a block; their median and
range over the blocks are printed. "Of matmul" is the rate of the step's matrix products and attention (teacher forward, student forward
and backward, counted once, on our network, without recomputation: the same work for every row) over that of large square products in the
same precision and block. What is no such product costs time there and counts no operation: norms, the optimiser, all search in clouds.
Aims on a CPU: never slower than the textbook in the same precision; where the CPU has bf16 instructions (the matmul rows show it), the
best precision at least 2.2 times as fast as the fp32 textbook at the published size and 1.9 times at the tiny one; of the bf16 matmul rate
0.80 and 0.55. Where a bf16 product is the slower one, as on CPUs without, there is no bf16 row. `<- auto` marks what `precision: auto`
picks: that row, not timed again. `--profile` adds the ten operators that take most of a step of ours.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from yardsticks import YARDSTICKS, Yardstick, synthetic_columns

from sightline.methods.catalog import find_method
from sightline.methods.contract import Batch, BuildContext, HasTargets
from sightline.methods.errors import SightlineError
from sightline.methods.optim import OptimConfig
from sightline.methods.random import MicrobatchRng
from sightline.platform import config
from sightline.platform.data.loader.blocks import Columns
from sightline.platform.data.loader.stream import Microbatch
from sightline.platform.training.compile import compile_blocks
from sightline.platform.training.precision import allow_tf32, choose_precision
from sightline.platform.training.step import Stepper, tensors, total

RECIPES = {
    "croco-tiny": None,
    "croco-v2-base-small": 4,
    "conmim-tiny": None,
    "conmim-base": 2,
    "loca-tiny": None,
    "loca-base": 2,
    "i2p-mae-tiny": None,
    "i2p-mae-base": 4,
}
"""What is measured, and the samples in a group on a CPU (None: the recipe's, as on a GPU)."""
SAMPLES = {"pairs": "pairs", "images": "images", "points": "clouds"}
"""Of each kind of data."""
TOLERANCE = 1e-4
"""Largest difference of the two losses, which are of the order of 1 on fresh weights."""
CPU_SAMPLES = 8
"""That a GPU's loss is compared with the CPU's on."""
MOMENTUM = 0.996
"""Of the textbook's teacher: the work does not depend on it."""


@dataclass(frozen=True)
class Scale:
    """How much is measured: `block_seconds` is the least time a block gives a variant, in whole steps; `group` None: as `RECIPES` say."""

    group: int | None
    quick: bool
    blocks: int
    block_seconds: float
    matmul: int
    profile: bool = False
    compiled: bool = False


class Operator(NamedTuple):
    name: str
    share: float
    """Of the profiled step."""
    calls: int


@dataclass(frozen=True)
class Measured:
    """One network on one machine; seconds by variant, one value a block."""

    recipe: str
    samples: str
    parameters: int
    group: int
    losses: dict[str, float]
    auto: str
    flops: int
    seconds: dict[str, list[float]]
    matmul_flops_per_second: dict[str, list[float]]
    operators: dict[str, list[Operator]]
    """By precision, those that take most of a step of ours."""
    memory: dict[str, int]
    """Peak bytes on a GPU by variant: weights, optimisers and gradients of all variants, and one step."""


def equal_losses(pretext: Any, textbook: nn.Module, yardstick: Yardstick, weights: Mapping[str, float], batch: Batch) -> dict[str, float]:
    """The loss of each on `batch` (after `to_device`). Raises `SightlineError` where they differ by more than `TOLERANCE`."""
    noise = MicrobatchRng(0, 0, 0)
    with torch.no_grad():
        ours = float(total(pretext(batch, noise), weights))
        theirs = float(textbook(*yardstick.inputs(pretext, batch, noise)))
    if not abs(ours - theirs) <= TOLERANCE:
        raise SightlineError(f"loss {ours:.6f}, textbook's {theirs:.6f}: they do not compute the same, so nothing was timed")
    return {"ours": ours, "textbook": theirs}


def count_flops(pretext: Any, weights: Mapping[str, float], batch: Batch) -> int:
    """Floating-point operations of matrix products and attention in a forward (a teacher's, too) + backward; a multiply-add is two."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # fused attention would count its recomputation, too
        total(pretext(batch, MicrobatchRng(0, 0, 0)), weights).backward()  # type: ignore[no-untyped-call]
    pretext.zero_grad(set_to_none=True)
    return int(counter.get_total_flops())


def cpu_difference(here: Any, there: Any, columns: Columns, weights: Mapping[str, float], device: torch.device) -> float:
    """How far the losses of the same weights and samples lie apart on the CPU and on `device`, both in fp32."""
    few = {name: column[:CPU_SAMPLES] for name, column in columns.items()}
    losses = []
    for pretext, where in ((here.train(), torch.device("cpu")), (there, device)):
        with torch.no_grad():
            batch, noise = pretext.to_device(tensors(few, where)), MicrobatchRng(0, 0, 0)
            if isinstance(pretext, HasTargets):
                (batch,) = pretext.targets([batch], [noise])
            losses.append(float(total(pretext(batch, noise), weights)))
    return abs(losses[0] - losses[1])


def our_step(
    pretext: Any, experiment: config.Experiment, weights: Mapping[str, float], ready: Batch, device: torch.device
) -> Callable[[str], None]:
    """One step of a run in `fp32`, `tf32` or `bf16`; all share weights and optimiser, which are fp32 in each."""
    pretext.to_device = lambda batch: dict(ready)  # preparing the batch is not what is timed
    clock = experiment.clock(samples=100 * experiment.batch.size)
    stepper = Stepper(pretext, experiment.optim, clock, weights, 0, "fp32", device)
    steps = iter(range(sys.maxsize))

    def step(precision: str) -> None:
        stepper.precision = precision
        allow_tf32(precision == "tf32")
        number = next(steps)
        result = stepper.step(number, [Microbatch(number, 0, {}, (), ())])
        if not result.finite:
            raise SightlineError(f"a gradient of step {number} in {precision} is not finite: what it timed means nothing")

    return step


def textbook_step(textbook: nn.Module, inputs: tuple[Any, ...], optim: OptimConfig, lr: float) -> Callable[[str], None]:
    """The loop body of a textbook in `fp32` or `bf16`: no fused update, the loss read at every step, then the teacher if there is one."""
    named = [(name, p) for name, p in textbook.named_parameters() if p.requires_grad]
    plain = [p for name, p in named if p.ndim == 1 or name.endswith(".bias")]
    decayed = [p for name, p in named if not (p.ndim == 1 or name.endswith(".bias"))]
    groups = [{"params": decayed, "weight_decay": optim.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=optim.betas)
    move_teacher: Callable[[float], None] = getattr(textbook, "move_teacher", lambda momentum: None)

    device = next(textbook.parameters()).device.type

    def step(precision: str) -> None:
        allow_tf32(precision == "tf32")
        with torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bf16"):
            loss = textbook(*inputs)
        if not math.isfinite(loss.item()):
            raise SightlineError("the textbook's loss is not finite: what it timed means nothing")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        move_teacher(MOMENTUM)

    return step


def device_name(device: torch.device, threads: int) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU ({torch.backends.cpu.get_cpu_capability()}), {threads} thread{'s' * (threads > 1)}"


def matmul_of(size: int, precision: str, device: torch.device) -> Callable[[], None]:
    """A product of two square matrices of `size`: 2 * size^3 operations."""
    generator, dtype = torch.Generator().manual_seed(0), torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(size, size, generator=generator).to(device, dtype) for _ in range(2))
    out = torch.empty_like(a)

    def product() -> None:
        allow_tf32(precision == "tf32")
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


def top_operators(call: Callable[[], None], count: int = 10) -> list[Operator]:
    """Operators by their own time, on a GPU that of their kernels."""
    with torch.profiler.profile() as found:
        call()
    kind = "self_device_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
    rows = sorted(found.key_averages(), key=lambda row: -getattr(row, kind))
    whole = sum(getattr(row, kind) for row in rows)
    return [Operator(row.key, getattr(row, kind) / whole, row.count) for row in rows[:count]]


def group_of(recipe: str, device: torch.device) -> int:
    """Samples in a group: the recipe's, on a CPU what `RECIPES` says."""
    small = RECIPES.get(recipe) if device.type == "cpu" else None
    return small or config.load(recipe).batch.microbatch


def samples_per_second(recipe: str, group: int, device: torch.device) -> float:
    """What the training of this recipe takes from its stream, in fp32."""
    experiment = config.load(recipe)
    method, settings = find_method(experiment.method), experiment.method_config
    weights = {name: float(weight) for name, weight in settings.loss.model_dump().items()}
    pretext = method.build(settings, BuildContext(seed=0)).to(device).train()
    raw = tensors(synthetic_columns(method, settings, group), device)
    step = our_step(pretext, experiment, weights, pretext.to_device(raw), device)
    step("fp32")  # lays out memory and optimiser state
    return group / seconds_of(lambda: step("fp32"), 1.0, device)


def measure(recipe: str, scale: Scale, device: torch.device, say: Callable[[str], None]) -> Measured:
    experiment = config.load(recipe)
    yardstick = YARDSTICKS[experiment.method]
    if scale.quick:
        experiment = config.load(recipe, yardstick.quick)
    settings, method = experiment.method_config, find_method(experiment.method)
    group = 2 if scale.quick else scale.group or group_of(recipe, device)
    weights = {name: float(weight) for name, weight in settings.loss.model_dump().items()}
    columns = synthetic_columns(method, settings, group)
    pretext = method.build(settings, BuildContext(seed=0)).to(device).train()
    if device.type == "cuda":
        apart = cpu_difference(method.build(settings, BuildContext(seed=0)), pretext, columns, weights, device)
        say(f"{recipe}: losses of {CPU_SAMPLES} samples differ between GPU and CPU by {apart:.1e}")
    textbook = yardstick.textbook(pretext).to(device).train()
    raw = tensors(columns, device)
    ready = pretext.to_device(raw)
    textbooks = {"textbook": textbook}
    if yardstick.lean is not None:
        textbooks["lean textbook"] = yardstick.lean(pretext).to(device).train()
        equal_losses(pretext, textbooks["lean textbook"], yardstick, weights, ready)
    losses = equal_losses(pretext, textbook, yardstick, weights, ready)
    say(f"{recipe}: losses agree, {losses['ours']:.6f} and {losses['textbook']:.6f}")
    flops = count_flops(pretext, weights, ready)
    gpu = device.type == "cuda"
    products = {name: matmul_of(scale.matmul, name, device) for name in ("fp32", *["tf32"] * gpu, "bf16")}
    has_bf16 = seconds_of(products["bf16"], 0.2, device) < seconds_of(products["fp32"], 0.2, device)
    precisions = ("fp32", *["tf32"] * gpu, *["bf16"] * has_bf16)
    auto = choose_precision(pretext, raw, weights, device)[0] if has_bf16 else "fp32"
    say(f"{recipe}: {flops / 1e9:.1f} GFLOP a step; precision: auto picks {auto}")
    inputs = yardstick.inputs(pretext, ready, MicrobatchRng(0, 0, 0))
    step, lr = our_step(pretext, experiment, weights, ready, device), experiment.optim.peak_lr(experiment.batch.size)
    rivals = {name: textbook_step(plain, inputs, experiment.optim, lr) for name, plain in textbooks.items()}
    compiled = copy.deepcopy(pretext) if scale.compiled else None
    if compiled is not None:
        compile_blocks(compiled)
        fast = our_step(compiled, experiment, weights, ready, device)
    calls: dict[str, Callable[[], None]] = {
        **{f"{name} fp32": partial(plain, "fp32") for name, plain in rivals.items()},
        **{f"{name} {precision}": partial(rivals[name], precision) for name in list(rivals)[-1:] for precision in precisions[1:]},
        **{f"ours {precision}": partial(step, precision) for precision in precisions},
        **{f"ours compiled {precision}": partial(fast, precision) for precision in precisions[-1:] if compiled is not None},
        **{f"matmul {name}": product for name, product in products.items()},
    }
    memory: dict[str, int] = {}
    for name, call in calls.items():  # the first call lays out memory, optimiser state and kernels, and compiles
        first = seconds_of(call, 0.0, device)
        if "compiled" in name:
            say(f"{recipe}: {name}: first step, compiling: {first:.1f} s")
        if gpu:
            torch.cuda.reset_peak_memory_stats(device)
            seconds_of(call, 0.0, device)
            memory[name] = torch.cuda.max_memory_allocated(device)
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for block in range(scale.blocks):
        for name, call in calls.items():
            seconds[name].append(seconds_of(call, scale.block_seconds, device))
        say(f"{recipe}: block {block + 1}/{scale.blocks}  " + "  ".join(f"{name} {seconds[name][-1]:.3g} s" for name in calls))
    rates = {name: [2 * scale.matmul**3 / s for s in seconds.pop(f"matmul {name}")] for name in products}
    parameters = sum(p.numel() for p in pretext.parameters() if p.requires_grad)
    ours = [name for name in seconds if name.startswith("ours ")]
    operators = {name.removeprefix("ours "): top_operators(calls[name]) for name in ours} if scale.profile else {}
    return Measured(recipe, SAMPLES[method.kind], parameters, group, losses, auto, flops, seconds, rates, operators, memory)


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
    work = f"group of {measured.group} {measured.samples}, {measured.flops / 1e9:.1f} GFLOP"
    title = f"{measured.recipe}: {measured.parameters / 1e6:.1f} M trained parameters, {work}"
    table = Table(title=title, title_justify="left", caption="median (least - most) over the blocks", caption_justify="left")
    table.add_column("")
    for heading in ("seconds a step", "times textbook", "times ours fp32", "of matmul"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, values in measured.seconds.items():
        mark = "  <- auto" if name == f"ours {measured.auto}" else ""
        against = [spread(ratios(measured, other, name), ".2f") if other != name else "1" for other in ("textbook fp32", "ours fp32")]
        table.add_row(name + mark, spread(values, ".3f"), *against, spread(of_matmul(measured, name), ".2f"))
    for precision, operators in measured.operators.items():
        table.add_section()
        for operator in operators:
            table.add_row(
                f"{precision} {operator.name.removeprefix('aten::')}"[:40], f"{operator.share:.1%} of a step", f"{operator.calls} calls"
            )
    for name, most in measured.memory.items():
        a_second = measured.group / statistics.median(measured.seconds[name])
        table.add_row(f"{name}: memory", f"{most / 2**30:.1f} GiB", f"{a_second:.0f} {measured.samples}/s", "", "")
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
    parser.add_argument("--recipe", nargs="+", default=list(RECIPES), metavar="NAME", help="default: " + ", ".join(RECIPES))
    parser.add_argument("--threads", type=int, default=1, help="torch threads, on a CPU (default 1)")
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--group", type=int, help="samples in a group (default: the recipe's; on a CPU 2 or 4 of the published size)")
    parser.add_argument("--quick", action="store_true", help="a smoke run: 2 blocks on cut-down networks; its figures mean nothing")
    parser.add_argument("--profile", action="store_true", help="the ten largest operators of a step of ours, too")
    parser.add_argument("--compiled", action="store_true", help="a row with `train.compile` in the best precision, too")
    parser.add_argument("--out", help="JSON file")
    args = parser.parse_args()
    if min(args.threads, args.blocks, 1 if args.group is None else args.group) < 1:
        parser.error("--threads, --blocks and --group must be at least 1")
    torch.set_num_threads(args.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if args.quick:
        scale = Scale(args.group, quick=True, blocks=2, block_seconds=0.0, matmul=256, profile=args.profile)
    else:
        matmul = 2048 if device.type == "cpu" else 8192
        scale = Scale(
            args.group, quick=False, blocks=args.blocks, block_seconds=1.0, matmul=matmul, profile=args.profile, compiled=args.compiled
        )
    scale = replace(scale, compiled=args.compiled)
    progress = Console(stderr=True)
    name = device_name(device, args.threads)
    tables, results = [], []
    for recipe in args.recipe:
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
