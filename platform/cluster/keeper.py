"""The process behind `sightline up`: it starts Ray, keeps workers ready, and ends with Ray when nobody has used it for a while.

python -m sightline.platform.cluster.keeper IDLE_MINUTES PROCESSES CPUS
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, cast

from sightline.platform.core import kept_ray
from sightline.platform.core.locks import try_lock
from sightline.platform.core.ray_init import RARE_COLLECTIONS

PRELOADED = f"{RARE_COLLECTIONS},sightline.platform.cluster.preloaded"
KEEP_SECONDS = int(kept_ray.MOST_IDLE_MINUTES) * 60
"""For which Ray leaves a worker that waits alone."""


def main(words: list[str]) -> None:
    idle_minutes, processes, cpus = float(words[0]), int(words[1]), int(words[2])
    alive = try_lock(kept_ray.folder() / kept_ray.ALIVE)
    if alive is None:
        return  # another one was faster
    code = kept_ray.code_digest()  # before the workers import
    os.environ |= {"RAY_AUTH_MODE": kept_ray.TOKEN, "RAY_preload_python_modules": PRELOADED}
    import ray

    from sightline.platform.core.ray_init import end_ray, start_ray

    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGINT, _end)
    start_ray(cpus=cpus)
    with contextlib.suppress(OSError):  # Ray leaves its token readable by others; a Ray that stays deserves better
        (Path.home() / ".ray" / "auth_token").chmod(0o600)
    try:
        context = ray.get_runtime_context()
        kept_ray.keep_record(
            {
                "address": context.gcs_address,
                "pid": os.getpid(),
                "host": socket.gethostname(),
                "python": sys.prefix,
                "code": code,
                "cpus": cpus,
                "idle_minutes": idle_minutes,
                "processes": processes,
            }
        )
        _keep(idle_minutes * 60, processes)
    finally:
        with contextlib.suppress(OSError):
            (kept_ray.folder() / kept_ray.RECORD).unlink(missing_ok=True)
        end_ray()


def _end(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)


def _keep(idle_seconds: float, processes: int) -> None:
    """Return when the Ray was not used for `idle_seconds`, or one of its processes has ended."""
    from ray._private.worker import _global_node

    free_since = time.monotonic()
    while time.monotonic() - free_since < idle_seconds:
        if _global_node is None or not _global_node.remaining_processes_alive():
            return
        if kept_ray.in_use():
            free_since = time.monotonic()
        elif time.monotonic() - free_since > 2 * kept_ray.POLL_SECONDS:  # the workers of the last command have ended
            lacking = processes - _waiting()
            if lacking > 0:
                _start_workers(lacking)
        time.sleep(kept_ray.POLL_SECONDS)


def _waiting() -> int:
    """Workers that run or are being started."""
    import psutil

    found = 0
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            found += any(word.startswith("ray::IDLE") or word.endswith("default_worker.py") for word in process.cmdline())
    return found


def _start_workers(count: int) -> None:
    """Ask Ray for workers that belong to no command yet. Ray's Python has no call for this one of its services."""
    import ray
    from ray._private.grpc_utils import init_grpc_channel
    from ray.core.generated import common_pb2, node_manager_pb2, node_manager_pb2_grpc

    messages: Any = node_manager_pb2
    service: Any = node_manager_pb2_grpc
    python = cast(Any, common_pb2).Language.Value("PYTHON")
    (node,) = ray.nodes()  # type: ignore[no-untyped-call]
    request = messages.PrestartWorkersRequest(language=python, num_workers=count, keep_alive_duration_secs=KEEP_SECONDS)
    with init_grpc_channel(f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}") as channel:
        service.NodeManagerServiceStub(channel).PrestartWorkers(request, timeout=30)


if __name__ == "__main__":
    main(sys.argv[1:])
