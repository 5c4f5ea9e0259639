"""Scaling: one run with more workers on more nodes, and from measured costs what the design asks for at 64 and at 1,024 GPUs.

  python benchmarks/scaling.py [--recipe croco-tiny] [--workers 1 2 4] [--steps 60] [--out scaling.json]
  python benchmarks/scaling.py --paper croco-v2-base conmim-base [--tflops 200]

1. A Ray cluster of several real raylets on this machine: a head without CPUs and one node for each worker. The same run (same samples in
   the same order) is trained with 1, 2, 4 workers, each on a node of its own; medians over the reports after the first third. All nodes
   share this machine's cores, so samples a second cannot grow: what is measured is what more nodes cost, and whether data wait appears.
2. On paper (`--paper`): bytes and CPU time of one sample are measured here, the step's work is counted, and `--tflops` is what a GPU is
   assumed to do of it each second. Everything else is arithmetic.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ingest import Rows, alone, write_data
from rich.console import Console
from rich.table import Table

from sightline.methods.catalog import find_method
from sightline.platform import config
from sightline.platform.core.ray_init import start_ray
from sightline.platform.experiments.create import create_run
from sightline.platform.experiments.estimate import estimate_cost
from sightline.platform.experiments.preflight import check
from sightline.platform.experiments.train_run import train_on_ray
from sightline.platform.runs.events import StepsDone, WorkerStarted

GPUS = (64, 1024)
NODE_GPUS = 8
STREAM = 0.8
"""Of a data CPU's time that goes into decoding (docs/notes/stream.md)."""
BLOCKS_AHEAD = 4
"""Blocks of each rank that lie in the object store at a time: one that is read, one that is next, two that are being made."""
CHECKPOINT_MINUTES = 15


@dataclass
class Measured:
    workers: int
    nodes: int
    """On which workers stood, as their events say."""
    rate: float
    """Samples a second, median over reports."""
    low: float
    high: float
    data_wait: float
    """Share of the time."""
    other: float
    """Share of the time that is in no phase of a step: bookkeeping. Gradients are reduced within the backward pass."""


@contextmanager
def nodes(count: int) -> Any:
    """A head without CPUs and `count` nodes of two logical CPUs."""
    import ray
    from ray.cluster_utils import Cluster

    cluster: Any = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, "object_store_memory": 200 << 20}
    )
    try:
        for _ in range(count):
            cluster.add_node(num_cpus=2, object_store_memory=200 << 20)
        os.environ["RAY_ADDRESS"] = str(cluster.address)
        start_ray()
        yield
    finally:
        ray.shutdown()
        cluster.shutdown()
        os.environ.pop("RAY_ADDRESS", None)


def measure(recipe: str, data: str, workers: int, most: int, steps: int) -> Measured:
    settings = {
        "data.train": data,
        "train.workers": workers,
        "train.threads": 1,
        "train.device": "cpu",
        "train.precision": "fp32",
        "train.length": f"{steps} steps",
        "train.checkpoint_every": f"{steps} steps",
        "batch.size": 8 * most,
        "batch.microbatch": 8,
        "log.every": 3,
    }
    experiment, dataset = check(config.load(recipe, settings))
    run = create_run(f"scaling-{workers}", experiment, dataset.fingerprint, "benchmarks/scaling.py", "")
    with nodes(workers):
        train_on_ray(run, lambda event: None)
    reports = [event for event in run.events() if isinstance(event, StepsDone) and event.first >= steps / 3]
    rates = [event.samples / event.seconds for event in reports]
    shares = [{name: seconds / event.seconds for name, seconds in event.phases.items()} for event in reports]
    waits = [share.get("data_wait", 0.0) for share in shares]
    stood = {event.node for event in run.events() if isinstance(event, WorkerStarted)}
    return Measured(
        workers,
        len(stood),
        statistics.median(rates),
        min(rates),
        max(rates),
        statistics.median(waits),
        statistics.median(1 - sum(share.values()) for share in shares),
    )


def table_of(rows: Sequence[Measured], recipe: str) -> Table:
    table = Table(title=f"{recipe}: one node a worker, all on this machine", title_justify="left")
    for heading in ("workers", "nodes", "samples/s", "against 1", "data wait", "neither data nor passes"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            str(row.workers),
            str(row.nodes),
            f"{row.rate:.1f} ({row.low:.1f}-{row.high:.1f})",
            f"{row.rate / rows[0].rate:.2f}",
            f"{row.data_wait:.1%}",
            f"{row.other:.1%}",
        )
    return table


@dataclass
class Paper:
    """What a recipe asks for on so many GPUs."""

    gpus: int
    samples: float
    """A second."""
    step_seconds: float
    batch: int
    """Of the recipe, so many times as there must be at least one group a GPU."""
    read_mb: float
    """Megabytes a second from storage, all nodes together."""
    decode_cpus: float
    """A GPU."""
    store_mb: float
    """Megabytes of object store, of a node of eight GPUs."""
    gradients_gb: float
    """Gigabytes that each GPU sends in a step: ring all-reduce of fp32 gradients."""
    checkpoint_gb: float
    checkpoint_mb: float
    """Megabytes a second, mean, one checkpoint every quarter of an hour, written by one rank."""
    events: float
    """A second, to the driver's recorder."""


def paper(recipe: str, tflops: float, scratch: Path) -> tuple[dict[str, float], list[Paper]]:
    """(measured costs of a sample, one row for each number of GPUs)."""
    experiment = config.load(recipe, {"train.workers": 1})
    method = find_method(experiment.method)
    dataset = write_data(scratch / recipe, method.kind)
    views = method.views(experiment.method_config)
    rows = Rows(dataset, views)
    decode, cut = alone(rows)
    sample = rows[0]
    stored = sum(path.stat().st_size for path in (scratch / recipe).glob("*.parquet")) / dataset.rows
    made = sum(value.nbytes for value in sample.values())
    estimate = estimate_cost(experiment)
    rate = tflops * 1e12 / (estimate.gflops_per_sample * 1e9)
    costs = {"decode ms": decode, "views ms": cut, "stored kB": stored / 1e3, "made kB": made / 1e3, "GFLOP": estimate.gflops_per_sample}
    trained = (estimate.weights_bytes - 4 * estimate.parameters) / 12  # fp32 gradients and two moments of each
    checkpoint = 4 * estimate.parameters + 8 * trained
    found = []
    for gpus in GPUS:
        slots = experiment.batch.size // experiment.batch.microbatch
        batch = experiment.batch.size * max(1, -(-gpus // slots))
        step = batch / (gpus * rate)
        found.append(
            Paper(
                gpus,
                gpus * rate,
                step,
                batch,
                gpus * rate * stored / 1e6,
                rate * (decode + cut) / 1e3 / STREAM,
                NODE_GPUS * BLOCKS_AHEAD * experiment.data.block * made / 1e6,
                2 * 4 * trained / 1e9,
                checkpoint / 1e9,
                checkpoint / 1e6 / (60 * CHECKPOINT_MINUTES),
                2 / (step * experiment.log.every),
            )
        )
    return costs, found


def paper_table(recipe: str, costs: dict[str, float], rows: Sequence[Paper], tflops: float) -> Table:
    measured = ", ".join(f"{name} {value:.3g}" for name, value in costs.items())
    table = Table(title=f"{recipe}, {tflops:g} TFLOP/s a GPU assumed; a sample: {measured}", title_justify="left")
    table.add_column("")
    for row in rows:
        table.add_column(f"{row.gpus:,} GPUs", justify="right")
    for name, digits in (
        ("samples", ",.0f"),
        ("batch", ",d"),
        ("step_seconds", ".3f"),
        ("read_mb", ",.0f"),
        ("decode_cpus", ".1f"),
        ("store_mb", ",.0f"),
        ("gradients_gb", ".2f"),
        ("checkpoint_gb", ".1f"),
        ("checkpoint_mb", ".1f"),
        ("events", ".2f"),
    ):
        table.add_row(LABELS[name], *(format(getattr(row, name), digits) for row in rows))
    return table


LABELS = {
    "samples": "samples/s",
    "batch": "least batch",
    "step_seconds": "seconds a step",
    "read_mb": "MB/s read",
    "decode_cpus": "data CPUs a GPU",
    "store_mb": "MB object store, a node of 8",
    "gradients_gb": "GB sent a GPU and step",
    "checkpoint_gb": "GB a checkpoint",
    "checkpoint_mb": "MB/s of checkpoints, mean",
    "events": "events/s to the driver",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="croco-tiny")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--paper", nargs="+", metavar="RECIPE", help="the arithmetic for these recipes instead")
    parser.add_argument("--tflops", type=float, default=200.0, help="of a GPU, assumed (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="JSON")
    args = parser.parse_args()
    console = Console()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["SIGHTLINE_HOME"] = scratch
        if args.paper:
            for recipe in args.paper:
                costs, rows = paper(recipe, args.tflops, Path(scratch))
                console.print(paper_table(recipe, costs, rows, args.tflops))
                found[recipe] = {"costs": costs, "rows": [asdict(row) for row in rows]}
        else:
            data = Path(scratch) / "data"
            write_data(data, find_method(config.load(args.recipe).method).kind)
            measured = []
            for workers in args.workers:
                measured.append(measure(args.recipe, str(data), workers, max(args.workers), args.steps))
                print(f"{workers} workers: {measured[-1].rate:.1f} samples/s", file=sys.stderr, flush=True)
            console.print(table_of(measured, args.recipe))
            found[args.recipe] = [asdict(row) for row in measured]
    if args.out:
        args.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
