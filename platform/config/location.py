"""Where the samples of a run come from: one grammar for `data.train`, `data.val`, `probe.train` and `probe.test`, in a line or in YAML.

No torch and no Ray, so that a misspelt word is answered at once.

    ./pairs/train, s3://bucket/pairs/train     a prepared data set
    ray:MODULE:FUNCTION                        a function without arguments that returns a `ray.data.Dataset`
    parquet:PLACE                              Parquet: a file, a folder, a pattern such as 'birds/*.parquet', a URI
    images:PLACE                               a folder of images, with those in folders below it
    webdataset:PLACE                           tar files of WebDataset: a file, a folder, a pattern, a URI

All but the first take, behind the last `?`, the names of columns, OURS=THEIRS, and `rows=N`, joined by `&`:

    parquet:./birds?image=photo&id=name&rows=5994

In a name `%`, `&`, `=` and `?` are written %25, %26, %3D and %3F; a shell wants quotes around `?`, `&` and `*`. The same in YAML:

    data:
      train: {read: parquet, from: ./birds, columns: {image: photo, id: name}, rows: 5994}

A later form, such as several sources with weights, is another type beside `Location`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from sightline.methods.errors import CallError
from sightline.methods.settings import nearest

PREPARED = "prepared"
READERS = {
    "ray": "a function of yours that returns a ray.data.Dataset",
    "parquet": "Parquet files",
    "images": "a folder of images",
    "webdataset": "tar files of WebDataset",
}
"""Reader -> what it reads with Ray Data."""
ROWS = "rows"
_WORD = re.compile(r"([A-Za-z][A-Za-z_-]*):(?!//)(.*)", re.DOTALL)
_OPTIONS = re.compile(r"[^?&=]+=[^?&=]*(?:&[^?&=]+=[^?&=]*)*")
_FORMS = "a folder of `sightline prepare`, or " + ", ".join(f"{name}:..." for name in READERS)


@dataclass(frozen=True)
class Location:
    """One source of samples. `str` gives the line that is read back as the same."""

    reader: str
    """`PREPARED`, or a name of `READERS`."""
    place: str
    """A path or a URI; MODULE:FUNCTION for `ray`."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Our column -> theirs."""
    rows: int | None = None
    """Rows of an epoch, as the person says."""

    @property
    def prepared(self) -> bool:
        return self.reader == PREPARED

    def __str__(self) -> str:
        if self.prepared:
            return self.place
        options = [f"{_quoted(ours)}={_quoted(theirs)}" for ours, theirs in self.columns.items()]
        options += [f"{ROWS}={self.rows}"] if self.rows is not None else []
        return f"{self.reader}:{self.place}" + (f"?{'&'.join(options)}" if options else "")

    def absolute(self) -> Location:
        """With an absolute path, because workers run in other folders."""
        if self.reader == "ray" or "://" in self.place:
            return self
        return Location(self.reader, str(Path(self.place).expanduser().absolute()), self.columns, self.rows)


def parse(given: object) -> Location:
    """The source that a person means. Raises `CallError` naming what is wrong."""
    if isinstance(given, Mapping):
        return _of_yaml(given)
    if not isinstance(given, str):
        raise CallError(f"data = {given!r} is no place of data", f"name {_FORMS}")
    word = _WORD.fullmatch(given)
    if not word or word[1] not in READERS:
        return Location(PREPARED, given)
    place, _, tail = word[2].rpartition("?")
    place, tail = (place, tail) if _OPTIONS.fullmatch(tail) and place else (word[2], "")
    options: dict[str, str] = {}
    for pair in filter(None, tail.split("&")):
        ours, _, theirs = pair.partition("=")
        if unquote(ours) in options:
            raise CallError(f"{given}: {unquote(ours)} is named twice", "name each column once")
        options[unquote(ours)] = unquote(theirs)
    rows = options.pop(ROWS, None)
    return _checked(word[1], place, options, rows, given)


def as_text(given: object) -> object:
    """What a setting holds: the line, also of a source that was written as YAML. For pydantic: raises `ValueError`."""
    if not isinstance(given, str | Mapping):
        return given
    try:
        return str(parse(given))
    except CallError as error:
        raise ValueError(f"{error} ({error.hint})") from None


def refuse_unknown_reader(location: Location) -> None:
    """Raises `CallError` for what begins like a reader that there is not, and is no folder."""
    word = _WORD.fullmatch(location.place) if location.prepared else None
    if word and not Path(location.place).exists():
        raise CallError(f"{word[1]}: is no way to read data: {nearest(word[1], list(READERS))}", f"name {_FORMS}")


def _of_yaml(given: Mapping[Any, Any]) -> Location:
    known = ("read", "from", "columns", ROWS)
    for key in given:
        if key not in known:
            raise CallError(f"a source of data has no key {key!r}: {nearest(str(key), list(known))}", "write {read: parquet, from: PLACE}")
    reader, place, columns = given.get("read", PREPARED), given.get("from"), given.get("columns") or {}
    if reader != PREPARED and reader not in READERS:
        raise CallError(f"read: {reader!r} is no way to read data: {nearest(str(reader), list(READERS))}", f"read: {', '.join(READERS)}")
    if not isinstance(place, str) or not isinstance(columns, Mapping):
        raise CallError("a source of data needs `from: PLACE`, and its columns are OURS: THEIRS", "write {read: parquet, from: PLACE}")
    named = {str(ours): str(theirs) for ours, theirs in columns.items()}
    if reader == PREPARED:
        if named or given.get(ROWS) is not None:
            raise CallError("a prepared data set has columns and rows of its own", "leave `columns` and `rows` out, or say `read:`")
        return Location(PREPARED, place)
    return _checked(reader, place, named, given.get(ROWS), str(dict(given)))


def _checked(reader: str, place: str, columns: dict[str, str], rows: object, given: str) -> Location:
    if not place.strip():
        raise CallError(f"{given}: it names no place", f"write {reader}:PLACE")
    if reader == "ray" and not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", place):
        raise CallError(f"{given}: {place!r} is no function", "write ray:MODULE:FUNCTION, for example ray:my_data:train")
    if empty := [ours for ours, theirs in columns.items() if not ours or not theirs]:
        raise CallError(f"{given}: column {empty[0]!r} has no name there", "write OURS=THEIRS, for example ?image=photo")
    if rows is not None and not (str(rows).isdecimal() and int(str(rows)) > 0):
        raise CallError(f"{given}: rows = {rows!r} is no number of rows", "write for example rows=50000")
    return Location(reader, place, columns, None if rows is None else int(str(rows)))


def _quoted(name: str) -> str:
    return re.sub("[%&=?]", lambda found: f"%{ord(found[0]):02X}", name)
