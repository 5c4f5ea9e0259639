"""What a loss of power may take: nothing that a run has recorded. Read from the system calls of a whole run but for Ray and MLflow."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

TRACES = (
    shutil.which("strace") is not None and subprocess.run(["strace", "--seccomp-bpf", "-f", "true"], capture_output=True).returncode == 0
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not TRACES, reason="strace is not installed, or may not trace here: it shows what is synced"),
]
RUN = """
import sys
from pathlib import Path
from rich.console import Console
from toy import TOY, write_pairs
from sightline.platform import config
from sightline.platform.data.dataset import Dataset
from sightline.platform.experiments import finish
from sightline.platform.experiments.create import create_run
from sightline.platform.runs.record import RunStatus
from sightline.platform.tracking.mlflow_run import Tracking
from sightline.platform.training.job import TrainJob
from sightline.platform.training.loop import train
from sightline.platform.training.memory import MemoryMeter

data = {"data." + part: str(write_pairs(Path(sys.argv[1]) / part, 24, 1)) for part in ("train", "val")}
experiment = config.load("toy", {**data, "train.keep": 1, "train.precision": "auto", "probe.names": []}, settings=TOY)
run = create_run("one", experiment, Dataset.open(data["data.train"]).fingerprint, "test", "")
run.status = RunStatus.RUNNING
run.save()
train(TrainJob(run.experiment, run.folder, run.fingerprint), lambda event: run.append([event]), lambda: False)
finish.register = lambda *words: None
tracking = Tracking(run)
tracking._send([], "events.jsonl", 7, {"train/loss": 18})
finish.finish(run, tracking, Console(stderr=True), MemoryMeter())
run.status = RunStatus.FINISHED
run.save()
"""
CALL = re.compile(r"^\d+ +(\w+)\((.*)\) += (\d+)")
OPENED = re.compile(r'"([^"]+)", ([A-Z_|]+)')
SYNCED = re.compile(r"^\d+<([^>]+)>")
NAMES = re.compile(r'"([^"]+)"')
CALLS = "openat,open,creat,write,pwrite64,ftruncate,fsync,fdatasync,rename,renameat,renameat2,mkdir,mkdirat,unlink,unlinkat"


def whole_calls(lines: Iterable[str]) -> Iterator[str]:
    """One line a call, where it ended: strace shows a call in two lines where that of another thread comes between."""
    begun: dict[str, str] = {}
    for line in lines:
        process, _, rest = line.partition(" ")
        if rest.endswith("<unfinished ...>"):
            begun[process] = rest.removesuffix("<unfinished ...>").strip()
        elif resumed := re.match(r" *<\.\.\. \w+ resumed>(.*)", rest):
            yield f"{process} {begun.pop(process, '')}{resumed[1]}"
        else:
            yield line


def test_a_call_that_is_shown_in_two_lines_is_one() -> None:
    shown = ["7  fsync(3</home/a> <unfinished ...>", '8  mkdir("/home/b", 0777) = 0', "7  <... fsync resumed>)           = 0"]
    assert [line.split("=")[0].split() for line in whole_calls(shown)] == [["8", 'mkdir("/home/b",', "0777)"], ["7", "fsync(3</home/a>)"]]
    assert all(CALL.match(line) for line in whole_calls(shown))


def unsynced(trace: list[str], root: Path) -> tuple[list[str], set[str]]:
    """(what a loss of power could take, in words; names of the files that were synced), of everything below `root`."""
    dirty: set[Path] = set()
    entries: dict[Path, str] = {}
    found: list[str] = []
    synced: set[str] = set()

    def ours(text: str) -> Path | None:
        path = Path(text)
        return path if path.is_relative_to(root) and not path.name.endswith(".lock") else None

    for line in trace:
        if not (match := CALL.match(line)):
            continue
        call, words = match[1], match[2]
        if call in ("openat", "open") and (opened := OPENED.search(words)) and (path := ours(opened[1])):
            if ("O_WRONLY" in opened[2] or "O_RDWR" in opened[2]) and "O_TMPFILE" not in opened[2]:
                dirty.add(path)
                entries[path.parent] = f"{path} was made"
        elif call in ("write", "pwrite64", "ftruncate") and (written := SYNCED.match(words)) and (path := ours(written[1])):
            dirty.add(path)
        elif call in ("fsync", "fdatasync") and (written := SYNCED.match(words)) and (path := ours(written[1])):
            dirty.discard(path)
            entries.pop(path, None)
            synced.add(path.name)
        elif call.startswith("mkdir") and (path := ours(NAMES.findall(words)[0])):
            entries[path.parent] = f"{path} was made"
        elif call.startswith("rename"):
            before, after = (Path(name) for name in NAMES.findall(words))
            if not after.is_relative_to(root):
                continue
            below = [path for path in dirty if path == before or before in path.parents]
            if below == [before] and any(part.startswith(".") for part in after.relative_to(root).parts):
                dirty = (dirty - {before}) | {after}  # by safetensors, under a name that no reader takes
                below = []
            found += [f"{path} was renamed to {after} before it was synced" for path in below]
            found += [f"{why} in a folder that was renamed before it was synced" for folder, why in entries.items() if folder == before]
            if not after.name.startswith("."):  # a hidden name is taken by no reader: what is under it may come back
                entries[after.parent] = f"{before.name} was renamed to {after.name}"
        elif call.startswith("unlink"):
            dirty.discard(Path(NAMES.findall(words)[0]))
    found += [f"{path} was not synced" for path in dirty] + [f"{why}, and the folder was not synced" for why in entries.values()]
    return found, synced


def test_every_record_is_synced_before_its_rename_and_its_folder_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, trace = tmp_path / "home", tmp_path / "trace"
    home.mkdir()
    monkeypatch.setenv("SIGHTLINE_HOME", str(home))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2] / "support"))
    watched = ["strace", "-f", "-y", "-qq", "--seccomp-bpf", "-s", "300", "-e", f"trace={CALLS}", "-e", "signal=none", "-o", str(trace)]
    done = subprocess.run([*watched, sys.executable, "-c", RUN, str(tmp_path / "data")], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = list(whole_calls(trace.read_text(errors="replace").splitlines()))
    found, synced = unsynced(lines, home)
    assert found == []
    records = {"events.jsonl", "model.safetensors", "optimizer.safetensors", "state.json", "checkpoints", "one", "encoder"}
    parts = {f".{name}.part" for name in ("run.json", "tracking.json", "complete.json", "claims.json", "report.html", "precision.json")}
    assert records | parts | {".encoder.safetensors.part", ".encoder.json.part", ".settings.yaml.part"} <= synced
    without = [line for line in lines if "fsync(" not in line or ".run.json.part" not in line]
    assert any("run.json before it was synced" in each for each in unsynced(without, home)[0]), "the trace shows a sync that is missing"
