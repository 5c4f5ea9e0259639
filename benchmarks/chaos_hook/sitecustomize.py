"""Halts the process at given points of the code. Python imports this at its start where `chaos.py` has put this folder on PYTHONPATH.

`CHAOS_FOLDER/points.json` is a list of [module, function, "before" or "after", call]. The points count one after another, in whichever
process comes first. A process that reaches point N writes its process id to `reached-N` and waits for the file `go-N`; the file `grow-N`
makes it take memory meanwhile, until it is killed. The product knows nothing of it.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import sys
import time
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

FOLDER = Path(os.environ.get("CHAOS_FOLDER", "/nonexistent"))
POINTS: list[tuple[str, str, str, int]] = json.loads((FOLDER / "points.json").read_text()) if (FOLDER / "points.json").exists() else []
PATIENCE = 600.0
PIECE, MOST = 64 << 20, 8 << 30
"""Bytes that a process takes at once, and at most."""


def _halt(number: int) -> None:
    """Wait at the point, in the first process that reaches it."""
    try:
        file = os.open(FOLDER / f".reached-{number}", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    except FileExistsError:
        return
    os.write(file, str(os.getpid()).encode())
    os.close(file)
    (FOLDER / f".reached-{number}").rename(FOLDER / f"reached-{number}")
    limit, taken = time.monotonic() + PATIENCE, list[bytes]()
    while not (FOLDER / f"go-{number}").exists() and time.monotonic() < limit:
        if (FOLDER / f"grow-{number}").exists() and len(taken) < MOST // PIECE:
            taken.append(b"1" * PIECE)
        time.sleep(0.005)


def _wrap(function: Any, numbers: list[int]) -> Any:
    calls = dict.fromkeys(numbers, 0)

    def visit(when: str) -> None:
        for number in numbers:
            _, _, at, call = POINTS[number]
            active = all((FOLDER / f"go-{other}").exists() for other in range(number))
            if active and at == when and not (FOLDER / f"reached-{number}").exists():
                calls[number] += 1
                if calls[number] == call:
                    _halt(number)

    @functools.wraps(function)
    def watched(*words: Any, **options: Any) -> Any:
        visit("before")
        result = function(*words, **options)
        visit("after")
        return result

    return watched


def _watch(module: Any) -> None:
    named: dict[str, list[int]] = {}
    for number, (name, function, _, _) in enumerate(POINTS):
        if name == module.__name__:
            named.setdefault(function, []).append(number)
    for function, numbers in named.items():
        *outer, last = function.split(".")
        owner = functools.reduce(getattr, outer, module)
        setattr(owner, last, _wrap(getattr(owner, last), numbers))


class _Watcher(MetaPathFinder):
    """Loads a module with points as it always is, and wraps its functions afterwards."""

    def __init__(self) -> None:
        self.waiting = {name for name, *_ in POINTS}

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name not in self.waiting:
            return None
        self.waiting.discard(name)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        load = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            load(module)
            _watch(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


if POINTS:
    sys.meta_path.insert(0, _Watcher())
