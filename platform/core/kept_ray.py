"""The Ray that `sightline up` keeps for the next commands of a home: a process of its own that ends when nobody has used it for a while.

The keeper starts Ray as every command does, on the loopback address and with Ray's token, and its processes end with it, however it ends. A
command uses it alone: what it finds in use, of other code or of another environment, it leaves and starts Ray as usual. Workers that have
imported what training needs wait there; Ray gives them to the next command.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

from sightline.methods.errors import CallError, MachineError, SightlineError

from .files import write_record
from .locks import try_lock
from .paths import check_writable, home

FOLDER, RECORD, LOG = "ray", "kept.json", "keeper.log"
TOKEN = "token"
ALIVE, IN_USE = "keeper.lock", "in-use.lock"
"""Locks: of the keeper, while it lives, and of the command that uses its Ray."""
IDLE_MINUTES, MOST_IDLE_MINUTES = 30.0, 7 * 24 * 60.0
PROCESSES = 6
"""Workers that wait: Ray Train's controller, two workers, what passes their events on, and two that prepare data."""
POLL_SECONDS = 1.0
START_SECONDS, END_SECONDS = 180.0, 30.0
PACKAGES = ("sightline.methods", "sightline.platform", "sightline.pipelines")
GROUPS = (
    "sightline.methods",
    "sightline.probes",
    "sightline.searchers",
    "sightline.schedulers",
    "sightline.data_kinds",
    "sightline.sources",
)
OF_A_SESSION = (
    "_",
    "SHLVL",
    "PWD",
    "OLDPWD",
    "COLUMNS",
    "LINES",
    "PS1",
    "PAGER",
    "EDITOR",
    "VISUAL",
    "MAIL",
    "COLORTERM",
    "DISPLAY",
    "STY",
)
OF_SESSIONS = ("TERM", "SSH_", "XDG_SESSION_", "TMUX", "LS_", "LESS", "HIST", "VSCODE_", "DBUS_", "WINDOW", "VIRTUAL_ENV_PROMPT")
"""Environment variables, and beginnings of such, that tell of a terminal and change nothing that a worker does."""


@dataclass(frozen=True)
class KeptRay:
    """What a command must know to use it."""

    address: str
    """HOST:PORT on the loopback address."""
    pid: int
    """Of the keeper."""
    host: str
    code: str = ""
    """`code_digest` when it started. What another version has written lacks later fields, and does not fit."""
    python: str = ""
    cpus: int = 0
    idle_minutes: float = IDLE_MINUTES
    processes: int = PROCESSES
    """That wait."""

    @property
    def environment(self) -> dict[str, str]:
        """Of the keeper, as its workers have it."""
        return environment_of(self.pid)


def folder() -> Path:
    return home() / FOLDER


def find() -> KeptRay | None:
    """The Ray that is kept for this home; None where there is none, or its keeper has ended."""
    try:
        stored = json.loads((folder() / RECORD).read_text())
        kept = KeptRay(**{name: stored[name] for name in KeptRay.__dataclass_fields__ if name in stored})
    except (OSError, ValueError, TypeError):
        return None
    return kept if kept.host == socket.gethostname() and _held(folder() / ALIVE) else None


def unfit(kept: KeptRay, environment: Mapping[str, str] | None = None) -> str | None:
    """Why this process must not use it, as the end of a sentence; None where it may. `environment`: by default that of this process."""
    if kept.python != sys.prefix:
        return f"it runs Python of {kept.python}"
    if kept.cpus != len(os.sched_getaffinity(0)):
        return f"it was started for {kept.cpus} CPUs"
    if kept.code != code_digest():
        return "the code or a package has changed since"
    try:
        there, here = kept.environment, environment_of("self") if environment is None else environment
    except OSError:
        return "its environment cannot be read"
    names = sorted(name for name in {*there, *here} if there.get(name) != here.get(name) and not _of_session(name))
    return f"it was started with another {', '.join(names[:3])}{' ...' if names[3:] else ''}" if names else None


def in_use() -> bool:
    return _held(folder() / IN_USE)


def environment_of(pid: int | str) -> dict[str, str]:
    """The environment that the process began with. Raises `OSError`."""
    words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return dict(os.fsdecode(word).split("=", 1) for word in words if b"=" in word)


def _of_session(name: str) -> bool:
    return name in OF_A_SESSION or name.startswith(OF_SESSIONS)


@lru_cache
def code_digest() -> str:
    """Of what a worker may import: this code, that of methods and probes of other packages, and the versions of all that is installed."""
    digest = hashlib.sha256(sys.version.encode())
    outside = {point.module.partition(".")[0] for group in GROUPS for point in entry_points(group=group)} - {"sightline"}
    for package in (*PACKAGES, *sorted(outside)):
        for path in _sources(package):
            with contextlib.suppress(OSError):
                content = path.read_bytes()
                digest.update(f"{path} {len(content)} ".encode() + content)
    for place in ("purelib", "platlib"):
        digest.update(" ".join(sorted(path.name for path in Path(sysconfig.get_path(place)).glob("*.dist-info"))).encode())
    return digest.hexdigest()


def _sources(package: str) -> Iterator[Path]:
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):
        return
    for place in (spec.submodule_search_locations or ()) if spec else ():
        yield from sorted(path for path in Path(place).rglob("*") if path.suffix in (".py", ".yaml"))
    if spec and spec.origin and not spec.submodule_search_locations:
        yield Path(spec.origin)


_using: tuple[KeptRay, IO[str]] | None = None
"""What this process uses, with its lock, which the kernel frees when the process ends."""


def used() -> KeptRay | None:
    """The kept Ray that this process uses."""
    return _using and _using[0]


def take() -> KeptRay | None:
    """The kept Ray, for this process alone until it ends; None where there is none that it may use, of which it tells on standard error."""
    global _using
    if _using:
        return _using[0]
    kept = find()
    if kept is None or os.environ.get("RAY_AUTH_MODE", TOKEN).lower() != TOKEN:
        return None
    if why := unfit(kept):
        _tell(f"the Ray of `sightline up` is not used: {why}; `sightline up` starts it anew")
        return None
    taken = try_lock(folder() / IN_USE)
    if taken is None:
        _tell("the Ray of `sightline up` is in use by another command; this one starts its own")
        return None
    if not _answers(kept.address):
        taken.close()
        return None
    _using = kept, taken
    return kept


def release() -> None:
    """Leave it to others, where Ray could not be joined."""
    global _using
    if _using:
        _using[1].close()
        _using = None


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _answers(address: str) -> bool:
    host, port = address.rsplit(":", 1)
    try:
        with socket.create_connection((host, int(port)), timeout=5):
            return True
    except OSError:
        return False


def _held(path: Path) -> bool:
    """Whether a process holds the lock."""
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except FileNotFoundError:
        return False
    except OSError:
        return True


def up(idle_minutes: float, processes: int) -> tuple[KeptRay, bool]:
    """(what is kept, whether it was started now): a keeper is started unless there is one that fits; one that does not fit is ended.

    Raises `SightlineError` where Ray does not start, or the one that does not fit is in use.
    """
    check_writable(home())
    if os.environ.get("RAY_AUTH_MODE", TOKEN).lower() != TOKEN:
        raise CallError("RAY_AUTH_MODE is set, and not to token: what is kept asks for Ray's token", "unset RAY_AUTH_MODE")
    if kept := find():
        if unfit(kept) is None:
            return kept, False
        down()
    place = folder()
    place.mkdir(parents=True, exist_ok=True)
    words = [str(idle_minutes), str(processes), str(len(os.sched_getaffinity(0)))]
    with (place / LOG).open("w") as log:
        os.fchmod(log.fileno(), 0o600)
        keeper = subprocess.Popen(
            [sys.executable, "-m", "sightline.platform.cluster.keeper", *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C in this terminal is not meant for it
            env=environment_of("self"),
        )
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        ended = keeper.poll() is not None
        if kept := find():
            return kept, True
        if ended:
            break
        time.sleep(0.1)
    if keeper.poll() is None:
        keeper.terminate()
    said = (place / LOG).read_text().strip().splitlines()
    raise MachineError(f"Ray did not start: {said[-1] if said else 'no answer'}", f"see {place / LOG}")


def down() -> KeptRay | None:
    """End the keeper and with it its Ray. Returns what was ended. Raises `SightlineError` where a command uses it."""
    if not _held(folder() / ALIVE):
        (folder() / RECORD).unlink(missing_ok=True)
        return None
    kept = find()
    if kept is None:
        return None  # of another machine, or it is being started
    taken = try_lock(folder() / IN_USE)
    if taken is None:
        raise SightlineError("a command is using the Ray of `sightline up`", "wait for it, or stop it first")
    with taken:  # no command may begin to use it now
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.kill(kept.pid, number)
            deadline = time.monotonic() + END_SECONDS
            while _held(folder() / ALIVE) and time.monotonic() < deadline:
                time.sleep(0.05)
        (folder() / RECORD).unlink(missing_ok=True)
    return kept


def keep_record(values: Mapping[str, Any]) -> None:
    """Written by the keeper when its Ray is up; only its user may read it."""
    write_record(folder() / RECORD, asdict(KeptRay(**values)))
