"""Growth: seconds and memory against the size of the work, with the exponent of a line through both on logarithmic axes.

  python benchmarks/growth.py [--case points plan] [--rounds 3] [--out growth.json]

An exponent of 1 means: twice the work takes twice as long. Each size is measured in a process of its own, `--rounds` times in turns, and
the median counts; memory is what the process's peak gained. Cases that must not grow faster than their work say so, and the exit code is 1
where one does: its exponent is above `STEEPEST`. Where more is expected, the case says why.
"""

from __future__ import annotations

import argparse
import json
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

import numpy as np

STEEPEST = 1.15
"""Exponent that is still called linear: caches and small constant parts bend the line."""
RECORDS = (1000, 3000, 10000)
Work = Callable[[], object]


@dataclass(frozen=True)
class Case:
    what: str
    sizes: Sequence[int]
    prepare: Callable[[int, Path], Work]
    """Size and an empty folder -> what is measured."""
    reason: str = ""
    """Why it grows faster than its work, where it does."""


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


def prepared(*words: str) -> Work:
    """`sightline prepare` with one worker, so that this process does everything."""
    from sightline.pipelines.__main__ import main

    return lambda: main(["prepare", *words, "--workers", "1", "--json"])


def links(folder: Path, count: int) -> list[str]:
    """As many names of one small photo, a thousand in a folder; the file system takes no more links to a file than some ten thousand."""
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 255, (32, 32, 3)).astype(np.uint8)
    names = [f"{number // 1000:04d}/{number:07d}.png" for number in range(count)]
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if number % 1000 == 0:
            Image.fromarray(noise).save(folder / name)
        else:
            os.link(folder / names[number // 1000 * 1000], folder / name)
    return names


def small_photos(size: int, folder: Path) -> Work:
    links(folder / "photos", size)
    return prepared("images", "folder", str(folder / "photos"), "--out", str(folder / "set"))


def mined(size: int, folder: Path) -> Work:
    """A model of COLMAP: a camera that walks and turns; each photo shares points with some before and after it."""
    walk, model = folder / "walk", folder / "walk/sparse/0"
    names = links(walk / "images", size)
    model.mkdir(parents=True)
    (model / "cameras.txt").write_text("1 PINHOLE 32 32 30 30 16 16\n")
    with (model / "images.txt").open("w") as file:
        for number, name in enumerate(names):
            angle = np.radians(10 * number) / 2
            seen = " ".join(f"16 16 {point}" for point in range(8 * number, 8 * number + 64))
            file.write(f"{number + 1} {np.cos(angle):.8f} 0 {np.sin(angle):.8f} 0 {0.1 * number:.4f} 0 0 1 {name}\n{seen}\n")
    (model / "points3D.txt").write_text("")
    return prepared("pairs", "mine", str(walk), "--pairs-per-frame", "2", "--out", str(folder / "set"))


def small_clouds(size: int, folder: Path) -> Work:
    xyz = np.random.default_rng(0).normal(size=(size, 16, 3)).astype(np.float32)
    np.savez(folder / "clouds.npz", xyz=xyz, label=np.arange(size) % 4)
    return prepared("points", "arrays", str(folder / "clouds.npz"), "--out", str(folder / "set"))


def merged(size: int, folder: Path) -> Work:
    from sightline.platform.data.images import encode_png
    from sightline.platform.data.writer import ShardWriter

    png = encode_png(np.zeros((32, 32, 3), np.uint8))
    for name in ("one", "two"):
        with ShardWriter(folder / name, "images") as writer:
            for number in range(size // 2):
                writer.write({"id": f"{name}/{number:07d}", "image": png})
    return prepared("merge", str(folder / "one"), str(folder / "two"), "--out", str(folder / "set"))


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
    "folder": Case("`prepare images folder`, against small photos", RECORDS, small_photos),
    "mine": Case("`prepare pairs mine` by points, against small photos", RECORDS, mined),
    "arrays": Case("`prepare points arrays`, against small clouds", RECORDS, small_clouds),
    "merge": Case("`prepare merge` of two data sets, against rows", RECORDS, merged),
    "events": Case("reading a run's record, against its events", (2000, 4000, 8000, 16000, 32000), events),
    "proposals, random": Case("one more trial by random search, against trials before it", (50, 100, 200, 400, 800), proposals("random")),
    "proposals, TPE": Case("one more trial by Optuna's TPE, against trials before it", (50, 100, 200, 400, 800), proposals("optuna")),
}


WRITE_ONCE = ("rows", "frames", "folder", "mine", "arrays", "merge")
"""Write a data set, which cannot be done twice."""


def measured(name: str, size: int) -> tuple[float, float]:
    """(seconds, MB that the peak of the process gained) of a size, in this process."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SIGHTLINE_HOME"] = folder
        work = CASES[name].prepare(size, Path(folder))
        if name not in WRITE_ONCE:
            work()  # imports and first allocations
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.perf_counter()
        work()
        return time.perf_counter() - start, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def grown(name: str, rounds: int, sizes: Sequence[int] | None = None) -> Grown:
    case = CASES[name]
    sizes = sizes or case.sizes
    found: dict[int, list[tuple[float, float]]] = {size: [] for size in sizes}
    for _ in range(rounds):
        for size in sizes:
            words = [sys.executable, __file__, "--one", name, str(size)]
            done = subprocess.run(words, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
            found[size].append(tuple(json.loads(done.stdout.strip().splitlines()[-1])))
    seconds = [statistics.median(one[0] for one in found[size]) for size in sizes]
    megabytes = [statistics.median(one[1] for one in found[size]) for size in sizes]
    exponent = float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0]) if len(sizes) > 1 else float("nan")
    return Grown(case.what, list(sizes), seconds, megabytes, exponent, not exponent > STEEPEST, case.reason)


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
    for name in args.case:
        one = grown(name, args.rounds, args.sizes)
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
