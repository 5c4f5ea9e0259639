"""Lines of lists as people write them: columns apart by spaces, tabs or commas, names with spaces, columns that nobody asked for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from .files import read_text, text_lines


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number, text without spaces at its ends) of the lines that are neither empty nor a comment (`#`). Raises `CallError` for no text."""
    for number, line in enumerate(text_lines(read_text(path)), 1):
        if line.strip() and not line.startswith("#"):
            yield number, line.strip()


def two_paths(line: str, is_there: Callable[[str], bool]) -> tuple[str, str, bool] | None:
    """(first path, second path, whether more follows), None for a line of one word.

    Two words are two paths. Of more, the first reading whose files both exist counts: the first two words (CroCo's own reader), columns
    apart by tabs or commas, in quotes, and at last every place between two words, so that names may hold spaces.
    """
    words = line.split()
    if len(words) == 2:
        return words[0], words[1], False
    readings = [words[:2], *_columns(line)]
    gaps = [match.span() for match in re.finditer(r"\s+", line)]
    readings += [[line[:start], line[end:]] for start, end in gaps]
    readings += [[line[:start], line[end : gaps[-1][0]], "more"] for start, end in gaps[:-1]]
    for reading in readings:
        if len(reading) > 1 and is_there(reading[0]) and is_there(reading[1]):
            return reading[0], reading[1], len(reading) > 2 or reading is readings[0]
    named = next((reading for reading in readings if len(reading) > 1), None)
    return None if named is None else (named[0], named[1], True)


def path_and_label(line: str, is_there: Callable[[str], bool]) -> tuple[str, str | None]:
    """(path, label or None). A tab stands between them; else the longest beginning of the line that is a file is the path, and what
    follows after spaces or a comma the label; where no beginning is a file, the label is the last word."""
    if "\t" in line:
        path, _, label = line.partition("\t")
        return path.strip(), label.strip().partition("\t")[0].strip() or None
    if is_there(line) or not re.search(r"[\s,]", line):
        return line, None
    for match in reversed(list(re.finditer(r"\s*,\s*|\s+", line))):
        path = line[: match.start()].strip('"')
        if is_there(path):
            return path, line[match.end() :].strip('"') or None
    words = line.rsplit(None, 1)
    return (words[0], words[1]) if len(words) == 2 else (line, None)


def _columns(line: str) -> Iterator[list[str]]:
    for pattern in (r"\t+", r"\s*,\s*"):
        if len(columns := [column.strip() for column in re.split(pattern, line) if column.strip()]) > 1:
            yield columns
    if len(quoted := re.findall(r'"([^"]+)"|\'([^\']+)\'', line)) > 1:
        yield [one or other for one, other in quoted]
