"""`sightline up` and `down` with Ray itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

USE = """
import os, ray
from sightline.platform.core.ray_init import start_ray
start_ray()
print(ray.get(ray.remote(num_cpus=0)(lambda: (os.getppid(), "torch" in __import__("sys").modules)).remote()))
"""


def sightline(*words: str) -> dict[str, object]:
    done = subprocess.run([sys.executable, "-m", "sightline.pipelines", *words, "--json"], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_kept_ray_serves_commands_and_ends_with_its_keeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGHTLINE_HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    first = sightline("up", "--processes", "1")
    try:
        again = sightline("up", "--processes", "1")
        assert first["started"] and not again["started"] and first["pid"] == again["pid"]
        of_keeper = psutil.Process(int(str(first["pid"]))).children(recursive=True)
        used = subprocess.run([sys.executable, "-c", USE], capture_output=True, text=True, timeout=240)
        assert used.returncode == 0, used.stderr
        names = {process.pid: process.name() for process in of_keeper if process.is_running()}
        raylet, imported = eval(used.stdout)
        assert raylet in [process.pid for process in of_keeper] and imported
    finally:
        os.kill(int(str(first["pid"])), signal.SIGKILL)
    deadline = time.monotonic() + 60
    of_keeper = [process for process in of_keeper if "Agent" not in names.get(process.pid, "")]  # Ray's agents look once a minute
    while (left := [process for process in of_keeper if process.is_running()]) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left
    assert sightline("down") == {"ended": None}
