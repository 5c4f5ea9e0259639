"""A real Ray head for a test: token authentication, ports and a temporary folder of its own; ended by the processes that were started."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from ray._private.authentication_test_utils import reset_auth_token_state

WAIT = 600
"""Seconds: a machine may be busy."""
PORTS = ("port", "dashboard-port", "ray-client-server-port", "dashboard-agent-listen-port")
BIN = Path(sys.executable).parent


@contextmanager
def head(scratch: Path, port: int, words: Sequence[str], environment: dict[str, str]) -> Iterator[dict[str, str]]:
    """`ray start WORDS` on `port`. Gives the environment of a person whose cluster runs: its addresses and the file of its token.

    Sockets lie below `scratch`, and their paths must be short.
    """
    (scratch / "token").write_text(secrets.token_hex(32))
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_", "SIGHTLINE_"))}
    bare |= {"RAY_AUTH_TOKEN_PATH": str(scratch / "token"), "OMP_NUM_THREADS": "1"}
    slow = ("RAY_DASHBOARD_STARTUP_TIMEOUT_S", "RAY_raylet_start_wait_time_s", "RAY_DASHBOARD_SUBPROCESS_MODULE_WAIT_READY_TIMEOUT")
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"  # a job's `python` and `pip` are found by it
    ports = {"port": port} | {name: free_port() for name in PORTS[1:]}
    words = [*words, *(f"--{name}={number}" for name, number in ports.items()), "--object-store-memory=200000000", f"--temp-dir={scratch}"]
    with (scratch / "head.log").open("w") as log:
        process = subprocess.Popen(
            [str(BIN / "ray"), "start", "--block", *words],
            env={**bare, **dict.fromkeys(slow, str(WAIT)), "RAY_AUTH_MODE": "token", "PATH": path, **environment},
            cwd=scratch,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        until(lambda: "Ray runtime started" in (scratch / "head.log").read_text() or process.poll() is not None)
        assert process.poll() is None, (scratch / "head.log").read_text()[-3000:]
        yield {**bare, "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{ports['dashboard-port']}"}
    finally:
        ours = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.kill()
        process.wait()
        for child in ours:
            with suppress(psutil.NoSuchProcess):
                child.kill()


@contextmanager
def as_person(environment: dict[str, str]) -> Iterator[pytest.MonkeyPatch]:
    """This process with the `RAY_` variables of `environment` and token authentication; afterwards as before.

    Ray reads mode and token once per process: without the resets, every cluster that a later test starts here would refuse its own driver.
    """
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("RAY_ADDRESS", raising=False)
            for name, value in environment.items():
                if name.startswith("RAY_"):
                    patch.setenv(name, value)
            patch.setenv("RAY_AUTH_MODE", "token")
            reset_auth_token_state()
            yield patch
    finally:
        reset_auth_token_state()


@contextmanager
def short_folder() -> Iterator[Path]:
    """For sockets, whose paths must be short: pytest's own folders lie too deep where tests run in several processes."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(there: Callable[[], Any], pause: float = 0.5) -> Any:
    """What `there` gives, once it gives something."""
    limit = time.monotonic() + WAIT
    while time.monotonic() < limit:
        if found := there():
            return found
        time.sleep(pause)
    raise AssertionError("waited in vain")
