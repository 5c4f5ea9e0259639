"""Ports on which processes take connections from other machines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress

import psutil


def open_to_others(processes: Iterable[psutil.Process]) -> list[str]:
    """`NAME ADDRESS:PORT` of each socket that listens on more than the loopback address."""
    found = set()
    for process in processes:
        with suppress(psutil.Error):
            for each in process.net_connections(kind="inet"):
                address = str(each.laddr.ip).removeprefix("::ffff:") if each.laddr else ""
                if each.status == psutil.CONN_LISTEN and address not in ("127.0.0.1", "::1"):
                    found.add(f"{process.name()} {address}:{each.laddr.port}")
    return sorted(found)


def with_variable(name: str, value: str) -> Iterator[psutil.Process]:
    """Every process that has this in its environment."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(name) == value:
                yield process


def family(pid: int) -> list[psutil.Process]:
    """The process and all below it."""
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]
