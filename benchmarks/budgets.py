"""What reading a file costs: seconds and peak memory of every kind of file that SECURITY.md limits, at the largest that is read.

  python benchmarks/budgets.py [PART OF A NAME ...] [--folder FOLDER] [--markdown]

Each file is made by `hostile_files.py`, and read by a process of its own through the function that the commands call. Seconds are those
of the CPU, so other work of the machine does not count. `beyond` is the peak of that process above what it had before, without the bytes
of the file. Files lie in a temporary folder, one at a time; the largest has 512 MiB.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from hostile_files import FILES, MIB, HostileFile

MOST = 6 * 2**30
"""Bytes of address space above which a reader is stopped, and a maker, too."""


def cloud(path: Path) -> object:
    from sightline.platform.data.prepare.meshes import read_cloud

    return read_cloud(str(path), 2048, np.random.default_rng(0))


def arrays(path: Path) -> object:
    from sightline.platform.data.images import Resize
    from sightline.platform.data.prepare.cloud_sources.arrays import CloudArrays

    found = CloudArrays().find(str(path), "x")
    return next(iter(found.parts.values()))[0].row(Resize(None))


def weights(path: Path) -> object:
    from sightline.platform.weights.foreign import read

    return read(path)


def built(path: Path) -> object:
    """A network by the settings in the file."""
    from sightline.methods.catalog import find_method
    from sightline.platform.weights.building import build_within

    method = find_method("conmim")
    settings = method.Config.model_validate({"model": json.loads(path.read_text())})
    return build_within(method, settings, str(path), 2**20)


def photo(path: Path) -> object:
    from sightline.platform.data.images import Resize, resized_image

    return resized_image(path.read_bytes(), Resize(224))


def yaml_file(path: Path) -> object:
    from sightline.platform.core.budget import parse_yaml

    return parse_yaml(path.read_text())


def json_file(path: Path) -> object:
    from sightline.platform.core.budget import parse_json

    return parse_json(path.read_bytes())


def list_file(path: Path) -> object:
    from sightline.platform.data.prepare.files import lines_of

    return lines_of(path)


def shard(path: Path) -> object:
    import pyarrow.parquet as pq

    from sightline.platform.data.manifest import Shard
    from sightline.platform.data.shards import ShardFolder

    meta = pq.read_metadata(path)
    rows = tuple(meta.row_group(i).num_rows for i in range(meta.num_row_groups))
    one = Shard(name=path.name, rows=sum(rows), row_groups=rows, bytes=path.stat().st_size, sha256="0" * 64)
    return ShardFolder(str(path.parent), (one,), "").read(0, 0)


READERS: dict[str, Callable[[Path], object]] = {
    "cloud": cloud,
    "arrays": arrays,
    "weights": weights,
    "settings of weights": built,
    "image": photo,
    "YAML": yaml_file,
    "JSON": json_file,
    "list": list_file,
    "shard": shard,
}


def _peak() -> int:
    """Bytes that this process held at most since the last reset; `ru_maxrss` would count what its parent held before exec."""
    return next(int(line.split()[1]) * 1024 for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))


def _measure(one: HostileFile, path: Path) -> dict[str, Any]:
    """In a process of its own, after everything is imported by a first small call."""
    import torch  # noqa: F401

    warnings.simplefilter("ignore")
    read = READERS[one.reader]
    with suppress(Exception):
        read(Path("/nonexistent") / path.name)  # imports what the reader needs
    resource.setrlimit(resource.RLIMIT_AS, (MOST, MOST))
    Path("/proc/self/clear_refs").write_text("5")
    before, start = _peak(), time.process_time()
    try:
        read(path)
        said = "read"
    except Exception as error:
        said = f"{type(error).__name__}: {error}".replace(str(path.parent) + "/", "")
    return {"seconds": time.process_time() - start, "bytes": _peak() - before, "said": said}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help="of names; all without one")
    parser.add_argument("--folder", help="for the files (default: a temporary one)")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--make", nargs=2, help=argparse.SUPPRESS)
    words = parser.parse_args()
    known = {one.name: one for one in FILES}
    if words.make:
        resource.setrlimit(resource.RLIMIT_AS, (MOST, MOST))
        known[words.make[0]].make(Path(words.make[1]))
        return
    if words.measure:
        print(json.dumps(_measure(known[words.measure[0]], Path(words.measure[1]))))
        return
    if words.markdown:
        print("| file | MiB | seconds | MiB beyond | |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(dir=words.folder) as folder:
        for one in FILES:
            if words.parts and not any(part in one.name for part in words.parts):
                continue
            path = Path(folder) / one.name.partition(" (")[0]
            call = [sys.executable, __file__]
            subprocess.run([*call, "--make", one.name, str(path)], check=True)
            done = subprocess.run([*call, "--measure", one.name, str(path)], capture_output=True, text=True)
            size = path.stat().st_size
            path.unlink()
            if done.returncode:
                found = {"seconds": float("nan"), "bytes": 0, "said": f"ended with {done.returncode}: {done.stderr[-200:]}"}
            else:
                found = json.loads(done.stdout.splitlines()[-1])
            beyond = max(0, found["bytes"] - size) / MIB
            line = (
                one.name,
                f"{size / MIB:.1f}" if size > 99_999 else f"{size / MIB:.4f}",
                f"{found['seconds']:.1f}",
                f"{beyond:,.0f}",
                found["said"][:110],
            )
            print(
                ("| " + " | ".join(line) + " |")
                if words.markdown
                else "  ".join(f"{text:>{w}}" for text, w in zip(line, (44, 8, 7, 7, 4), strict=True)),
                flush=True,
            )


if __name__ == "__main__":
    main()
