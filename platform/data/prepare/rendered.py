"""Procedural rooms, rendered: a shard is a range of scenes, so nothing is kept between rendering and writing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sightline.methods.random import keyed_rng
from sightline.platform.data.kinds import Row
from sightline.platform.data.manifest import Source

from .items import Skip
from .job import Output
from .options import option, positive
from .source import PrepareSource, Request
from .split import parse_split, split_scenes

SOURCE = Source(where="procedural rooms, rendered by Sightline", licence="made by a program, no rights claimed", reader="rendered")
SCENES_PER_SHARD = 200


@dataclass(frozen=True)
class RoomRows:
    """The rows of one shard: the pairs of these scenes, shuffled."""

    seed: int
    scenes: tuple[int, ...]
    pairs_per_scene: int
    size: int
    fov: float

    @property
    def count(self) -> int:
        return len(self.scenes) * self.pairs_per_scene

    def rows(self, skip: Skip) -> Iterator[Row]:
        from sightline.platform.data.synthetic.render import render_scene

        rows: list[Row] = []
        for index in self.scenes:
            rendered = render_scene(self.seed, index, self.pairs_per_scene, self.size, self.fov)
            for _ in range(self.pairs_per_scene - len(rendered)):
                skip(f"room {index}", "no two views with enough overlap were found")
            rows += rendered
        for place in keyed_rng("rooms", self.seed, self.scenes[0]).permutation(len(rows)):
            yield rows[place]


def rooms(seed: int, scenes: tuple[int, ...], pairs_per_scene: int, size: int, fov: float) -> list[RoomRows]:
    """Shards of whole scenes; at least 8 where there are enough scenes, so that several workers can share them."""
    each = max(1, min(SCENES_PER_SHARD, -(-len(scenes) // 8)))
    return [RoomRows(seed, scenes[start : start + each], pairs_per_scene, size, fov) for start in range(0, len(scenes), each)]


@dataclass(frozen=True)
class Rendered(PrepareSource):
    """Every room is a scene of its own, so nothing is found: the rooms are split before they are rendered."""

    kind = "pairs"
    reader = "rendered"
    help = "procedural rooms, rendered with exact depth and pose"
    examples = ("--scenes 60 --pairs-per-scene 8 --out ./rooms --split train=0.85,val=0.15",)
    places = None

    scenes: int = option(60, "number of rooms (default: %(default)s)", positive)
    pairs_per_scene: int = option(8, "pairs of each room (default: %(default)s)", positive)
    size: int = option(128, "side of the images in px (default: %(default)s)", positive)
    fov: float = option(60.0, "field of view in degrees (default: %(default)s)")

    def outputs(self, request: Request) -> tuple[list[Output], int]:
        names = [f"{index:08d}" for index in range(self.scenes)]
        shares = parse_split(request.split) if request.split else None
        assigned = split_scenes(names, shares, request.seed) if shares else dict.fromkeys(names, "")
        made = []
        for part in shares or ("",):
            numbers = tuple(int(name) for name in names if assigned[name] == part)
            shards = rooms(request.seed, numbers, self.pairs_per_scene, self.size, self.fov)
            made.append(Output(request.folder(part), shards, (SOURCE,)))
        return made, 0
