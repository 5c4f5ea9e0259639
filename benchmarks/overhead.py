"""Overhead: steps a second of a run on Ray beside a bare loop of two DDP processes, and the memory of a run over time and over its data.

  python benchmarks/overhead.py [--recipe croco-tiny] [--set batch.size=64] [--steps 60] [--repeats 3] [--out overhead.json]
  python benchmarks/overhead.py --memory [--steps 2000]

1. The run is the whole of `sightline pretrain` up to its last step: Ray, events, MLflow apart, checks of every loss, a report every
   `log.every` steps, its checkpoint at the end. The bare loop is what a person would write: two processes, gloo, DDP, AdamW, the same
   network from the same seed, the same batches and precision, no clipping that the recipe does not ask for, nothing recorded. Both are
   fed from memory with the same few prepared batches, so decoding is in neither; `benchmarks/ingest.py` measures that. Runs alternate.
   A rate is the median over the reports after the first third; of the bare loop over as many steps.
2. `--memory`: proportional set size of all processes of a small run with the real stream, a fit over the second half of the steps, and its
   peak for data of 1, 4 and 16 times as many rows.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ingest
import numpy as np
import psutil
import torch
from rich.console import Console
from rich.table import Table
from torch.nn.parallel import DistributedDataParallel
from yardsticks import YARDSTICKS, synthetic_columns

from sightline.methods import collective
from sightline.methods.catalog import find_method
from sightline.methods.contract import BuildContext
from sightline.methods.random import MicrobatchRng
from sightline.platform import config
from sightline.platform.cluster import workers
from sightline.platform.config import Experiment
from sightline.platform.core.ray_init import start_ray
from sightline.platform.data.loader.stream import Columns, Microbatch
from sightline.platform.data.training_data import recorded_training_data
from sightline.platform.experiments.create import create_run
from sightline.platform.experiments.train_run import train_on_ray
from sightline.platform.runs.events import StepsDone
from sightline.platform.training.step import tensors, total

RANKS, PREPARED = 2, 4
"""Processes, and batches that lie in memory."""
ROWS = 256
GROWS = (1, 4, 16)


def columns_of(experiment: Experiment, slot: int, index: int) -> Columns:
    method = find_method(experiment.method)
    return synthetic_columns(method, experiment.method_config, experiment.batch.microbatch, seed=slot * PREPARED + index)


def train_from_memory(values: dict[str, Any]) -> None:
    """The function of a Ray Train worker, as it is, but for the stream."""
    from sightline.platform.training.inputs import TrainInputs

    def stream(inputs: TrainInputs, first: int) -> Iterator[list[Microbatch]]:
        experiment = inputs.job.experiment
        share = experiment.batch.microbatches // collective.world_size()
        slots = range(collective.rank() * share, (collective.rank() + 1) * share)
        made = {slot: [columns_of(experiment, slot, index) for index in range(PREPARED)] for slot in slots}
        ids = tuple(f"{index:05d}" for index in range(experiment.batch.microbatch))
        return (
            [Microbatch(step, slot, made[slot][step % PREPARED], ids, ()) for slot in slots] for step in range(first, inputs.clock.steps)
        )

    TrainInputs.stream = stream  # type: ignore[method-assign, assignment]
    original(values)


original = workers._worker


def of_run(experiment: Experiment, name: str) -> list[float]:
    """Seconds a step of each report after the first third."""
    import ray

    dataset = recorded_training_data(experiment.data, find_method(experiment.method).kind)
    run = create_run(name, experiment, dataset.fingerprint, "overhead", "")
    workers._worker = train_from_memory
    start_ray()
    train_on_ray(run, lambda event: None)
    ray.shutdown()
    steps = experiment.clock(dataset.rows).steps
    return [one.seconds / len(one.lr) for one in run.events() if isinstance(one, StepsDone) and one.first >= steps / 3]


def of_bare(settings: dict[str, Any], recipe: str, steps: int) -> list[float]:
    """Of the two processes that `bare` runs in."""
    with tempfile.TemporaryDirectory() as folder:
        call = [sys.executable, __file__, "--bare", folder, "--recipe", recipe, "--steps", str(steps), "--set", json.dumps(settings)]
        processes = [subprocess.Popen([*call, "--rank", str(rank)], stdout=subprocess.PIPE, text=True) for rank in range(RANKS)]
        said = [process.communicate()[0] for process in processes]
    seconds: list[float] = json.loads(said[0].splitlines()[-1])
    return seconds


def bare(experiment: Experiment, rank: int, steps: int, folder: str) -> list[float]:
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // RANKS))
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=RANKS)
    method, device = find_method(experiment.method), torch.device("cpu")
    network = method.build(experiment.method_config, BuildContext(seed=experiment.train.seed)).train()
    parameters = [one for one in network.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, betas=experiment.optim.betas, fused=True)
    model = DistributedDataParallel(network, gradient_as_bucket_view=True)
    weights = {name: float(weight) for name, weight in experiment.method_config.loss.model_dump().items()}
    share = experiment.batch.microbatches // RANKS
    slots = range(rank * share, (rank + 1) * share)
    made = [[columns_of(experiment, slot, index) for slot in slots] for index in range(PREPARED)]
    seconds, every, clock = [], experiment.log.every, time.perf_counter()
    for step in range(steps):
        for place, columns in enumerate(made[step % PREPARED]):
            batch = network.to_device(tensors(columns, device))
            quiet = model.no_sync() if place < share - 1 else torch.enable_grad()
            with quiet, torch.autocast("cpu", torch.bfloat16, enabled=experiment.train.precision == "bf16"):
                loss = total(model(batch, MicrobatchRng(0, step, slots[place])), weights) / share
                loss.backward()
        if experiment.optim.clip is not None:
            torch.nn.utils.clip_grad_norm_(parameters, experiment.optim.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if (step + 1) % every == 0:
            now = time.perf_counter()
            if step + 1 - every >= steps / 3:
                seconds.append((now - clock) / every)
            clock = now
    torch.distributed.destroy_process_group()
    return seconds


class Memory(threading.Thread):
    """Proportional set size of this process and all below it, by time."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.seen: list[tuple[float, int]] = []
        self.ended = threading.Event()

    def run(self) -> None:
        me = psutil.Process()
        while not self.ended.wait(1.0):
            total = 0
            for process in [me, *me.children(recursive=True)]:
                try:
                    total += process.memory_full_info().pss
                except psutil.Error:
                    continue
            self.seen.append((time.time(), total))


def memory_of(experiment: Experiment, name: str) -> tuple[float, float]:
    """(peak in MB, growth in MB for 1,000 steps over the second half)."""
    import ray

    dataset = recorded_training_data(experiment.data, find_method(experiment.method).kind)
    run = create_run(name, experiment, dataset.fingerprint, "overhead", "")
    workers._worker = original
    memory = Memory()
    memory.start()
    start_ray()
    train_on_ray(run, lambda event: None)
    ray.shutdown()
    memory.ended.set()
    reports = [(float(one.time or 0), one.first + len(one.lr)) for one in run.events() if isinstance(one, StepsDone)]
    times, steps = zip(*reports, strict=True)
    within = [(float(np.interp(when, times, steps)), size) for when, size in memory.seen if times[len(times) // 2] <= when <= times[-1]]
    slope = float(np.polyfit([step for step, _ in within], [size for _, size in within], 1)[0]) if len(within) > 2 else float("nan")
    return max(size for _, size in memory.seen) / 1e6, slope * 1000 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="croco-tiny")
    parser.add_argument("--set", default="", help="further settings: section.key=value, several by commas")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--bare", help=argparse.SUPPRESS)
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    steps = args.steps or (2000 if args.memory else 60)
    given = json.loads(args.set) if args.set.startswith("{") else config.parse_overrides([one for one in args.set.split(",") if one])
    settings = {"train.length": f"{steps} steps", "train.workers": RANKS, "train.precision": "fp32", "log.every": 5, **given}
    if args.bare:
        print(json.dumps(bare(config.load(args.recipe, settings), args.rank, steps, args.bare)))
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SIGHTLINE_HOME"] = folder
        found = of_memory(args.recipe, settings, folder) if args.memory else beside(args.recipe, settings, steps, args.repeats, folder)
    if args.out:
        args.out.write_text(json.dumps(found, indent=1))


def beside(recipe: str, settings: dict[str, Any], steps: int, repeats: int, folder: str) -> dict[str, Any]:
    ingest.ROWS = ROWS
    ingest.write_data(Path(folder) / "data", find_method(config.load(recipe, settings).method).kind)
    experiment = config.load(recipe, {**settings, "data.train": f"{folder}/data", "train.validate_every": "1000000 steps"})
    ours, plain = [], []
    for repeat in range(repeats):
        plain.append(statistics.median(of_bare(settings, recipe, steps)))
        ours.append(statistics.median(of_run(experiment, f"overhead-{repeat}")))
    ratios = [bare / run for bare, run in zip(plain, ours, strict=True)]
    table = Table("recipe", "batch", "bare loop, s a step", "run on Ray, s a step", "run / bare: median (range)")
    batch = f"{experiment.batch.size} in {experiment.batch.microbatches} microbatches"
    ratio = f"{statistics.median(ratios):.3f} ({min(ratios):.3f}-{max(ratios):.3f})"
    table.add_row(recipe, batch, f"{statistics.median(plain):.3f}", f"{statistics.median(ours):.3f}", ratio)
    Console(width=120).print(table)
    return {"recipe": recipe, "bare": plain, "run": ours, "ratios": ratios}


def of_memory(recipe: str, settings: dict[str, Any], folder: str) -> dict[str, Any]:
    """A network cut down, so that many steps pass in little time."""
    experiment = config.load(recipe, settings)
    quick = {**settings, **YARDSTICKS[experiment.method].quick, "batch.size": RANKS, "batch.microbatch": 1, "log.every": 20}
    found = {}
    table = Table("rows", "steps", "peak PSS, MB", "growth in 1,000 steps, MB")
    for times in GROWS:
        ingest.ROWS = ROWS * times
        data = ingest.write_data(Path(folder) / f"data-{times}", find_method(experiment.method).kind)
        peak, growth = memory_of(config.load(recipe, {**quick, "data.train": data.uri}), f"memory-{times}")
        found[ROWS * times] = {"peak_mb": peak, "growth_mb": growth}
        table.add_row(str(ROWS * times), settings["train.length"], f"{peak:.0f}", f"{growth:+.1f}")
    Console(width=100).print(table)
    return found


if __name__ == "__main__":
    main()
