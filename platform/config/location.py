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

`data.train` also takes several prepared data sets, a `Mixture`, each with its weight, or all without, which counts them by their rows:

    [./habitat/train: 3, ./kitchen/train: 1]   three of four samples come from the first
    [./habitat/train, ./kitchen/train]         as many of each as it has rows

In YAML the same, or a line for each; a mapping of folders to weights is the same, too.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import yaml

from sightline.methods.errors import CallError
from sightline.methods.settings import nearest
from sightline.platform.core.budget import parse_yaml
from sightline.platform.core.redaction import redact

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
MOST_WEIGHT = 1 << 28
"""Of the whole numbers that weights are: what a mixture computes with them must fit 64 bits."""
_MERGE = "prepare it first, or write `[FOLDER: 3, OTHER: 1]`"
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


@dataclass(frozen=True)
class Mixture:
    """Several prepared data sets that a run learns from. `str` gives the line that is read back as the same."""

    places: tuple[str, ...]
    """Paths or URIs."""
    weights: tuple[int, ...] | None
    """Of the samples, in lowest terms; None: each data set counts by its rows."""
    prepared = True
    reader = PREPARED

    def __str__(self) -> str:
        if self.weights is None:
            return f"[{', '.join(map(_scalar, self.places))}]"
        return f"[{', '.join(f'{_scalar(place)}: {weight}' for place, weight in zip(self.places, self.weights, strict=True))}]"

    @property
    def names(self) -> tuple[str, ...]:
        """A short name for each, for metrics and tables: of its path the part that tells it from the others."""
        paths = [[part for part in re.split(r"[/\\]+", _shown(place)) if part] for place in self.places]
        while len(set(map(tuple, paths))) > 1 and all(len(path) > 1 for path in paths) and len({path[-1] for path in paths}) == 1:
            paths = [path[:-1] for path in paths]
        for depth in range(1, max(map(len, paths)) + 1):
            names = ["-".join(re.sub(r"[^\w.-]", "_", part) for part in path[-depth:]) for path in paths]
            if len(set(names)) == len(names):
                return tuple(names)
        return tuple(f"{name}-{number}" for number, name in enumerate(names, 1))

    @property
    def told(self) -> str:
        """In a few letters, the weights first: `3:1 habitat, kitchen`."""
        weights = f"{':'.join(map(str, self.weights))} " if self.weights else ""
        return f"{weights}{', '.join(self.names)}"

    def absolute(self) -> Mixture:
        """With absolute paths."""
        return Mixture(tuple(Location(PREPARED, place).absolute().place for place in self.places), self.weights)


def _shown(place: str) -> str:
    """A place without what follows `?`, and without passwords."""
    return redact(place).partition("?")[0]


def parse(given: object) -> Location | Mixture:
    """The data that a person means. Raises `CallError` naming what is wrong."""
    if isinstance(given, str) and given.startswith("[") and given.endswith("]"):
        try:
            given = parse_yaml(given)
        except yaml.YAMLError:
            raise CallError(f"{given}: it is no list of data sets", "write for example '[./a/train: 3, ./b/train: 1]'") from None
    if isinstance(given, Mapping) and given and all(type(weight) in (int, float) for weight in given.values()):
        given = [{place: weight} for place, weight in given.items()]
    if isinstance(given, list | tuple):
        return _mixture(given)
    return parse_one(given)


def parse_one(given: object) -> Location:
    """The one source that a person means. Raises `CallError` naming what is wrong."""
    if isinstance(given, Mapping):
        return _of_yaml(given)
    if isinstance(given, list | tuple) or (isinstance(given, str) and given.startswith("[")):
        raise CallError(
            f"{given}: several data sets, and one is needed here",
            "make one of them: sightline prepare merge FOLDER OTHER --out DIR (only data.train takes a mixture)",
        )
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
    return _text(given, parse_one) if isinstance(given, str | Mapping | list | tuple) else given


def mixture_as_text(given: object) -> object:
    """`as_text` of a setting that takes several data sets."""
    return _text(given, parse) if isinstance(given, str | Mapping | list | tuple) else given


def _text(given: object, read: Callable[[object], Location | Mixture]) -> str:
    try:
        return str(read(given))
    except CallError as error:
        raise ValueError(f"{error} ({error.hint})") from None


def _mixture(given: Sequence[object]) -> Location | Mixture:
    places, weights = [], []
    for one in given:
        if isinstance(one, Mapping) and len(one) == 1 and not {"read", "from"} & set(one):
            [(place, weight)] = one.items()
            weights.append(_weight(place, weight))
        else:
            place = one
        location = parse_one(str(place) if type(place) is int else place)
        if not location.prepared:
            raise CallError(f"{location}: a mixture is made of prepared data sets, and this is read by Ray Data", _MERGE)
        if not location.place.strip():
            raise CallError(f"{list(given)}: it names no place", "write for example '[./a/train: 3, ./b/train: 1]'")
        places.append(location.place)
    if not places:
        raise CallError("data = [] names no data set", f"name {_FORMS}")
    if twice := [place for place in places if places.count(place) > 1]:
        raise CallError(f"{twice[0]} is named twice", "name it once, with a larger weight")
    if weights and len(weights) < len(places):
        raise CallError(
            f"{len(weights)} of {len(places)} data sets have a weight", "give each one a weight, or none, which counts them by their rows"
        )
    if len(places) == 1:
        return Location(PREPARED, places[0])
    return Mixture(tuple(places), lowest_terms(weights) if weights else None)


def _weight(place: object, given: object) -> Fraction:
    try:
        weight = Fraction(str(given)) if not isinstance(given, bool) else Fraction(0)
    except (ValueError, ZeroDivisionError):
        weight = Fraction(0)
    if weight <= 0:
        raise CallError(f"{place}: {given!r} is no weight", "a weight is a number above 0: a share of the samples beside the other weights")
    return weight


def lowest_terms(weights: Sequence[Fraction | int]) -> tuple[int, ...]:
    """The weights as whole numbers without a common divisor. Raises `CallError` where they would be too large."""
    denominator = math.lcm(*(Fraction(weight).denominator for weight in weights))
    whole = [int(weight * denominator) for weight in weights]
    lowest = tuple(weight // math.gcd(*whole) for weight in whole)
    if sum(lowest) > MOST_WEIGHT:
        raise CallError(f"the weights are to each other as {' : '.join(map(str, lowest))}", "use fewer digits")
    return lowest


def _scalar(place: str) -> str:
    """A place as an item of a YAML list, in quotes where it needs them."""
    with suppress(yaml.YAMLError):
        if yaml.safe_load(f"[{place}: 1, {place}]") == [{place: 1}, place]:
            return place
    return json.dumps(place, ensure_ascii=False)


def refuse_unknown_reader(location: Location | Mixture) -> None:
    """Raises `CallError` for what begins like a reader that there is not, and is no folder."""
    for place in location.places if isinstance(location, Mixture) else [location.place] if location.prepared else []:
        word = _WORD.fullmatch(place)
        if not word or Path(place).exists():
            continue
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
