"""Palettes: which class each colour of a mask means."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path

from sightline.methods.errors import CallError

from ..files import read_text, text_lines
from ..found import ClassList
from ..label_tables import CAMVID, CITYSCAPES, VOC, VOID, known_colours, voc_colours
from ..mask_codes import Colours

Colour = tuple[int, int, int]
KNOWN = ("camvid", "cityscapes", "voc")
FILES = ("label_colors.txt", "class_dict.csv", "labelmap.txt")
"""Of CamVid, of its copies with a table, and of CVAT: read where they lie beside the folders of masks."""
NO_CLASS = ("void", "unlabeled", "unlabelled", "ignore", "ignored", "unknown")
"""Names, in lower case, of what is no class."""
_COLOUR = re.compile(r"(?<![\w.])(\d{1,3})[\s,;]+(\d{1,3})[\s,;]+(\d{1,3})(?![\w.])")


def read_palette(given: str, ignore: int | None) -> tuple[ClassList, Colours]:
    """The classes and the code of a known palette, or of a file with a name and three numbers a line.

    What is called void, unlabeled or the like, and the line of number `ignore`, is no class. Raises `CallError` for what is no palette.
    """
    if given == "cityscapes":
        names = tuple(one.name for one in sorted(CITYSCAPES, key=lambda one: one.train_id) if one.train_id != VOID)
        return ClassList(names, VOID, known_colours(names)), cityscapes_colours()
    if given == "voc":
        table = [(*colour, index) for index, colour in enumerate(voc_colours(len(VOC)))]
        return ClassList(VOC, VOID, known_colours(VOC)), Colours((*table, (224, 224, 192, VOID)))
    entries = list(CAMVID) if given == "camvid" else _entries(Path(given).expanduser())
    if ignore is not None and not 0 <= ignore < len(entries):
        raise CallError(f"--ignore {ignore}: the palette has {len(entries)} colours, from 0", "give the number of a line, from 0")
    void = {number for number, (name, _) in enumerate(entries) if name.lower() in NO_CLASS or number == ignore}
    names = tuple(dict.fromkeys(name for number, (name, _) in enumerate(entries) if number not in void))
    if not 2 <= len(names) <= VOID:
        raise CallError(
            f"{given} names {len(names)} class(es); segmentation needs 2 to {VOID}", "give a line with name and colour for each"
        )
    index_of = {name: index for index, name in enumerate(names)}
    first = {name: colour for number, (name, colour) in reversed([*enumerate(entries)]) if number not in void}
    return ClassList(names, VOID, tuple(first[name] for name in names)), _colours(
        [(colour, VOID if number in void else index_of[name]) for number, (name, colour) in enumerate(entries)]
    )


def cityscapes_colours() -> Colours:
    """The colours of `gtFine_color.png`, as trainIds."""
    first: dict[Colour, int] = {}
    for label in sorted(CITYSCAPES, key=lambda one: one.train_id):  # a class before what has none
        first.setdefault(label.colour, label.train_id)
    return _colours(list(first.items()))


def _colours(entries: Sequence[tuple[Colour, int]]) -> Colours:
    return Colours(tuple((*colour, index) for colour, index in entries))


def _entries(path: Path) -> list[tuple[str, Colour]]:
    """(name, colour) of each line: `64 128 64 Animal`, `Animal,64,128,64`, or CVAT's `Animal:64,128,64::`."""
    if not path.is_file():
        raise CallError(f"there is no palette {path}", f"name a file with a name and three numbers a line, or one of {', '.join(KNOWN)}")
    entries: list[tuple[str, Colour]] = []
    for number, line in enumerate(text_lines(read_text(path, "palette")), 1):
        if not line.strip() or line.lstrip().startswith(("#", "//")):
            continue
        entry = _entry(line)
        if entry is None:
            if number == 1:  # the head of a table
                continue
            raise CallError(
                f"{path} line {number} has no name with three numbers from 0 to 255: {line.strip()[:60]}", "write: 64 128 64 Animal"
            )
        entries.append(entry)
    colours = [colour for _, colour in entries]
    if twice := [name for index, (name, colour) in enumerate(entries) if colour in colours[:index]]:
        other = entries[colours.index(dict(entries)[twice[0]])][0]
        raise CallError(f"{path} gives {other!r} and {twice[0]!r} one colour", "give each colour one meaning")
    return entries


def _entry(line: str) -> tuple[str, Colour] | None:
    cells = next(csv.reader([line])) if line.count(",") >= 3 else []
    numbers = [cell.strip() for cell in cells if cell.strip().isdecimal()]
    if len(numbers) == 3 and len(cells) > 3:
        name = next(cell.strip() for cell in cells if cell.strip() and not cell.strip().isdecimal()) if len(cells) > len(numbers) else ""
    else:
        found = _COLOUR.search(line)
        if found is None:
            return None
        numbers = list(found.groups())
        name = (line[: found.start()].strip(" \t:,;") or line[found.end() :]).strip(" \t:,;")
    red, green, blue = map(int, numbers)
    return (name, (red, green, blue)) if name and max(red, green, blue) < 256 else None
