"""A Ray that cannot be joined or started is told within seconds, before anything is made."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sightline.methods.errors import CallError
from sightline.platform.core import ray_checks
from sightline.platform.core.ray_checks import _check_cluster, check_ray, names_cluster, ray_folder

MISMATCH = "Version mismatch: The cluster was started with:\n    Ray: 2.9.0\n    Python: 3.9.1\nThis\n    Ray: 2.60.0\n    Python: 3.11.4\n"
SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])


@contextmanager
def answering(with_bytes: bytes) -> Iterator[int]:
    """The port of a server that answers every connection so."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        kept: list[socket.socket] = []

        def serve() -> None:
            while True:
                try:
                    link, _ = server.accept()
                except OSError:
                    return
                kept.append(link)
                link.sendall(with_bytes)

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        for link in kept:
            link.close()


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    _check_cluster.cache_clear()
    monkeypatch.setattr(ray_checks, "CONNECT_SECONDS", 60)
    for name in ("RAY_TMPDIR", "TMPDIR", "RAY_USE_TLS", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("address", "said", "hint"),
    [
        ("http://127.0.0.1:8265", "is the address of a dashboard", "sightline submit --address http://127.0.0.1:8265"),
        ("https://ada:secret@ray.example.org", r"https://\*\*\*@ray.example.org is the address", "unset RAY_ADDRESS"),
        ("ray://10.0.0.7:10001", "is an address of Ray Client", "10.0.0.7:6379"),
        ("10.0.0.7", "names no port", "10.0.0.7:6379"),
        ("10.0.0.7:", "is no address", "unset RAY_ADDRESS"),
        ("10.0.0.7:0", "names no port", "HOST:PORT"),
        ("10.0.0.7:99999", "names no port", "HOST:PORT"),
        ("2001:db8::1:6379", "is no address", "HOST:PORT"),
        ("anyscale://cluster", "is no address", "HOST:PORT"),
        ("head node:6379", "is no address", "HOST:PORT"),
        ("no-such-host.invalid:6379", "no Ray cluster answers", "unset RAY_ADDRESS"),
        (f"{'a' * 70}.example:6379", "no Ray cluster answers", "unset RAY_ADDRESS"),
    ],
)
def test_an_address_that_is_wrong_is_told_with_the_right_form(address: str, said: str, hint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(CallError, match=said) as caught:
        check_ray()
    assert hint in caught.value.hint and "secret" not in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize(
    ("answer", "said"), [(b"HTTP/1.1 505 no\r\n\r\n", "is no Ray cluster"), (b"", "no Ray cluster answers at .*: it did not answer")]
)
def test_what_listens_but_is_no_ray_is_told_at_once(answer: bytes, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not answer:
        monkeypatch.setattr(ray_checks, "CONNECT_SECONDS", 0.1)
    with answering(answer) as port:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
        with pytest.raises(CallError, match=said):
            check_ray()


def test_a_cluster_that_is_gone_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{closed_port()}")
    with pytest.raises(CallError, match="no Ray cluster answers at RAY_ADDRESS=127") as caught:
        check_ray()
    assert caught.value.hint.startswith("unset RAY_ADDRESS")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (["AuthenticationError", "Unauthenticated: Invalid"], "does not take this machine's token"),
        (
            [
                "RuntimeError",
                MISMATCH,
            ],
            r"has Ray 2\.9\.0 and Python 3\.9\.1, this machine Ray 2\.60\.0 and Python 3\.11\.4",
        ),
        (["RpcError", "unimplemented"], "no Ray cluster that can be joined: unimplemented"),
    ],
)
def test_a_cluster_that_refuses_says_why(answer: list[str], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *words, **options: SimpleNamespace(stdout=json.dumps(answer) + "\n"))
    with answering(SETTINGS) as port:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
        with pytest.raises(CallError, match=said):
            check_ray()


def test_a_cluster_that_answers_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(subprocess, "run", lambda words, **options: asked.append(words[-1]) or SimpleNamespace(stdout=""))
    with answering(SETTINGS) as port:
        monkeypatch.setenv("RAY_ADDRESS", f" 127.0.0.1:{port}\n")
        check_ray()
        check_ray()
    assert asked == [f"127.0.0.1:{port}"] and names_cluster()


@pytest.mark.parametrize("address", ["", " ", "local"])
def test_no_address_means_this_machine(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    check_ray()
    assert not names_cluster()


def test_sockets_go_to_a_short_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = str(tmp_path / ("job" * 30))
    assert ray_folder() is None
    monkeypatch.setenv("TMPDIR", "/tmp/a-job")
    assert ray_folder() is None
    for unfit in (long, "relative", "/etc/hostname"):
        monkeypatch.setenv("TMPDIR", unfit)
        assert ray_folder() == "/tmp/ray"
        monkeypatch.setenv("RAY_TMPDIR", unfit)
        with pytest.raises(CallError, match=f"cannot put its sockets into RAY_TMPDIR={unfit}") as caught:
            check_ray()
        assert "RAY_TMPDIR=/tmp" in caught.value.hint
        monkeypatch.delenv("RAY_TMPDIR")
    monkeypatch.setattr(ray_checks, "SHORT", long)
    with pytest.raises(CallError, match="cannot put its sockets into TMPDIR=/etc/hostname: it cannot be written, and"):
        check_ray()


def test_the_longest_folder_that_is_taken_makes_the_longest_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    longest = "/tmp/" + "x" * (107 - len("/tmp/") - len("/" + ray_checks.SOCKET))
    monkeypatch.setenv("TMPDIR", longest)
    assert ray_folder() is None
    monkeypatch.setenv("TMPDIR", longest + "x")
    assert ray_folder() == "/tmp/ray"
