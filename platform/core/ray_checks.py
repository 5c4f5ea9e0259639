"""What stands in the way of Ray, told before anything is made: the address of a cluster, the folder of its sockets."""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

from sightline.methods.errors import CallError

from .redaction import redact

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 60.0
"""For a process that imports Ray and asks a cluster which version it has. A busy machine needs more than the usual second."""
HERE = "unset RAY_ADDRESS to run on this machine"
OF_A_HEAD = "RAY_ADDRESS is HOST:PORT as `ray start --head` prints it, for example 10.0.0.7:6379"
TOKEN_HINT = (
    "give this machine the cluster's token: put it into ~/.ray/auth_token, or name its file in RAY_AUTH_TOKEN_PATH "
    "(`ray get-auth-token` prints it on the head)"
)
HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""How a gRPC client begins: the preface and an empty SETTINGS frame."""
SETTINGS = 4
"""Type of the frame that a gRPC server answers first."""
ASK = """
import json, sys
from ray._private.utils import check_version_info
from ray._raylet import GcsClient
try:
    client = GcsClient(address=sys.argv[1])
    known = client.internal_kv_get(b"CLUSTER_METADATA", namespace=b"cluster", timeout=10)
    if known:
        check_version_info(json.loads(known), "this machine")
except Exception as error:
    print(json.dumps([type(error).__name__, str(error)]))
"""
SOCKET = "ray/session_2026-11-25_20-46-13_123456_1234567/sockets/plasma_store"
"""The longest path that Ray makes in its temporary folder and listens on."""
LONGEST_SOCKET = 107
"""Bytes that Linux takes."""
SHORT = "/tmp"


def names_cluster() -> bool:
    """Whether `RAY_ADDRESS` names a cluster. Empty and `local` mean this machine."""
    return os.environ.get("RAY_ADDRESS", "").strip() not in ("", "local")


def check_ray() -> None:
    """Raises `CallError` where the cluster that `RAY_ADDRESS` names cannot be joined, or Ray could not start on this machine."""
    if names_cluster():
        os.environ["RAY_ADDRESS"] = os.environ["RAY_ADDRESS"].strip()
        _check_cluster(os.environ["RAY_ADDRESS"])
    else:
        ray_folder()


@lru_cache
def _check_cluster(address: str) -> None:
    """Within seconds, where Ray itself would try for minutes."""
    shown = f"RAY_ADDRESS={redact(address)}"
    if address.startswith(("http://", "https://")):
        hint = f"{HERE}; on it: sightline submit --address {shlex.quote(redact(address))} -- COMMAND ..."
        raise CallError(f"{shown} is the address of a dashboard, which only `sightline submit` takes", hint)
    if address.startswith("ray://"):
        raise CallError(f"{shown} is an address of Ray Client, through which no run can be driven", f"{OF_A_HEAD}; or `sightline submit`")
    host, port = _host_and_port(_found() if address == "auto" else address, shown)
    try:
        with socket.create_connection((host, port), timeout=CONNECT_SECONDS) as link:
            link.sendall(HTTP2)
            answer = link.recv(9)
    except (OSError, UnicodeError) as error:
        why = "it did not answer" if isinstance(error, TimeoutError) else getattr(error, "strerror", None) or "no such host"
        raise CallError(f"no Ray cluster answers at {shown}: {why}", f"{HERE}, or start the cluster; {OF_A_HEAD}") from None
    encrypted = os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true")
    if not encrypted and (len(answer) < 4 or answer[3] != SETTINGS):
        raise CallError(f"what answers at {shown} is no Ray cluster", f"{OF_A_HEAD}, not the dashboard's; {HERE}")
    _ask_version(host if ":" not in host else f"[{host}]", port, shown)


def _found() -> str:
    """The cluster that runs on this machine, as Ray finds it for `auto`."""
    from ray._private.services import canonicalize_bootstrap_address

    try:
        return canonicalize_bootstrap_address("auto") or ""
    except ConnectionError:
        raise CallError(
            "RAY_ADDRESS=auto, but no Ray cluster runs on this machine", f"{HERE}, or start one with `ray start --head`"
        ) from None


def _host_and_port(address: str, shown: str) -> tuple[str, int]:
    found = re.fullmatch(r"(\[[0-9A-Fa-f:.%]+\]|[^\s:/@\[\]]+)(?::(\d{1,5}))?", address)
    if not found:
        raise CallError(f"{shown} is no address of a Ray cluster", f"{OF_A_HEAD}; {HERE}")
    if not found[2] or not 0 < int(found[2]) < 1 << 16:
        raise CallError(f"{shown} names no port of a Ray cluster", f"{OF_A_HEAD}; {HERE}")
    return found[1].strip("[]"), int(found[2])


def _ask_version(host: str, port: int, shown: str) -> None:
    """In a process of its own, because Ray's client cannot be told to stop trying."""
    import json

    try:
        asked = [sys.executable, "-c", ASK, f"{host}:{port}"]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=ANSWER_SECONDS, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise CallError(f"what listens at {shown} does not answer as a Ray cluster", f"{OF_A_HEAD}; {HERE}") from None
    if not done.stdout.strip():
        return
    kind, text = json.loads(done.stdout.strip().splitlines()[-1])
    if kind == "AuthenticationError" or "token" in text.lower():
        raise CallError(f"the Ray cluster at {shown} does not take this machine's token", f"RAY_AUTH_MODE=token, and {TOKEN_HINT}")
    if text.startswith("Version mismatch"):
        versions = re.findall(r"(Ray|Python): (\S+)", text)
        there, here = (" and ".join(f"{name} {number}" for name, number in part) for part in (versions[:2], versions[2:]))
        raise CallError(
            f"the Ray cluster at {shown} has {there}, this machine {here}", "install the same versions on both, or use `sightline submit`"
        )
    raise CallError(f"what answers at {shown} is no Ray cluster that can be joined: {text.splitlines()[0][:200]}", f"{OF_A_HEAD}; {HERE}")


def ray_folder() -> str | None:
    """Where Ray on this machine puts its sockets and logs; None: where it does by itself.

    Ray takes `RAY_TMPDIR`, else `TMPDIR`. That of a batch job is often too long for sockets: then /tmp is taken in its place. Raises
    `CallError` where `RAY_TMPDIR` will not do.
    """
    asked = os.environ.get("RAY_TMPDIR")
    folder = asked or os.environ.get("TMPDIR") or SHORT
    why = _unfit(folder)
    if not why:
        return None
    if asked or (unfit := _unfit(SHORT)):
        name = f"RAY_TMPDIR={asked}" if asked else f"TMPDIR={folder}" if folder != SHORT else SHORT
        why = why if asked or folder == SHORT else f"{why}, and {SHORT} {unfit}"
        raise CallError(f"Ray cannot put its sockets into {name}: {why}", "name a short folder that you can write: RAY_TMPDIR=/tmp")
    return f"{SHORT}/ray"


def _unfit(folder: str) -> str:
    """Why Ray cannot have its sockets below `folder`; empty where it can."""
    if not Path(folder).is_absolute():
        return "it is no absolute path"
    size = len(os.fsencode(folder.rstrip("/"))) + 1 + len(SOCKET)
    if size > LONGEST_SOCKET:
        return f"their paths would be {size} bytes long, and {LONGEST_SOCKET} is the most"
    place = Path(folder) / "ray"
    while not place.exists() and place != place.parent:
        place = place.parent
    return "" if place.is_dir() and os.access(place, os.W_OK | os.X_OK) else "it cannot be written"
