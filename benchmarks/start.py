"""Start and end: seconds from the command to its first step, and from the last step to the command's end, in turns for several Pythons.

  python benchmarks/start.py [--other PYTHON] [--repeats 3] [--warm] [--timeline] [--out start.json]

Each run is `sightline pretrain croco-tiny` as `quickstart` has it (two workers, probes, registry, report) with 20 steps, on rooms that are
rendered before. `--other`: the Python of another checkout's .venv, to compare with. `--warm`: also after `sightline up`. A run is timed
from outside: by the clock before and after it, and by the times that its events carry. `--timeline`: one more run, of which it prints when
each part began and ended, in the command and in the process of rank 0.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

SETTINGS = ("train.length=20 steps", "train.workers=2", "train.validate_every=10 steps", "train.validate_samples=64")
SETTINGS += ("train.checkpoint_every=10 steps", "optim.warmup=2 steps", "optim.lr=2e-3", "log.every=1")

HOOK = Path(__file__).resolve().parent / "timeline_hook"
PLATFORM = "sightline.platform"
WATCHED = [
    (f"{PLATFORM}.{module}", function, argument)
    for module, function, argument in (
        ("core.ray_init", "start_ray", None),
        ("core.ray_init", "end_ray", None),
        ("cluster.placement", "await_room", None),
        ("cluster.workers", "run_workers", None),
        ("cluster.workers", "_worker", None),
        ("training.inputs", "TrainInputs.open", None),
        ("training.loop", "_pretext", None),
        ("training.loop", "_stepper", None),
        ("training.step", "Stepper.warm_up_ddp", None),
        ("training.step", "Stepper.step", 1),
        ("training.validation", "Validator.measure", 1),
        ("training.saving", "CheckpointSaver.save", 1),
        ("training.saving", "CheckpointSaver.close", None),
        ("experiments.preflight", "check", None),
        ("experiments.train_run", "train_tracked", None),
        ("experiments.finish", "finish", None),
        ("experiments.finish", "TrainedModel.open", None),
        ("experiments.finish", "visualise", None),
        ("experiments.finish", "measure_method", None),
        ("experiments.finish", "measure_probes", None),
        ("experiments.finish", "register", None),
        ("experiments.finish", "write_page", None),
        ("evaluation.probes.run", "run_probe", 0),
        ("tracking.mlflow_run", "Tracking.check", None),
        ("tracking.mlflow_run", "Tracking._create", None),
        ("tracking.mlflow_run", "Tracking.close", None),
        ("tracking.mlflow_run", "log_results", None),
        ("tracking.registry", "save_model", None),
        ("tracking.mlflow_model", "_check", None),
    )
]

SHORTEST = 0.02
"""Seconds of a part that is printed."""


class Times(NamedTuple):
    """Seconds of one run."""

    started: float
    """Until the workers have their first batch and their network."""
    first_step: float
    steps: float
    """From the first step to the last."""
    end: float
    """From the last step until the command has ended."""
    cpu: float
    """Of all processes, user and system."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--other", help="the Python of another checkout's .venv")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--warm", action="store_true", help="also on a Ray that `sightline up` keeps")
    parser.add_argument("--timeline", action="store_true", help="print the parts of one more run")
    parser.add_argument("--home", type=Path, help="a $SIGHTLINE_HOME whose rooms are there already")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    pythons = {"this checkout": sys.executable, **({"the other": args.other} if args.other else {})}
    found: dict[str, list[Times]] = {}
    with tempfile.TemporaryDirectory() as folder:
        home = args.home or Path(folder)
        _rooms(home)
        for repeat in range(args.repeats):
            for place, (name, python) in enumerate(pythons.items()):
                found.setdefault(name, []).append(measure(python, home, f"{Path(folder).name}-{repeat}-{place}"))
            if args.warm:
                command(sys.executable, home, "up")
                time.sleep(20)  # the workers import
                found.setdefault("this checkout, after `up`", []).append(
                    measure(sys.executable, home, f"{Path(folder).name}-{repeat}-warm")
                )
                command(sys.executable, home, "down")
        show(found)
        if args.timeline:
            timeline(args.home or Path(folder), f"{Path(folder).name}-timeline", Path(folder) / "timeline")
    if args.out:
        args.out.write_text(json.dumps({name: [times._asdict() for times in runs] for name, runs in found.items()}, indent=1))


def show(found: dict[str, list[Times]]) -> None:
    table = Table("seconds: median (range)", *(name.replace("_", " ") for name in Times._fields))
    for name, runs in found.items():
        columns = zip(*runs, strict=True)
        table.add_row(name, *(f"{statistics.median(one):.1f} ({min(one):.1f}-{max(one):.1f})" for one in columns))
    Console(width=130).print(table)


def timeline(home: Path, name: str, file: Path) -> None:
    """Print when the parts of a run began and ended, from the start of the command."""
    Path(f"{file}.watched").write_text(json.dumps(WATCHED))
    path = os.pathsep.join(filter(None, (str(HOOK), os.environ.get("PYTHONPATH"))))
    begin = time.time()
    measure(sys.executable, home, name, {"PYTHONPATH": path, "TIMELINE_FILE": str(file)})
    end = time.time()
    calls = sorted((json.loads(line) for line in file.read_text().splitlines()), key=lambda call: call["begin"])
    events = [json.loads(line) for line in (home / "runs" / name / "events.jsonl").read_text().splitlines()]
    first = {kind: next(event["time"] - begin for event in events if event["kind"] == kind) for kind in ("start", "steps", "end")}
    command, leader = calls[0]["pid"], next(event["pid"] for event in events if event["kind"] == "worker" and event["rank"] == 0)
    table = Table("process", "thread", "part", "from", "to", "seconds", "CPU of the process")
    for call in calls:
        if call["end"] - call["begin"] >= SHORTEST and call["pid"] in (command, leader):
            who = "command" if call["pid"] == command else "rank 0"
            times = (call["begin"] - begin, call["end"] - begin, call["end"] - call["begin"], call["cpu"])
            table.add_row(who, call["thread"], call["name"], *(f"{one:.2f}" for one in times))
    Console(width=150).print(table)
    print(f"ready {first['start']:.2f}, first step {first['steps']:.2f}, last step {first['end']:.2f}, end {end - begin:.2f}")


def command(python: str, home: Path, *words: str, more: Mapping[str, str] | None = None) -> float:
    """Run a command of Sightline to its end. Returns the seconds of CPU that it and its processes took."""
    environment = {**os.environ, "SIGHTLINE_HOME": str(home), **(more or {})}
    before = os.times()
    done = subprocess.run([python, "-m", "sightline.pipelines", *words], env=environment, capture_output=True, text=True)
    after = os.times()
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: {done.stderr[-2000:]}")
    return after.children_user + after.children_system - before.children_user - before.children_system


def measure(python: str, home: Path, name: str, more: Mapping[str, str] | None = None) -> Times:
    rooms = home / "data" / "rooms"
    start = time.time()
    data = (f"data.train={rooms / 'train'}", f"data.val={rooms / 'val'}")
    cpu = command(python, home, "pretrain", "croco-tiny", *SETTINGS, *data, "--name", name, more=more)
    end = time.time()
    events = [json.loads(line) for line in (home / "runs" / name / "events.jsonl").read_text().splitlines()]
    started = next(one["time"] for one in events if one["kind"] == "start")
    first = next(one["time"] for one in events if one["kind"] == "steps")
    last = next(one["time"] for one in events if one["kind"] == "end")
    return Times(started - start, first - start, last - first, end - last, cpu)


def _rooms(home: Path) -> None:
    if not (home / "data" / "rooms" / "val" / "manifest.json").exists():
        words = ("--scenes", "60", "--pairs-per-scene", "12", "--size", "112", "--split", "train=0.8,val=0.2", "--local")
        command(sys.executable, home, "prepare", "pairs", "rendered", *words, "--out", str(home / "data" / "rooms"))


if __name__ == "__main__":
    main()
