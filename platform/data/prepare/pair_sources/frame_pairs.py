"""The images of a finished pair data set as single images: each once, with its scene, its time and its depth."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from sightline.methods.errors import BrokenSampleError, CallError
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.images import Resize
from sightline.platform.data.kinds import PAIRS, Row
from sightline.platform.data.writer import SHARD_BYTES

from ..items import Skip, skip_broken
from ..job import Output
from ..source import Places, Request, ResizeOptions
from ..views import Companion, stored_view

_VIEWS = tuple(zip(("1", "2"), PAIRS.holding("image"), PAIRS.holding("depth"), strict=True))


@dataclass(frozen=True)
class PairFrames:
    """The rows of one shard: (shard, row group, ((row, view), ...)) of the pair data set. The fingerprint stands for its content."""

    uri: str
    fingerprint: str
    resize: Resize
    groups: tuple[tuple[int, int, tuple[tuple[int, int], ...]], ...]

    @property
    def count(self) -> int:
        return sum(len(places) for _, _, places in self.groups)

    def rows(self, skip: Skip) -> Iterator[Row]:
        dataset = Dataset.open(self.uri, PAIRS.name)
        if dataset.fingerprint != self.fingerprint:
            raise CallError(f"{self.uri} changed while it was read", "run the same command again with --overwrite")
        for shard, group, places in self.groups:
            table = dataset.read(shard, group)
            for row, side in places:
                pair = table.slice(row, 1).to_pylist()[0]
                name, image, depth = _VIEWS[side]
                try:
                    map = None if pair[depth] is None else Companion(pair[depth])
                    view = stored_view(pair[image], self.resize, depth=map, upright=True)
                    known = {"id": f"{pair['id']}#{name}", "scene": pair["scene"], "time": pair["time"]}
                    yield known | {"image": view.image, "depth": view.depth}
                except BrokenSampleError as error:
                    skip_broken(skip, f"{pair['id']}#{name}", error)


def frames_of(dataset: Dataset, resize: Resize) -> list[PairFrames]:
    """The shards of its images, in stored order, which is random already. Reads every image, to find those that several pairs share."""
    if dataset.kind != PAIRS.name:
        raise CallError(f"{dataset.uri} holds {dataset.kind}, not pairs", "name a data set made by `sightline prepare pairs`")
    seen: set[bytes] = set()
    shards: list[PairFrames] = []
    groups: list[tuple[int, int, tuple[tuple[int, int], ...]]] = []
    size = 0

    def close() -> None:
        nonlocal groups, size
        if groups:
            shards.append(PairFrames(dataset.uri, dataset.fingerprint, resize, tuple(groups)))
        groups, size = [], 0

    for shard, group, _ in dataset.row_groups:
        table = dataset.read(shard, group, columns=[image for _, image, _ in _VIEWS])
        places: list[tuple[int, int]] = []
        for row, stored in enumerate(table.to_pylist()):
            for view, (_, image, _) in enumerate(_VIEWS):
                digest = hashlib.blake2b(stored[image], digest_size=16).digest()
                if digest not in seen:
                    seen.add(digest)
                    places.append((row, view))
                    size += len(stored[image])
        if places:
            groups.append((shard, group, tuple(places)))
        if size >= SHARD_BYTES:
            close()
    close()
    return shards


@dataclass(frozen=True)
class ImagesOfPairs(ResizeOptions):
    """It is not split: the pair data set has splits already."""

    kind = "images"
    reader = "pairs"
    help = "the images of a finished pair data set, each once, with scene, time and depth"
    examples = ("./rooms/train --out ./room-images",)
    places = Places("DATASET", "folder or URI of a data set of pairs", many=False)
    split_ways = ()

    def outputs(self, request: Request) -> tuple[list[Output], int]:
        dataset = Dataset.open(request.places[0])
        note = f"the images of the pairs {dataset.fingerprint[:12]}, each once; the time is that of its pair"
        sources = tuple(source.model_copy(update={"notes": (*source.notes, note)}) for source in dataset.manifest.provenance.sources)
        return [Output(request.folder(), frames_of(dataset, self.resize), sources)], 0
