"""Names of runs, sweeps and comparisons."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from sightline.methods.errors import CallError
from sightline.platform.core.paths import check_writable, home, runs_folder

MOST_LETTERS = 101
RUN_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{MOST_LETTERS - 1}}}")
KINDS = ("runs", "sweeps", "comparisons")
"""Folders of all that `resume` can name."""


def fresh_name(recipe: str) -> str:
    """An unused run name: the recipe, in characters that a run name may have, and the time."""
    clean = re.sub(r"[^A-Za-z0-9._-]+", "-", recipe).strip("._-")[:60] or "run"
    stem = f"{clean}-{datetime.now().strftime('%m%d-%H%M%S')}"
    name, number = stem, 1
    while any((home() / kind / name).exists() for kind in KINDS):
        number += 1
        name = f"{stem}-{number}"
    return name


def refuse_taken(name: str, kind: str, parts: Iterable[str] = (), room: int = 0) -> None:
    """Raise `CallError` where the home cannot be written, `name` is not valid or taken, or a run's name matches a pattern of `parts`.

    `room`: letters that names of its runs have besides.
    """
    check_writable(home())
    most = MOST_LETTERS - room
    if not RUN_NAME.fullmatch(name) or len(name) > most:
        shown = repr(name) if len(name) <= most else f"{name[:20]!r}... with {len(name)} letters"
        raise CallError(
            f"{shown} is no {kind} name", f"use 1 to {most} letters (a to z), digits, '.', '_' and '-', and begin with a letter or a digit"
        )
    for other in KINDS:
        if (folder := home() / other / name).exists():
            raise taken(name, other.removesuffix("s"), folder)
    if found := sorted(path.name for pattern in parts for path in runs_folder().glob(pattern)):
        raise CallError(f"a run named {found[0]!r} exists, as one of this {kind} would be", "choose another --name, or remove such runs")


def taken(name: str, kind: str, folder: Path) -> CallError:
    return CallError(f"a {kind} named {name!r} exists in {folder}", f"choose another --name, or go on with `sightline resume {name}`")
