"""Pairs of photos chosen by what they share and by the angle between them, as CroCo v2 describes it (its code was never released).

Poses come from files or, of photos and videos without any, from structure from motion; else what matches tell of the overlap must do.

The score of a pair is IoU x 4 cos(a) (1 - cos(a)): `a` is the angle between the viewing directions, IoU the share of what either photo sees
that both see. It is 0 for two equal views and at 90 degrees. Pairs are taken by falling score, none near to one that is taken already.
"""

from __future__ import annotations

import shlex
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from sightline.methods.errors import CallError
from sightline.methods.random import keyed_rng
from sightline.platform.data.images import Resize

from ..captures.cameras import Cameras, read_cameras, skip_of, unnamed
from ..captures.layouts import captures_below, layout_of, no_cameras
from ..captures.overlaps import Compared
from ..captures.readers import placed_points, seen_points
from ..captures.unposed import Photos
from ..captures.videos import VideoOptions, folder_or_video, videos_at
from ..files import Tree, frame_names
from ..found import Found
from ..options import above_zero, lengths, option, positive, share
from ..packed import Packed
from ..pairs import Pair
from ..progress import follow
from ..source import Places, Request
from ..workers import USUAL, Where, start_workers
from .fit import PosedDepth
from .frames import sequences
from .matched_crops import Cropper, Seen, seen_by_depth, seen_by_points
from .posed import Posed, posed_pair, poses_of
from .posed_pairs import PosedPairs
from .rgbd import depth_views, require_known, small_view
from .shared_views import ALL_PAIRS, Directions, Shares, Two, V, by_depth, by_geometry, by_points, gathered, posed_frames
from .windows import GAPS, LITTLE, comparisons

CROP_SIZE = 256
"""Pixels of the authors' stored crops."""
_OF_CAMERAS = (".txt", ".json", ".bin", ".db", ".npy")
"""Files beside photos that say what `--sfm` finds anew."""
_DEGREES = (0, 10, 20, 30, 40, 50, 60, 90, 181)
_SHARES = (0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.01)


@dataclass(frozen=True)
class Mine(VideoOptions, PosedDepth, PosedPairs):
    """What two photos share is known from depth, else from the points of a model that both see, else from how near and far things are.

    Of photos without poses it is known from matched features.
    """

    reader = "mine"
    archives = True
    help = "photos or videos: pairs by overlap and angle, from depth, points or geometry, or by matching photos without poses"
    examples = (
        "./garden --size 256 --split train=0.85,val=0.15 --out ./garden-pairs",
        "./walk.mp4 --sfm --size 256 --out ./walk-pairs",
    )
    places = Places("DIR|VIDEO", "folder(s) of photos, with or without cameras, videos, or folders of videos")
    split_ways = ("time-blocks", "scene")

    sfm: bool = option(
        False, "find poses by structure from motion (pycolmap), also where the folder has some (default: poses of the folder)"
    )
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

    def find_for(self, request: Request, place: str, name: str) -> Found[Pair]:
        return self.find(place, name, request.seed, request.where)

    def find(self, place: str, name: str, seed: int = 0, where: Where = USUAL) -> Found[Pair]:
        """The pairs by falling score; which of the two is image 1 is drawn."""
        root = folder_or_video(place)
        tree = Tree.of(root) if root.is_dir() else None
        found = Found[Pair](self.provenance(root))
        videos = videos_at(root, tree)
        cameras = read_cameras(root) if tree and not videos else None
        if cameras and not self.sfm:
            tree = None  # of a million files it is a tenth of a gigabyte
            found.notes += unnamed(cameras, root)
            self._of_cameras(found, place, root, name, cameras, seed, where)
            return found
        if cameras:
            found.notes.append(f"poses of {cameras.layout} are not used, because of --sfm")
        elif tree and not self.sfm and not videos and (layout_of(root) or captures_below(root)):
            what, hint = no_cameras(root, place, "pairs by overlap and angle")
            raise CallError(what, f"{hint}; or find poses anew with --sfm")
        if videos:
            every = [Photos.of_shot(scene, shot) for scene, shot in self.shots_of(videos, root, name, found).items()]
        else:
            assert tree is not None
            every = [Photos.of_files(scene, files) for scene, files in sequences(tree, name).items()]
        for photos in every:
            try:
                self._unposed(found, place, photos, seed, where)
            except CallError as error:
                if len(every) == 1:
                    raise
                found.notes.append(f"no pairs: {error}")
        if tree:
            tree.take(_OF_CAMERAS)
            found.count(tree)
        return found

    def _unposed(self, found: Found[Pair], place: str, photos: Photos, seed: int, where: Where) -> None:
        compared = photos.compared(place, where)
        found.skips += [skip_of(file, why) for file, why in compared.broken]
        of, tried, match = len(photos.files), compared.tried, len(compared.geometries)
        found.notes.append(f"{photos.scene}: {tried:,} pairs of {of:,} photos compared ({compared.how}), {match:,} match")
        if self.sfm:
            cameras, told = photos.placed(compared, where)
            found.notes += told
            self._of_cameras(found, place, photos.folder, photos.scene, cameras, seed, where)
            return
        if self.crops:
            raise CallError(f"--crops: {place} has no poses, so nothing tells which crops show the same", "find poses with --sfm")
        shares = gathered((two, geometry.overlap) for two, geometry in compared.geometries.items())
        chosen, rejected = self._choose(shares, of, None)
        if not len(chosen.ious):
            raise CallError(
                f"no two photos of {photos.scene} make a pair: {_listed(rejected)}", "choose another --min-overlap or --near, or add photos"
            )
        flat = sum(compared.geometries[one, two].flat for one, two, _ in chosen.each())
        rule = "pairs by falling 4 v (1 - v), v the share of the cells of the photos that matches fill; the angle between them is not known"
        found.source = found.source.model_copy(update={"notes": (rule, f"IoU from {self.min_overlap:g}, near from {self.near:g}")})
        found.notes += [
            f"{photos.scene}: no poses: the angle between the views is not known; --sfm finds it",
            *_explained(len(photos.files), chosen, rejected, None),
        ]
        if flat:
            found.notes.append(f"{photos.scene}: {flat:,} of the pairs match as if the camera had only turned, or the scene were flat")
        names, rng = frame_names([str(file) for file in photos.files]), keyed_rng("mine", seed, photos.scene)
        for one, two, overlap in chosen.each():
            first, second = (one, two) if rng.random() < 0.5 else (two, one)
            found.items.append(
                Pair(
                    f"{photos.scene}/{Path(names[first]).name}-{Path(names[second]).name}",
                    photos.scene,
                    str(photos.files[first]),
                    str(photos.files[second]),
                    first,
                    second,
                    photos.times[first] if photos.times else float(first),
                    overlap=round(overlap, 4),
                )
            )

    def _of_cameras(self, found: Found[Pair], place: str, folder: Path, name: str, cameras: Cameras, seed: int, where: Where) -> None:
        """Add the pairs of frames with poses; `folder` holds their files."""
        cameras = cameras.with_intrinsics(self.intrinsics)
        require_known(cameras, folder, place, "K", "cam_to_world")
        scale, (stated, said) = self.scale_of(cameras), self.scale_notes(cameras)
        found.notes += said
        fit, sure = self.fit_first(cameras, folder, place)
        frames, looks = Packed[Posed](), Directions()

        def known(views: Iterator[V]) -> Iterator[V]:
            for view in views:
                frames.append(Posed(view.frame, view.camera))
                looks.add(view)
                yield view

        count = len(cameras.frames)
        with start_workers(where, comparisons(count, ALL_PAIRS) // LITTLE) as workers:
            if cameras.has_depth:
                shares = by_depth(known(depth_views(cameras, folder, scale, found.skips, workers)), count, workers)
                by = "depth (depths agree within 5 % or 5 cm)"
            else:
                scale, stated = None, []
                deque(known(follow(posed_frames(cameras, folder, found.skips), "reading frames", len(cameras.frames))), maxlen=0)
                self._require_some(frames, cameras, folder, place, found)
                ranges = [self.depth_range or one.frame.depth_range for one in frames]
                if seen := seen_points(folder, cameras.layout):
                    shares, by = by_points(frames, seen), "the points of the model that both see"
                elif frames and None not in ranges:
                    shares = by_geometry(frames, [one for one in ranges if one], workers)
                    by = "geometry alone (what lies between the nearest and the farthest depth in both views; nothing hides anything)"
                else:
                    found_by_features = _matched(place, name, cameras, [folder / one.frame.file for one in frames], where)
                    shares = gathered((two, geometry.overlap) for two, geometry in found_by_features.geometries.items())
                    how = found_by_features.how
                    by = f"matched features (the share of the cells that they fill; {how}), because neither depth nor points are known"
            chosen, rejected = self._choose(shares, count, looks.cosine)
        if not len(chosen.ious):
            self._require_some(frames, cameras, folder, place, found)
            raise CallError(
                f"no two frames of {place} make a pair: {_listed(rejected)}",
                "choose another --min-score or --min-overlap, or add frames; where a camera hardly turns, neighbours are paired by: "
                f"sightline prepare pairs frames {shlex.quote(place)} --gap 1..5",
            )
        settings = f"IoU from {self.min_overlap:g}, angle to {self.max_angle:g}, score from {self.min_score:g}, near from {self.near:g}"
        if self.crops:
            settings += f"; at most {self.crops} matched crops of a pair, side {self.crop_side:g}, overlap from {self.crop_overlap:g}"
        rule = f"pairs by falling score IoU x 4 cos(a) (1 - cos(a)), IoU by {by}; {settings}"
        bent = cameras.bent if scale is None else []
        undone = [f"images are undistorted here ({', '.join(bent)}): they are those of a pinhole camera"] if bent else []
        found.source = found.source.model_copy(
            update={"notes": (rule, f"unit: {cameras.unit}; distortion: {cameras.distortion}", *stated, *undone)}
        )
        found.notes += fit
        if not sure:
            found.poses.extend(poses_of(folder, frames))
        angles = array("d", (float(np.degrees(np.arccos(looks.cosine(one, two)))) for one, two, _ in chosen.each()))
        found.notes += _explained(len(frames), chosen, rejected, angles)
        seen_together = self._matcher(folder, cameras, frames, place) if self.crops else None
        names, rng = frame_names(one.frame.file for one in frames), keyed_rng("mine", seed, name)
        without: Counter[str] = Counter()
        items = Packed[Pair]()
        for one, two, overlap in follow(chosen.each(), "making pairs", len(chosen.ious)):
            order = (one, two) if rng.random() < 0.5 else (two, one)
            pair_id, time = f"{name}/{names[order[0]]}-{names[order[1]]}", frames[order[0]].frame.time_s if cameras.timed else None
            pair = posed_pair(folder, name, pair_id, frames, order, overlap, scale, time)
            items.extend([pair] if seen_together is None else self._cropped(pair, frames, order, seen_together, seed, without))
        if self.crops:
            found.notes.append(_crops_explained(chosen, items, without))
            if not items:
                raise CallError(f"no pair of {place} has matched crops: {_listed(without)}", "lower --crop-overlap, --crop-side or --size")
        found.items.extend(items)

    @staticmethod
    def _require_some(frames: Sequence[Posed], cameras: Cameras, folder: Path, place: str, found: Found[Pair]) -> None:
        """Raises `CallError` where no photo can be used, with the first reason."""
        if not frames and found.skips:
            file, why = found.skips[0]
            there = (folder / file.partition(" (")[0]).is_file()
            remedy = "correct the cameras (docs/captures.md)" if there else "put the photos where it names them"
            raise CallError(
                f"none of the {len(cameras.frames):,} photos that {cameras.layout} of {place} names can be used: {why}, such as {file}",
                f"{remedy}, or find poses anew with --sfm",
            )

    def _matcher(self, folder: Path, cameras: Cameras, frames: Sequence[Posed], place: str) -> Callable[[int, int], Seen]:
        """(numbers of two frames) -> what both show. Raises `CallError` where nothing tells it."""
        if all(frame.frame.depth for frame in frames):
            scale = self.scale_of(cameras)
            view = lru_cache(GAPS[-1])(lambda number: small_view(frames[number], folder, scale))
            return lambda one, two: seen_by_depth(view(one), view(two))
        places = placed_points(folder) if cameras.layout == "COLMAP" else {}
        if not places:
            raise CallError(
                f"--crops: nothing tells where two photos of {place} show the same, because {cameras.layout} has poses only",
                "give depth, or a COLMAP model with its points3D; or leave --crops out",
            )
        seen = seen_points(folder, cameras.layout)
        assert seen is not None

        def both_show(one: int, two: int) -> Seen:
            ids = seen[frames[one].frame.file], seen[frames[two].frame.file]
            return seen_by_points(frames[one], frames[two], ids, places)

        return both_show

    def _cropped(
        self, pair: Pair, frames: Sequence[Posed], order: Two, seen: Callable[[int, int], Seen], seed: int, without: Counter[str]
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

    def _choose(self, shares: Iterable[Shares], frames: int, cosine_of: Callable[[int, int], float] | None) -> tuple[_Chosen, Counter[str]]:
        """(the pairs that are taken, how many are not and why). Without the angle, an overlap of one half is best.

        `shares` are seen once: of candidates only those that are good enough are held, in 24 bytes each and 48 while they are sorted.
        """
        rejected: Counter[str] = Counter()
        near, good = (array("i"), array("i")), (array("i"), array("i"))
        scores, ious = array("d"), array("d")
        least = np.cos(np.radians(self.max_angle))
        for some in shares:
            alike = some.ious > self.near
            for held, numbers in zip(near, (some.ones, some.twos), strict=True):
                held.frombytes(numbers[alike].astype(np.int32).tobytes())
            enough = some.ious >= self.min_overlap
            _count(rejected, f"share less than {self.min_overlap:g}", int((~enough).sum()))
            for one, two, overlap in zip(some.ones[enough].tolist(), some.twos[enough].tolist(), some.ious[enough].tolist(), strict=True):
                cosine = cosine_of(one, two) if cosine_of else 1.0
                score = 4 * overlap * (cosine * (1 - cosine) if cosine_of else 1 - overlap)
                if cosine < least:
                    rejected[f"look more than {self.max_angle:g} degrees apart"] += 1
                elif not cosine_of and overlap > self.near:
                    rejected[f"share more than {self.near:g}"] += 1
                elif score < self.min_score:
                    rejected[f"score less than {self.min_score:g}"] += 1
                else:
                    scores.append(score)
                    ious.append(overlap)
                    for held, number in zip(good, (one, two), strict=True):
                        held.append(number)
        ones, twos = (np.asarray(numbers) for numbers in good)
        beside = _Neighbours.of(np.asarray(near[0]), np.asarray(near[1]), frames)
        partners = _Partners(frames, self.pairs_per_frame)
        taken = array("q")
        for place in follow(np.lexsort((twos, ones, -np.asarray(scores))).tolist(), "choosing pairs", len(scores)):
            one, two = good[0][place], good[1][place]
            if partners.full(one) or partners.full(two):
                rejected["a frame has enough pairs"] += 1
            elif partners.any_between(beside.of_frame(one), beside.of_frame(two)):
                rejected["near to a pair that is taken"] += 1
            else:
                taken.append(place)
                partners.pair(one, two)
        places = np.asarray(taken)
        places = places[np.lexsort((twos[places], ones[places]))]
        return _Chosen(ones[places], twos[places], np.asarray(ious)[places]), rejected


class _Chosen(Shares):
    """The pairs that are taken, by their frames."""

    def each(self) -> Iterator[tuple[int, int, float]]:
        """(one, two, IoU)"""
        return zip(self.ones.tolist(), self.twos.tolist(), self.ious.tolist(), strict=True)


@dataclass(frozen=True)
class _Neighbours:
    """For each frame itself and those that count as one with it."""

    numbers: array[int]
    ends: np.ndarray

    @classmethod
    def of(cls, ones: np.ndarray, twos: np.ndarray, frames: int) -> _Neighbours:
        own = np.arange(frames, dtype=np.int32)
        where, which = np.concatenate([own, ones, twos]), np.concatenate([own, twos, ones])
        numbers = array("i")
        numbers.frombytes(which[np.argsort(where, kind="stable")].astype(np.int32).tobytes())
        return cls(numbers, np.concatenate([[0], np.cumsum(np.bincount(where, minlength=frames))]))

    def of_frame(self, frame: int) -> array[int]:
        return self.numbers[self.ends[frame] : self.ends[frame + 1]]


class _Partners:
    """The frames with which each frame is paired, up to `most`."""

    def __init__(self, frames: int, most: int) -> None:
        self._most, self._counts = most, array("i", bytes(4 * frames))
        self._numbers = array("i", bytes(4 * frames * most))

    def full(self, frame: int) -> bool:
        return self._counts[frame] >= self._most

    def pair(self, one: int, two: int) -> None:
        for frame, other in ((one, two), (two, one)):
            self._numbers[frame * self._most + self._counts[frame]] = other
            self._counts[frame] += 1

    def any_between(self, some: array[int], others: array[int]) -> bool:
        """Whether one of these frames is paired with one of those."""
        if not any(self._counts[frame] for frame in some):
            return False
        wanted, most = set(others), self._most
        return any(not wanted.isdisjoint(self._numbers[at * most : at * most + self._counts[at]]) for at in some if self._counts[at])


def _count(counts: Counter[str], what: str, how_many: int) -> None:
    if how_many:
        counts[what] += how_many


def _matched(place: str, name: str, cameras: Cameras, files: Sequence[Path], where: Where) -> Compared:
    """What photos share of whose cameras only poses are known. Raises `CallError` where features do not tell it."""
    try:
        return Photos.of_files(name, files).compared(place, where)
    except CallError as error:
        raise CallError(
            f"nothing says what two photos of {place} share: {cameras.layout} names no depth, and has no points; {error}",
            "say how near and far things are, in the unit of the poses: --depth-range 2..30; or pair neighbours: sightline prepare "
            f"pairs frames {shlex.quote(place)} --gap 1..5",
        ) from None


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in counts.items()) or "no two share anything"


def _crops_explained(chosen: _Chosen, crops: Sequence[Pair], without: Mapping[str, int]) -> str:
    sides = [crop.side for pair in crops for crop in (pair.crop1, pair.crop2) if crop]
    told = f", {min(sides):,} to {max(sides):,} px of the photos" if sides else ""
    pairs = len(chosen.ious) - sum(without.values())
    return f"{len(crops):,} matched crops of {pairs:,} of {len(chosen.ious):,} pairs{told}" + (
        f"; none: {_listed(without)}" if without else ""
    )


def _explained(frames: int, chosen: _Chosen, rejected: Mapping[str, int], angles: Sequence[float] | None) -> list[str]:
    """What was taken, by angle where it is known and by overlap, and what was not."""
    at = np.histogram(angles or [], _DEGREES)[0]
    by_angle = ", ".join(f"{low}-{min(high, 180)}: {count}" for low, high, count in zip(_DEGREES, _DEGREES[1:], at, strict=False) if count)
    degrees = f"degrees between the views {by_angle}; by " if angles else ""
    at = np.histogram(chosen.ious, _SHARES)[0]
    by_share = ", ".join(f"{low:g}-{min(high, 1):g}: {count}" for low, high, count in zip(_SHARES, _SHARES[1:], at, strict=False) if count)
    without = frames - len(np.unique(np.concatenate([chosen.ones, chosen.twos])))
    left = [f"pairs that were not taken: {_listed(rejected)}"] if rejected else []
    left += [f"{without:,} of {frames:,} frames are in no pair"] if without else []
    return [f"{len(chosen.ious):,} pairs by {degrees}IoU {by_share}", *(["; ".join(left)] if left else [])]
