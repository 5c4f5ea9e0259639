"""Connects this process to Ray."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from sightline.methods.errors import SightlineError, first_line

from . import kept_ray
from .ray_checks import names_cluster, ray_folder

if TYPE_CHECKING:
    import psutil

OBJECT_STORE_SHARE = 0.2
"""Of the machine's memory."""
MOST_OBJECT_STORE = 8 << 30
"""Bytes."""
RAY_PROCESSES = ("raylet", "gcs_server")
LAST_SECONDS = 10.0
"""That Ray's processes have to end by themselves."""
RARE_COLLECTIONS = "sightline.platform.core.rare_collections"
STARTS = 2
"""How often Ray is started on this machine before that has failed: a busy one may be too slow for the first."""


def start_ray(
    cpus: int | None = None,
    hint: str = "run the same command again when the machine is less busy",
    beside: Callable[[], None] | None = None,
) -> None:
    """Join the cluster that `RAY_ADDRESS` names (set in a Ray job), or the Ray of `sightline up`; else start Ray on this machine, on
    the loopback address only. `beside`: runs in a thread meanwhile.

    Raises `SightlineError` with this `hint` where Ray does not start; `ray_checks.check_ray` tells before that what can be known before.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")  # a busy machine needs more than the default 30 s
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_DATA_PARQUET_FOOTER_NUM_ACTORS", "2")  # by default 32 processes for every reading of Parquet
    import ray

    if ray.is_initialized():
        return
    _ignore_interrupts_by_a_function()
    if beside:
        threading.Thread(target=beside, name="sightline-beside-ray", daemon=True).start()
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if names_cluster():
        os.environ.setdefault("RAY_TRAIN_ENABLE_STATE_TRACKING", "1")  # for the dashboard's list of runs; Ray on this machine has none
        try:
            ray.init(**quiet)
        except (ConnectionError, RuntimeError, ray.exceptions.RayError) as error:
            raise SightlineError(f"the Ray cluster at RAY_ADDRESS={os.environ['RAY_ADDRESS']}: {first_line(error)}", hint) from error
        return
    if cpus is None and _join_kept(quiet):
        return
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")  # how late Ray Train sees that its workers have ended: 2 s by default
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # a process that looks for nodes that are to go
    os.environ.setdefault("RAY_preload_python_modules", RARE_COLLECTIONS)
    os.environ.setdefault("RAY_task_events_report_interval_ms", "0")  # these two for a dashboard, which Ray here does not have
    os.environ.setdefault("RAY_enable_metrics_collection", "0")
    import psutil

    store = int(min(psutil.virtual_memory().total * OBJECT_STORE_SHARE, MOST_OBJECT_STORE))
    with contextlib.suppress(OSError):
        store = min(store, int(os.statvfs("/dev/shm").f_bavail * os.statvfs("/dev/shm").f_frsize * 0.9))
    if folder := ray_folder():
        quiet["_temp_dir"] = folder
    for start in range(1, STARTS + 1):
        try:
            with _on_loopback():
                ray.init(
                    "local",  # without an address Ray would join whatever was started by `ray start` on this machine
                    num_cpus=cpus or len(os.sched_getaffinity(0)),
                    include_dashboard=False,
                    object_store_memory=max(store, 256 << 20),
                    **quiet,
                )
            return
        except Exception as error:  # Ray raises a bare `Exception` when its processes are too slow
            ray.shutdown()
            if start == STARTS:
                raise SightlineError(f"Ray did not start on this machine: {first_line(error)}", hint) from error


def end_ray() -> None:
    """`ray.shutdown`, and an end for those processes of a Ray started here that do not come to theirs.

    At exit a worker of Ray can lock itself up in the destructors of its core (seen with 2.60 on a busy machine). When Ray is gone nobody is
    left who would end it, and it would keep its memory for ever.
    """
    import psutil
    import ray

    started = own_processes()
    ray.shutdown()
    end = time.monotonic() + LAST_SECONDS
    while (left := [process for process in started if _runs(process)]) and time.monotonic() < end:
        time.sleep(0.05)
    for process in left:
        with contextlib.suppress(psutil.Error):
            process.kill()


def _runs(process: psutil.Process) -> bool:
    """Not one that has ended and stands in the list until its parent looks: process 1 of a container may do that late, or never."""
    import psutil

    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def own_processes() -> list[psutil.Process]:
    """The processes of a Ray that this process has started: raylet, GCS, and the workers below the raylet."""
    import psutil

    found: list[psutil.Process] = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if child.name() in RAY_PROCESSES:
                found += [child, *child.children(recursive=True)]
    return found


def _join_kept(quiet: dict[str, Any]) -> bool:
    """Join the Ray that `sightline up` keeps, where there is one that this process may use."""
    import ray
    from ray._private.authentication.authentication_token_setup import _enable_token_auth

    kept = kept_ray.take()
    if kept is None:
        return False
    try:
        _enable_token_auth()  # as Ray does for what it starts itself
        with _on_loopback():
            ray.init(kept.address, **quiet)
    except Exception as error:  # it may be ending
        ray.shutdown()
        kept_ray.release()
        print(f"the Ray of `sightline up` cannot be joined, this command starts its own: {first_line(error)}", file=sys.stderr)
        return False
    return True


def _ignore_interrupts_by_a_function() -> None:
    """A command in the background of a script has SIGINT ignored, and so have the processes that it starts.

    Ray calls the handler that it finds ("'Handlers' object is not callable"), and cancels a task by a SIGINT in its process: nothing that
    Ray Data reads ahead could be cancelled. A function in its place ignores the signal here, and no other process inherits it.
    """
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, lambda number, frame: None)


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """Ray as it is on a desktop: every process that it starts meanwhile listens on the loopback address. There is no autoscaler, nobody
    reports usage (Ray would wait for that process), and nobody follows log files for a driver that shows none. The raylet's agent serves no
    HTTP: it would try for 3 seconds to get a port that any other Ray of the machine has, and the raylet waits for it.

    `_node_ip_address="127.0.0.1"` does not do that: Ray replaces it by the machine's own address.
    """
    from ray._private import ray_constants, utils
    from ray._private.node import Node

    lacking = utils.get_dashboard_dependency_error
    utils.get_dashboard_dependency_error = lambda: ImportError("not needed")
    needless = {name: getattr(Node, name) for name in ("start_monitor", "start_api_server", "start_log_monitor")}
    for each in needless:
        setattr(Node, each, lambda node, **options: None)

    name, before = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, ray_constants.ENABLE_RAY_CLUSTER
    for_children = {name: "0", "GLOO_SOCKET_IFNAME": "lo"}
    kept = {each: os.environ.get(each) for each in for_children}
    os.environ |= for_children
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        utils.get_dashboard_dependency_error = lacking
        for each, method in needless.items():
            setattr(Node, each, method)
        ray_constants.ENABLE_RAY_CLUSTER = before
        for each, value in kept.items():
            if value is None:
                del os.environ[each]
            else:
                os.environ[each] = value
