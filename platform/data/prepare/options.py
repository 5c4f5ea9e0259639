"""The options of a source: dataclass fields that carry their help and how their text is read."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar, get_type_hints

T = TypeVar("T")


@dataclass(frozen=True)
class Option:
    """One option as the command line needs it. `parse` reads its text and raises `ValueError` with a sentence for what makes no sense."""

    name: str
    default: object
    help: str
    parse: Callable[[str], object] | None
    """None for a switch, which is given or not."""
    choices: tuple[str, ...] | None
    metavar: str | None


def option(
    default: T,
    help: str,
    parse: Callable[[str], T] | None = None,
    *,
    choices: tuple[str, ...] | None = None,
    metavar: str | None = None,
) -> T:
    """A field that is an option. Without `parse` its text is read as its type says: int, float, str, or bool for a switch."""
    metadata = {"help": help, "parse": parse, "choices": choices, "metavar": metavar}
    made: T = dataclasses.field(default=default, metadata=metadata)
    return made


def options_of(source: type) -> list[Option]:
    """The options of a dataclass whose fields are all made by `option`, base classes first."""
    hints, found = get_type_hints(source), []
    for one in dataclasses.fields(source):
        kinds = [kind for kind in (bool, int, float) if kind in (hints[one.name], *getattr(hints[one.name], "__args__", ()))]
        parse = one.metadata["parse"] or (None if kinds == [bool] else kinds[0] if kinds else str)
        found.append(Option(one.name, one.default, one.metadata["help"], parse, one.metadata["choices"], one.metadata["metavar"]))
    return found


def positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise ValueError(f"{text!r} is not a whole number above 0")
    return int(text)


def whole(text: str) -> int:
    if not text.isdigit():
        raise ValueError(f"{text!r} is not a whole number from 0")
    return int(text)


def share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < 1:
        raise ValueError(f"{text!r} is not a share from 0 to less than 1")
    return value


def lengths(text: str) -> tuple[float, float]:
    """`0.05..0.3`, or one length."""
    low, _, high = text.partition("..")
    try:
        found = above_zero(low), above_zero(high or low)
    except ValueError:
        raise ValueError(f"{text!r} is no length or range of lengths; write for example 0.05..0.3") from None
    if found[0] > found[1]:
        raise ValueError(f"{text!r}: the first length is the shorter one")
    return found


def above_zero(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ValueError(f"{text!r} is not a number above 0")
    return value


def four_numbers(text: str) -> tuple[float, float, float, float]:
    """`525,525,319.5,239.5`"""
    try:
        one, two, three, four = (float(part) for part in text.replace(" ", "").split(","))
    except ValueError:
        raise ValueError(f"{text!r} is not four numbers; write for example 525,525,319.5,239.5") from None
    return one, two, three, four


def bounds(text: str) -> tuple[float, float]:
    """`0.4..0.9`"""
    try:
        low, high = (float(part) for part in text.split(".."))
    except ValueError:
        raise ValueError(f"{text!r} is no range; write for example 0.4..0.9") from None
    if not 0 <= low < high <= 1:
        raise ValueError(f"{text!r} is no range of co-visibility: the smaller number first, both from 0 to 1")
    return low, high


def degrees(text: str) -> tuple[float, float]:
    """`10..30`"""
    low, _, high = text.partition("..")
    try:
        found = float(low), float(high)
    except ValueError:
        found = (math.nan, math.nan)
    if not 0 <= found[0] <= found[1] < 180:
        raise ValueError(f"{text!r} is no range of degrees; write for example 0..20")
    return found


def gaps(text: str) -> tuple[int, ...]:
    """`1`, `1,5` or `1..3`"""
    try:
        found = sorted({gap for part in text.split(",") for gap in _gap_range(part)})
    except ValueError:
        raise ValueError(f"{text!r} names no gaps; write for example 1, 1,5 or 1..3") from None
    if not found or found[0] < 1:
        raise ValueError(f"{text!r}: gaps are whole numbers above 0")
    return tuple(found)


def _gap_range(part: str) -> Sequence[int]:
    low, _, high = part.partition("..")
    return range(int(low), int(high or low) + 1)


def pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise ValueError(f"{text!r} is no regular expression: {error}") from None
