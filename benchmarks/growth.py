"""Growth: seconds and memory against the size of the work, with the exponent of a line through both on logarithmic axes.

  python benchmarks/growth.py [--case points plan] [--rounds 3] [--out growth.json]

An exponent of 1 means: twice the work takes twice as long. Each size is measured in a process of its own, `--rounds` times in turns, and
the median counts; memory is what the process's peak gained. Workers and raylets are processes: of them the seconds of CPU count, which two
cores share, and the proportional set size of all. Cases that must not grow faster than their work say so, and the exit code is 1
where one does: its exponent is above `STEEPEST`. Where more is expected, the case says why. `prepare_growth.py` is for `prepare`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

if TYPE_CHECKING:
    from sightline.platform.data.dataset import Dataset

STEEPEST = 1.15
"""Exponent that is still called linear: caches and small constant parts bend the line."""
Work = Callable[[], object]
Measure = tuple[float, float]
"""Seconds, and MB."""


@dataclass(frozen=True)
class Case:
    what: str
    sizes: Sequence[int]
    prepare: Callable[[int, Path], Work]
    """Size and an empty folder -> what is measured."""
    reason: str = ""
    """Why it grows faster than its work, where it does."""
    parts: tuple[str, ...] = ("",)
    """What the work itself measures and gives as `Measure`, part by part; by default it is timed from outside."""


@dataclass(frozen=True)
class Grown:
    what: str
    sizes: list[int]
    seconds: list[float]
    megabytes: list[float]
    exponent: float
    linear: bool
    reason: str


def points(size: int, folder: Path) -> Work:
    import torch

    from sightline.methods.layers.points import farthest_point_sampling, nearest, take

    clouds = torch.rand(4, size, 3, generator=torch.Generator().manual_seed(0))

    def work() -> None:
        centres = take(clouds, farthest_point_sampling(clouds, 512))
        nearest(centres, clouds, 16)

    return work


def patches(size: int, folder: Path) -> Work:
    import torch

    from sightline.methods.catalog import find_method
    from sightline.methods.contract import BuildContext
    from sightline.platform import config

    side = round(size**0.5) * 16
    experiment = config.load("conmim-tiny", {"model.image_size": side, "model.patch_size": 16})
    encoder = find_method("conmim").build(experiment.method_config, BuildContext(seed=0)).encoder()
    pixels = torch.rand(4, 3, side, side)
    return lambda: encoder.tokens(pixels).sum().backward()


def plan(size: int, folder: Path) -> Work:
    from sightline.platform.data.loader.plan import Plan

    groups = tuple((shard, group, 32) for shard in range(size) for group in range(96))

    def work() -> None:
        blocks = Plan(groups, 0, 1024, 64).schedule(range(16), 0, 3000 * size // 1024)
        for _ in blocks:
            pass

    return work


def rows(size: int, folder: Path) -> Work:
    from PIL import Image

    from sightline.pipelines.__main__ import main

    noise = np.random.default_rng(0).integers(0, 255, (12, 16, 3)).astype(np.uint8)
    (folder / "photos").mkdir()
    for number in range(size):
        small = Image.fromarray(np.roll(noise, number, axis=(number % 2))).resize((320, 240), Image.Resampling.BICUBIC)
        small.save(folder / "photos" / f"{number}.jpg")
    words = [
        "prepare",
        "images",
        "folder",
        str(folder / "photos"),
        "--size",
        "128",
        "--workers",
        "1",
        "--out",
        str(folder / "set"),
        "--json",
    ]
    return lambda: main(words)


def frames(size: int, folder: Path) -> Work:
    """A camera that turns in front of a wall, as many frames a turn whatever the size: a longer walk, not a slower one."""
    from PIL import Image

    from sightline.pipelines.__main__ import main

    walk = folder / "walk"
    walk.mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (12, 16, 3)).astype(np.uint8)
    Image.fromarray(noise).resize((64, 64), Image.Resampling.BICUBIC).save(walk / "photo.jpg")
    Image.fromarray(np.full((64, 64), 2000, np.uint16)).save(walk / "depth.png")
    told = []
    for number in range(size):
        for name, file in (("i", "photo.jpg"), ("d", "depth.png")):
            os.link(walk / file, walk / f"{name}{number:06d}{Path(file).suffix}")
        pose = np.eye(4)
        pose[:3, 3] = (0.05 * number, 0, 0)
        k = [[60.0, 0, 31.5], [0, 60.0, 31.5], [0, 0, 1]]
        one = {"file": f"i{number:06d}.jpg", "depth": f"d{number:06d}.png", "width": 64, "height": 64, "K": k}
        told.append({**one, "cam_to_world": pose.tolist(), "time_s": number / 10})
    for file in ("photo.jpg", "depth.png"):
        (walk / file).unlink()
    (walk / "cameras.json").write_text(json.dumps({"unit": "metres", "frames": told}))
    words = ["prepare", "pairs", "rgbd", str(walk), "--workers", "1", "--out", str(folder / "set"), "--json"]
    return lambda: main(words)


def events(size: int, folder: Path) -> Work:
    from sightline.platform.core.event_log import append_events, read_events
    from sightline.platform.runs.events import RunEvent, StorageNote

    append_events(folder / "events.jsonl", [StorageNote(f"step {number}") for number in range(size)])
    return lambda: sum(1 for _ in read_events(folder / "events.jsonl", RunEvent))


def proposals(search: str) -> Callable[[int, Path], Work]:
    def prepare(size: int, folder: Path) -> Work:
        from sightline.platform.experiments.sweep.catalog import find_searcher
        from sightline.platform.experiments.sweep.record import SweepPlan, Trial, TrialStatus

        space = {"optim.lr": "1e-5..1e-2", "pretext.mask_ratio": "0.4..0.95"}
        asked = SweepPlan(
            space=space, trials=size + 1, search=search, objective="val/loss", better="lower", concurrent=1, threads=1, steps=9, rungs=(9,)
        )
        rng = np.random.default_rng(0)
        settings = [{"optim.lr": float(rng.uniform(1e-5, 1e-2)), "pretext.mask_ratio": float(rng.uniform(0.4, 0.95))} for _ in range(size)]
        trials = [Trial(number, one, {9: float(rng.normal())}, status=TrialStatus.FINISHED) for number, one in enumerate(settings)]
        propose = find_searcher(search).propose
        return lambda: propose(asked, size, trials, 0)

    return prepare


WORKER_STEPS, RAYLET_STEPS, IDLE_SECONDS = 60, 40, 10.0
OF_RAYLETS = ("CPU of their start", f"CPU of {IDLE_SECONDS:.0f} s without work", "CPU of a stream, besides", "end")


def workers(size: int, folder: Path) -> Work:
    """The loop with DDP over gloo in so many processes of one thread, each with one microbatch of every step; not their imports."""
    import ingest
    from yardsticks import YARDSTICKS

    from sightline.platform import config
    from sightline.platform.training.job import TrainJob

    ingest.ROWS = 64
    data = ingest.write_data(folder / "data", "pairs")
    settings = {**YARDSTICKS["croco"].quick, "batch.size": size, "batch.microbatch": 1, "train.workers": size, "log.every": 20}
    settings |= {"data.train": data.uri, "train.length": f"{WORKER_STEPS} steps", "train.precision": "fp32"}
    experiment = config.load("croco-tiny", settings)

    def work() -> list[Measure]:
        context = multiprocessing.get_context("spawn")
        found = context.SimpleQueue()
        run = folder / "run"
        run.mkdir()
        job = TrainJob(experiment, run, data.fingerprint).to_values()
        ranks = [context.Process(target=_rank, args=(job, rank, size, str(folder / "group"), found)) for rank in range(size)]
        for one in ranks:
            one.start()
        each: list[Measure] = [found.get() for _ in ranks]
        for one in ranks:
            one.join()
        return [(sum(seconds for seconds, _ in each), sum(megabytes for _, megabytes in each))]

    return work


def _rank(job: dict[str, Any], rank: int, world: int, meeting: str, found: Any) -> None:
    import psutil
    import torch

    from sightline.platform.training.job import TrainJob
    from sightline.platform.training.loop import train

    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
    before = time.process_time()
    train(TrainJob.from_values(job), lambda event: None, lambda: False)
    found.put((time.process_time() - before, psutil.Process().memory_full_info().pss / 1e6))
    torch.distributed.destroy_process_group()


def raylets(size: int, folder: Path) -> Work:
    """A head without CPUs and so many nodes of one: their start, a stream of as many blocks a node, their end."""
    import ingest

    ingest.ROWS = 256
    data = ingest.write_data(folder / "data", "pairs")

    def work() -> list[Measure]:
        import psutil
        import ray
        from ray.cluster_utils import Cluster

        def all_processes() -> Measure:
            seconds = megabytes = 0.0
            for one in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    seconds += sum(one.cpu_times()[:2])
                    megabytes += one.memory_full_info().pss / 1e6
            return seconds, megabytes

        store = 80 << 20
        head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": store, "temp_dir": str(folder / "ray")}
        cluster: Any = Cluster(initialize_head=True, head_node_args=head)
        time.sleep(5)  # its agents import
        empty = all_processes()
        for _ in range(size):
            cluster.add_node(num_cpus=1, object_store_memory=store)
        ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
        while sum(node["Alive"] for node in ray.nodes()) <= size:  # type: ignore[no-untyped-call]
            time.sleep(0.1)
        time.sleep(5)
        started = all_processes()
        _read(data, 1, size)  # the workers import
        quiet = all_processes()[0]
        time.sleep(IDLE_SECONDS)
        before, own, clock = all_processes()[0], time.process_time(), time.perf_counter()
        idle = before - quiet
        _read(data, RAYLET_STEPS, size)
        after, passed = all_processes(), time.perf_counter() - clock
        spent = after[0] - before + time.process_time() - own - idle * passed / IDLE_SECONDS
        clock = time.perf_counter()
        ray.shutdown()
        cluster.shutdown()
        end = time.perf_counter() - clock
        return [(started[0] - empty[0], started[1] - empty[1]), (idle, 0.0), (spent, after[1] - started[1]), (end, 0.0)]

    return work


def _read(data: Dataset, steps: int, size: int) -> None:
    """As one rank does whose tasks have `size` CPUs, a slot for each node."""
    from sightline.methods.catalog import find_method
    from sightline.platform import config
    from sightline.platform.data.loader.plan import Plan
    from sightline.platform.data.loader.stream import Stream, StreamResources

    experiment = config.load("croco-tiny", {"data.train": data.uri})
    views = find_method("croco").views(experiment.method_config)
    plan = Plan(tuple(data.row_groups), 0, size * 16, 16, block_rows=32)
    stream = Stream(data, views, plan, range(size), 0, steps, 0, resources=StreamResources(1.0, float(size)))
    assert sum(1 for _ in stream) == steps


CASES = {
    "points": Case("512 groups of 16 neighbours, against points of a cloud", (1024, 2048, 4096, 8192, 16384), points),
    "patches": Case(
        "forward and backward of conmim-tiny, against patches of an image",
        (16, 64, 144, 256, 400),
        patches,
        "attention compares every patch with every other",
    ),
    "plan": Case("the order of an epoch, against shards of 96 row groups", (8, 16, 32, 64, 128), plan),
    "rows": Case("`prepare images folder` with one worker, against photographs", (250, 500, 1000, 2000), rows),
    "frames": Case("`prepare pairs rgbd` with one worker, against frames of a walk", (125, 250, 500, 1000), frames),
    "workers": Case("CPU of the training loop with DDP, against workers with a microbatch each", (1, 2, 4, 8), workers, parts=("loop",)),
    "raylets": Case("nodes on this machine, against their number", (1, 2, 4, 8), raylets, parts=OF_RAYLETS),
    "events": Case("reading a run's record, against its events", (2000, 4000, 8000, 16000, 32000), events),
    "proposals, random": Case("one more trial by random search, against trials before it", (50, 100, 200, 400, 800), proposals("random")),
    "proposals, TPE": Case("one more trial by Optuna's TPE, against trials before it", (50, 100, 200, 400, 800), proposals("optuna")),
}


ONCE = ("rows", "frames", "workers", "raylets")
"""Write a data set, which cannot be done twice, or start processes."""


def measured(name: str, size: int) -> list[Measure]:
    """Of a size, part by part; of one that is timed here the memory is what the peak of this process gained."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.environ["SIGHTLINE_HOME"] = folder
        work = CASES[name].prepare(size, Path(folder))
        if CASES[name].parts != ("",):
            return cast(list[Measure], work())
        if name not in ONCE:
            work()  # imports and first allocations
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.perf_counter()
        work()
        return [(time.perf_counter() - start, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)]


def grown(name: str, rounds: int, sizes: Sequence[int] | None = None) -> list[Grown]:
    """Part by part."""
    case = CASES[name]
    sizes = sizes or case.sizes
    found: dict[int, list[list[Measure]]] = {size: [] for size in sizes}
    for _ in range(rounds):
        for size in sizes:
            words = [sys.executable, __file__, "--one", name, str(size)]
            done = subprocess.run(words, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
            found[size].append(json.loads(done.stdout.strip().splitlines()[-1]))
    parts = []
    for place, part in enumerate(case.parts):
        seconds = [statistics.median(one[place][0] for one in found[size]) for size in sizes]
        megabytes = [statistics.median(one[place][1] for one in found[size]) for size in sizes]
        exponent = float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0]) if len(sizes) > 1 else float("nan")
        what = f"{case.what}: {part}" if part else case.what
        parts.append(Grown(what, list(sizes), seconds, megabytes, exponent, not exponent > STEEPEST, case.reason))
    return parts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="+", default=list(CASES), choices=list(CASES), metavar="NAME", help=f"of {', '.join(CASES)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", nargs="+", type=int, metavar="N", help="in place of the case's own")
    parser.add_argument("--out", help="JSON file")
    parser.add_argument("--one", nargs=2, metavar=("NAME", "SIZE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measured(args.one[0], int(args.one[1]))))
        return 0
    found = []
    for one in (part for name in args.case for part in grown(name, args.rounds, args.sizes)):
        found.append(one)
        told = "" if one.linear else f"; {one.reason or 'steeper than its work'}"
        print(f"{one.what}: exponent {one.exponent:.2f}{told}", flush=True)
        for size, seconds, megabytes in zip(one.sizes, one.seconds, one.megabytes, strict=True):
            print(f"  {size:>7,}  {seconds:10.4f} s  {megabytes:8.1f} MB", flush=True)
        if len(one.sizes) > 1:
            more = (one.megabytes[-1] - one.megabytes[0]) / (one.sizes[-1] - one.sizes[0])
            print(f"  each more: {1000 * more:.2f} kB", flush=True)
    if args.out:
        Path(args.out).write_text(json.dumps([asdict(one) for one in found], indent=1))
    return int(any(not one.linear and not one.reason for one in found))


if __name__ == "__main__":
    sys.exit(main())
