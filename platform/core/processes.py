"""Processes that help a command on its machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading


def begin_helper() -> None:
    """Called first in a helper: Ctrl-C, which reaches all processes of a terminal, is left to the command, with which the helper ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)
