"""Ingest: pairs/s of the stream in the steady state beside torch's DataLoader, with the same decode, crop and cores.

  python benchmarks/ingest.py [--workers 2] [--blocks 5] [--out ingest.json]

Both read 256 px JPEG pairs of this machine's disk cache, decode them and cut CroCo's 224 px views with the same function. The stream
also reads Parquet, shuffles, keys every draw and asserts every position; the DataLoader is given encoded bytes in memory and its
sampler's order. Blocks alternate, each with a pipeline of its own; the first batches of a block are not counted. Ratios are taken
inside a pair of blocks, their median and range are printed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from sightline.methods.catalog import find_method
from sightline.methods.random import keyed_rng, sample_rng
from sightline.platform import config
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.images import encode_image
from sightline.platform.data.plan import Plan
from sightline.platform.data.rows import IMAGE_COLUMNS, decode_row
from sightline.platform.data.stream import Stream, StreamResources
from sightline.platform.data.writer import ShardWriter
from sightline.platform.launch import start_ray

PAIRS, SIDE, BATCH, GROUP = 1024, 256, 64, 32
WARM, TIMED = 8, 32
"""Batches a block begins with uncounted, and counts."""


def write_data(folder: Path) -> Dataset:
    """Photo-like pairs: coarse noise, enlarged, with fine noise on it (about 25 kB each as JPEG)."""
    with ShardWriter(folder, "pairs") as writer:
        for index in range(PAIRS):
            rng = keyed_rng("ingest", index)
            small = Image.fromarray(rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            image = np.clip(np.asarray(small, np.int16) + rng.integers(-8, 8, (SIDE, SIDE, 1)), 0, 255).astype(np.uint8)
            writer.write({"id": f"{index:05d}", "image1": encode_image(image, 90), "image2": encode_image(image[:, ::-1], 90)})
    return Dataset.open(folder)


class Rows(torch.utils.data.Dataset[dict[str, Any]]):
    """The same rows and views for the DataLoader, endless."""

    def __init__(self, dataset: Dataset, views: Any) -> None:
        self.rows = [row for table in dataset.scan(["id", *IMAGE_COLUMNS["pairs"]]) for row in table.to_pylist()]
        self.views = views

    def __len__(self) -> int:
        return 1 << 30

    def __getitem__(self, index: int) -> dict[str, Any]:
        return dict(self.views(decode_row(self.rows[index % len(self.rows)], "pairs"), sample_rng(0, index)))


def timed(batches: Iterator[Any]) -> tuple[float, float]:
    """(seconds to the first batch, pairs per second after the warm-up)."""
    start = time.perf_counter()
    next(batches)
    first = time.perf_counter() - start
    for _ in range(WARM):
        next(batches)
    start = time.perf_counter()
    for _ in range(TIMED):
        next(batches)
    return first, TIMED * BATCH / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2, help="decode processes of either")
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--out", help="JSON file")
    args = parser.parse_args()
    console = Console()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        dataset = write_data(Path(scratch) / "pairs")
        experiment = config.load("croco-v1-base", {"batch.size": BATCH, "batch.group": GROUP, "train.workers": 1})
        views = find_method("croco").views(experiment.settings)
        plan = Plan(tuple(dataset.row_groups), 0, BATCH, GROUP)
        start_ray(args.workers)
        rows = Rows(dataset, views)

        def ours() -> Iterator[Any]:
            return iter(Stream(dataset, views, plan, range(plan.lanes), 0, 1 << 20, 0, StreamResources(1.0, float(args.workers))))

        def loader() -> Iterator[Any]:
            return iter(torch.utils.data.DataLoader(rows, BATCH, num_workers=args.workers))

        makers: dict[str, Callable[[], Iterator[Any]]] = {"stream": ours, "DataLoader": loader}
        seconds: dict[str, list[float]] = {name: [] for name in makers}
        rates: dict[str, list[float]] = {name: [] for name in makers}
        for block in range(args.blocks):
            for name, make in makers.items():
                batches = make()
                first, rate = timed(batches)
                if name == "stream":
                    batches.close()  # type: ignore[attr-defined]
                del batches
                seconds[name].append(first)
                rates[name].append(rate)
                console.print(f"block {block + 1}/{args.blocks} {name:<10} {rate:7.0f} pairs/s, first batch {first:.1f} s", highlight=False)
                time.sleep(1.0)  # what the one left running has ended
    ratios = [a / b for a, b in zip(rates["stream"], rates["DataLoader"], strict=True)]
    table = Table("", "pairs/s", "range", "first batch, cold", "first batch, warm")
    for name in makers:
        warm = statistics.median(seconds[name][1:]) if args.blocks > 1 else float("nan")
        spread = f"{min(rates[name]):.0f} to {max(rates[name]):.0f}"
        table.add_row(name, f"{statistics.median(rates[name]):.0f}", spread, f"{seconds[name][0]:.1f} s", f"{warm:.1f} s")
    table.add_row("ratio", f"{statistics.median(ratios):.2f}", f"{min(ratios):.2f} to {max(ratios):.2f}", "", "")
    console.print(table)
    if args.out:
        result = {"pairs_per_second": rates, "first_batch_seconds": seconds, "ratios": ratios, "workers": args.workers, "batch": BATCH}
        Path(args.out).write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
