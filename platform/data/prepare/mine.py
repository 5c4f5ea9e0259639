"""Photos with poses: pairs chosen by what they share and by the angle between them, as CroCo v2 describes it (its code was never released).

The score of a pair is IoU x 4 cos(a) (1 - cos(a)): `a` is the angle between the viewing directions, IoU the share of what either photo sees
that both see. It is 0 for two equal views and at 90 degrees. Pairs are taken by falling score, none near to one that is taken already.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np

from sightline.methods.errors import BrokenSampleError, CallError
from sightline.methods.random import keyed_rng
from sightline.platform.data.geometry import relative_pose, visible_share
from sightline.platform.data.images import Resize

from .cameras import Cameras, camera_of, read_cameras, skip_of, unnamed
from .captures import placed_points, seen_points
from .depth_options import DepthOptions
from .files import existing_folder, frame_names
from .found import Found
from .layouts import no_cameras
from .matched_crops import Cropper, Seen, seen_by_depth, seen_by_points
from .options import above_zero, lengths, option, positive, share
from .pairs import Pair
from .rgbd import GAPS, Posed, View, depth_views, posed_pair, require_known
from .source import PairSource

CROP_SIZE = 256
"""Pixels of the authors' stored crops."""
ALL_PAIRS = 200
"""Up to so many frames every two are compared by depth; of more only those that lie `GAPS` apart. Shared points are always found."""
_GRID, _DEPTHS = (9, 12), 8
"""Rows and columns of pixels, and depths, from which the overlap by geometry is computed."""
_DEGREES = (0, 10, 20, 30, 40, 50, 60, 90, 181)
_SHARES = (0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.01)


@dataclass(frozen=True)
class Mine(DepthOptions, PairSource):
    """What two photos share is known from depth, else from the points of a model that both see, else from how near and far things are."""

    reader = "mine"
    help = "photos with poses: pairs by overlap and angle, from depth, from the points of a model or from geometry"
    examples = ("./garden --size 256 --split train=0.85,val=0.15 --out ./garden-pairs",)
    split_ways = ("time-blocks", "scene")

    min_overlap: float = option(0.05, "least intersection over union of what the two see (default: %(default)s)", share)
    max_angle: float = option(90.0, "most degrees between the viewing directions (default: %(default)g)", above_zero)
    min_score: float = option(0.01, "least score, IoU x 4 cos(a) (1 - cos(a)), at most 1 (default: %(default)s)", share)
    near: float = option(0.75, "images that share more count as one, of which no second pair is taken (default: %(default)s)", share)
    depth_range: tuple[float, float] | None = option(
        None, "nearest..farthest thing in the unit of the poses, where neither depth nor points tell what two photos share", lengths
    )
    pairs_per_frame: int = option(8, "at most this many for a frame (default: %(default)s)", positive)
    crops: int = option(0, "matched crops of each pair at most, in place of the photos; needs depth or a COLMAP model's points", positive)
    crop_side: float = option(0.5, "side of a crop of image 1, in short sides of it, at least --size (default: %(default)s)", share)
    crop_overlap: float = option(0.5, "least share of what the two crops show that both show (default: %(default)s)", share)

    @property
    def resize(self) -> Resize:
        """Crops have the authors' size where none is asked for."""
        asked = super().resize
        return replace(asked, size=asked.size or CROP_SIZE) if self.crops else asked

    def find(self, place: str, name: str, seed: int = 0) -> Found[Pair]:
        """The pairs by falling score; which of the two is image 1 is drawn."""
        folder = existing_folder(place)
        cameras = read_cameras(folder)
        if cameras is None:
            raise CallError(*no_cameras(folder, place, "pairs by overlap and angle"))
        cameras = cameras.with_intrinsics(self.intrinsics)
        require_known(cameras, folder, place, "K", "cam_to_world")
        found = Found[Pair](self.provenance(folder))
        scale, (stated, said) = self.scale_of(cameras), self.scale_notes(cameras)
        found.notes += said + unnamed(cameras, folder)
        if any(frame.depth for frame in cameras.frames):
            frames, overlaps = _by_depth(cameras, folder, scale, found.skips)
            by = "depth (depths agree within 5 % or 5 cm)"
        else:
            scale, stated = None, []
            frames = list(_posed(cameras, folder, found.skips))
            ranges = [self.depth_range or one.frame.depth_range for one in frames]
            if seen := seen_points(folder, cameras.layout):
                overlaps, by = _by_points(frames, seen), "the points of the model that both see"
            elif frames and None not in ranges:
                overlaps = _by_geometry(frames, [one for one in ranges if one])
                by = "geometry alone (what lies between the nearest and the farthest depth in both views; nothing hides anything)"
            else:
                raise CallError(
                    f"nothing says what two photos of {place} share: {cameras.layout} names no depth, and has no points",
                    "say how near and far things are, in the unit of the poses: --depth-range 2..30; or pair neighbours: sightline prepare "
                    f"pairs frames {place} --gap 1..5",
                )
        chosen, rejected = self._choose(frames, overlaps)
        if not chosen:
            raise CallError(
                f"no two frames of {place} make a pair: {_listed(rejected)}", "choose another --min-score or --min-overlap, or add frames"
            )
        settings = f"IoU from {self.min_overlap:g}, angle to {self.max_angle:g}, score from {self.min_score:g}, near from {self.near:g}"
        if self.crops:
            settings += f"; at most {self.crops} matched crops of a pair, side {self.crop_side:g}, overlap from {self.crop_overlap:g}"
        rule = f"pairs by falling score IoU x 4 cos(a) (1 - cos(a)), IoU by {by}; {settings}"
        bent = sorted({frame.bends.model for frame in cameras.frames if frame.bends}) if scale is None else []
        undone = [f"images are undistorted here ({', '.join(bent)}): they are those of a pinhole camera"] if bent else []
        found.source = self.provenance(folder, rule, f"unit: {cameras.unit}; distortion: {cameras.distortion}", *stated, *undone)
        found.notes += _explained(frames, chosen, rejected)
        seen_together = self._matcher(folder, cameras, frames, place) if self.crops else None
        names, rng = frame_names([one.frame.file for one in frames]), keyed_rng("mine", seed, name)
        without: Counter[str] = Counter()
        for (one, two), overlap in sorted(chosen.items()):
            order = (one, two) if rng.random() < 0.5 else (two, one)
            pair_id, time = f"{name}/{names[order[0]]}-{names[order[1]]}", frames[order[0]].frame.time_s if cameras.timed else None
            pair = posed_pair(folder, name, pair_id, frames, order, overlap, scale, time)
            found.items.extend([pair] if seen_together is None else self._cropped(pair, frames, order, seen_together, seed, without))
        if self.crops:
            found.notes.append(_crops_explained(chosen, found.items, without))
            if not found.items:
                raise CallError(f"no pair of {place} has matched crops: {_listed(without)}", "lower --crop-overlap, --crop-side or --size")
        return found

    def _matcher(self, folder: Path, cameras: Cameras, frames: Sequence[Posed], place: str) -> Callable[[int, int], Seen]:
        """(numbers of two frames) -> what both show. Raises `CallError` where nothing tells it."""
        views = [frame for frame in frames if isinstance(frame, View)]
        if len(views) == len(frames):
            return lambda one, two: seen_by_depth(views[one], views[two])
        places = placed_points(folder) if cameras.layout == "COLMAP" else {}
        if not places:
            raise CallError(
                f"--crops: nothing tells where two photos of {place} show the same, because {cameras.layout} has poses only",
                "give depth, or a COLMAP model with its points3D; or leave --crops out",
            )
        seen = seen_points(folder, cameras.layout) or {}
        ids = [np.unique(seen[frame.frame.file]) for frame in frames]
        return lambda one, two: seen_by_points(frames[one], frames[two], (ids[one], ids[two]), places)

    def _cropped(
        self, pair: Pair, frames: Sequence[Posed], order: _Two, seen: Callable[[int, int], Seen], seed: int, without: Counter[str]
    ) -> list[Pair]:
        """The pair's crops; why there is none is counted in `without`."""
        cropper = Cropper(self.resize.size or CROP_SIZE, self.crop_side, self.crop_overlap)
        one, two = order
        found, why = cropper.pairs(seen(one, two), frames[one], frames[two], self.crops, keyed_rng("crops", seed, pair.id))
        if not found:
            without[why] += 1
        return [
            replace(pair, id=f"{pair.id}-{number}", crop1=first, crop2=second, overlap=round(shared, 4))
            for number, (first, second, shared) in enumerate(found, 1)
        ]

    def _choose(self, frames: Sequence[Posed], overlaps: Mapping[_Two, float]) -> tuple[dict[_Two, float], Counter[str]]:
        """(the pairs that are taken and their IoU, how many are not and why)."""
        rejected: Counter[str] = Counter()
        scored: list[tuple[float, _Two]] = []
        near: dict[int, set[int]] = {number: {number} for number in range(len(frames))}
        for (one, two), overlap in overlaps.items():
            if overlap > self.near:
                near[one].add(two)
                near[two].add(one)
            cosine = _cosine(frames[one], frames[two])
            score = overlap * 4 * cosine * (1 - cosine)
            if overlap < self.min_overlap:
                rejected[f"share less than {self.min_overlap:g}"] += 1
            elif cosine < np.cos(np.radians(self.max_angle)):
                rejected[f"look more than {self.max_angle:g} degrees apart"] += 1
            elif score < self.min_score:
                rejected[f"score less than {self.min_score:g}"] += 1
            else:
                scored.append((score, (one, two)))
        taken: dict[_Two, float] = {}
        count: Counter[int] = Counter()
        for _, (one, two) in sorted(scored, key=lambda item: (-item[0], item[1])):
            if max(count[one], count[two]) >= self.pairs_per_frame:
                rejected["a frame has enough pairs"] += 1
            elif any((min(a, b), max(a, b)) in taken for a in near[one] for b in near[two]):
                rejected["near to a pair that is taken"] += 1
            else:
                taken[one, two] = overlaps[one, two]
                count.update((one, two))
        return taken, rejected


_Two = tuple[int, int]
"""Numbers of two frames, the smaller first."""


def _cosine(one: Posed, two: Posed) -> float:
    """Of the angle between two viewing directions."""
    return float(np.clip(one.pose[:3, 2] @ two.pose[:3, 2], -1, 1))


def _by_depth(cameras: Cameras, folder: Path, scale: float | None, skips: list[tuple[str, str]]) -> tuple[list[Posed], dict[_Two, float]]:
    views: list[View] = list(depth_views(cameras, folder, scale, skips))
    numbers = range(len(views))
    if len(views) <= ALL_PAIRS:
        twos: Iterator[_Two] = combinations(numbers, 2)
    else:
        twos = ((one, one + gap) for one in numbers for gap in GAPS if one + gap < len(views))
    overlaps = {two: overlap for two in twos if (overlap := _depth_iou(views[two[0]], views[two[1]])) > 0}
    return list(views), overlaps


def _depth_iou(one: View, two: View) -> float:
    """Intersection over union, in pixels of either."""
    transform = relative_pose(one.pose, two.pose)
    if transform[2, 2] <= 0:
        return 0.0
    forth = visible_share(one.depth, one.K, two.depth, two.K, transform)
    both = (forth + visible_share(two.depth, two.K, one.depth, one.K, np.linalg.inv(transform))) / 2 if forth > 0 else 0.0
    return both / (2 - both)


def _posed(cameras: Cameras, folder: Path, skips: list[tuple[str, str]]) -> Iterator[Posed]:
    """The frames whose camera can be used; why others cannot is added to `skips`."""
    skips += cameras.repeated
    for frame in cameras.ordered:
        try:
            camera = camera_of(frame, folder, straighten=True)
            if camera.K is None or camera.pose is None:
                raise BrokenSampleError(camera.faults[0] if camera.faults else "a frame lacks K or pose")
        except BrokenSampleError as error:
            skips.append(skip_of(frame.file, str(error)))
            continue
        yield Posed(frame, camera, camera.pose)


def _by_geometry(frames: Sequence[Posed], ranges: Sequence[tuple[float, float]]) -> dict[_Two, float]:
    """The share of what lies before either photo that lies before both, for pixels of a grid at depths as even as disparity is."""
    points = []
    for view, (near, far) in zip(frames, ranges, strict=True):
        height, width = view.camera.at.original
        rows, columns = (np.ravel(side) for side in np.mgrid[: _GRID[0], : _GRID[1]])
        pixels = np.stack([(columns + 0.5) * width / _GRID[1] - 0.5, (rows + 0.5) * height / _GRID[0] - 0.5, np.ones(len(rows))])
        depths = 1 / np.linspace(1 / near, 1 / far, _DEPTHS)
        local = (np.linalg.inv(view.camera.K) @ pixels)[:, None] * depths[:, None]  # type: ignore[arg-type]
        points.append(view.pose[:3, :3] @ local.reshape(3, -1) + view.pose[:3, 3:])
    numbers = range(len(frames))
    twos: Iterator[_Two] = combinations(numbers, 2)
    if len(frames) > ALL_PAIRS:
        twos = ((one, one + gap) for one in numbers for gap in GAPS if one + gap < len(frames))
    overlaps = {}
    for one, two in twos:
        if _cosine(frames[one], frames[two]) <= 0:
            continue
        both = (_inside_share(points[one], frames[two], ranges[two]) + _inside_share(points[two], frames[one], ranges[one])) / 2
        if both > 0:
            overlaps[one, two] = both / (2 - both)
    return overlaps


def _inside_share(world: np.ndarray, view: Posed, depths: tuple[float, float]) -> float:
    """Of points, 3 x n, those that fall in a view, from half the nearest to twice the farthest depth."""
    assert view.camera.K is not None
    x, y, z = view.camera.K @ (view.pose[:3, :3].T @ (world - view.pose[:3, 3:]))
    height, width = view.camera.at.original
    return float(
        (
            (z > depths[0] / 2) & (z < 2 * depths[1]) & (x > -z / 2) & (x < (width - 0.5) * z) & (y > -z / 2) & (y < (height - 0.5) * z)
        ).mean()
    )


def _by_points(frames: Sequence[Posed], seen: Mapping[str, np.ndarray]) -> dict[_Two, float]:
    from scipy.sparse import csr_matrix

    points = [np.unique(seen[one.frame.file]) for one in frames]
    columns = np.concatenate(points) if points else np.zeros(0, np.int64)
    _, columns = np.unique(columns, return_inverse=True)
    rows = np.repeat(np.arange(len(points)), [len(one) for one in points])
    matrix = csr_matrix((np.ones(len(rows), np.int32), (rows, columns)), (len(points), int(columns.max(initial=-1)) + 1))
    shared = (matrix @ matrix.T).tocoo()
    overlaps = {}
    for one, two, count in zip(shared.row.tolist(), shared.col.tolist(), shared.data.tolist(), strict=True):
        if one < two:
            overlaps[one, two] = count / (len(points[one]) + len(points[two]) - count)
    return overlaps


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in counts.items()) or "no two share anything"


def _crops_explained(chosen: Mapping[_Two, float], crops: Sequence[Pair], without: Mapping[str, int]) -> str:
    sides = [crop.side for pair in crops for crop in (pair.crop1, pair.crop2) if crop]
    told = f", {min(sides):,} to {max(sides):,} px of the photos" if sides else ""
    pairs = len(chosen) - sum(without.values())
    return f"{len(crops):,} matched crops of {pairs:,} of {len(chosen):,} pairs{told}" + (f"; none: {_listed(without)}" if without else "")


def _explained(frames: Sequence[Posed], chosen: Mapping[_Two, float], rejected: Mapping[str, int]) -> list[str]:
    """What was taken, by angle and overlap, and what was not."""
    angles = [np.degrees(np.arccos(_cosine(frames[one], frames[two]))) for one, two in chosen]
    at = np.histogram(angles, _DEGREES)[0]
    by_angle = ", ".join(f"{low}-{min(high, 180)}: {count}" for low, high, count in zip(_DEGREES, _DEGREES[1:], at, strict=False) if count)
    at = np.histogram(list(chosen.values()), _SHARES)[0]
    by_share = ", ".join(f"{low:g}-{min(high, 1):g}: {count}" for low, high, count in zip(_SHARES, _SHARES[1:], at, strict=False) if count)
    without = len(frames) - len({number for two in chosen for number in two})
    return [
        f"{len(chosen):,} pairs by degrees between the views {by_angle}; by IoU {by_share}",
        f"pairs that were not taken: {_listed(rejected)}" + (f"; {without:,} of {len(frames):,} frames are in no pair" if without else ""),
    ]
