"""Teacher: what the stage between views and training gives, beside what training takes; how it grows with actors; and from the cache.

  python benchmarks/teacher.py [--recipe i2p-mae-tiny] [--teacher vit_tiny_patch16_224] [--actors 1 2 4] [--out teacher.json]

Teachers are timm's networks with random weights: what one costs does not depend on its weights. Three measurements, all in fp32 with one
thread a process:

1. alone, in this process: views of a cloud (points drawn and augmented), its depth images, the teacher's pass over them, and the rate of
   that pass over that of a large matrix product of the same block.
2. what one thread of training takes (`step.py`'s step), and from that the actors which must work for each thread that trains.
3. the stream, as a run has it: clouds a second with so many actors for the first teacher, and from a teacher cache of one variant. Every
   pipeline's first block is not counted. More actors than CPUs cannot be faster; they show what they cost.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from step import device_name, matmul_of, samples_per_second, seconds_of, spread
from torch.utils.flop_counter import FlopCounterMode
from yardsticks import synthetic_clouds

from sightline.methods.catalog import find_method
from sightline.methods.contract import BuildContext
from sightline.methods.errors import SightlineError
from sightline.methods.i2p_mae.stage import TeacherStage
from sightline.methods.i2p_mae.views2d import depth_images
from sightline.methods.random import sample_rng
from sightline.platform import config
from sightline.platform.config import Experiment
from sightline.platform.core.ray_init import start_ray
from sightline.platform.data.clouds import encode_points
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.loader.blocks import Made
from sightline.platform.data.loader.plan import Plan
from sightline.platform.data.loader.stream import Stream, StreamResources
from sightline.platform.data.writer import ShardWriter
from sightline.platform.experiments.teacher_cache import build

TEACHERS = ("vit_tiny_patch16_224", "vit_small_patch16_224", "vit_base_patch16_224")
ROWS, BLOCK = 256, 16
"""Clouds of the data set, and of a block: of a task, and of what an actor gets at once."""
CPU = torch.device("cpu")


@dataclass
class Alone:
    """One teacher: milliseconds a cloud, one value a block."""

    teacher: str
    parameters: int
    gflops: float
    views_ms: list[float] = field(default_factory=list)
    depth_ms: list[float] = field(default_factory=list)
    pass_ms: list[float] = field(default_factory=list)
    of_matmul: list[float] = field(default_factory=list)

    @property
    def rates(self) -> list[float]:
        """Clouds a second of one actor that waits for nothing."""
        return [1000 / (a + b) for a, b in zip(self.depth_ms, self.pass_ms, strict=True)]


@dataclass
class Streamed:
    """One source of the stream: clouds a second and seconds to the first group, one value a block."""

    source: str
    actors: int
    rates: list[float] = field(default_factory=list)
    first_seconds: list[float] = field(default_factory=list)


def make_teacher(name: str) -> Any:
    method = find_method("timm")
    settings = method.Config.model_validate({"model": {"name": name}})
    return method.build(settings, BuildContext(seed=0)).encoder().eval()


def with_teacher(recipe: str, teacher: Any) -> Experiment:
    return config.load(recipe, {"model.teacher": "measured", "model.teacher_dim": teacher.dim})


def make_stage(recipe: str, name: str) -> TeacherStage:
    """In an actor, or here."""
    torch.set_num_threads(1)
    teacher = make_teacher(name)
    settings: Any = with_teacher(recipe, teacher).settings
    return TeacherStage(settings, teacher)


def write_data(folder: Path, experiment: Experiment) -> Dataset:
    clouds = synthetic_clouds(find_method(experiment.method), experiment.method_config, ROWS, 0)
    with ShardWriter(folder, "points") as writer:
        for index, cloud in enumerate(clouds):
            writer.write({"id": f"{index:05d}", "points": encode_points(cloud["points"])})
    return Dataset.open(folder)


def measure_alone(recipe: str, name: str, blocks: int, least: float) -> Alone:
    teacher = make_teacher(name)
    experiment = with_teacher(recipe, teacher)
    method, settings = find_method(experiment.method), experiment.method_config
    views, stage = method.views(settings), make_stage(recipe, name)
    cloud = synthetic_clouds(method, settings, 1, 0)[0]
    columns = {key: value[None] for key, value in views(cloud, sample_rng(0, 0)).items()}
    points, number = torch.from_numpy(columns["points"]), stage.views
    with FlopCounterMode(display=False) as counter:
        stage(columns)
    measured = Alone(name, sum(p.numel() for p in teacher.parameters()), counter.get_total_flops() / 1e9)
    product = matmul_of(1024, torch.float32, CPU)
    for _ in range(blocks):
        whole = seconds_of(lambda: stage(columns), least, CPU)
        depth = seconds_of(lambda: depth_images(points, number), least, CPU)
        measured.views_ms.append(1000 * seconds_of(lambda: views(cloud, sample_rng(0, 0)), least, CPU))
        measured.depth_ms.append(1000 * depth)
        measured.pass_ms.append(1000 * (whole - depth))
        rate = 2 * 1024**3 / seconds_of(product, least, CPU)
        measured.of_matmul.append(1e9 * measured.gflops / (whole - depth) / rate)
    return measured


def timed(steps: Iterator[Any], clouds: int, warm: int, least: float) -> tuple[float, float]:
    """(seconds to the first group, clouds a second after `warm` groups)."""
    start = time.perf_counter()
    next(steps)
    first = time.perf_counter() - start
    for _ in range(warm - 1):
        next(steps)
    counted, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < least or not counted:
        next(steps)
        counted += clouds
    return first, counted / passed


def measure_stream(
    recipe: str, name: str, actors: list[int], cpus: int, blocks: int, least: float, scratch: Path, say: Callable[[str], None]
) -> list[Streamed]:
    experiment = with_teacher(recipe, make_teacher(name))
    views = find_method(experiment.method).views(experiment.method_config)
    dataset = write_data(scratch / "clouds", experiment)
    maker = partial(make_stage, recipe, name)
    plan = Plan(tuple(dataset.row_groups), 0, BLOCK, BLOCK, BLOCK)
    cache = build(str(scratch / "cache"), {"benchmark": name}, Made(dataset, views, 0, 1), maker, None)

    def stream(count: int) -> Iterator[Any]:
        share = StreamResources(0.5, 0.5, count, min(1.0, (cpus - 1) / count)) if count else StreamResources(1.0, 1.0)
        source = {"make_stage": maker} if count else {"cache": cache, "variants": 1}
        return iter(Stream(dataset, views, plan, range(plan.slots), 0, 1 << 20, 0, share, **source))  # type: ignore[arg-type]

    found = [Streamed("live", count) for count in actors] + [Streamed("cache", 0)]
    for block in range(blocks):
        for one in found:
            steps = stream(one.actors)
            first, rate = timed(steps, BLOCK, max(2, 2 * one.actors), least)
            steps.close()  # type: ignore[attr-defined]
            one.first_seconds.append(first)
            one.rates.append(rate)
            say(f"block {block + 1}/{blocks} {one.source}, {one.actors} actors: {rate:.1f} clouds/s, first group {first:.1f} s")
            time.sleep(1.0)  # what the one left running has ended
    return found


def alone_table(alone: list[Alone], training: dict[str, float]) -> Table:
    takes = ", ".join(f"{recipe} {rate:.1f}" for recipe, rate in training.items())
    table = Table(
        title="One cloud, one thread",
        title_justify="left",
        caption=f"medians (least - most) over the blocks; one thread of training takes, clouds/s: {takes}",
        caption_justify="left",
    )
    table.add_column("teacher", no_wrap=True)
    headings = ["M weights", "GFLOP", "views, ms", "depth, ms", "teacher, ms", "of matmul", "clouds/s"]
    for heading in headings + [f"actors a {recipe} thread" for recipe in training]:
        table.add_column(heading, justify="right")
    for row in alone:
        speed = statistics.median(row.rates)
        table.add_row(
            row.teacher,
            f"{row.parameters / 1e6:.1f}",
            f"{row.gflops:.1f}",
            *(f"{statistics.median(each):.1f}" for each in (row.views_ms, row.depth_ms, row.pass_ms)),
            f"{statistics.median(row.of_matmul):.2f}",
            spread(row.rates, ".1f"),
            *(f"{rate / speed:.2f}" for rate in training.values()),
        )
    return table


def stream_table(name: str, found: list[Streamed], training: dict[str, float]) -> Table:
    table = Table(title=f"The stream with {name}", title_justify="left", caption="median (least - most)", caption_justify="left")
    table.add_column("", no_wrap=True)
    for heading in ("clouds/s", "of one actor", "first group, s", *(f"feeds threads of {recipe}" for recipe in training)):
        table.add_column(heading, justify="right")
    base = found[0].rates
    for one in found:
        label = f"{one.actors} actor{'s' * (one.actors > 1)}" if one.actors else "cache"
        each = [a / b for a, b in zip(one.rates, base, strict=True)]
        feeds = (f"{statistics.median(one.rates) / rate:.2f}" for rate in training.values())
        table.add_row(label, spread(one.rates, ".1f"), spread(each, ".2f"), spread(one.first_seconds, ".1f"), *feeds)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", nargs="+", default=["i2p-mae-tiny", "i2p-mae-base"], metavar="NAME", help="the first one streams")
    parser.add_argument("--teacher", nargs="+", default=list(TEACHERS), metavar="NAME", help="of timm; the first one streams")
    parser.add_argument("--actors", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--cpus", type=int, default=2, help="logical CPUs of Ray")
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a smoke run: 1 short block; its figures mean nothing")
    parser.add_argument("--out", help="JSON file")
    args = parser.parse_args()
    if min(*args.actors, args.cpus, args.blocks, 1) < 1:
        parser.error("--actors, --cpus and --blocks must be at least 1")
    blocks, least = (1, 0.0) if args.quick else (args.blocks, 1.0)
    console = Console(width=None if sys.stdout.isatty() else 150)
    say = lambda line: console.print(line, highlight=False, soft_wrap=True)  # noqa: E731
    torch.set_num_threads(1)
    say(f"{device_name(CPU, 1)}, torch {torch.__version__}{'; smoke run: the figures mean nothing' * args.quick}")
    training = {recipe: samples_per_second(recipe, 4, CPU) for recipe in args.recipe}
    alone = [measure_alone(args.recipe[0], name, blocks, least) for name in args.teacher]
    console.print(alone_table(alone, training))
    start_ray(args.cpus)
    with tempfile.TemporaryDirectory() as scratch:
        found = measure_stream(args.recipe[0], args.teacher[0], args.actors, args.cpus, blocks, 5 * least, Path(scratch), say)
    console.print(stream_table(args.teacher[0], found, training))
    if args.out:
        report = {"device": device_name(CPU, 1), "torch": torch.__version__, "quick": args.quick, "training": training}
        rows = {"alone": [asdict(row) | {"rates": row.rates} for row in alone], "stream": [asdict(one) for one in found]}
        Path(args.out).write_text(json.dumps(report | rows, indent=1))


if __name__ == "__main__":
    try:
        main()
    except SightlineError as error:
        sys.exit(f"error: {error}")
