"""Proxies have nothing to do with this machine itself."""

from __future__ import annotations

import os

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def loopback_without_proxy() -> None:
    """Add the loopback addresses to `no_proxy`: requests to a server on this machine would else go to the proxy that `http_proxy` names."""
    for name in ("no_proxy", "NO_PROXY"):
        known = [host.strip() for host in os.environ.get(name, os.environ.get("no_proxy", "")).split(",") if host.strip()]
        if "*" not in known:
            os.environ[name] = ",".join(dict.fromkeys([*known, *LOOPBACK]))
