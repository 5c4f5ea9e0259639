"""Writes when given functions begin and end, and how long imports take. Python imports it at its start where `start.py --timeline` put
this folder on PYTHONPATH, in the command and in every process of Ray.

`TIMELINE_FILE` gets a line of JSON a call: process, thread, name, begin, end, seconds of CPU of the process meanwhile.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import sys
import threading
import time
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

FILE = os.environ.get("TIMELINE_FILE", "")
WATCHED: list[tuple[str, str, int | None]] = json.loads(Path(FILE + ".watched").read_text()) if FILE else []
"""(module, function or Class.method, the argument that tells calls apart)."""
IMPORTS = ("ray", "torch", "mlflow", "torch._dynamo", "torch.export", "ray.data", "ray.train", "ray.train.torch", "pyarrow", "timm")


def note(name: str, begin: float, cpu: float) -> None:
    thread = threading.current_thread().name
    line = {"pid": os.getpid(), "thread": thread, "name": name, "begin": begin, "end": time.time(), "cpu": time.process_time() - cpu}
    file = os.open(FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, (json.dumps(line) + "\n").encode())
    os.close(file)


def _timed(function: Any, name: str, argument: int | None) -> Any:
    @functools.wraps(function)
    def timed(*words: Any, **options: Any) -> Any:
        begin, cpu = time.time(), time.process_time()
        try:
            return function(*words, **options)
        finally:
            note(f"{name} {words[argument]}" if argument is not None and len(words) > argument else name, begin, cpu)

    return timed


class _Watcher(MetaPathFinder):
    """Loads a module as it always is, and wraps its functions afterwards."""

    def __init__(self) -> None:
        self.waiting = {*IMPORTS, *(module for module, _, _ in WATCHED)}

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name not in self.waiting:
            return None
        self.waiting.discard(name)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        load = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            begin, cpu = time.time(), time.process_time()
            load(module)
            if name in IMPORTS:
                note(f"import {name}", begin, cpu)
            for where, function, argument in WATCHED:
                if where == name:
                    _watch(module, function, argument)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _watch(module: Any, function: str, argument: int | None) -> None:
    *outer, last = function.split(".")
    owner = functools.reduce(getattr, outer, module)
    kept = owner.__dict__[last]
    if isinstance(kept, classmethod):
        setattr(owner, last, classmethod(_timed(kept.__func__, function, argument)))
    else:
        setattr(owner, last, _timed(kept, function, argument))


if WATCHED:
    sys.meta_path.insert(0, _Watcher())
