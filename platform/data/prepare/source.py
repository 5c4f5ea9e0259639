"""A source of `sightline prepare`: one class whose fields are its options and whose `find` lists what lies in a folder.

To add one, write a file with a frozen dataclass below `PairSource`, `ImageSource` or `CloudSource` and name it in `catalog.SHIPPED`,
or, in another package, in the entry point group `sightline.sources` as `KIND.NAME`. The command line is made of the class.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Generic, NamedTuple, TypeVar

from sightline.methods.errors import CallError
from sightline.platform.data.images import Resize
from sightline.platform.data.kinds import find_kind
from sightline.platform.data.manifest import Source
from sightline.platform.data.shard_stats import skipped_table

from .archives import archive_name, is_archive
from .clouds import CloudItem, Drawn
from .found import WHOLE, Found, joined
from .images import ImageFile, with_scenes
from .items import Item
from .job import Output, item_shards
from .options import option, pattern, positive
from .packed import Packed
from .pairs import Pair
from .split import parse_split, split_images, split_scenes, split_time
from .workers import USUAL, Where

T = TypeVar("T", bound=Item)


class Places(NamedTuple):
    """The positional words of a source: what it reads."""

    metavar: str
    help: str
    many: bool = True


@dataclass(frozen=True)
class Request:
    """What is asked of any source: where to read, where to write, and how to split."""

    out: str
    places: tuple[str, ...] = ()
    seed: int = 0
    split: str | None = None
    """Such as train=0.85,val=0.15; None for one data set."""
    split_by: str = ""
    """One of the source's `split_ways`."""
    split_gap: int = 8
    """Frames that are dropped between two splits by time."""
    where: Where = USUAL
    """Where small tasks of the search run."""

    def folder(self, part: str = WHOLE) -> str:
        """The folder or URI of one split, or of the whole."""
        return absolute_place(f"{self.out.rstrip('/')}/{part}" if part else self.out)


@dataclass(frozen=True)
class PrepareSource(ABC):
    """A source of any kind; its dataclass fields, made by `option`, are its options."""

    kind: ClassVar[str]
    reader: ClassVar[str]
    """Its name in the command line and in the manifest."""
    help: ClassVar[str]
    examples: ClassVar[tuple[str, ...]] = ()
    """Calls that the help shows, without `sightline prepare KIND READER`."""
    places: ClassVar[Places | None] = Places("DIR", "folder(s) of this layout")
    archives: ClassVar[bool] = False
    """Whether a zip or tar archive is read as the folder that it holds."""
    split_ways: ClassVar[tuple[str, ...]] = ("scene",)
    """What a split can keep whole, the default first; empty where it cannot be split."""

    @abstractmethod
    def outputs(self, request: Request) -> tuple[list[Output], int]:
        """The data sets to make, and how many rows the gaps between splits cost. Raises `CallError`."""


@dataclass(frozen=True)
class ItemSource(PrepareSource, Generic[T]):
    """A source of items that lie in files, each of which becomes a row."""

    name: str | None = option(None, "name of the source in ids and scenes, for one folder (default: the folder's name)")
    licence: str = option("unstated", "licence of the images, kept in the manifest (default: %(default)s)")

    @property
    def resize(self) -> Resize:
        """How images are stored."""
        return Resize()

    @abstractmethod
    def find(self, place: str, name: str, seed: int = 0) -> Found[T]:
        """What lies at `place`; ids and scenes begin with `name`. Raises `CallError` where it is not this layout."""

    def checked(self, found: Found[T], seed: int) -> None:
        """Holds what was found against the images, before anything is stored. Raises `CallError` where it does not fit."""

    def provenance(self, where: Path, *notes: str) -> Source:
        return Source(where=str(where), licence=self.licence, reader=self.reader, notes=notes)

    def find_all(self, request: Request) -> list[Found[T]]:
        names = source_names(self.name, request.places)
        return [self.find_for(request, place, name) for place, name in zip(request.places, names, strict=True)]

    def find_for(self, request: Request, place: str, name: str) -> Found[T]:
        """`find`; a source with much to compute has it done where the request says (`start_workers`)."""
        return self.find(place, name, request.seed)

    def outputs(self, request: Request) -> tuple[list[Output], int]:
        if not self.archives and (packed := [place for place in request.places if is_archive(place)]):
            raise CallError(f"{packed[0]} is an archive, and `{self.kind} {self.reader}` reads folders", "unpack it first")
        return self.outputs_of(self.find_all(request), request)

    def outputs_of(self, found: Sequence[Found[T]], request: Request) -> tuple[list[Output], int]:
        """As `outputs`, of what `find_all` found."""
        for one in found:
            self.checked(one, request.seed)
        noun = f"{find_kind(self.kind).one}s"
        whole = joined(found, self.kind, noun)
        parts, left_out = whole.parts, 0
        notes: list[str] = []
        if request.split:
            shares = parse_split(request.split)
            if WHOLE not in parts:
                raise CallError(f"{whole.source.where} has its own splits ({', '.join(parts)})", "leave --split out")
            parts, left_out, notes = split_items(whole.items, shares, whole.classes.names, request)
        empty = [part for part, items in parts.items() if not items]
        if empty:
            raise CallError(f"split {empty[0]!r} of {whole.source.where} has no {noun}", "move the empty folder away, or fill it")
        sources = tuple(one.source.model_copy(update={"notes": (*one.source.notes, *notes)}) for one in found)
        skips, classes = skipped_table(whole.skips), whole.classes
        made = [
            Output(
                request.folder(part),
                item_shards(items, self.resize, request.seed),
                sources,
                skips if number == 0 else (),
                classes.names,
                classes.ignore_index,
                tuple(whole.notes),
                whole.part_names,
                classes.palette,
            )
            for number, (part, items) in enumerate(parts.items())
        ]
        return made, left_out


def split_items(
    items: Sequence[T], shares: dict[str, float], classes: Sequence[str], request: Request
) -> tuple[dict[str, Packed[T]], int, list[str]]:
    """(items of each split, how many belong to none, notes on how it was split). Raises `CallError` where they cannot be split so."""
    if request.split_by == "time-blocks":
        return split_time(items, shares, request.split_gap)
    if request.split_by == "scene":
        if any(item.scene is None for item in items):
            raise CallError("these images have no scenes", "say what names the scene in their paths: --scenes REGEX")
        of_scene = split_scenes(sorted({item.scene for item in items if item.scene is not None}), shares, request.seed)
        return {part: Packed(item for item in items if of_scene[item.scene or ""] == part) for part in shares}, 0, ["split by scene"]
    names = [None if item.label is None or not classes else classes[item.label] for item in items]
    assigned = split_images([item.id for item in items], names, shares, request.seed)
    notes = {"image": ["split by image, each class by itself" if any(names) else "split by image"]}.get(request.split_by, [])
    return {part: Packed(item for item, own in zip(items, assigned, strict=True) if own == part) for part in shares}, 0, notes


@dataclass(frozen=True)
class ResizeOptions(PrepareSource):
    """The options of sources that store images."""

    size: int | None = option(None, "short side of the stored images in px, never enlarged (default: keep the files)", positive)
    square: bool = option(False, "cut the middle square first, as the papers' crops are (default: keep the shape)")
    quality: int = option(90, "JPEG quality of resized images (default: %(default)s)", positive)
    reduced_decode: bool = option(False, "decode large JPEGs at a part of their size: 3 times as fast, pixels differ by 1 in 255 at times")

    @property
    def resize(self) -> Resize:
        return Resize(self.size, self.square, self.quality, self.reduced_decode)


@dataclass(frozen=True)
class PhotoOptions(PrepareSource):
    """The option of sources that look for photos in folders."""

    all_images: bool = option(False, "read also what looks like a depth map, a mask or a smaller copy of a photo (default: left out)")


@dataclass(frozen=True)
class PairSource(ResizeOptions, ItemSource[Pair]):
    """A source of pairs by file."""

    kind = "pairs"


@dataclass(frozen=True)
class ImageSource(ResizeOptions, ItemSource[ImageFile]):
    """A source of single images by file."""

    kind = "images"
    split_ways: ClassVar[tuple[str, ...]] = ("image", "scene", "time-blocks")


@dataclass(frozen=True)
class SceneOptions(ImageSource):
    """The option of image sources whose files may name scenes and frames."""

    scenes: re.Pattern[str] | None = option(  # noqa: RUF009 (it makes a field)
        None,
        "what in a path names the scene (group 1), and the frame's number in it (group 2), for example '^([^_]+)_(\\d+)'",
        pattern,
        metavar="REGEX",
    )

    def find_all(self, request: Request) -> list[Found[ImageFile]]:
        found = super().find_all(request)
        if self.scenes is not None:
            for one, name in zip(found, source_names(self.name, request.places), strict=True):
                one.parts = {part: with_scenes(images, name, part, self.scenes, one.skips) for part, images in one.parts.items()}
        return found


@dataclass(frozen=True)
class CloudSource(ItemSource[CloudItem]):
    """A source of clouds by file or by place in an array."""

    kind = "points"
    places = Places("DIR", "what is read", many=False)
    split_ways: ClassVar[tuple[str, ...]] = ("cloud",)

    name: str | None = option(None, "name of the source in ids (default: the folder's name)")
    licence: str = option("unstated", "licence of the clouds, kept in the manifest (default: %(default)s)")
    points: int = option(8192, "points of a mesh or cloud (default: %(default)s)", positive)

    def drawn(self, seed: int) -> Drawn:
        return Drawn(self.points, seed)


def absolute_place(out: str) -> str:
    return out if "://" in out else str(Path(out).expanduser().resolve())


def source_names(given: str | None, places: Sequence[str]) -> list[str]:
    """The name of each source. Raises `CallError` where two would have the same."""
    resolved = [Path(one).expanduser().resolve() for one in places]
    names = [given or (archive_name(path) if is_archive(path) else path.stem if path.is_file() else path.name) for path in resolved]
    if len(set(names)) != len(names):
        raise CallError(f"two sources would have one name: {', '.join(names)}", "prepare them one by one with --name, then merge")
    return names
