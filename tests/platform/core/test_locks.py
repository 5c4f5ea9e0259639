"""Two processes never train or drive the same run at once; the end of a process, whatever its kind, frees what it held."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sightline.methods.errors import SightlineError
from sightline.platform.core.locks import DRIVER, NO_LOCKS, TRAINING, exclusive_lock, fcntl
from sightline.platform.core.screen import Screen
from sightline.platform.experiments import execution
from sightline.platform.runs.events import TrainingEnded
from sightline.platform.runs.record import Run
from sightline.platform.training import loop

HOLDER = """
import sys, time
from pathlib import Path
from sightline.platform.core.locks import exclusive_lock
with exclusive_lock(Path(sys.argv[1]), "held"):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


@contextmanager
def held(path: Path, seconds: float = 600) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that holds the lock at `path` for so long."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(path), str(seconds)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"held\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_who_holds_it_is_said_and_a_kill_frees_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "lock"
    with held(path) as other:
        with pytest.raises(SightlineError) as caught, exclusive_lock(path, "the run is being trained", "wait", timeout=0.3):
            raise AssertionError("two hold it")
        assert str(caught.value) == f"the run is being trained by process {other.pid} on {socket.gethostname()}"
        assert caught.value.hint == "wait"
        other.kill()
        with exclusive_lock(path, "the run is being trained", timeout=30):
            assert str(os.getpid()) in path.read_text() and str(other.pid) not in path.read_text()


def test_who_waits_gets_it_and_an_error_frees_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with held(path, seconds=0.2), exclusive_lock(path, "held", timeout=30):
        pass
    with pytest.raises(ZeroDivisionError), exclusive_lock(path, "held"):
        raise ZeroDivisionError
    refused = pytest.raises(SightlineError, match=f"by process {os.getpid()} on")
    with exclusive_lock(path, "held", timeout=0), refused, exclusive_lock(path, "held", "", 0):
        pass


def test_a_file_system_without_locks_keeps_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*rest: Any) -> None:
        raise OSError(NO_LOCKS[0], "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", none)
    with exclusive_lock(tmp_path / "lock", "held", timeout=0), exclusive_lock(tmp_path / "lock", "held", timeout=0):
        pass


@pytest.mark.slow
def test_a_run_that_another_process_trains_is_not_trained(
    toy_run: Callable[..., Run], train_here: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = toy_run("taken", **{"train.length": "1 steps"})
    monkeypatch.setattr(loop, "LOCK_TIMEOUT_SECONDS", 0.3)
    with held(run.folder / TRAINING) as other:
        with pytest.raises(SightlineError, match=f"run taken is being trained by process {other.pid} on "):
            train_here(run)
        assert not (run.folder / "checkpoints").exists()
    assert isinstance(train_here(run)[-1], TrainingEnded)


def test_a_run_that_another_driver_carries_out_is_refused_at_once(toy_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    run = toy_run("driven")
    monkeypatch.setattr(execution, "Tracking", None)  # nothing of it begins
    with held(run.folder / DRIVER) as other, pytest.raises(SightlineError, match=f"driven is being run by process {other.pid} on "):
        execution.execute(run, Screen(quiet=True))
