"""Scans of rooms, triangles with textures or colours: pairs of views as the Habitat generator of CroCo draws them, without habitat-sim."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sightline.methods.errors import BrokenSampleError, CallError
from sightline.methods.random import keyed_rng
from sightline.platform.data.kinds import Row
from sightline.platform.data.manifest import Source

from ..files import Tree, below, is_text, natural, read_file, suffix_of
from ..formats.gltf import read_gltf
from ..formats.obj import read_obj
from ..formats.ply import read_ply
from ..formats.shapes import reading
from ..items import Skip, skip_broken
from ..job import Output, RowSource
from ..meshes import beside
from ..options import above_zero, bounds, option, positive
from ..source import Places, PrepareSource, Request, source_names
from ..split import parse_split, split_scenes

if TYPE_CHECKING:
    from sightline.platform.data.synthetic.scans import Scan

SUFFIXES = (".glb", ".gltf", ".obj", ".ply")
MAX_FILE = 512 * 2**20
MAX_SIDE = 2048
"""Pixels of a texture; larger ones are made smaller: a view has a few hundred."""
PAIRS_PER_SHARD = 200
LEAST_SIDE, MOST_SIDE = 1.5, 2000.0
"""Metres across: less is no room, more is no scan in metres."""
_ABOVE = {"y": np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]), "z": np.eye(3)}
"""Axis that points up -> 3 x 3 to axes with z up."""
_UP = {".ply": "z"}
"""glTF says y; of the others, PLY mostly comes from scanners and has z."""


def load_scan(path: str, up: str, units: float) -> Scan:
    """The file in metres, z up, near the origin. Raises `BrokenSampleError` for what is no scan with colours.

    Our own readers look at the geometry first: they refuse by name what trimesh, which reads the textures, leaves out unsaid.
    """
    import trimesh

    from sightline.platform.data.synthetic.scans import Scan

    name, suffix = Path(path).name, suffix_of(path)
    data = read_file(path, MAX_FILE)
    with reading(suffix[1:].upper(), name):
        own = read_gltf(data, name, lambda other: beside(path, other)) if suffix in (".glb", ".gltf") else _PLAIN[suffix](data, name)
        faces = getattr(own, "faces", None)
        if faces is None or not len(faces):
            raise BrokenSampleError(f"a scan without triangles: {name}")
        logging.getLogger("trimesh").setLevel(logging.CRITICAL)
        scene = trimesh.load_scene(path, process=False)
        parts = [one for one in scene.dump() if isinstance(one, trimesh.Trimesh) and len(one.faces)]
        pieces = [_piece(one) for one in parts]
    if not pieces:
        raise BrokenSampleError(f"a scan without triangles: {name}")
    vertices = getattr(own, "vertices")[np.unique(faces)]  # noqa: B009 (a mesh or a cloud)
    triangles = np.concatenate([np.asarray(one.triangles, np.float64) for one in parts])
    low, high = triangles.min((0, 1)), triangles.max((0, 1))
    if not np.allclose([low, high], [vertices.min(0), vertices.max(0)], atol=1e-3 * float(np.ptp(vertices, axis=0).max() or 1)):
        raise BrokenSampleError(f"geometry that two readers take differently (save it as plain .glb): {name}")
    if all(piece.plain for piece in pieces):
        raise BrokenSampleError(f"a scan without textures or colours: {name}")
    triangles = (triangles - (low + high) / 2) @ _ABOVE[up].T / units
    across = float(np.ptp(triangles.reshape(-1, 3), axis=0).max())
    if not LEAST_SIDE <= across <= MOST_SIDE:
        raise BrokenSampleError(f"a scan of {across:.3g} m across (say how many of its units are a metre: --units-per-metre): {name}")
    textures: list[np.ndarray] = []
    numbers = []
    for piece in pieces:
        numbers.append(np.full(len(piece.uv), -1 if piece.texture is None else len(textures), np.int32))
        textures += [] if piece.texture is None else [piece.texture]
    uv, colours = np.concatenate([one.uv for one in pieces]), np.concatenate([one.colours for one in pieces])
    return Scan(triangles.astype(np.float32), uv, colours, np.concatenate(numbers), tuple(textures))


_PLAIN = {".obj": read_obj, ".ply": read_ply}


@dataclass(frozen=True)
class _Piece:
    """What one geometry looks like: as `Scan` has it."""

    uv: np.ndarray
    colours: np.ndarray
    texture: np.ndarray | None = None
    plain: bool = False


def _piece(mesh: Any) -> _Piece:
    count, visual = len(mesh.faces), mesh.visual
    none = np.zeros((count, 3, 2), np.float32)
    if visual.kind in ("vertex", "face"):
        colours = visual.vertex_colors[mesh.faces] if visual.kind == "vertex" else np.repeat(visual.face_colors[:, None], 3, 1)
        return _Piece(none, np.ascontiguousarray(colours[..., :3], np.uint8))
    material = getattr(visual, "material", None)
    image = getattr(material, "baseColorTexture", None) or getattr(material, "image", None)
    factor = getattr(material, "baseColorFactor", None)
    flat = np.full((count, 3, 3), 255, np.uint8) if factor is None else np.tile(_eight_bits(factor), (count, 3, 1))
    uv = getattr(visual, "uv", None)
    if image is None or uv is None:
        main = getattr(material, "main_color", None)
        return _Piece(none, flat if main is None else np.tile(np.asarray(main, np.uint8)[:3], (count, 3, 1)), plain=True)
    image = image.convert("RGB")
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    corners = np.asarray(uv, np.float32)[mesh.faces] * np.array([1, -1], np.float32) + np.array(
        [0, 1], np.float32
    )  # trimesh counts upwards
    return _Piece(np.nan_to_num(corners), flat, np.asarray(image))


def _eight_bits(factor: Any) -> np.ndarray:
    """The first three of a colour, which glTF gives as 0 to 1 and trimesh keeps as it is or as 0 to 255."""
    values = np.asarray(factor)[:3]
    return (values if values.dtype == np.uint8 else (np.clip(values, 0, 1) * 255).round()).astype(np.uint8)


@dataclass(frozen=True)
class ScanRows:
    """Some pairs of one scan."""

    path: str
    scene: str
    seed: int
    start: int
    stop: int
    size: int
    fov: float
    overlap: tuple[float, float]
    up: str
    units: float

    @property
    def count(self) -> int:
        return self.stop - self.start

    def rows(self, skip: Skip) -> Iterator[Row]:
        from sightline.platform.data.synthetic.scans import Floors, ScanRenderer, ScanSettings, scan_pairs

        numbers = range(self.start, self.stop)
        try:
            renderer = ScanRenderer(load_scan(self.path, self.up, self.units))
            floors = Floors(renderer, keyed_rng("floors", self.seed, self.scene))
            if not len(floors.points):
                raise BrokenSampleError(
                    f"a scan without a floor that faces upwards between walls (is {self.up} its axis upwards? --up): {self.scene}"
                )
        except BrokenSampleError as error:
            for number in numbers:
                skip_broken(skip, f"{self.scene}/{number:05d}", error)
            return
        settings = ScanSettings(self.size, self.fov, self.overlap)
        for number, row in zip(numbers, scan_pairs(renderer, floors, self.scene, self.seed, numbers, settings), strict=True):
            if row is None:
                skip(f"{self.scene}/{number:05d}", "no two views with enough overlap were found")
            else:
                yield row


@dataclass(frozen=True)
class Scans(PrepareSource):
    """Every file is a scene of its own. A pair depends on the file, the seed and its own number alone."""

    kind = "pairs"
    reader = "scans"
    help = "scans of rooms (.glb, .gltf, .obj, .ply with textures or colours): views rendered with exact depth and pose"
    examples = ("./scans --pairs-per-scene 200 --size 256 --split train=0.85,val=0.15 --out ./scan-pairs",)
    places = Places("FILE|DIR", "scan(s), or folders of them")
    split_ways = ("scene",)

    pairs_per_scene: int = option(100, "pairs of each scan (default: %(default)s)", positive)
    size: int = option(256, "side of the images in px (default: %(default)s)", positive)
    fov: float = option(60.0, "field of view in degrees (default: %(default)g)", above_zero)
    overlap: tuple[float, float] = option((0.5, 1.0), "co-visibility of a pair (default: 0.5..1)", bounds)
    up: str | None = option(None, "the axis that points up, y or z (default: z for .ply, else y)", choices=("y", "z"))
    units_per_metre: float = option(1.0, "units of the files in a metre (default: %(default)g)", above_zero)
    licence: str = option("unstated", "licence of the scans, kept in the manifest (default: %(default)s)")

    def outputs(self, request: Request) -> tuple[list[Output], int]:
        found, notes = self._files(request)
        if not found:
            raise CallError(f"no scan in {', '.join(request.places)}", f"name files or folders of {', '.join(SUFFIXES)}")
        shares = parse_split(request.split) if request.split else None
        part_of = split_scenes(sorted(found), shares, request.seed) if shares else dict.fromkeys(found, "")
        rule = f"{self.pairs_per_scene:,} pairs of each scan, co-visibility {self.overlap[0]:g}..{self.overlap[1]:g}, light as in the scan"
        sources = tuple(
            Source(where=str(Path(place).expanduser().resolve()), licence=self.licence, reader=self.reader, notes=(rule,))
            for place in request.places
        )
        made = []
        for part in shares or ("",):
            shards: list[RowSource] = [
                self._rows(found[scene], scene, start, request.seed)
                for scene in sorted(found, key=natural)
                if part_of[scene] == part
                for start in range(0, self.pairs_per_scene, PAIRS_PER_SHARD)
            ]
            made.append(Output(request.folder(part), shards, sources, notes=notes))
        return made, 0

    def _rows(self, path: str, scene: str, start: int, seed: int) -> ScanRows:
        up = self.up or _UP.get(suffix_of(path), "y")
        stop = min(start + PAIRS_PER_SHARD, self.pairs_per_scene)
        return ScanRows(path, scene, seed, start, stop, self.size, self.fov, self.overlap, up, self.units_per_metre)

    def _files(self, request: Request) -> tuple[dict[str, str], tuple[str, ...]]:
        """(scene -> file, what to tell). Raises `CallError`."""
        found: dict[str, str] = {}
        notes: list[str] = []
        for place, name in zip(request.places, source_names(None, request.places), strict=True):
            path = Path(place).expanduser().resolve()
            if not path.exists() or not is_text(str(path)):
                raise CallError(f"there is no scan {place}", "name a file or a folder")
            if path.is_file():
                if suffix_of(path.name) not in SUFFIXES:
                    raise CallError(f"{place} is no scan that is read", f"give one of {', '.join(SUFFIXES)}")
                found[name] = str(path)
                continue
            tree = Tree.of(path)
            for file in tree.take(SUFFIXES):
                found[below(name, file) + f"/{Path(file).stem}"] = str(path / file)
            tree.take((".mtl", ".bin", ".png", ".jpg", ".jpeg"))
            notes += tree.notes
        return found, tuple(notes)
