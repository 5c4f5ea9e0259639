"""Which source makes a data set of a folder that somebody names in place of one, with which options, and the command that says so."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from sightline.methods.errors import CallError
from sightline.platform.data.images import IMAGE_SUFFIXES

from .archives import ArchivePath
from .captures.cameras import Cameras, read_cameras
from .captures.videos import folder_or_video
from .catalog import sources_of
from .companions import grey_thumbnail
from .files import Tree, printable
from .formats.video import VIDEO_SUFFIXES
from .found import WHOLE
from .image_sources.masks import CLASSES, Masks, read_names, void_class
from .job import Output
from .meshes import clouds_in
from .options import options_of
from .packed import Packed
from .pair_sources.frames import sequences
from .source import ItemSource, PrepareSource, Request

SHARES = "train=0.9,val=0.1"
SCENES = 10
"""So many scenes or more are split by scene: of fewer, one may be half of everything."""
FRAMES_OF_A_GAP = 20
"""Frames of a sequence for each frame of the gap between training and validation, up to the usual gap."""
_SEQUENCES, _NEIGHBOURS = 3, 12
"""Sequences that are looked at, and neighbours in each."""
_NEARER = 0.6
"""Neighbours of a sequence differ by less than this share of what images far apart do: kitchen and KITTI 0.2, fox 0.4, CIFAR-10 0.9."""
_TRUTH = {"disparity": "stereo", "flow": "flow"}
"""Column -> the source of pairs that makes it."""
_BY_CAMERAS = ("mine", "rgbd")
_CLOUDS = ("scanobjectnn", "shapenet55", "shapenetpart", "modelnet40", "classes", "folder")


@dataclass(frozen=True)
class Wish:
    """What a run needs of a folder."""

    kind: str
    columns: tuple[str, ...] = ()
    """Besides those that every row of the kind has."""
    size: int | None = None
    """Short side of stored photos; None keeps the files. Photos with truth or masks keep their size in any case."""
    square: bool = False
    points: int = 8192
    split: bool = False
    """Whether some rows are to be held out, where the folder has no splits of its own."""


@dataclass(frozen=True)
class Choice:
    """A source, how it is asked, and what it found."""

    source: PrepareSource
    request: Request
    outputs: Sequence[Output]
    why: str
    passed: Sequence[str] = ()
    """Sources that would be better, and why they are not used."""

    def command(self, out: str) -> str:
        """The same by hand."""
        words = ["sightline", "prepare", self.source.kind, self.source.reader, *self.request.places]
        for option in options_of(type(self.source)):
            value = getattr(self.source, option.name)
            if value != option.default:
                words += [f"--{option.name.replace('_', '-')}", *([] if option.parse is None else [str(value)])]
        if self.request.split:
            words += ["--split", self.request.split]
            words += ["--split-by", self.request.split_by] if self.request.split_by != self.source.split_ways[0] else []
            words += ["--split-gap", str(self.request.split_gap)] if self.request.split_gap != Request.split_gap else []
        return shlex.join([*words, "--out", out])


def choose(place: str, wish: Wish, out: str) -> Choice:
    """The first source that makes what is needed of the folder. Raises `CallError` with what was found and what helps."""
    folder = _Folder(place, folder_or_video(place))
    refused: list[CallError] = []
    passed: list[str] = []
    for reader, why in _candidates(folder, wish):
        source_class = sources_of(wish.kind)[reader]
        try:
            source = source_class(**_options(source_class, wish, folder.path))
            if isinstance(folder.path, ArchivePath) and not source.archives:
                continue
            request = Request(out, (place,), split_by=(*source_class.split_ways, "")[0])
            if not isinstance(source, ItemSource):
                return Choice(source, request, source.outputs(request)[0], why, passed)
            found = source.find_all(request)
            attempts = _splits(source, found[0].parts, request) if wish.split and all(WHOLE in one.parts for one in found) else [request]
            for attempt in attempts:
                try:
                    return Choice(source, attempt, source.outputs_of(found, attempt)[0], why, passed)
                except CallError as error:
                    refused.append(error)
        except CallError as error:
            refused.append(error)
            passed += [f"not by `{wish.kind} {reader}`: {error}"] if reader in _BY_CAMERAS else []
    raise _nothing(folder, wish, refused)


@dataclass(frozen=True)
class _Folder:
    """What is looked at once, and only where it is asked."""

    place: str
    path: Path

    @cached_property
    def is_video(self) -> bool:
        """Whether it is one video, and no folder."""
        return not isinstance(self.path, ArchivePath) and self.path.is_file()

    @cached_property
    def tree(self) -> Tree:
        return Tree.of(self.path)

    @cached_property
    def images(self) -> list[str]:
        return self.tree.take(IMAGE_SUFFIXES)

    @cached_property
    def videos(self) -> list[str]:
        """Of a folder without images."""
        return [] if self.images else self.tree.take(VIDEO_SUFFIXES)

    @cached_property
    def cameras(self) -> Cameras | None:
        """Of a capture that is read; None where there are none, or they are damaged (a source says it)."""
        try:
            return read_cameras(self.path)
        except CallError:
            return None

    @cached_property
    def is_sequence(self) -> bool:
        """Whether images that follow each other look alike, as frames of a video and photos of a walk do, and those of a class do not."""
        try:
            found = sequences(Tree.of(self.path), self.path.name)
        except CallError:
            return False
        longest = sorted((files for files in found.values() if len(files) >= _NEIGHBOURS), key=len, reverse=True)[:_SEQUENCES]
        nearer = [nearness for files in longest if (nearness := _nearness(files)) is not None]
        return bool(nearer) and float(np.median(nearer)) < _NEARER


def _nearness(files: Sequence[Path]) -> float | None:
    """By how much images next to each other differ, as a share of what images far apart differ by; None where they cannot be read."""
    starts = np.linspace(0, len(files) - 2, _NEIGHBOURS).astype(int)
    one, two = ([grey_thumbnail(files[start + step]) for start in starts] for step in (0, 1))
    near = [float(np.abs(a - b).mean()) for a, b in zip(one, two, strict=True) if a is not None and b is not None]
    half = _NEIGHBOURS // 2
    far = [float(np.abs(a - b).mean()) for a, b in zip(one, one[half:] + one[:half], strict=True) if a is not None and b is not None]
    return float(np.median(near)) / max(float(np.median(far)), 1e-9) if near and far else None


def _candidates(folder: _Folder, wish: Wish) -> Iterator[tuple[str, str]]:
    """(source, why), the best first."""
    if folder.is_video:
        if wish.kind in ("images", "pairs") and not wish.columns:
            yield "frames", "frames of a video"
    elif wish.kind == "images":
        yield from _image_sources(folder, wish.columns)
    elif wish.kind == "pairs":
        yield from _pair_sources(folder, wish.columns)
    elif wish.kind == "points":
        arrays = any(path.endswith((".npz", ".h5", ".hdf5")) for path in folder.tree.take((".npz", ".h5", ".hdf5")))
        depth = folder.cameras is not None and folder.cameras.has_depth
        clouds = arrays or bool(clouds_in(folder.tree))
        for reader in (*(("arrays",) if arrays else ()), *(_CLOUDS if clouds else ()), *(("depth",) if depth else ())):
            if reader != "folder" or "label" not in wish.columns:
                yield reader, f"clouds or meshes that `points {reader}` reads"


def _image_sources(folder: _Folder, columns: Sequence[str]) -> Iterator[tuple[str, str]]:
    if "segmentation" in columns or not columns:
        yield "masks", "photos with label masks"
    if "depth" in columns or not columns:
        depth = folder.cameras is not None and folder.cameras.has_depth
        if depth:
            yield "frames", "frames with depth"
    if not columns and folder.videos:
        yield "frames", "videos"
    if not columns and folder.images and (folder.cameras is not None or folder.is_sequence):
        yield "frames", "images that follow each other look alike, as frames of a sequence do"
    if "label" in columns or not columns:
        yield "classes", "folders that are taken as classes"
    if not columns:
        yield "folder", "photos without labels"


def _pair_sources(folder: _Folder, columns: Sequence[str]) -> Iterator[tuple[str, str]]:
    for column, reader in _TRUTH.items():
        if column in columns:
            yield reader, f"pairs with {column}"
            return
    if (folder.path / "pairs.txt").is_file() or any("_1." in path for path in folder.images[:2000]):
        yield "habitat", "pairs that are named _1 and _2, or in pairs.txt"
    if (folder.path / "listing.txt").is_file():
        yield "crops", "pairs in listing.txt"
    if folder.cameras is not None:
        yield "mine", "photos with poses: pairs by overlap and angle"
        yield "rgbd", "photos with poses and depth: pairs by overlap"
    if folder.videos and not columns:
        yield "frames", "videos"
    if folder.images and not columns:
        yield "stereo", "stereo pairs with disparity"
        yield "flow", "pairs with optical flow"
    if folder.images and not columns and (folder.cameras is not None or folder.is_sequence):
        yield "frames", "images that follow each other look alike, as frames of a sequence do"


def _options(source: type[PrepareSource], wish: Wish, folder: Path) -> dict[str, Any]:
    """Options of a source that are not its defaults."""
    names = {option.name for option in options_of(source)}
    keeps = source.reader in ("masks", "stereo", "flow") or "depth" in wish.columns
    asked: dict[str, Any] = {"size": None if keeps else wish.size, "square": wish.square and not keeps, "points": wish.points}
    if source.reader == Masks.reader and (folder / CLASSES).is_file():
        asked["ignore"] = void_class(read_names(folder / CLASSES))
    return {name: value for name, value in asked.items() if name in names and value}


def _splits(source: PrepareSource, parts: dict[str, Packed[Any]], request: Request) -> Iterator[Request]:
    """How rows are held out, the way that leaks least first; at last not at all."""
    items, scenes = parts[WHOLE], {item.scene for item in parts[WHOLE]}
    ways = source.split_ways

    def by(way: str, gap: int = Request.split_gap) -> Request:
        return Request(request.out, request.places, request.seed, SHARES, way, gap)

    if "scene" in ways and None not in scenes and (len(scenes) >= SCENES or ways == ("scene",)):
        yield by("scene")
    if "time-blocks" in ways and all(frame >= 0 for item in items[:1] for frame in item.frames):
        longest = 1 + max((frame for item in items for frame in item.frames), default=0)
        gap = max(1, min(Request.split_gap, longest // FRAMES_OF_A_GAP))
        yield by("time-blocks", gap)
        if gap > 1:
            yield by("time-blocks", 1)
    yield from (by(way) for way in ways if way in ("image", "cloud") and source.reader != "depth")
    yield request


def _nothing(folder: _Folder, wish: Wish, refused: Sequence[CallError]) -> CallError:
    """Why no source fits, with the command that is nearest."""
    place, shown = shlex.quote(folder.place), printable(folder.place)
    if folder.is_video and not refused:
        needed = f" with {', '.join(wish.columns)}" if wish.columns else ""
        return CallError(f"{shown} is a video, of which no {wish.kind}{needed} can be made", "name data that hold them")
    if wish.kind == "pairs" and folder.images and not wish.columns:
        return CallError(
            f"{shown} holds {len(folder.images):,} photos without poses, and those next to each other do not look alike: "
            "which of them show one scene is not known",
            f"if they show one place: sightline prepare pairs mine {place} --out {place}-pairs; if they are a sequence: pairs frames",
        )
    needed = f" with {', '.join(wish.columns)}" if wish.columns else ""
    if not refused:
        what = f"{shown} is no data set (it has no manifest.json), and holds no {wish.kind}{needed} that are known"
        return CallError(what, f"see `sightline prepare {wish.kind} --help`")
    first = refused[0] if wish.columns else refused[-1]
    return CallError(f"{shown} cannot be made {wish.kind}{needed}: {first}", first.hint)
