"""A search space, written as `0.5..0.95`, `0.5..0.95/0.05`, `log:0.1..10` or `cosine,rope`. Ranges of integers give integers."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sightline.methods.errors import CallError
from sightline.platform.core.budget import parse_yaml

NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
RANGE = re.compile(rf"(log:)?({NUMBER})\.\.({NUMBER})(?:/({NUMBER}))?")
SYNTAX = "write for example 0.5..0.95, 0.5..0.95/0.05 (in steps), log:0.1..10, or values with commas: cosine,rope"


@dataclass(frozen=True)
class Choice:
    """A list of values."""

    options: tuple[Any, ...]

    def at(self, share: float) -> Any:
        """The value at `share` in [0, 1) of the domain."""
        return self.options[int(share * len(self.options))]

    def values(self) -> list[Any] | None:
        """All values; None where there are too many to list."""
        return list(self.options)

    def edges(self) -> list[Any]:
        """The values to check: if these are allowed, all are."""
        return list(self.options)

    def __contains__(self, value: Any) -> bool:
        return value in self.options

    def __str__(self) -> str:
        return ",".join(str(option) for option in self.options)


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; evenly on a logarithmic scale where `log`; multiples of `step` above `low`."""

    low: float
    high: float
    whole: bool = False
    log: bool = False
    step: float | None = None

    def at(self, share: float) -> Any:
        if (listed := self.values()) is not None and not self.log:
            return listed[int(share * len(listed))]
        if self.log:
            value = math.exp(math.log(self.low) + share * (math.log(self.high) - math.log(self.low)))
        else:
            value = self.low + share * (self.high - self.low)
        return round(value) if self.whole else float(f"{value:.6g}")

    def values(self) -> list[Any] | None:
        step = self.step or (1.0 if self.whole and not self.log else None)
        if step is None:
            return None
        numbers = [self.low + i * step for i in range(math.floor((self.high - self.low) / step * (1 + 1e-12) + 1e-9) + 1)]
        return [round(n) if self.whole else float(f"{n:.10g}") for n in numbers]

    def edges(self) -> list[Any]:
        return [round(end) if self.whole else end for end in (self.low, self.high)]

    def __contains__(self, value: Any) -> bool:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and self.low <= value <= self.high

    def __str__(self) -> str:
        low, high = self.edges()
        return f"{'log:' * self.log}{low}..{high}{f'/{self.step:g}' if self.step else ''}"


Domain = Choice | Range
Space = dict[str, Domain]


def parse_domain(text: str, key: str) -> Domain:
    """Raises `CallError` naming `key`."""
    found = RANGE.fullmatch(text.strip())
    if not found:
        options = tuple(parse_yaml(part) for part in text.split(","))
        if ".." in text or not text.strip() or any(option is None for option in options):
            raise CallError(f"{key}: {text!r} is no range and no list of values", SYNTAX)
        if len(set(map(repr, options))) < len(options):
            raise CallError(f"{key}: {text!r} names a value twice", SYNTAX)
        return Choice(options)
    low, high, step = float(found[2]), float(found[3]), float(found[4]) if found[4] else None
    if not low < high:
        raise CallError(f"{key}: {text!r} ends before it begins", SYNTAX)
    if found[1] and low <= 0:
        raise CallError(f"{key}: a logarithmic range begins above 0, not at {found[2]}", SYNTAX)
    if step is not None and (found[1] or not 0 < step <= high - low):
        raise CallError(f"{key}: {text!r} has a step that does not fit", "a step is above 0, at most the range, and not for log:")
    whole = all(re.fullmatch(r"[+-]?\d+", part) for part in (found[2], found[3], found[4] or "0"))
    return Range(low, high, whole, bool(found[1]), step)


def parse_space(parts: Iterable[str]) -> Space:
    """`KEY=DOMAIN` texts, and YAML files of such lines as a mapping. Raises `CallError`."""
    space: Space = {}
    for part in parts:
        lines: Mapping[str, Any]
        if part.endswith((".yaml", ".yml")) and "=" not in part:
            try:
                lines = parse_yaml(Path(part).read_text("utf-8"))
            except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
                raise CallError(f"--space {part}: {error}") from None
            if not isinstance(lines, Mapping):
                raise CallError(f"--space {part} is no mapping", "write lines such as `pretext.mask_ratio: 0.5..0.95`")
        else:
            key, equals, text = part.partition("=")
            if not equals:
                raise CallError(f"--space {part!r} names no setting and range", f"write section.key=RANGE; {SYNTAX}")
            lines = {key.strip(): text}
        for key, text in lines.items():
            space[str(key)] = Choice(tuple(text)) if isinstance(text, list) else parse_domain(str(text), str(key))
    return space
