"""Ingest: samples/s of the stream in the steady state beside other loaders, with the same decode, views and cores.

  python benchmarks/ingest.py [--recipe loca-base] [--workers 2] [--blocks 3] [--against DataLoader LitData] [--out ingest.json]

All read 256 px JPEGs (pairs for CroCo, single images for the others) of this machine's disk cache, decode them and cut the recipe's
views with the same functions.

  stream                  also reads Parquet with checksums, shuffles, keys every draw and asserts every position
  DataLoader              torch's, given encoded bytes in memory and its sampler's order
  DataLoader, persistent  the same, whose processes stay from block to block
  WebDataset              tar files, shuffled by shards and in a buffer of 256, in the DataLoader's processes
  LitData                 its own files, shuffled, in the DataLoader's processes

The last two are left out where they are not installed (pip install webdataset litdata).

Blocks alternate, each with a pipeline of its own, whose first batches are not counted. Ratios are taken inside a block, their median and
range are printed. The stream's first batch waits for Ray's processes, which are there from the second block on, as those of the persistent
DataLoader.

Besides: what decode and views of a sample take in one process alone, the share of the stream's worker time that they make up, and what
one thread of training takes of the same recipe's samples in fp32, measured while nothing else runs. A stream that gives less starves
the trainer.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from step import samples_per_second

from sightline.methods.catalog import find_method
from sightline.methods.contract import Kind, Views
from sightline.methods.random import keyed_rng, sample_rng
from sightline.platform import config
from sightline.platform.core.ray_init import start_ray
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.images import encode_image
from sightline.platform.data.kinds import find_kind
from sightline.platform.data.loader.plan import Plan
from sightline.platform.data.loader.stream import Stream, StreamResources
from sightline.platform.data.schema import decode_row
from sightline.platform.data.writer import ShardWriter

RECIPES = ("croco-v1-base", "conmim-base", "loca-tiny", "loca-base")
ROWS, SIDE, BATCH, GROUP = 1024, 256, 64, 32
ROUND = 8
"""Batches in which every slot ends a block of rows: whole rounds are counted."""
WARM = 2
"""Rounds before those."""
WRITTEN = 16
"""How often the rows are in the files of WebDataset and LitData, so that few epochs end in the seconds that are counted."""
RIVALS = {"DataLoader": "", "DataLoader, persistent": "", "WebDataset": "webdataset", "LitData": "litdata"}
"""What is measured beside the stream, and the package that it needs."""
ALONE, TRAINED = 128, 4
"""Samples by which decode and views are timed in this process, and samples in a group of the training step."""


@dataclass
class Measured:
    """One recipe: samples a second and seconds to the first batch, by source and block; milliseconds of one sample alone."""

    recipe: str
    kind: Kind
    rates: dict[str, list[float]] = field(default_factory=dict)
    first_batch_seconds: dict[str, list[float]] = field(default_factory=dict)
    decode_ms: float = 0.0
    views_ms: float = 0.0
    training_rate: float = 0.0

    @property
    def ratios(self) -> dict[str, list[float]]:
        """The stream's rate relative to each other source, block by block."""
        return {
            name: [ours / theirs for ours, theirs in zip(self.rates["stream"], rates, strict=True)]
            for name, rates in self.rates.items()
            if name != "stream"
        }

    @property
    def stream_rate(self) -> float:
        return statistics.median(self.rates["stream"])

    def worker_share(self, workers: int) -> float:
        """Of the stream's worker processes, the share of time that decode and views would need alone."""
        return (self.decode_ms + self.views_ms) / 1000 * self.stream_rate / workers

    @property
    def feeds(self) -> float:
        """How many threads of training the stream feeds."""
        return self.stream_rate / self.training_rate


def write_data(folder: Path, kind: Kind) -> Dataset:
    """Photo-like images: coarse noise, enlarged, with fine noise on it (about 25 kB each as JPEG)."""
    names = find_kind(kind).holding("image")
    with ShardWriter(folder, kind) as writer:
        for index in range(ROWS):
            rng = keyed_rng("ingest", index)
            small = Image.fromarray(rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            image = np.clip(np.asarray(small, np.int16) + rng.integers(-8, 8, (SIDE, SIDE, 1)), 0, 255).astype(np.uint8)
            sides = (image, image[:, ::-1])
            writer.write({"id": f"{index:05d}"} | {name: encode_image(side, 90) for name, side in zip(names, sides, strict=False)})
    return Dataset.open(folder)


class Rows(torch.utils.data.Dataset[dict[str, Any]]):
    """The same rows and views for the DataLoader, endless."""

    def __init__(self, dataset: Dataset, views: Views) -> None:
        self.rows = [row for table in dataset.scan(["id", *find_kind(dataset.kind).holding("image")]) for row in table.to_pylist()]
        self.kind, self.views = dataset.kind, views

    def __len__(self) -> int:
        return 1 << 30

    def __getitem__(self, index: int) -> dict[str, Any]:
        return dict(self.views(decode_row(self.rows[index % len(self.rows)], self.kind), sample_rng(0, index)))


def webdataset(rows: Rows, folder: Path, workers: int) -> Callable[[], Iterator[Any]]:
    """The rows as tar files, one a worker and epoch at least."""
    import webdataset as wds

    images = find_kind(rows.kind).holding("image")
    with wds.ShardWriter(str(folder / "%04d.tar"), maxcount=ROWS, verbose=0) as writer:
        for index, row in enumerate(row for _ in range(WRITTEN) for row in rows.rows):
            writer.write({"__key__": f"{index:06d}"} | {f"{name}.jpg": row[name] for name in images})
    shards = sorted(str(path) for path in folder.glob("*.tar"))

    def make() -> Iterator[Any]:
        numbers = itertools.count()

        def sample(found: dict[str, Any]) -> dict[str, Any]:
            row = {"id": found["__key__"]} | {name: found[f"{name}.jpg"] for name in images}
            return dict(rows.views(decode_row(row, rows.kind), sample_rng(0, next(numbers))))

        data = wds.WebDataset(shards, resampled=True, shardshuffle=False).shuffle(256).map(sample)
        return iter(torch.utils.data.DataLoader(data, BATCH, num_workers=workers))

    return make


def litdata(rows: Rows, folder: Path, workers: int) -> Callable[[], Iterator[Any]]:
    import litdata as ld
    from litdata.streaming.writer import BinaryWriter

    images = find_kind(rows.kind).holding("image")
    writer = BinaryWriter(str(folder), chunk_bytes="64MB")
    for index, row in enumerate(row for _ in range(WRITTEN) for row in rows.rows):
        writer[index] = {name: row[name] for name in ("id", *images)}
    writer.done()
    writer.merge()

    class Samples(ld.StreamingDataset):  # type: ignore[misc]
        def __getitem__(self, index: Any) -> dict[str, Any]:
            return dict(rows.views(decode_row(super().__getitem__(index), rows.kind), sample_rng(0, getattr(index, "index", index))))

    def make() -> Iterator[Any]:
        data = Samples(str(folder), shuffle=True, drop_last=True)
        while True:
            yield from ld.StreamingDataLoader(data, batch_size=BATCH, num_workers=workers)

    return make


def alone(rows: Rows) -> tuple[float, float]:
    """Milliseconds of decode and of views for a sample, in this process."""
    start = time.perf_counter()
    samples = [decode_row(row, rows.kind) for row in rows.rows[:ALONE]]
    middle = time.perf_counter()
    for index, sample in enumerate(samples):
        rows.views(sample, sample_rng(0, index))
    end = time.perf_counter()
    return 1000 * (middle - start) / len(samples), 1000 * (end - middle) / len(samples)


def timed(batches: Iterator[Any], warm: int, least: float) -> tuple[float, float]:
    """(seconds to the first batch, samples a second after `warm` rounds, over whole rounds of at least `least` seconds)."""
    start = time.perf_counter()
    next(batches)
    first = time.perf_counter() - start
    for _ in range(warm * ROUND - 1):
        next(batches)
    counted, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < least or not counted:
        for _ in range(ROUND):
            next(batches)
        counted += ROUND
    return first, counted * BATCH / passed


def measure(
    recipe: str,
    dataset: Dataset,
    folder: Path,
    rivals: Sequence[str],
    workers: int,
    blocks: int,
    least: float,
    say: Callable[[str], None],
) -> Measured:
    """`folder`: empty, for the files of the rivals."""
    experiment = config.load(recipe)
    method = find_method(experiment.method)
    views = method.views(experiment.method_config)
    plan = Plan(tuple(dataset.row_groups), 0, BATCH, GROUP, experiment.data.block)
    rows = Rows(dataset, views)
    measured = Measured(recipe, method.kind)
    measured.decode_ms, measured.views_ms = alone(rows)
    measured.training_rate = samples_per_second(recipe, TRAINED, torch.device("cpu"))
    say(f"{recipe}: decode {measured.decode_ms:.2f} ms, views {measured.views_ms:.2f} ms, training {measured.training_rate:.1f}/s")
    kept = torch.utils.data.DataLoader(rows, BATCH, num_workers=workers, persistent_workers=True)
    makers: dict[str, Callable[[], Iterator[Any]]] = {
        "stream": lambda: iter(Stream(dataset, views, plan, range(plan.slots), 0, 1 << 20, 0, StreamResources(1.0, float(workers)))),
        "DataLoader": lambda: iter(torch.utils.data.DataLoader(rows, BATCH, num_workers=workers)),
        "DataLoader, persistent": lambda: iter(kept),
    }
    for name, make in {"WebDataset": webdataset, "LitData": litdata}.items():
        if name in rivals:
            (folder / name).mkdir(parents=True)
            makers[name] = make(rows, folder / name, workers)
    for block in range(blocks):
        for name in ("stream", *rivals):
            batches = makers[name]()
            first, rate = timed(batches, WARM, least)
            if hasattr(batches, "close"):
                batches.close()
            del batches
            measured.first_batch_seconds.setdefault(name, []).append(first)
            measured.rates.setdefault(name, []).append(rate)
            say(f"{recipe}: block {block + 1}/{blocks} {name:<22} {rate:7.0f} {dataset.kind}/s, first batch {first:.1f} s")
            time.sleep(1.0)  # what the one left running has ended
    return measured


def table_of(measured: Measured, workers: int) -> Table:
    caption = (
        f"a sample alone: decode {measured.decode_ms:.2f} ms, views {measured.views_ms:.2f} ms, "
        f"{measured.worker_share(workers):.0%} of the stream's worker time; "
        f"a training thread takes {measured.training_rate:.1f} {measured.kind}/s, so the stream feeds {measured.feeds:.1f}"
    )
    table = Table(title=measured.recipe, title_justify="left", caption=caption, caption_justify="left")
    for heading in ("", f"{measured.kind}/s", "range", "first batch, cold", "first batch, warm"):
        table.add_column(heading, no_wrap=True)
    for name, rates in measured.rates.items():
        seconds = measured.first_batch_seconds[name]
        warm = f"{statistics.median(seconds[1:]):.1f} s" if seconds[1:] else ""
        table.add_row(name, f"{statistics.median(rates):.0f}", f"{min(rates):.0f} to {max(rates):.0f}", f"{seconds[0]:.1f} s", warm)
    for name, ratios in measured.ratios.items():
        table.add_row(f"stream / {name}", f"{statistics.median(ratios):.2f}", f"{min(ratios):.2f} to {max(ratios):.2f}", "", "")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", nargs="+", default=list(RECIPES), metavar="NAME", help="default: " + ", ".join(RECIPES))
    parser.add_argument("--workers", type=int, default=2, help="decode processes of either")
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--against", nargs="*", default=list(RIVALS), choices=list(RIVALS), metavar="NAME", help=", ".join(RIVALS))
    parser.add_argument("--quick", action="store_true", help="a smoke run: 1 short block; its figures mean nothing")
    parser.add_argument("--out", help="JSON file")
    args = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 120)
    warnings.filterwarnings(
        "ignore", message="The given NumPy array is not writable"
    )  # the DataLoader's, of views that share Pillow's memory
    torch.set_num_threads(1)
    blocks, least = (1, 0.0) if args.quick else (args.blocks, 5.0)
    results = []
    rivals = [name for name in args.against if not RIVALS[name] or importlib.util.find_spec(RIVALS[name])]
    for name in set(args.against) - set(rivals):
        console.print(f"{name} is left out: not installed (pip install {RIVALS[name]})", highlight=False)
    with tempfile.TemporaryDirectory() as scratch:
        datasets: dict[str, Dataset] = {}
        os.environ.setdefault("RAY_worker_niceness", "0")  # as the DataLoader has; Ray's 15 counts where others use the machine
        start_ray(args.workers)
        for recipe in args.recipe:
            kind = find_method(config.load(recipe).method).kind
            if kind not in datasets:
                datasets[kind] = write_data(Path(scratch) / kind, kind)
            say = lambda line: console.print(line, highlight=False, soft_wrap=True)  # noqa: E731
            with tempfile.TemporaryDirectory(dir=scratch) as folder:
                results.append(measure(recipe, datasets[kind], Path(folder), rivals, args.workers, blocks, least, say))
            console.print(table_of(results[-1], args.workers))
    if args.out:
        recipes = [asdict(m) | {"ratios": m.ratios, "worker_share": m.worker_share(args.workers), "feeds": m.feeds} for m in results]
        Path(args.out).write_text(json.dumps({"workers": args.workers, "batch": BATCH, "recipes": recipes}, indent=1))


if __name__ == "__main__":
    main()
