"""`sightline prepare` under real kills at random times: it goes on, and nothing is lost or there twice."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import psutil
import pytest

from sightline.platform.data.dataset import Dataset
from sightline.platform.data.manifest import MANIFEST_NAME
from sightline.platform.data.prepare.catalog import SHIPPED, sources_of
from tests.support.source_inputs import INPUTS, run_command

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import prepare_growth

KILLS = 12
SOURCES = [f"{kind}.{name}" for kind in SHIPPED for name in sources_of(kind)]


@pytest.mark.long
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_at_random_times_it_ends_with_the_data_of_an_undisturbed_run(tmp_path: Path, workers: int) -> None:
    words = [sys.executable, "-m", "sightline.pipelines", "prepare", *prepare_growth.walk(3000, tmp_path)]
    subprocess.run([*words, "--workers", "2", "--out", str(tmp_path / "whole")], check=True, capture_output=True)
    rng, killed, out = random.Random(workers), 0, tmp_path / "killed"
    for number in range(KILLS + 1):
        said = (tmp_path / f"said-{number}").open("w+")
        with said, subprocess.Popen([*words, "--workers", str(workers), "--out", str(out)], start_new_session=True, stderr=said) as run:
            with suppress(subprocess.TimeoutExpired):
                run.wait(None if number == KILLS else rng.uniform(0.5, 4))
            if run.poll() is None:
                os.killpg(run.pid, signal.SIGKILL)
                killed += 1
                continue
            assert run.returncode == 0, f"it ended by itself, and not well: {Path(said.name).read_text()}"
            break
    assert killed, "it was never killed: the machine is too fast for the times of this test"
    assert _prints(out) == _prints(tmp_path / "whole")


def _start(words: list[str], home: Path, processes: bool = False) -> ForkServerProcess:
    """A process that has imported the command already: what is killed is its work."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.source_inputs", "sightline.pipelines.prepare", "scipy.sparse", "h5py", "pydantic"])
    process = context.Process(target=run_command, args=(words, str(home), processes))
    process.start()
    return process


def _prints(out: Path) -> dict[str, str]:
    """Folder -> fingerprint, of every data set below, after a look that no id is there twice and nothing is left of its making."""
    found = {}
    for path in sorted(out.rglob(MANIFEST_NAME)):
        dataset = Dataset.open(path.parent)
        ids = dataset.sample_ids()
        assert len(set(ids)) == len(ids) == dataset.rows > 0
        found[path.parent.relative_to(out).as_posix()] = dataset.fingerprint
    assert found and not list(out.rglob(".staging"))
    return found


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("source", SOURCES)
def test_every_source_goes_on_after_kills(tmp_path: Path, source: str) -> None:
    """The command, or one of the processes that make its shards, is killed at random moments of its work."""
    words = [*source.split("."), *INPUTS[source](tmp_path / "in"), "--workers", "2", "--out"]
    began = time.monotonic()
    whole = _start([*words, str(tmp_path / "whole")], tmp_path / "home")
    whole.join()
    assert whole.exitcode == 0
    lasts, rng, out, killed = time.monotonic() - began, random.Random(source), tmp_path / "killed", 0
    for number in range(8):
        run = _start([*words, str(out)], tmp_path / f"home-{number}", processes=number == 3)
        if number == 3:
            killed += _kill_a_worker(run, out)
        else:
            run.join(rng.uniform(0.2, 1) * lasts)
            if run.exitcode is None:
                os.kill(run.pid or 0, signal.SIGKILL)
                killed += 1
        run.join()
        if run.exitcode == 0 and killed:
            break
        if run.exitcode == 0:  # it was faster than the draw: once more from the beginning
            shutil.rmtree(out)
    if not list(out.rglob(MANIFEST_NAME)):
        last = _start([*words, str(out)], tmp_path / "home")
        last.join()
        assert last.exitcode == 0
    assert killed, "nothing was killed"
    assert _prints(out) == _prints(tmp_path / "whole")


def _kill_a_worker(run: ForkServerProcess, out: Path) -> bool:
    """Once the first shard is there, kill a process that makes others. The command says so, and ends."""
    while run.exitcode is None and not list(out.rglob("shard-*.json")):
        time.sleep(0.02)
    with suppress(psutil.Error):
        workers = [worker for server in psutil.Process(run.pid).children() for worker in server.children()]
        for worker in workers[:1]:
            worker.kill()
            return True
    return False


def test_every_source_has_something_to_be_killed_at() -> None:
    assert set(INPUTS) == set(SOURCES)
