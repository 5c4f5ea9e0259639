"""RGB-D frames with poses: pairs mined by co-visibility, computed from depth."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from sightline.methods.errors import BrokenSampleError, CallError
from sightline.methods.random import keyed_rng
from sightline.platform.data.geometry import Placement, covisibility, depth_intrinsics, relative_pose
from sightline.platform.data.pose_check import AS_READ, CONVENTIONS

from ..captures.cameras import Cameras, camera_of, read_cameras, skip_of, unnamed
from ..captures.layouts import no_cameras
from ..captures.readers import ask_intrinsics
from ..files import existing_folder, frame_names, read_file
from ..found import Found
from ..known import Frame, is_told
from ..options import bounds, option, positive
from ..packed import Packed
from ..pairs import Pair
from ..progress import follow
from ..source import Request
from ..views import upright_depth
from ..workers import USUAL, Where, Workers, start_workers
from .fit import PosedDepth
from .posed import Posed, posed_pair, poses_of
from .posed_pairs import PosedPairs
from .windows import LITTLE, compared, comparisons, read_in_order

MAX_ANGLE = 60.0
"""Degrees between viewing directions; beyond it two views of one camera hardly share anything."""
_GRID = (36, 48)
"""Rows and columns of the depth map from which co-visibility is computed: 0.6 ms a pair instead of 13 for 240 x 320, and on the
kitchen sequence 0.007 off on average, 0.04 at most."""
_DOUBT_PAIRS = 24
_NOTHING_SHARED = 0.05
_ALIKE = 0.02
"""Shares that differ by less do not tell which of two conventions it is."""


@dataclass(frozen=True)
class Rgbd(PosedDepth, PosedPairs):
    """Colour and depth are taken as registered to each other; the provenance says so."""

    reader = "rgbd"
    archives = True
    help = "RGB-D frames with poses (cameras.json): pairs mined by co-visibility from depth"
    examples = ("./kitchen-rgbd --overlap 0.4..0.9 --size 128 --square --out ./kitchen --split train=0.85,val=0.15",)
    split_ways = ("time-blocks", "scene")

    overlap: tuple[float, float] = option((0.4, 0.9), "co-visibility of a pair (default: 0.4..0.9)", bounds)
    pairs_per_frame: int = option(4, "at most this many for a frame (default: %(default)s)", positive)

    def find_for(self, request: Request, place: str, name: str) -> Found[Pair]:
        return self.find(place, name, request.seed, request.where)

    def find(self, place: str, name: str, seed: int = 0, where: Where = USUAL) -> Found[Pair]:
        """Pairs whose co-visibility lies in `overlap`, at most `pairs_per_frame` for a frame."""
        folder = existing_folder(place)
        cameras = read_cameras(folder)
        if cameras is None:
            raise CallError(*no_cameras(folder, place, "pairs by co-visibility"))
        cameras = cameras.with_intrinsics(self.intrinsics)
        require_known(cameras, folder, place, "depth", "K", "cam_to_world")
        low, high = self.overlap
        scale, (stated, said) = self.scale_of(cameras), self.scale_notes(cameras)
        notes = (
            f"pairs mined by co-visibility {low:g}..{high:g} (depths agree within 5 % or 5 cm, the smaller of both directions)",
            "colour and depth are taken as registered to each other, with one pose and K for both",
            f"unit: {cameras.unit}; distortion: {cameras.distortion}",
            *stated,
        )
        found = Found[Pair](self.provenance(folder, *notes))
        found.notes += said + unnamed(cameras, folder)
        fit, sure = self.fit_first(cameras, folder, place)
        views = Packed[Posed]()
        rng = keyed_rng("rgbd", seed, name)
        picked, shares = array("i"), array("d")
        count = len(cameras.frames)
        with start_workers(where, comparisons(count) // LITTLE) as workers:
            every = _noted(depth_views(cameras, folder, scale, found.skips, workers), views)
            for start, others in compared(_overlap, every, count, workers):
                good = [(other, value) for other, value in others if low <= value <= high]
                for pick in sorted(rng.permutation(len(good))[: self.pairs_per_frame]):
                    picked.extend((start, good[pick][0]) if rng.random() < 0.5 else (good[pick][0], start))
                    shares.append(good[pick][1])
        names = frame_names([view.frame.file for view in views])
        for one, two, value in zip(picked[::2], picked[1::2], shares, strict=True):
            order = one, two
            pair_id, time = f"{name}/{names[order[0]]}-{names[order[1]]}", views[order[0]].frame.time_s if cameras.timed else None
            found.items.append(posed_pair(folder, name, pair_id, views, order, value, scale, time))
        found.notes += fit
        if not sure:
            found.poses.extend(poses_of(folder, views))
        doubt = _doubt(views, folder, scale)
        if not found.items and len(views) > 1:
            raise CallError(
                f"no two frames of {place} share {low:g} to {high:g} of what they see", doubt or "choose another --overlap, or add frames"
            )
        found.notes += [doubt] if doubt else []
        return found


def require_known(cameras: Cameras, folder: Path, place: str, *wanted: str) -> None:
    """Raises `CallError` where no frame has one of these."""
    missing = [what for what in wanted if not any(is_told(getattr(frame, what)) for frame in cameras.frames)]
    if missing:
        hint = ask_intrinsics(cameras.layout, folder) if missing == ["K"] else "use `sightline prepare pairs frames` for photos alone"
        told = "".join(f"; {note}" for note in cameras.notes[1:]) if "cam_to_world" in missing else ""
        raise CallError(f"no frame of {place} has {' and '.join(missing)}, read from {cameras.layout}{told}", hint)


@dataclass(frozen=True)
class View(Posed):
    """A frame whose camera and depth can be used, its depth small."""

    depth: np.ndarray
    K: np.ndarray
    """Of the small depth map."""


def depth_views(cameras: Cameras, folder: Path, scale: float | None, skips: list[tuple[str, str]], workers: Workers) -> Iterator[View]:
    """The frames whose camera and depth can be used; why others cannot is added to `skips`."""
    skips += cameras.repeated
    every = read_in_order(partial(_depth_view, folder, scale), cameras.ordered, workers)
    for found in follow(every, "reading frames", len(cameras.frames)):
        if isinstance(found, View):
            yield found
        else:
            skips.append(found)


def _depth_view(folder: Path, scale: float | None, frame: Frame) -> View | tuple[str, str]:
    """The view, or (file, why there is none)."""
    if not (frame.depth and is_told(frame.K) and is_told(frame.cam_to_world)):
        return frame.file, "a frame lacks depth, K or pose"
    try:
        camera = camera_of(frame, folder)
        if camera.K is None or camera.pose is None:
            raise BrokenSampleError(camera.faults[0])
    except BrokenSampleError as error:
        return skip_of(frame.file, str(error))
    try:
        return small_view(Posed.of(frame, camera), folder, scale)
    except BrokenSampleError as error:
        return skip_of(str(frame.depth), str(error), "depth of a frame: ")


def small_view(posed: Posed, folder: Path, scale: float | None) -> View:
    """With its depth, small. Raises `BrokenSampleError` for a file that cannot be used."""
    camera = posed.camera
    assert camera.K is not None
    metres = upright_depth(read_file(f"{folder}/{posed.frame.depth}"), camera.at, scale)
    small = Placement.whole(metres.shape).resized(min(metres.shape[0], _GRID[0]), min(metres.shape[1], _GRID[1]))
    K = small.intrinsics(depth_intrinsics(camera.K, camera.at.original, metres.shape))
    return View(posed.frame, camera, small.nearest(metres), K)


def _noted(views: Iterable[View], posed: Packed[Posed]) -> Iterator[View]:
    """The views; all are added to `posed` without their depth."""
    for view in views:
        posed.append(Posed(view.frame, view.camera))
        yield view


def _overlap(one: View, two: View) -> float | None:
    """Co-visibility, or None where the views look apart."""
    transform = relative_pose(one.pose, two.pose)
    if transform[2, 2] < np.cos(np.radians(MAX_ANGLE)):
        return None
    return covisibility(one.depth, one.K, two.depth, two.K, transform)


def _doubt(views: Sequence[Posed], folder: Path, scale: float | None) -> str:
    """What is suspicious in how much neighbouring frames share; empty where nothing is. Of few frames the depth is read again."""
    chosen = range(0, len(views) - 1, max(1, len(views) // _DOUBT_PAIRS))
    pairs = [tuple(small_view(view, folder, scale) for view in views[number : number + 2]) for number in chosen]
    if not pairs:
        return ""
    shared = {
        what: float(np.median([covisibility(a.depth, a.K, b.depth, b.K, relative_pose(other(a.pose), other(b.pose))) for a, b in pairs]))
        for what, other in CONVENTIONS.items()
    }
    as_read = shared.pop(AS_READ)
    best = max(shared.values())
    if best > as_read + 0.15:
        likely = " or ".join(what for what in shared if shared[what] > best - _ALIKE)
        return (
            f"neighbouring frames share {as_read:.2f} of what they see; with the poses {likely} it would be {best:.2f}: cam_to_world "
            "takes points of the camera (x right, y down, z forward) to the world"
        )
    if as_read < _NOTHING_SHARED:
        return (
            f"neighbouring frames share {as_read:.2f} of what they see: check that frames are in order, poses are camera-to-world "
            "(x right, y down, z forward) in metres, and the depth has the right --depth-scale"
        )
    return ""
