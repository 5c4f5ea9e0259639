"""Preparation against its records: seconds of CPU and memory of the whole command, with the exponent of a line through them on logarithmic
axes, beside a plain program in one process that does the same work.

  python benchmarks/prepare_growth.py [--case folder mine] [--sizes 1000 10000 100000] [--plain-up-to 10000] [--out FILE]

Records are small (photos of 32 x 32 px, clouds of 16 points), so that what is measured is what a record costs besides its pixels. One
worker does everything, so its seconds of CPU are those of the work, whatever else the machine does. Memory is the largest proportional set
size of all processes of the command. The table is that of docs/notes/scale.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import prepare
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

Words = list[str]


@dataclass(frozen=True)
class Case:
    """One source: how its input is made, the words of the command, and a plain program for the same."""

    what: str
    make: Callable[[int, Path], Words]
    """Records, empty folder -> words of `sightline prepare`."""
    plain: Callable[[Path, Path], None] | None = None
    """Folder of the input, file to write."""
    most: int = 10**9
    """Records, where more take too long."""


def photos(folder: Path, count: int, flat: bool = False) -> list[str]:
    """As many names of one small photo, a thousand in a folder; the file system takes no more links to a file than some ten thousand."""
    noise = np.random.default_rng(0).integers(0, 255, (32, 32, 3)).astype(np.uint8)
    names = [f"{number:07d}.png" if flat else f"{number // 1000:04d}/{number:07d}.png" for number in range(count)]
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if number % 1000 == 0:
            Image.fromarray(noise).save(folder / name)
        else:
            os.link(folder / names[number // 1000 * 1000], folder / name)
    return names


def folder(size: int, where: Path) -> Words:
    photos(where / "in", size)
    return ["images", "folder", str(where / "in")]


def plain_folder(source: Path, out: Path) -> None:
    rows = ({"id": path, **_image(path, "image")} for path in sorted(str(path) for path in source.rglob("*.png")))
    _write(rows, out)


def frames(size: int, where: Path) -> Words:
    photos(where / "in", size, flat=True)
    return ["pairs", "frames", str(where / "in")]


def plain_frames(source: Path, out: Path) -> None:
    paths = sorted(str(path) for path in source.iterdir())
    _write(({"id": one, **_image(one, "image1"), **_image(two, "image2")} for one, two in pairwise(paths)), out)


def walk(size: int, where: Path) -> Words:
    """A model of COLMAP: a camera that walks and turns; each photo shares points with some before and after it."""
    source, model = where / "in", where / "in/sparse/0"
    names = photos(source / "images", size)
    model.mkdir(parents=True)
    (model / "cameras.txt").write_text("1 PINHOLE 32 32 30 30 16 16\n")
    with (model / "images.txt").open("w") as file:
        for number, name in enumerate(names):
            angle = np.radians(10 * number) / 2
            seen = " ".join(f"16 16 {point}" for point in range(8 * number, 8 * number + 64))
            file.write(f"{number + 1} {np.cos(angle):.8f} 0 {np.sin(angle):.8f} 0 {0.1 * number:.4f} 0 0 1 {name}\n{seen}\n")
    (model / "points3D.txt").write_text("")
    return ["pairs", "mine", str(source), "--pairs-per-frame", "2"]


def plain_walk(source: Path, out: Path) -> None:
    """Every two photos that share a point, by falling score; no photo in more than two pairs, none beside a pair that is taken.

    Many scores of this walk are equal but for rounding, so that the pairs are not those of the command: 28 and 36 of 40 photos.
    """
    lines = (source / "sparse/0/images.txt").read_text().splitlines()
    names = [line.split()[-1] for line in lines[::2]]
    quaternions = np.array([[float(word) for word in line.split()[1:5]] for line in lines[::2]])
    w, x, y, z = quaternions.T
    directions = np.stack([2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)], axis=1)
    seen = [set(map(int, line.split()[2::3])) for line in lines[1::2]]
    at: dict[int, list[int]] = defaultdict(list)
    for photo, points in enumerate(seen):
        for point in points:
            at[point].append(photo)
    shared: dict[tuple[int, int], int] = defaultdict(int)
    for several in at.values():
        for place, one in enumerate(several):
            for two in several[place + 1 :]:
                shared[one, two] += 1
    scored = []
    near = defaultdict(set)
    for (one, two), both in shared.items():
        iou = both / (len(seen[one]) + len(seen[two]) - both)
        if iou > 0.75:
            near[one].add(two)
            near[two].add(one)
        cosine = float(directions[one] @ directions[two])
        score = 4 * iou * cosine * (1 - cosine)
        if iou >= 0.05 and score >= 0.01:
            scored.append((-score, one, two, iou))
    partners: dict[int, set[int]] = defaultdict(set)
    taken = []
    for _, one, two, iou in sorted(scored):
        full = len(partners[one]) == 2 or len(partners[two]) == 2
        if not full and not any(partners[a] & ({two} | near[two]) for a in ({one} | near[one])):
            partners[one].add(two)
            partners[two].add(one)
            taken.append((one, two, iou))
    images = source / "images"
    rows = (
        {"id": f"{names[one]}-{names[two]}", "overlap": iou, **_image(f"{images}/{names[one]}", "image1")}
        | _image(f"{images}/{names[two]}", "image2")
        for one, two, iou in sorted(taken)
    )
    _write(rows, out)


def rgbd(size: int, where: Path) -> Words:
    """A camera that slides along a wall; `pairs rgbd` compares each frame with twenty that follow."""
    source = where / "in"
    source.mkdir()
    names = photos(source, size, flat=True)
    told = []
    for number, name in enumerate(names):
        depth = f"{Path(name).stem}_depth.png"
        if number % 1000 == 0:
            first = depth
            Image.fromarray(np.full((32, 32), 2000, np.uint16)).save(source / depth)
        else:
            os.link(source / first, source / depth)
        pose = np.eye(4)
        pose[0, 3] = 0.05 * number
        one = {"file": name, "depth": depth, "width": 32, "height": 32, "K": [[30.0, 0, 15.5], [0, 30.0, 15.5], [0, 0, 1]]}
        told.append({**one, "cam_to_world": pose.tolist(), "time_s": number / 10})
    (source / "cameras.json").write_text(json.dumps({"unit": "metres", "frames": told}))
    return ["pairs", "rgbd", str(source)]


def clouds(size: int, where: Path) -> Words:
    rng = np.random.default_rng(0)
    (where / "in").mkdir()
    for number in range(size):
        np.savetxt(where / "in" / f"{number:07d}.xyz", rng.normal(size=(16, 3)), fmt="%.4f")
    return ["points", "folder", str(where / "in")]


def plain_clouds(source: Path, out: Path) -> None:
    paths = sorted(str(path) for path in source.iterdir())
    _write(({"id": path, "points": np.loadtxt(path, np.float32).tobytes()} for path in paths), out)


def arrays(size: int, where: Path) -> Words:
    (where / "in").mkdir()
    xyz = np.random.default_rng(0).normal(size=(size, 16, 3)).astype(np.float32)
    np.savez(where / "in/clouds.npz", xyz=xyz, label=np.arange(size) % 4)
    return ["points", "arrays", str(where / "in/clouds.npz")]


def plain_arrays(source: Path, out: Path) -> None:
    with np.load(source / "clouds.npz") as found:
        xyz, label = found["xyz"], found["label"]
    _write(({"id": str(n), "points": one.tobytes(), "label": int(label[n])} for n, one in enumerate(xyz)), out)


def merge(size: int, where: Path) -> Words:
    from sightline.platform.data.images import encode_png
    from sightline.platform.data.writer import ShardWriter

    png = encode_png(np.zeros((32, 32, 3), np.uint8))
    for name in ("one", "two"):
        with ShardWriter(where / "in" / name, "images") as writer:
            for number in range(size // 2):
                writer.write({"id": f"{name}/{number:07d}", "image": png})
    return ["merge", str(where / "in/one"), str(where / "in/two")]


def plain_merge(source: Path, out: Path) -> None:
    table = pa.concat_tables([pq.read_table(path) for path in sorted(source.rglob("*.parquet"))], promote_options="default")
    pq.write_table(table.take(np.random.default_rng(0).permutation(len(table))), out)


def _image(path: str, column: str) -> dict[str, Any]:
    """The bytes of a photo that can be decoded."""
    with Image.open(path) as image:
        image.convert("RGB")
    return {column: Path(path).read_bytes()}


def _write(rows: Any, out: Path) -> None:
    """Shards are one file here."""
    writer, held = None, []
    for row in rows:
        held.append(row)
        if len(held) == 512:
            table = pa.Table.from_pylist(held)
            writer = writer or pq.ParquetWriter(out, table.schema)
            writer.write_table(table)
            held = []
    if held:
        table = pa.Table.from_pylist(held)
        writer = writer or pq.ParquetWriter(out, table.schema)
        writer.write_table(table)
    if writer:
        writer.close()


CASES = {
    "folder": Case("`images folder`, photos", folder, plain_folder),
    "frames": Case("`pairs frames`, frames", frames, plain_frames),
    "mine": Case("`pairs mine` by points, photos", walk, plain_walk),
    "rgbd": Case("`pairs rgbd`, frames", rgbd, most=10000),
    "clouds": Case("`points folder`, files", clouds, plain_clouds),
    "arrays": Case("`points arrays`, clouds", arrays, plain_arrays),
    "merge": Case("`merge`, rows", merge, plain_merge),
}


@dataclass
class Measured:
    """One source; a number for each size."""

    case: str
    sizes: list[int] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    megabytes: list[float] = field(default_factory=list)
    plain: list[float] = field(default_factory=list)

    def exponent(self) -> float:
        """Of what a record adds: the start is taken off, as the smallest size and the next have it in common."""
        if len(self.sizes) < 3:
            return float("nan")
        each = (self.cpu[1] - self.cpu[0]) / (self.sizes[1] - self.sizes[0])
        start = self.cpu[0] - each * self.sizes[0]
        return float(np.polyfit(np.log(self.sizes), np.log(np.maximum(np.array(self.cpu) - start, 1e-3)), 1)[0])

    def line(self) -> str:
        cells = [f"{cpu:.1f} s, {megabytes:,.0f} MB" for cpu, megabytes in zip(self.cpu, self.megabytes, strict=True)]
        more = self.sizes[-1] - self.sizes[0]
        each = (self.cpu[-1] - self.cpu[0]) / more if more else float("nan")
        held = (self.megabytes[-1] - self.megabytes[0]) * 2**20 / more if more else float("nan")
        plain = "|"
        if len(self.plain) > 1:
            last = len(self.plain) - 1
            theirs = (self.plain[last] - self.plain[0]) / (self.sizes[last] - self.sizes[0])
            ours = (self.cpu[last] - self.cpu[0]) / (self.sizes[last] - self.sizes[0])
            plain = f"{1000 * theirs:.2f} ms; {ours / theirs:.2f} |"
        return f"| {CASES[self.case].what} | {' | '.join(cells)} | {1000 * each:.2f} ms, {held:,.0f} B | {self.exponent():.2f} | {plain}"


def run(words: Words, name: str, size: int, scratch: Path) -> tuple[float, float]:
    """(seconds of CPU, megabytes of all processes at their most) of a command."""
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}) as started:
        said: list[bytes] = []
        reader = threading.Thread(target=lambda: said.extend(started.stderr or ()))
        reader.start()
        most = 0.0
        while True:
            pid, status, used = os.wait4(started.pid, os.WNOHANG)
            if pid:
                break
            most = max(most, prepare.megabytes(started.pid))
            time.sleep(0.2)
        started.returncode = os.waitstatus_to_exitcode(status)
        reader.join()
    if started.returncode:
        raise SystemExit(f"{name} of {size:,}: {b''.join(said).decode()}")
    return used.ru_utime + used.ru_stime, most


def measured(name: str, sizes: Sequence[int], plain_up_to: int, scratch: Path) -> Measured:
    case, found = CASES[name], Measured(name)
    for size in sizes:
        if size > case.most:
            continue
        where = scratch / f"{name}-{size}"
        where.mkdir()
        words = case.make(size, where)
        ours = [sys.executable, "-m", "sightline.pipelines", "prepare", *words, "--workers", "1", "--out", str(where / "set"), "--json"]
        cpu, megabytes = run(ours, name, size, where)
        found.sizes.append(size)
        found.cpu.append(cpu)
        found.megabytes.append(megabytes)
        if case.plain and size <= plain_up_to:
            found.plain.append(run([sys.executable, __file__, "--plain", name, str(where)], name, size, where)[0])
        print(f"{name} {size:,}: {cpu:.1f} s, {megabytes:.0f} MB{f'; plain {found.plain[-1]:.1f} s' if found.plain else ''}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="+", default=list(CASES), choices=list(CASES), metavar="NAME", help=f"of {', '.join(CASES)}")
    parser.add_argument("--sizes", nargs="+", type=int, default=[1000, 10000, 100000])
    parser.add_argument("--plain-up-to", type=int, default=10000, help="largest size that the plain programs do (default: %(default)s)")
    parser.add_argument("--out", help="JSON file")
    parser.add_argument("--plain", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.plain:
        plain = CASES[args.plain[0]].plain
        assert plain is not None
        plain(Path(args.plain[1]) / "in", Path(args.plain[1]) / "plain.parquet")
        return
    found = []
    for name in args.case:
        with tempfile.TemporaryDirectory() as scratch:
            os.environ["SIGHTLINE_HOME"] = scratch
            found.append(measured(name, sorted(args.sizes), args.plain_up_to, Path(scratch)))
    print(f"| | {' | '.join(f'{size:,}' for size in sorted(args.sizes))} | each record more | exponent | plain program; times as long |")
    print(f"|{'---|' * (len(args.sizes) + 4)}")
    print("\n".join(one.line() for one in found))
    if args.out:
        Path(args.out).write_text(json.dumps([asdict(one) for one in found], indent=1))


if __name__ == "__main__":
    main()
