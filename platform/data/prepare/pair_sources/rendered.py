"""Procedural rooms, rendered: a shard is a range of scenes, so nothing is kept between rendering and writing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from sightline.methods.errors import CallError
from sightline.methods.random import keyed_rng
from sightline.platform.data.kinds import Row
from sightline.platform.data.manifest import Source
from sightline.platform.data.synthetic.match_settings import MatchSettings
from sightline.platform.data.synthetic.view_settings import USUAL, ViewSettings

from ..items import Skip
from ..job import Output, RowSource
from ..options import bounds, degrees, lengths, option, positive, share, whole
from ..source import PrepareSource, Request
from ..split import parse_split, split_scenes

if TYPE_CHECKING:
    from sightline.platform.data.synthetic.clutter import Clutter

    from .own_clutter import OwnFiles

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
    meshes: OwnFiles | None = None
    pictures: OwnFiles | None = None
    clutter: int = 0
    views: ViewSettings | None = None

    @property
    def count(self) -> int:
        return len(self.scenes) * self.pairs_per_scene

    def rows(self, skip: Skip) -> Iterator[Row]:
        from sightline.platform.data.synthetic.render import render_scene

        for_scene = partial(
            render_scene,
            self.seed,
            pairs=self.pairs_per_scene,
            size=self.size,
            fov=self.fov,
            clutter=_clutter(self),
            chosen=self.views or USUAL,
        )
        yield from _shuffled(self.seed, self.scenes, self.pairs_per_scene, for_scene, "no two views with enough overlap were found", skip)


@dataclass(frozen=True)
class MatchRows:
    """As `RoomRows`, of pairs with disparity or flow."""

    seed: int
    scenes: tuple[int, ...]
    pairs_per_scene: int
    settings: MatchSettings
    meshes: OwnFiles | None = None
    pictures: OwnFiles | None = None
    clutter: int = 0

    @property
    def count(self) -> int:
        return len(self.scenes) * self.pairs_per_scene

    def rows(self, skip: Skip) -> Iterator[Row]:
        from sightline.platform.data.synthetic.matches import render_matches

        for_scene = partial(render_matches, self.seed, pairs=self.pairs_per_scene, settings=self.settings, clutter=_clutter(self))
        yield from _shuffled(self.seed, self.scenes, self.pairs_per_scene, for_scene, "no place for two cameras was found", skip)


def _clutter(rows: RoomRows | MatchRows) -> Clutter | None:
    from .own_clutter import own_clutter

    return own_clutter(rows.meshes, rows.pictures, rows.clutter)


def _shuffled(seed: int, scenes: Sequence[int], each: int, of_scene: Callable[[int], list[Row]], why: str, skip: Skip) -> Iterator[Row]:
    rows: list[Row] = []
    for index in scenes:
        rendered = of_scene(index)
        for _ in range(each - len(rendered)):
            skip(f"room {index}", why)
        rows += rendered
    for place in keyed_rng("rooms", seed, scenes[0]).permutation(len(rows)):
        yield rows[place]


def rooms(seed: int, scenes: tuple[int, ...], pairs_per_scene: int, size: int, fov: float, **brought: Any) -> list[RoomRows]:
    """The shards of rooms with depth and pose. `brought`: the last fields of `RoomRows`."""
    return [RoomRows(seed, own, pairs_per_scene, size, fov, **brought) for own in dealt(scenes)]


def dealt(scenes: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Shards of whole scenes; at least 8 where there are enough scenes, so that several workers can share them."""
    each = max(1, min(SCENES_PER_SHARD, -(-len(scenes) // 8)))
    return [scenes[start : start + each] for start in range(0, len(scenes), each)]


@dataclass(frozen=True)
class Rendered(PrepareSource):
    """Every room is a scene of its own, so nothing is found: the rooms are split before they are rendered."""

    kind = "pairs"
    reader = "rendered"
    help = "procedural rooms, rendered with exact depth and pose, and with disparity or flow where asked for"
    examples = (
        "--scenes 60 --pairs-per-scene 8 --out ./rooms --split train=0.85,val=0.15",
        "--stereo --scenes 60 --size 160 --out ./room-stereo",
        "--flow --moving 6 --floating 12 --scenes 60 --out ./room-flow",
        "--stereo --meshes ./my-objects --photos ./my-photos --scenes 60 --out ./hard-stereo",
    )
    places = None

    scenes: int = option(60, "number of rooms (default: %(default)s)", positive)
    pairs_per_scene: int = option(8, "pairs of each room (default: %(default)s)", positive)
    size: int = option(128, "side of the images in px (default: %(default)s)", positive)
    fov: float = option(60.0, "field of view in degrees (default: %(default)s)")
    overlap: tuple[float, float] = option(
        USUAL.overlap, "share of the two views that both show, of pairs without --stereo and --flow (default: 0.5..0.95)", bounds
    )
    pan: tuple[float, float] = option(
        USUAL.pan,
        "degrees by which the second camera looks past the middle of what the first sees, to either side (default: 0..3)",
        degrees,
    )
    stereo: bool = option(False, "rectified stereo pairs with exact disparity and occlusion")
    baseline: tuple[float, float] = option((0.05, 0.3), "of --stereo: metres between the cameras, drawn (default: 0.05..0.3)", lengths)
    flow: bool = option(False, "pairs a moment apart with exact optical flow and occlusion")
    moving: int = option(0, "of --flow: things that move by themselves (default: %(default)s)", whole)
    floating: int = option(0, "of --stereo and --flow: things that hang in the air, with any texture (default: %(default)s)", whole)
    exposure: float = option(
        0.0, "of --stereo and --flow: each image is up to this share brighter or darker, and noisy (default: 0)", share
    )

    meshes: str = option("", "folder of meshes (GLB, OBJ, PLY, STL, OFF) that stand and hang in the rooms", metavar="DIR")
    clutter: int = option(8, "of --meshes: how many are put into each room (default: %(default)s)", positive)
    photos: str = option("", "folder of photographs that half of the surfaces show", metavar="DIR")

    @property
    def matches(self) -> MatchSettings | None:
        """What is rendered with truth between the images. Raises `CallError` for options that need `--stereo` or `--flow`."""
        if self.stereo and self.flow:
            raise CallError("--stereo and --flow are two data sets", "run the command once for each")
        if self.moving and not self.flow:
            raise CallError("things move between two moments: --moving belongs to --flow", "add --flow")
        if not (self.stereo or self.flow):
            if self.floating or self.exposure:
                raise CallError("--floating and --exposure belong to --stereo and --flow", "add one of these")
            return None
        if (self.overlap, self.pan) != (USUAL.overlap, USUAL.pan):
            raise CallError(
                "--overlap and --pan choose two cameras of a room; --stereo and --flow place theirs in another way", "leave them out"
            )
        truth: Literal["stereo", "flow"] = "stereo" if self.stereo else "flow"
        return MatchSettings(truth, self.size, self.fov, self.floating, self.moving, self.baseline, self.exposure)

    def outputs(self, request: Request) -> tuple[list[Output], int]:
        matches = self.matches
        names = [f"{index:08d}" for index in range(self.scenes)]
        shares = parse_split(request.split) if request.split else None
        assigned = split_scenes(names, shares, request.seed) if shares else dict.fromkeys(names, "")
        from sightline.platform.data.images import IMAGE_SUFFIXES

        from .own_clutter import MESHES, OwnFiles

        meshes = OwnFiles.of(self.meshes, MESHES, "meshes", "--meshes") if self.meshes else None
        photos = OwnFiles.of(self.photos, tuple(sorted(IMAGE_SUFFIXES)), "photographs", "--photos") if self.photos else None
        brought: dict[str, Any] = {"meshes": meshes, "pictures": photos, "clutter": self.clutter if meshes else 0}
        views = ViewSettings(self.overlap, self.pan)
        made = []
        for part in shares or ("",):
            numbers = tuple(int(name) for name in names if assigned[name] == part)
            shards: Sequence[RowSource] = (
                rooms(request.seed, numbers, self.pairs_per_scene, self.size, self.fov, views=None if views == USUAL else views, **brought)
                if matches is None
                else [MatchRows(request.seed, own, self.pairs_per_scene, matches, **brought) for own in dealt(numbers)]
            )
            made.append(Output(request.folder(part), shards, (SOURCE,)))
        return made, 0
