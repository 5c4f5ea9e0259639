"""Preparation: `sightline prepare images folder` beside a plain loop in as many processes that does the same work.

  python benchmarks/prepare.py [--files 1000 4000] [--processes 2] [--rounds 3] [--against 4000] [--out prepare.json]

Both read JPEGs of 320 x 240 px of this machine's disk cache, decode them, shrink them to 128 px with Pillow's Lanczos filter, encode
them at quality 90 without subsampled colour, and write Parquet. The command also looks for what is no photo, checks, counts, hashes, and
can be stopped and continued. `--side` makes the photos smaller.

Measured is the whole command: its start, and seconds a file from the slope between the smallest and each larger size. Sizes up to
`--against` are also done by the plain loop, in turns; ratios of the slopes are taken inside a round. Memory is the largest sum of the
proportional set sizes of all processes of the command.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

DISTINCT = 1000
"""Photos that differ; more of them are links to these."""
IN_A_FOLDER = 1000


@dataclass
class Measured:
    """One size: seconds of the command and of the plain loop, by round, and megabytes of the command."""

    files: int
    ours: list[float] = field(default_factory=list)
    plain: list[float] = field(default_factory=list)
    megabytes: list[float] = field(default_factory=list)


def photos(folder: Path, count: int, side: int) -> None:
    """`count` photo-like JPEGs, `side` px high."""
    noise = np.random.default_rng(0).integers(0, 255, (12, 16, 3)).astype(np.uint8)
    for number in range(count):
        place = folder / f"{number // IN_A_FOLDER:04d}"
        place.mkdir(parents=True, exist_ok=True)
        if number < DISTINCT:
            small = np.roll(noise, (number % 12, number // 12 % 16), (0, 1)) ^ np.uint8(number // 192)
            Image.fromarray(small).resize((side * 4 // 3, side), Image.Resampling.BICUBIC).save(place / f"{number:06d}.jpg")
        else:
            os.link(folder / "0000" / f"{number % DISTINCT:06d}.jpg", place / f"{number:06d}.jpg")


def plain_shard(work: tuple[list[str], str, int]) -> None:
    """What a person would write."""
    paths, out, size = work
    images = []
    for path in paths:
        image = Image.open(path).convert("RGB")
        scale = size / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS, reducing_gap=3.0)
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=90, subsampling=0)
        images.append(buffer.getvalue())
    pq.write_table(pa.table({"id": paths, "image": images}), out)


def plain(folder: Path, out: Path, processes: int, size: int) -> None:
    paths = sorted(str(path) for path in folder.rglob("*.jpg"))
    out.mkdir()
    parts = [(paths[start : start + 512], str(out / f"{start:06d}.parquet"), size) for start in range(0, len(paths), 512)]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        pool.map(plain_shard, parts, chunksize=1)


def command(folder: Path, out: Path, processes: int, size: int) -> float:
    """Runs the command; the megabytes of all its processes at their most."""
    words = ["prepare", "images", "folder", str(folder), "--size", str(size), "--workers", str(processes), "--out", str(out), "--json"]
    most = 0.0
    with subprocess.Popen(
        [sys.executable, "-m", "sightline.pipelines", *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as started:
        said: list[bytes] = []
        reader = threading.Thread(target=lambda: said.extend(started.stderr or ()))
        reader.start()
        while started.poll() is None:
            most = max(most, megabytes(started.pid))
            time.sleep(0.25)
        reader.join()
    if started.returncode:
        raise SystemExit(b"".join(said).decode())
    return most


def megabytes(pid: int) -> float:
    total = 0
    try:
        for process in (parent := psutil.Process(pid), *parent.children(recursive=True)):
            total += process.memory_full_info().pss
    except psutil.Error:  # one has ended meanwhile
        pass
    return total / 2**20


def slopes(few: list[float], many: list[float], files: int) -> list[float]:
    """Milliseconds of each file more, by round."""
    return [1000 * (b - a) / files for a, b in zip(few, many, strict=True)]


def told(found: list[Measured]) -> list[str]:
    lines = []
    least = found[0]
    for one in found:
        line = f"{one.files:>8,} files  {statistics.median(one.ours):7.1f} s ({min(one.ours):.1f} to {max(one.ours):.1f})"
        line += f"  {statistics.median(one.megabytes):5.0f} MB"
        if one is not least:
            ours = slopes(least.ours, one.ours, one.files - least.files)
            line += f"  {statistics.median(ours):.3f} ms a file more"
            if one.plain:
                theirs = slopes(least.plain, one.plain, one.files - least.files)
                ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
                line += f"; plain loop {statistics.median(theirs):.3f}"
                line += f"; {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) of it"
        lines.append(line)
    if len(found) > 2:
        exponent = np.polyfit(np.log([one.files for one in found]), np.log([statistics.median(one.ours) for one in found]), 1)[0]
        lines.append(f"exponent of the seconds: {exponent:.2f}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", nargs="+", type=int, default=[1000, 4000])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", type=int, default=240, help="height of the photos; they are shrunk to 128/240")
    parser.add_argument("--against", type=int, default=4000, help="largest size that the plain loop does")
    parser.add_argument("--out", help="JSON file")
    args = parser.parse_args()
    size = args.side * 128 // 240
    found = [Measured(files) for files in sorted(args.files)]
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["SIGHTLINE_HOME"] = scratch
        for one in found:
            photos(Path(scratch) / str(one.files), one.files, args.side)
        for turn in range(args.rounds):
            for one in found:
                folder = Path(scratch) / str(one.files)
                start = time.perf_counter()
                one.megabytes.append(command(folder, Path(scratch) / f"ours-{one.files}-{turn}", args.processes, size))
                one.ours.append(time.perf_counter() - start)
                if one.files <= args.against:
                    start = time.perf_counter()
                    plain(folder, Path(scratch) / f"plain-{one.files}-{turn}", args.processes, size)
                    one.plain.append(time.perf_counter() - start)
                print(f"round {turn + 1}: {one.files:,} files, ours {one.ours[-1]:.1f} s, plain {(one.plain or [0])[-1]:.1f} s", flush=True)
    print("\n".join(told(found)))
    if args.out:
        Path(args.out).write_text(json.dumps([asdict(one) for one in found], indent=1))


if __name__ == "__main__":
    main()
