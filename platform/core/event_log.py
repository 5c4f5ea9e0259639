"""Logs of events: small frozen classes, kept as JSON lines whose key `kind` names the class."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import msgspec

from .files import append_lines, parse_lines
from .redaction import redacted


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """Base of the events of one log. The log's own base derives from it, and each kind of event from that, with its `tag`."""

    time: float | None = None
    """Seconds since 1970, when the event was written; None before."""

    OLD_KEYS: ClassVar[Mapping[str, str]] = {}
    """Keys of older versions -> today's."""


E = TypeVar("E", bound=Event)


def append_events(path: Path, events: Sequence[Event]) -> None:
    """Append events to the log at `path`, each with the time of its writing."""
    append_lines(path, [redacted(encode(event)) for event in events])


def read_events(path: Path, base: type[E]) -> Iterator[E]:
    """The events of the log at `path`, which may be missing. `base`: the class that the log's events derive from."""
    if path.exists():
        with path.open("rb") as file:
            yield from parse_events(file, base)


def parse_events(lines: Iterable[bytes], base: type[E]) -> Iterator[E]:
    """The events of complete lines. Events and keys that this version does not know are skipped: a newer version may have written them."""
    for record in parse_lines(lines):
        if (event := decode(record, base)) is not None:
            yield event


def encode(event: Event) -> dict[str, Any]:
    """The event as a JSON-able record, without its unset keys."""
    values = {field.encode_name: msgspec.to_builtins(getattr(event, field.name)) for field in msgspec.structs.fields(event)}
    return {"kind": type(event).__struct_config__.tag, **{key: value for key, value in values.items() if value is not None}}


def decode(record: Mapping[str, Any], base: type[E]) -> E | None:
    """The event of a record; None where this version does not know it."""
    kinds = {kind.__struct_config__.tag: kind for kind in base.__subclasses__()}
    name = record.get("kind")
    kind = kinds.get(name) if isinstance(name, str) else None
    if kind is not None:
        with suppress(msgspec.ValidationError):
            return msgspec.convert({kind.OLD_KEYS.get(key, key): value for key, value in record.items()}, kind)
    return None
