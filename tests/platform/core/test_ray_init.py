"""Ray's start on this machine, and which Ray a command joins."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray._private.utils import DeferSigint

from sightline.methods.errors import SightlineError
from sightline.platform.core import ray_init


@pytest.mark.parametrize(("failures", "calls"), [(1, ["init", "shutdown", "init"]), (2, ["init", "shutdown"] * 2)])
def test_a_machine_too_busy_for_ray_is_asked_twice(failures: int, calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def init(address: str, **options: object) -> None:
        seen.append("init")
        assert address == "local" and options["num_cpus"] == 1
        if seen.count("init") <= failures:
            raise Exception("The current node timed out during startup.\nMore of it.")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: seen.append("shutdown"))
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if failures < ray_init.STARTS:
        ray_init.start_ray(cpus=1)
    else:
        with pytest.raises(
            SightlineError, match=r"^Ray did not start on this machine: The current node timed out during startup\.$"
        ) as told:
            ray_init.start_ray(cpus=1, hint="sightline resume x")
        assert told.value.hint == "sightline resume x"
    assert seen == calls


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The arguments of `ray.init`, which is not carried out."""
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(ray, "init", lambda *words, **options: calls.append((words, options)))
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    return calls


def test_without_an_address_nothing_of_this_machine_is_joined(started: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    """By default Ray would join whatever was last started here by `ray start`."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    ray_init.start_ray(cpus=3)
    ((words, options),) = started
    assert words == ("local",)
    assert (options["num_cpus"], options["include_dashboard"]) == (3, False)


def test_the_cluster_that_the_environment_names_is_joined_as_it_is(started: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.7:6379")
    ray_init.start_ray()
    ((words, options),) = started
    assert words == () and not {"num_cpus", "object_store_memory", "_node_ip_address"} & set(options)


def test_in_the_background_of_a_script_ray_can_cancel_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """There SIGINT is ignored. Ray's own code calls the handler that it finds, and its processes must not inherit that."""
    ignored: list[bool] = []

    def init(address: str, **options: object) -> None:
        with DeferSigint():
            signal.raise_signal(signal.SIGINT)
        child = subprocess.run(["cat", "/proc/self/status"], check=True, capture_output=True, text=True).stdout
        mask = int(next(line for line in child.splitlines() if line.startswith("SigIgn")).split()[1], 16)
        ignored.append(bool(mask >> (signal.SIGINT - 1) & 1))

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        ray_init.start_ray()
    finally:
        signal.signal(signal.SIGINT, before)
    assert ignored == [False]


@pytest.mark.slow
def test_what_does_not_end_by_itself_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A raylet, a worker below it that hangs at exit, and a process that is not Ray's."""
    raylet = tmp_path / "raylet"
    raylet.write_text("#!/bin/sh\nsleep 60 &\nwait\n")
    raylet.chmod(0o755)
    real, before = ray_init.own_processes, {process.pid for process in ray_init.own_processes()}  # a Ray that other tests keep
    monkeypatch.setattr(ray_init, "own_processes", lambda: [process for process in real() if process.pid not in before])
    ours, other = subprocess.Popen([str(raylet)]), subprocess.Popen(["sleep", "60"])
    try:
        until = time.monotonic() + 10
        while len(found := ray_init.own_processes()) < 2 and time.monotonic() < until:
            time.sleep(0.01)
        assert sorted(process.name() for process in found) == ["raylet", "sleep"] and other.pid not in {process.pid for process in found}
        monkeypatch.setattr(ray_init, "LAST_SECONDS", 0.1)
        monkeypatch.setattr(ray, "shutdown", ours.terminate)
        ray_init.end_ray()
        ours.wait(10)
        assert not psutil.wait_procs(found, timeout=10)[1] and other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_what_has_ended_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """It stays in the list of processes until its parent looks, and the parent of Ray's workers may be process 1 of a container."""
    ended = subprocess.Popen(["true"])
    process = psutil.Process(ended.pid)
    try:
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
        assert process.is_running() and process.status() == psutil.STATUS_ZOMBIE
        monkeypatch.setattr(ray_init, "own_processes", lambda: [process])
        monkeypatch.setattr(ray, "shutdown", lambda: None)
        monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("waits"))
        ray_init.end_ray()
    finally:
        ended.wait()
