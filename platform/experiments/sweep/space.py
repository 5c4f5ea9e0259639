"""A search space, written as `0.5..0.95`, `0.5..0.95/0.05`, `log:0.1..10` or `cosine,rope`. Ranges of integers give integers."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sightline.methods.errors import CallError
from sightline.platform.core.budget import parse_yaml

NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
RANGE = re.compile(rf"(log:)?({NUMBER})\.\.({NUMBER})(?:/({NUMBER}))?")
_NO_PATH = re.compile(r"\.\.(?!/)")
"""Two dots of a range that is written wrong, not of a folder such as ../pairs."""
SYNTAX = (
    "write for example 0.5..0.95, 0.5..0.95/0.05 (in steps), log:0.1..10, or values with commas: cosine,rope; "
    "a value that is a list stands in brackets: [64, 64],[64, 96]"
)


@dataclass(frozen=True)
class Choice:
    """A list of values."""

    options: tuple[Any, ...]

    @property
    def size(self) -> int:
        """How many different values there are."""
        return len(self.options)

    def value(self, index: int) -> Any:
        return self.options[index]

    def at(self, share: float) -> Any:
        """The value at `share` in [0, 1) of the domain."""
        return self.options[int(share * len(self.options))]

    def edges(self) -> list[Any]:
        """The values to check: if these are allowed, all are."""
        return list(self.options)

    def __contains__(self, value: Any) -> bool:
        return value in self.options

    def __str__(self) -> str:
        return ",".join(_text(option) for option in self.options)


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; evenly on a logarithmic scale where `log`; multiples of `step` above `low`."""

    low: float
    high: float
    whole: bool = False
    log: bool = False
    step: float | None = None

    @property
    def _between(self) -> float | None:
        """From one value to the next."""
        return self.step or (1.0 if self.whole else None)

    @property
    def size(self) -> int | None:
        """How many different values there are; None where they are not counted."""
        step = self._between
        return None if step is None else math.floor((self.high - self.low) / step * (1 + 1e-12) + 1e-9) + 1

    def value(self, index: int) -> Any:
        number = self.low + index * (self._between or 0.0)
        return round(number) if self.whole else float(f"{number:.10g}")

    def at(self, share: float) -> Any:
        if self.size is not None and not self.log:
            return self.value(int(share * self.size))
        if self.log:
            value = math.exp(math.log(self.low) + share * (math.log(self.high) - math.log(self.low)))
        else:
            value = self.low + share * (self.high - self.low)
        return round(value) if self.whole else self.rounded(value)

    def nearest(self, value: float) -> Any:
        """The value of the domain that is nearest to a number, such as one that rounding has moved off its step."""
        between = self._between
        if between is None:
            return min(max(float(value), self.low), self.high)
        return self.value(min(max(round((value - self.low) / between), 0), (self.size or 1) - 1))

    def rounded(self, value: float) -> Any:
        """As `nearest`, with no more digits than a person wants to read."""
        return self.nearest(float(f"{value:.6g}"))

    def edges(self) -> list[Any]:
        return [round(end) if self.whole else end for end in (self.low, self.high)]

    def __contains__(self, value: Any) -> bool:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and self.low <= value <= self.high

    def __str__(self) -> str:
        low, high = self.edges()
        return f"{'log:' * self.log}{low}..{high}{f'/{self.step:g}' if self.step else ''}"


Domain = Choice | Range
Space = dict[str, Domain]


def settings_in(space: Space) -> int | None:
    """How many different settings a space has; None where they are not counted."""
    sizes = [domain.size for domain in space.values()]
    return None if None in sizes else math.prod(size for size in sizes if size is not None)


def index_of(choice: Choice, value: Any) -> int:
    return next(index for index, option in enumerate(choice.options) if identity(option) == identity(value))


def holds(domain: Domain, value: Any) -> bool:
    """Whether the domain can propose this value."""
    if isinstance(domain, Choice):
        return any(identity(value) == identity(option) for option in domain.options)
    return value in domain and identity(domain.nearest(value)) == identity(value)


def choice_of(options: Sequence[Any], key: str) -> Choice:
    """Raises `CallError` naming `key` where there is no value, one is no value to try, or one is named twice."""
    listed = [_number(option) for option in options]
    if not listed or any(isinstance(option, float) and not math.isfinite(option) for option in listed):
        raise CallError(f"{key}: {', '.join(map(str, options)) or 'nothing'} is no list of values", SYNTAX)
    if len({identity(option) for option in listed}) < len(listed):
        raise CallError(f"{key}: {', '.join(map(str, options))} names a value twice", SYNTAX)
    return Choice(tuple(listed))


def identity(value: Any) -> str:
    """The same text for the same value: 1 and 1.0 are one number, true is none."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {identity(value[key])}' for key in sorted(value, key=str))}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(identity, value))}]"
    return repr(float(value)) if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 53 else repr(value)


def _number(option: Any) -> Any:
    """YAML takes 1e-3 for a text."""
    return float(option) if isinstance(option, str) and re.fullmatch(NUMBER, option) else option


def _text(option: Any) -> str:
    """As `parse_domain` reads it again."""
    if isinstance(option, str):
        return option if _listed(option) == [option] and _number(option) == option else json.dumps(option)
    return json.dumps(option, default=str)


def _listed(text: str) -> list[Any] | None:
    """The values between commas, by YAML's rules for a list; None where these are broken."""
    try:
        found = parse_yaml(f"[{text}]")
    except yaml.YAMLError:
        return None
    return found if isinstance(found, list) else None


def parse_domain(text: str, key: str) -> Domain:
    """Raises `CallError` naming `key`."""
    found = RANGE.fullmatch(text.strip())
    if not found:
        options = None if _NO_PATH.search(text) else _listed(text)
        if not options:
            raise CallError(f"{key}: {text!r} is no range and no list of values", SYNTAX)
        return choice_of(options, key)
    low, high, step = float(found[2]), float(found[3]), float(found[4]) if found[4] else None
    if not math.isfinite(high - low):
        raise CallError(f"{key}: {text!r} has no end", SYNTAX)
    if not low < high:
        raise CallError(f"{key}: {text!r} ends before it begins", SYNTAX)
    if found[1] and low <= 0:
        raise CallError(f"{key}: a logarithmic range begins above 0, not at {found[2]}", SYNTAX)
    if step is not None and (found[1] or not 0 < step <= (high - low) * (1 + 1e-9)):
        raise CallError(f"{key}: {text!r} has a step that does not fit", "a step is above 0, at most the range, and not for log:")
    whole = all(re.fullmatch(r"[+-]?\d+", part) for part in (found[2], found[3], found[4] or "0"))
    return Range(low, high, whole, bool(found[1]), step)


def parse_space(parts: Iterable[str]) -> Space:
    """`KEY=DOMAIN` texts, and YAML files of such lines as a mapping. Raises `CallError`."""
    space: Space = {}
    for part in parts:
        lines: Any
        if part.endswith((".yaml", ".yml")) and "=" not in part:
            try:
                lines = parse_yaml(Path(part).read_text("utf-8-sig"))
            except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
                raise CallError(f"--space {part}: {error}") from None
            if not isinstance(lines, Mapping):
                raise CallError(f"--space {part} is no mapping", "write lines such as `pretext.mask_ratio: 0.5..0.95`")
        else:
            key, equals, text = part.partition("=")
            if not equals or not key.strip():
                raise CallError(f"--space {part!r} names no setting and range", f"write section.key=RANGE; {SYNTAX}")
            lines = {key.strip(): text}
        for name, given in lines.items():
            key = str(name)
            if key in space:
                raise CallError(f"--space names {key} twice", f"give all its values at once; {SYNTAX}")
            if given is None:
                raise CallError(f"--space {part}: {key} has no values", SYNTAX)
            space[key] = choice_of(given, key) if isinstance(given, list) else parse_domain(str(given), key)
    return space
