"""Files on disk: JSON lines that are appended to, and JSON files that are replaced by a rename."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any


def append_lines(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Append records as JSON lines, each with the `time` of its writing in seconds since 1970, unless it has one.

    A last line that a kill cut short is ended first, so that it damages no other.
    """
    if not records:
        return
    now = round(time.time(), 3)
    with path.open("a+b") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write("".join(json.dumps({"time": now, **record}) + "\n" for record in records).encode())


def parse_lines(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """The records of complete lines. A line that a kill cut short is skipped."""
    for line in lines:
        with suppress(ValueError):
            if line.endswith(b"\n"):
                yield json.loads(line)


def write_record(path: Path, values: Mapping[str, Any]) -> None:
    """Replace a JSON file by a rename. Only its owner may read it."""
    part = path.with_name(f".{path.name}")
    part.touch(mode=0o600)
    part.write_text(json.dumps(values, indent=1, default=str))
    part.replace(path)
