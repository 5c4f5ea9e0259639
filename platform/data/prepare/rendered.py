"""Procedural rooms, rendered: a shard is a range of scenes, so nothing is kept between rendering and writing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sightline.methods.random import keyed_rng
from sightline.platform.data.manifest import Source

from .items import Skip

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

    def rows(self, skip: Skip) -> Iterator[dict[str, Any]]:
        from sightline.platform.data.synthetic.render import render_scene

        rows: list[dict[str, Any]] = []
        for index in self.scenes:
            rendered = render_scene(self.seed, index, self.pairs_per_scene, self.size, self.fov)
            for _ in range(self.pairs_per_scene - len(rendered)):
                skip(f"room {index}", "no two views with enough overlap were found")
            rows += rendered
        for place in keyed_rng("rooms", self.seed, self.scenes[0]).permutation(len(rows)):
            yield rows[place]


def rooms(seed: int, scenes: tuple[int, ...], pairs_per_scene: int, size: int, fov: float) -> list[RoomRows]:
    """At least 8 shards where there are scenes for them, so that several workers have something to do."""
    each = max(1, min(SCENES_PER_SHARD, -(-len(scenes) // 8)))
    return [RoomRows(seed, scenes[start : start + each], pairs_per_scene, size, fov) for start in range(0, len(scenes), each)]
