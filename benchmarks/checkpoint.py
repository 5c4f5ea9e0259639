"""Checkpoint: how long training stands still for one, and how much it is slowed down while one is written beside it.

  python benchmarks/checkpoint.py [--recipe croco-v2-base] [--rounds 5] [--folder DIR] [--out checkpoint.json]

A round has two parts of the same steps on synthetic data, one microbatch of two samples each:

- at once: a step, then its checkpoint is written by the thread that trains. The step takes longer by all of it.
- beside: a step, then its state is copied, and the thread of a run writes it while steps go on. The step takes longer by the copy alone.
  The steps until it is written are slowed down by what they take beyond the quiet ones; on a CPU the thread takes its share of the cores.

Quiet steps before each part say what a step takes. `lost` is the whole cost: stall and slow-down. Both write the same bytes, which is
checked. The first copy gets its memory from the system and is shown apart. `--folder`: on the disk that is of interest; by default the
folder of temporary files, which may be in memory.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from yardsticks import YARDSTICKS, synthetic_columns

from sightline.methods.catalog import find_method
from sightline.methods.contract import BuildContext
from sightline.platform import config
from sightline.platform.checkpoints import local as checkpoint
from sightline.platform.checkpoints.background import BackgroundWriter
from sightline.platform.checkpoints.retention import Retention, prune
from sightline.platform.data.loader.stream import Microbatch
from sightline.platform.training.step import Stepper

SAMPLES = 2
"""In a step: a small one, whose slow-down shows."""
MOST_STEPS = 500
"""While one checkpoint is written."""


@dataclass(frozen=True)
class Pair:
    """One round; seconds."""

    step: float
    """A quiet one, the median."""
    stall_at_once: float
    stall_beside: float
    slowed: float
    """All steps while the thread wrote, beyond quiet ones."""
    writing: float
    """By the thread, beside the training."""

    @property
    def lost(self) -> float:
        return self.stall_beside + self.slowed


class Training:
    """Steps on one microbatch, and checkpoints of them as a run makes them."""

    def __init__(self, experiment: config.Experiment, folder: Path, device: torch.device) -> None:
        method, settings = find_method(experiment.method), experiment.method_config
        pretext: Any = method.build(settings, BuildContext(seed=0)).to(device).train()
        weights = {name: float(weight) for name, weight in settings.loss.model_dump().items()}
        clock = experiment.clock(samples=100 * experiment.batch.size)
        self.stepper = Stepper(pretext, experiment.optim, clock, weights, 0, "fp32", device)
        self.columns = synthetic_columns(method, settings, SAMPLES)
        self.folder, self.device, self.number = folder, device, 0
        self.retention = Retention(1)
        self.writer = BackgroundWriter(folder, self.retention)

    def step(self) -> float:
        """Seconds."""
        began = time.perf_counter()
        self.stepper.step(self.number, [Microbatch(self.number, 0, self.columns, (), ())])
        self.number += 1
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    @property
    def state(self) -> checkpoint.TrainState:
        return checkpoint.TrainState(self.number, self.number, 0, 1, "", "", "fp32", "")

    @property
    def tensors(self) -> dict[str, dict[str, torch.Tensor]]:
        optimizer = checkpoint.optimizer_tensors(self.stepper.optimizer, self.stepper.names)
        return {"model": self.stepper.pretext.state_dict(), "optimizer": optimizer}

    def save_at_once(self) -> float:
        """Seconds in which training stands still."""
        began = time.perf_counter()
        checkpoint.write(self.folder, self.state, self.tensors)
        prune(self.folder, self.retention)
        return time.perf_counter() - began

    def save_beside(self) -> float:
        """Seconds in which training stands still."""
        began = time.perf_counter()
        self.writer.start(self.state, self.tensors, checkpoint.Note())
        return time.perf_counter() - began

    def steps_while_writing(self) -> tuple[list[float], float]:
        """(seconds of each step, seconds of the writing)."""
        steps: list[float] = []
        while (written := self.writer.take()) is None:
            steps.append(self.step())
            if len(steps) > MOST_STEPS:
                raise SystemExit(f"a checkpoint is not written within {MOST_STEPS} steps")
        return steps, written.seconds

    @property
    def bytes(self) -> int:
        return sum(value.nbytes for named in self.tensors.values() for value in named.values())


def same_bytes(training: Training) -> bool:
    """Whether both ways write the same files of the same state."""
    contents = []
    for save in (training.save_at_once, lambda: (training.save_beside(), training.writer.wait(), training.writer.take())):
        save()
        contents.append((checkpoint.steps(training.folder)[0] / checkpoint.COMPLETE).read_bytes())
    return contents[0] == contents[1]


def measure(training: Training, quiet: int) -> Pair:
    before = [training.step() for _ in range(quiet)]
    at_once = training.save_at_once()
    before += [training.step() for _ in range(quiet)][1:]  # the first step after a write may find cold caches
    step = statistics.median(before)
    beside = training.save_beside()
    steps, writing = training.steps_while_writing()
    return Pair(step, at_once, beside, sum(steps) - step * len(steps), writing)


def show(recipe: str, parameters: int, size: int, first: float, pairs: Sequence[Pair], console: Console) -> None:
    table = Table(box=None, title=f"{recipe}: {parameters / 1e6:.0f} M parameters, a checkpoint of {size / 1e9:.2f} GB; seconds")
    for name in ("round", "quiet step", "stall at once", "stall beside", "slowed down", "lost beside", "writing"):
        table.add_column(name, justify="right")
    rows = [(str(number), pair) for number, pair in enumerate(pairs, 1)]
    for name, pair in rows:
        values = (pair.step, pair.stall_at_once, pair.stall_beside, pair.slowed, pair.lost, pair.writing)
        table.add_row(name, *(f"{value:.2f}" for value in values))
    medians = [statistics.median(getattr(pair, name) for pair in pairs) for name in MEASURED]
    table.add_row("median", *(f"{value:.2f}" for value in medians))
    console.print(table)
    ratio = statistics.median(pair.stall_at_once / pair.stall_beside for pair in pairs)
    console.print(f"The stall is {ratio:.1f} times shorter; the first copy, which gets its memory from the system, took {first:.2f} s.")


MEASURED = ("step", "stall_at_once", "stall_beside", "slowed", "lost", "writing")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="croco-v2-base")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quiet", type=int, default=4, help="quiet steps before each part of a round")
    parser.add_argument("--threads", type=int, help="of torch; default: all cores")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--small", action="store_true", help="a tiny network, to try the script")
    parser.add_argument("--folder", type=Path, help="where checkpoints are written; it is left empty")
    parser.add_argument("--out", type=Path, help="file for the numbers, as JSON")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    experiment = config.load(args.recipe)
    if args.small:
        experiment = config.load(args.recipe, YARDSTICKS[experiment.method].quick)
    console = Console(width=140)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        training = Training(experiment, Path(folder), torch.device(args.device))
        training.step()
        first = training.save_beside()
        training.steps_while_writing()
        if not same_bytes(training):
            raise SystemExit("the two ways write other bytes, so nothing was timed")
        pairs = []
        for number in range(args.rounds):
            pairs.append(measure(training, args.quiet))
            print(f"round {number + 1}/{args.rounds}", file=sys.stderr, flush=True)
        parameters = sum(one.numel() for one in training.stepper.pretext.parameters())
        show(args.recipe, parameters, training.bytes, first, pairs, console)
        if args.out:
            rounds = [asdict(pair) for pair in pairs]
            found = {"recipe": args.recipe, "parameters": parameters, "bytes": training.bytes, "first_copy": first, "rounds": rounds}
            args.out.write_text(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
