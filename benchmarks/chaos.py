"""Kills a run at random phases, resumes it until it is done, and compares it with the run that nothing happened to.

  python benchmarks/chaos.py --kills 50 --seed 1 --out docs/notes/chaos.md

Each history is one run on two workers: it is killed several times, in the order of its phases, and then held against the undisturbed run.
Weights and optimizer must be the same bits, MLflow must have one run with each step once, one registered version and one ready model, and
nothing may be left: no temporary folder, no hidden file, no process. A kill hits exactly where it is meant to: `chaos_hook` halts the
thread at that point of the code, this script kills, and lets go of what is still alive. A checkpoint is written by a thread of its own, so
training goes on when a kill hits the writing. Exit code 1 where anything differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import psutil
import yaml

HOOK = Path(__file__).resolve().parent / "chaos_hook"
PATIENCE = 600.0
"""Seconds until something must have happened, on a busy machine."""
Victim = Literal["worker", "driver", "everything", "Ctrl-C", "memory", "nobody"]
"""`memory`: the process that reached the point takes memory until the machine has too little and something ends it."""
STEPS = 12
RECIPE: dict[str, Any] = {
    "method": "croco",
    "model": {
        **{"image_size": 64, "position": "rope", "encoder_dim": 32, "encoder_depth": 1, "encoder_heads": 2},
        **{"decoder_dim": 32, "decoder_depth": 1, "decoder_heads": 2},
    },
    "batch": {"size": 4, "microbatch": 2},
    "optim": {"lr": 1.0e-3, "warmup": "5 steps"},
    "train": {
        **{"length": f"{STEPS} steps", "workers": 2, "validate_every": "6 steps", "checkpoint_every": "3 steps"},
        **{"precision": "fp32", "threads": 1, "keep": 2},
    },
    "log": {"every": 2},
    "probe": {"names": [], "samples": 8},
}
ROOMS = ["rendered", "--scenes", "8", "--pairs-per-scene", "6", "--size", "64", "--split", "train=0.75,val=0.25", "--local"]
MLFLOW = "mlflow.tracking.client"


@dataclass(frozen=True)
class Point:
    """Where a kill can hit: before or after the call of a function."""

    phase: str
    module: str
    function: str
    when: Literal["before", "after"] = "before"
    calls: tuple[int, int] = (1, 1)
    """The first and the last call that may be meant."""
    victims: tuple[Victim, ...] = ("driver", "everything")


ANY: tuple[Victim, ...] = ("worker", "driver", "everything")
PREPARING = (
    Point("preparation", "sightline.platform.core.filesystem", "write_bytes", "before", (1, 6)),
    Point("preparation", "sightline.platform.core.filesystem", "write_bytes", "after", (1, 6)),
)
POINTS: tuple[tuple[Point, ...], ...] = (
    (
        Point("start-up", "sightline.platform.runs.record", "Run.save"),
        Point("start-up", "sightline.platform.core.ray_init", "start_ray", "after"),
    ),
    (
        Point("MLflow create", MLFLOW, "MlflowClient.create_run", "before"),
        Point("MLflow create", MLFLOW, "MlflowClient.create_run", "after"),
        Point("MLflow run", MLFLOW, "MlflowClient.log_inputs", "after"),
        Point("MLflow run", MLFLOW, "MlflowClient.log_batch", "after"),
    ),
    (
        Point("start-up", "sightline.platform.training.loop", "_train", "before", (1, 1), ANY),
        Point("start-up", "sightline.platform.checkpoints.restore", "find", "after", (1, 1), ANY),
    ),
    (Point("stepping", "sightline.platform.training.step", "Stepper.step", "before", (2, 5), ANY),),
    (
        Point("checkpoint", "safetensors.torch", "save_file", "before", (1, 2), ANY),
        Point("checkpoint", "safetensors.torch", "save_file", "after", (1, 2), ANY),
        Point("checkpoint", "sightline.platform.checkpoints.local", "write_text", "after", (1, 1), ANY),
        Point("checkpoint", "sightline.platform.checkpoints.local", "write", "after", (1, 1), ANY),
        Point("checkpoint", "sightline.platform.checkpoints.background", "HostCopy.take", "after", (1, 2), ANY),
    ),
    (Point("stepping", "sightline.platform.training.step", "Stepper.step", "before", (1, 3), ANY),),
    (Point("checkpoint", "sightline.platform.checkpoints.local", "hide", "after", (1, 1), ANY),),
    (
        Point("report to Ray", "sightline.platform.cluster.train_report", "report", "before", (1, 1), ANY),
        Point("report to Ray", "sightline.platform.cluster.train_report", "report", "after", (1, 1), ANY),
    ),
    (
        Point("MLflow run", "sightline.platform.tracking.mlflow_run", "Tracking._send"),
        Point("MLflow run", "sightline.platform.tracking.mlflow_run", "Tracking._send", "after"),
        Point("MLflow run", MLFLOW, "MlflowClient.log_batch", "after"),
    ),
    (
        Point("control metrics", "sightline.platform.experiments.finish", "measure_method"),
        Point("control metrics", "sightline.platform.experiments.finish", "measure_method", "after"),
        Point("control metrics", "sightline.platform.experiments.finish", "save_encoder", "after"),
    ),
    (
        Point("MLflow register", MLFLOW, "MlflowClient.create_logged_model", "after"),
        Point("MLflow register", MLFLOW, "MlflowClient.log_model_artifacts", "after"),
    ),
    (
        Point("MLflow register", MLFLOW, "MlflowClient.finalize_logged_model", "after"),
        Point("MLflow register", MLFLOW, "MlflowClient.create_model_version", "after"),
    ),
    (
        Point("MLflow alias", MLFLOW, "MlflowClient.set_registered_model_alias"),
        Point("MLflow alias", MLFLOW, "MlflowClient.set_registered_model_alias", "after"),
    ),
    (
        Point("report", "sightline.platform.reports.page", "write_report"),
        Point("report", "sightline.platform.reports.page", "write_report", "after"),
        Point("report", MLFLOW, "MlflowClient.log_artifact", "after", (1, 2)),
        Point("report", MLFLOW, "MlflowClient.set_terminated"),
    ),
)
"""By the order in which a run passes them; a history takes at most one of each."""


@dataclass
class Kill:
    point: Point
    call: int
    victim: Victim
    outcome: str = "not reached"
    lost: str = ""
    seconds: float = 0.0
    """Until the run was further than at the kill, or done."""

    def planned(self) -> list[Any]:
        return [self.point.module, self.point.function, self.point.when, self.call]


@dataclass
class Stopwatch:
    """Seconds from a kill until the run is further than it was: at a newer checkpoint, at the next point, or at its end."""

    kill: Kill | None = None
    step: int = 0
    began: float = 0.0

    def start(self, kill: Kill, step: int) -> None:
        self.stop()
        self.kill, self.step, self.began = kill, step, time.monotonic()

    def see(self, step: int) -> None:
        if step > self.step:
            self.stop()

    def stop(self) -> None:
        if self.kill:
            self.kill.seconds = time.monotonic() - self.began
        self.kill = None


def choose(rng: random.Random, place: Sequence[Point]) -> Kill:
    point = rng.choice(place)
    return Kill(point, rng.randint(*point.calls), rng.choice(point.victims))


@dataclass
class Chaos:
    """One $SIGHTLINE_HOME in which runs are killed. Only processes that carry the mark of this folder are ever ended."""

    folder: Path
    say: Callable[[str], None] = print
    watch: Callable[[], None] = lambda: None
    """Called while a process is halted at a point."""
    environment: dict[str, str] = field(default_factory=dict)
    """Of the commands, besides that of this process."""
    before: Sequence[str] = ()
    """Words before each command."""
    starts: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        for name in ("home", "tmp"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "toy.yaml").write_text(yaml.safe_dump(RECIPE))

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def start(self, words: Sequence[str], kills: Sequence[Kill] = ()) -> tuple[subprocess.Popen[str], Path]:
        """The command, and the folder of its points."""
        self.starts += 1
        points = self.folder / f"start-{self.starts:03d}"
        points.mkdir()
        (points / "points.json").write_text(json.dumps([kill.planned() for kill in kills]))
        kept = {name: value for name, value in os.environ.items() if name not in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS")}
        paths = [str(HOOK), *filter(None, [kept.get("PYTHONPATH")])]
        ours = {"CHAOS_FOLDER": str(points), "CHAOS_MARK": str(self.folder), "SIGHTLINE_HOME": str(self.home), "OMP_NUM_THREADS": "1"}
        ours |= {"PYTHONPATH": os.pathsep.join(paths), "TMPDIR": str(self.folder / "tmp"), "RAY_TMPDIR": "/tmp", **self.environment}
        with (points / "out").open("w") as out, (points / "err").open("w") as err:
            process = subprocess.Popen(
                [*self.before, sys.executable, "-m", "sightline.pipelines", *words, "--json"],
                env={**kept, **ours},
                stdout=out,
                stderr=err,
                text=True,
                cwd=self.folder,
                start_new_session=True,
            )
        return process, points

    def ours(self) -> Iterator[psutil.Process]:
        """Every process of this chaos, however it is related to the command."""
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("CHAOS_MARK") == str(self.folder) and process.status() != psutil.STATUS_ZOMBIE:
                    yield process

    def prepare(self, out: str, kills: Sequence[Kill] = ()) -> None:
        for kill in [*kills, None]:
            process, points = self.start(["prepare", "pairs", *ROOMS, "--out", out], [kill] if kill else [])
            if kill is None:
                self._ended(process, points)
                return
            began = time.monotonic()
            if self._reach(process, points, 0):
                self._kill(process, points, 0, kill)
                kill.outcome, kill.lost = "goes on with the shard", "a shard at most"
            kill.seconds = time.monotonic() - began

    def run(self, name: str, kills: Sequence[Kill] = ()) -> dict[str, Any]:
        """Start the run, kill it, resume it until it is done. Returns its result."""
        data = [f"data.{part}={self.folder / 'rooms' / part}" for part in ("train", "val")]
        begin = ["pretrain", str(self.folder / "toy.yaml"), *data, "--name", name]
        waiting, further = list(kills), Stopwatch()
        while True:
            made = (self.home / "runs" / name / "run.json").exists()
            stops = [number for number, kill in enumerate(waiting) if kill.victim == "Ctrl-C"]
            process, points = self.start(["resume", name] if made else begin, waiting[: stops[0] + 1] if stops else waiting)
            number = 0
            while number < len(waiting) and self._reach(process, points, number, lambda: further.see(self._step(name))):
                kill, step = waiting[number], self._step(name)
                self.watch()
                further.start(kill, step)
                self._kill(process, points, number, kill)
                if kill.victim in ("worker", "memory", "nobody"):
                    number += 1
                    kill.outcome, kill.lost = "went on by itself", self._lost(kill, step)
                    self._tell(name, kill)
                    continue
                process.wait(PATIENCE)
                if kill.victim == "Ctrl-C" and self._ended(process, points)["status"] != "stopped":
                    raise AssertionError("Ctrl-C did not stop the run")
                break
            else:
                result = self._ended(process, points)
                further.stop()
                if not waiting[number + 1 :]:
                    return result
                waiting = waiting[number + 1 :]  # this point was not passed; later ones are, when the end is done again
                continue
            waiting = waiting[number + 1 :]
            kill.outcome, kill.lost = ("stopped" if kill.victim == "Ctrl-C" else "resumed"), self._lost(kill, step)
            self._tell(name, kill)

    def _tell(self, name: str, kill: Kill) -> None:
        self.say(f"{name}: {kill.victim} killed, {kill.point.phase} ({kill.point.function}, {kill.point.when} call {kill.call})")

    def _step(self, name: str) -> int:
        """The step of the newest checkpoint."""
        found = [int(path.parent.name[5:]) for path in (self.home / "runs" / name).glob("checkpoints/step-*/complete.json")]
        return max(found, default=0)

    def _lost(self, kill: Kill, step: int) -> str:
        whole = step == STEPS or kill.victim == "Ctrl-C" or kill.point.phase in ("start-up", "MLflow create")
        return "nothing" if whole else f"steps since {step}"

    def _reach(self, process: subprocess.Popen[str], points: Path, number: int, meanwhile: Callable[[], None] = lambda: None) -> bool:
        """Whether the point is reached before the command ends."""

        def there() -> bool:
            meanwhile()
            return (points / f"reached-{number}").exists() or process.poll() is not None

        wait(there)
        return (points / f"reached-{number}").exists()

    def _kill(self, process: subprocess.Popen[str], points: Path, number: int, kill: Kill) -> None:
        halted = int((points / f"reached-{number}").read_text())
        if kill.victim == "Ctrl-C":
            os.killpg(process.pid, signal.SIGINT)
            wait(lambda: "stopping after this step" in (points / "err").read_text())
            time.sleep(2)  # the driver looks twice a second
        elif kill.victim == "worker":
            os.kill(halted, signal.SIGKILL)
        elif kill.victim == "memory":
            (points / f"grow-{number}").touch()
            wait(lambda: not psutil.pid_exists(halted) or psutil.Process(halted).status() == psutil.STATUS_ZOMBIE)
        elif kill.victim == "driver":
            process.kill()
        elif kill.victim == "everything":
            for each in [process, *self.ours()]:
                with suppress(psutil.Error):
                    each.kill()
        (points / f"go-{number}").touch()

    def _ended(self, process: subprocess.Popen[str], points: Path) -> dict[str, Any]:
        process.wait(PATIENCE)
        if process.returncode != 0:
            raise AssertionError(f"exit code {process.returncode}: {(points / 'err').read_text()[-3000:]}")
        result: dict[str, Any] = json.loads((points / "out").read_text())
        return result

    def left(self) -> list[str]:
        """What the runs should not have left behind: hidden files but for locks, temporary files, processes."""
        kept = (".token", ".validate_storage_marker")  # of every run: which folder it is; Ray's own
        hidden = [path for path in self.home.rglob(".*") if not path.name.endswith(".lock") and path.name not in kept]
        parts = [path for path in self.home.rglob("*.part") if path not in hidden]
        temporary = [path for path in (self.folder / "tmp").iterdir() if not path.name.startswith("torchinductor")]  # torch keeps it
        with suppress(AssertionError):  # processes of a killed driver end within seconds
            wait(lambda: not list(self.ours()), 60)
        processes = [f"process {each.pid} {each.name()}" for each in self.ours()]
        return [str(path.relative_to(self.folder)) for path in [*hidden, *parts, *temporary]] + processes


def wait(there: Callable[[], Any], seconds: float = PATIENCE) -> None:
    limit = time.monotonic() + seconds
    while not there():
        if time.monotonic() > limit:
            raise AssertionError("waited in vain")
        time.sleep(0.005)


def bits(run: Any) -> str:
    """One hash over the bits of all weights and of the optimizer's state at the end."""
    import torch

    from sightline.platform.checkpoints import local as checkpoint

    found, digest = checkpoint.newest(run.folder / "checkpoints"), hashlib.sha256()
    assert found is not None and found.state.step == STEPS
    for stem in ("model", "optimizer"):
        for name, value in sorted(found.tensors(stem).items()):
            digest.update(name.encode() + value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest() + found.state.history


def differences(chaos: Chaos, name: str, whole: str, same_bits: bool = True) -> list[str]:
    """In what the run `name` differs from the undisturbed run `whole`; empty where nothing does."""
    os.environ["SIGHTLINE_HOME"] = str(chaos.home)
    from mlflow import MlflowClient

    from sightline.platform.core.paths import local_tracking_uri
    from sightline.platform.runs.record import Run

    run, other = Run.open(name), Run.open(whole)
    found: list[str] = []

    def check(right: bool, what: str) -> None:
        if not right:
            found.append(what)

    if same_bits:
        check(bits(run) == bits(other), "weights, optimizer or effective history have other bits")
        check(run.history() == other.history(), "the recorded losses differ")
    check(run.status == "finished", f"status {run.status}")
    for file in ("report.html", "claims.json", "settings.yaml", "encoder/encoder.safetensors"):
        check((run.folder / file).is_file(), f"no {file}")
    metrics = [{**json.loads((each.folder / "claims.json").read_text()), "seconds": 0} for each in (run, other)]
    check(metrics[0] == metrics[1] or not same_bits, "control metrics differ")
    steps = sorted(path.name for path in (run.folder / "checkpoints").iterdir())
    check(steps == sorted(path.name for path in (other.folder / "checkpoints").iterdir()), f"checkpoints {steps}")

    client = MlflowClient(local_tracking_uri())
    experiments = [each.experiment_id for each in client.search_experiments()]
    check(len({each.name for each in client.search_experiments()}) == len(experiments), "an experiment twice")
    runs = client.search_runs(experiments, f"attributes.run_name = '{name}'")
    check([each.info.run_id for each in runs] == [run.mlflow_run_id], f"{len(runs)} MLflow runs")
    if runs:
        ours, theirs = client.get_run(str(run.mlflow_run_id)), client.get_run(str(other.mlflow_run_id))
        check(ours.info.status == "FINISHED", f"MLflow status {ours.info.status}")
        check(ours.data.metrics.keys() == theirs.data.metrics.keys(), "MLflow has other metrics")
        for metric in sorted(theirs.data.metrics):
            series = [[each.step for each in client.get_metric_history(i, metric)] for i in (ours.info.run_id, theirs.info.run_id)]
            once = [count for count in Counter(series[0]).values() if count > 1] == []
            regular = metric.startswith(("train/", "val/", "health/", "claim/"))  # the others are times, one a report
            check(once and (not regular or sorted(series[0]) == sorted(series[1])), f"steps of {metric}: {series[0]} for {series[1]}")
        models = client.search_logged_models(experiments, filter_string=f"source_run_id = '{run.mlflow_run_id}'")
        check([str(each.status) for each in models] == ["READY"], f"models in MLflow: {[str(each.status) for each in models]}")
        versions = client.search_model_versions(f"name = 'croco-encoder' and run_id = '{run.mlflow_run_id}'")
        check(len(versions) == 1, f"{len(versions)} registered versions")
        if versions:
            candidate = client.get_model_version_by_alias("croco-encoder", "candidate")
            check(candidate.version == versions[0].version, f"candidate is version {candidate.version}, not {versions[0].version}")
    return [*found, *(f"left: {each}" for each in chaos.left())]


def table(kills: Sequence[Kill]) -> str:
    kills = [kill for kill in kills if kill.outcome != "not reached"]
    rows = ["| phase | at | killed | outcome | lost | seconds |", "|---|---|---|---|---|---|"]
    for kill in kills:
        at = f"{kill.point.when} call {kill.call} of `{kill.point.function}`"
        rows.append(f"| {kill.point.phase} | {at} | {kill.victim} | {kill.outcome} | {kill.lost} | {kill.seconds:.0f} |")
    return "\n".join(rows) + "\n"


def histories(rng: random.Random, count: int) -> Iterator[list[Kill]]:
    """Plans of kills until there are `count`: of each history some places, in the order in which a run passes them."""
    while count > 0:
        places = sorted(rng.sample(range(len(POINTS)), k=min(count, rng.randint(4, 8), len(POINTS))))
        plan = [choose(rng, POINTS[place]) for place in places]
        count -= len(plan)
        yield plan


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="file for the table, as Markdown")
    parser.add_argument("--keep", action="store_true", help="leave the folder, to look at it")
    args = parser.parse_args()
    rng, began, done, wrong = random.Random(args.seed), time.monotonic(), list[Kill](), list[str]()
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    chaos = Chaos(folder, lambda text: print(f"{time.monotonic() - began:6.0f} s  {text}", flush=True))
    try:
        preparing = [choose(rng, PREPARING) for _ in range(max(1, args.kills // 10))]
        chaos.prepare("rooms-whole")
        chaos.prepare("rooms", preparing)
        done += preparing
        wrong += [f"rooms: {each}" for each in other_files(folder / "rooms-whole", folder / "rooms")]
        chaos.run("whole")
        for number, plan in enumerate(histories(rng, args.kills - len(preparing))):
            name = f"history-{number + 1}"
            chaos.run(name, plan)
            found = differences(chaos, name, "whole")
            chaos.say(f"{name}: {len(plan)} kills, {'as the undisturbed run' if not found else '; '.join(found)}")
            done, wrong = [*done, *plan], [*wrong, *(f"{name}: {each}" for each in found)]
    finally:
        for process in chaos.ours():
            with suppress(psutil.Error):
                process.kill()
        if not args.keep:
            shutil.rmtree(folder, ignore_errors=True)
    reached = sum(kill.outcome != "not reached" for kill in done)
    head = f"{reached} kills (seed {args.seed}) in {time.monotonic() - began:.0f} s; differences from the undisturbed run: {len(wrong)}"
    text = f"{head}.\n\n{table(done)}" + "".join(f"\n- {each}" for each in wrong)
    print(text)
    if args.out:
        title = "# Kills at random phases\n\nMade by `benchmarks/chaos.py`; [faults.md](faults.md) says how."
        args.out.write_text(f"{title} {text}".rstrip() + "\n")
    return int(bool(wrong))


def other_files(one: Path, other: Path) -> list[str]:
    """Names of files of two data sets whose content differs, manifests but for the command and the time."""
    names = {path.relative_to(one) for path in one.rglob("*") if path.is_file()} ^ {
        path.relative_to(other) for path in other.rglob("*") if path.is_file()
    }
    shards = [path.relative_to(one) for path in one.rglob("*.parquet")]
    return [str(name) for name in sorted(names)] + [
        str(name) for name in shards if not (other / name).is_file() or (one / name).read_bytes() != (other / name).read_bytes()
    ]


if __name__ == "__main__":
    sys.exit(main())
