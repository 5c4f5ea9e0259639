"""The manifest of a data set: its content, its checksums and its origin.

A data set is a folder of Parquet shards with a `manifest.json`, which is written last: without it there is no data set.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from sightline.methods.contract import Kind
from sightline.methods.errors import CallError
from sightline.platform.core.budget import parse_json

from .clouds import NO_PART
from .kinds import find_kind, kind_names

SCHEMA_VERSION: Literal[2] = 2
"""The newest. Version 1 held arrays as bytes; a kind without arrays still has it (`DataKind.schema_version`)."""
MANIFEST_NAME = "manifest.json"
Size: TypeAlias = tuple[int, int]
"""(height, width) in pixels."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Shard(_Record):
    """One Parquet file. `row_groups` holds the rows of each row group, so that a plan needs no footer reads."""

    name: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*\.parquet$")  # a plain file name: it never leaves the folder
    rows: int = Field(ge=1)
    bytes: int = Field(ge=1)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    row_groups: tuple[int, ...]

    @model_validator(mode="after")
    def _rows_add_up(self) -> Shard:
        if sum(self.row_groups) != self.rows or min(self.row_groups, default=0) < 1:
            raise ValueError(f"row groups {self.row_groups} of {self.name} do not add up to its {self.rows} rows")
        return self


class Source(_Record):
    """Where rows came from. `notes` say what a user of the data must know (registration, distortion, unit)."""

    where: str
    licence: str = "unstated"
    reader: str = ""
    notes: tuple[str, ...] = ()


class Skipped(_Record):
    """Rows that were left out for one reason: how many, and the first examples."""

    reason: str
    count: int = Field(ge=1)
    examples: tuple[str, ...] = ()


class Overlap(_Record):
    """Co-visibility of the pairs that have one; `histogram` counts them in tenths of [0, 1]."""

    count: int
    min: float
    mean: float
    max: float
    histogram: tuple[int, ...] = Field(min_length=10, max_length=10)


class Map(_Record):
    """What the maps of one column hold: disparity or flow in pixels, or occlusion, whose known pixels are those that are not seen."""

    rows: int
    pixels: int
    known: int
    total: float
    """Sum of the lengths of all known ones; the mean is `total / known`."""
    largest: float


class Provenance(_Record):
    sources: tuple[Source, ...] = ()
    command: str = ""
    created: str = ""
    sightline_version: str = ""
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()
    """Warnings from its preparation: a class without rows, images that are in another split as well."""


class Manifest(_Record):
    schema_version: Literal[1, 2] = 1
    kind: Kind
    rows: int = Field(ge=1)
    columns: tuple[str, ...]
    shards: tuple[Shard, ...]
    fingerprint: str
    provenance: Provenance = Provenance()
    image_min: Size | None = None
    """Smallest height and smallest width of any stored image."""
    image_max: Size | None = None
    scenes: dict[str, int] = Field(default_factory=dict)
    """Rows of each scene; empty where rows name no scene."""
    overlap: Overlap | None = None
    classes: tuple[str, ...] = ()
    """Names of the classes: a `label` or a value of `segmentation` is an index in this list. Empty where the classes have no names."""
    ignore_index: int | None = None
    """The value of `segmentation` that means: no class, leave this pixel out."""
    palette: tuple[tuple[int, int, int], ...] = ()
    """Red, green and blue, 0 to 255, of each class in pictures; empty where the source has no colours. Not in the fingerprint."""
    points: tuple[int, int] | None = None
    """Fewest and most points of a cloud."""
    distinct: tuple[int, int] | None = None
    """The same, points in one place counted once."""
    extent: tuple[float, float] | None = None
    """Shortest and longest of the clouds, each by the longest side of its box; in the unit of the source."""
    parts: tuple[str, ...] = ()
    """Names of the parts: a value of `part` is an index in this list, or -1 for none. `Class/part` where parts belong to classes."""
    labels: dict[int, int] = Field(default_factory=dict)
    """Rows of each label that occurs; what they lack of `rows` has none."""
    pixels: dict[int, int] = Field(default_factory=dict)
    """Pixels of each value that occurs in `segmentation`, `ignore_index` included."""
    part_points: dict[int, int] = Field(default_factory=dict)
    """Points of each value that occurs in `part`."""
    maps: dict[str, Map] = Field(default_factory=dict)
    """Of disparity, flow and occlusion, by column."""
    offsets: dict[str, tuple[float, float, float]] = Field(default_factory=dict)
    """By id, of clouds that lie far from the origin: what was taken from the coordinates, to be added in double precision."""

    @field_validator("kind")
    @classmethod
    def _known(cls, kind: Kind) -> Kind:
        return find_kind(kind).name

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        if sum(shard.rows for shard in self.shards) != self.rows:
            raise ValueError("the rows of the shards do not add up to the rows of the data set")
        if "id" not in self.columns:
            raise ValueError("its rows have no column 'id'")
        if len({shard.name for shard in self.shards}) != len(self.shards):
            raise ValueError("two shards have one name")
        if fingerprint(self.kind, self.shards, self.classes, self.ignore_index, self.parts, self.schema_version) != self.fingerprint:
            raise ValueError("the fingerprint does not belong to these shards and classes: the manifest was altered")
        if self.palette and (len(self.palette) != len(self.classes) or not all(0 <= v <= 255 for one in self.palette for v in one)):
            raise ValueError(f"the palette has {len(self.palette)} colours for {len(self.classes)} classes, or numbers beyond 0 to 255")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("two classes have one name")
        beyond = [value for value in (*self.labels, *self.pixels) if not 0 <= value < len(self.classes) and value != self.ignore_index]
        if self.classes and beyond:
            raise ValueError(f"class index {beyond[0]} lies outside the {len(self.classes)} classes")
        beyond = [value for value in self.part_points if not NO_PART <= value < len(self.parts)]
        if self.parts and beyond:
            raise ValueError(f"part index {beyond[0]} lies outside the {len(self.parts)} parts")
        return self

    def to_json(self) -> str:
        later = {name for name in ("offsets", "maps") if not getattr(self, name)}  # an older Sightline refuses what it does not know
        return json.dumps(self.model_dump(mode="json", exclude=later), indent=1) + "\n"


def fingerprint(
    kind: str,
    shards: Sequence[Shard],
    classes: Sequence[str] = (),
    ignore_index: int | None = None,
    parts: Sequence[str] = (),
    schema_version: int = 1,
) -> str:
    """SHA-256 over kind, schema version, the ordered shards (hash and row groups) and what their indices mean.

    Equal content has an equal fingerprint. Classes count only where there are any, as data sets made before them have none.
    """
    digest = hashlib.sha256(f"sightline {kind} {schema_version}\n".encode())
    for shard in shards:
        digest.update(f"{shard.sha256} {shard.rows} {shard.row_groups}\n".encode())
    if classes:
        digest.update(f"classes {json.dumps(list(classes))} {ignore_index}\n".encode())
    if parts:
        digest.update(f"parts {json.dumps(list(parts))}\n".encode())
    return digest.hexdigest()


def parse_manifest(text: str | bytes, where: str) -> Manifest:
    """The manifest in `text`. Raises `CallError` naming `where` for one that is unreadable, inconsistent or too new."""
    try:
        raw = parse_json(text)
        version = raw.get("schema_version")
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise CallError(
                f"{where} has data schema version {version}; this Sightline reads up to {SCHEMA_VERSION}",
                "upgrade Sightline, or prepare the data set again with this version",
            )
        kind = raw.get("kind")
        if isinstance(kind, str) and kind not in kind_names():
            raise CallError(
                f"{where} holds data of the kind {kind!r}, which is not known here; known are {', '.join(kind_names())}",
                "install the package that provides this kind",
            )
        return Manifest.model_validate_json(text)
    except (ValidationError, ValueError, AttributeError) as error:
        first = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise CallError(f"{where} is not a valid manifest: {first}", "run `sightline prepare` again with --overwrite") from None
