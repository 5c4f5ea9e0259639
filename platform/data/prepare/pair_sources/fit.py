"""Do poses and depth fit the photos? Some pairs are matched and held against them before anything is stored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sightline.methods.errors import BrokenSampleError, CallError
from sightline.platform.data.depth import read_depth
from sightline.platform.data.depth_check import DepthVerdict, Ratios, ratios
from sightline.platform.data.epipolar import Matches
from sightline.platform.data.images import Resize
from sightline.platform.data.matching import same_points
from sightline.platform.data.pose_check import PoseVerdict, Readings, readings_of_poses
from sightline.platform.data.schema import decode_row

from ..captures.cameras import Cameras, camera_of
from ..captures.depth_options import DepthOptions
from ..files import read_file
from ..known import is_told
from ..options import option
from ..pairs import Pair
from ..source import PrepareSource
from .posed import Posed, posed_pair, poses_of

CHECKED, TRIED, DRAWN = 8, 20, 200
"""Pairs that are judged, pairs that are matched for it at most, and pairs of which these are the ones that match most easily."""
CHECK_SIZE = 384
"""Short side of the photos that are matched."""
LEAST_TURN, MOST_TURN = 3.0, 25.0
"""Degrees."""
LEAST_SIDE = 128
LEAST_MATCHES = 20
NEIGHBOURS = (1, 2, 3, 4, 6, 8, 12, 16)
"""Frames ahead: of these, pairs are drawn where a source makes none."""
STARTS = 24


@dataclass(frozen=True)
class MayMisfit(PrepareSource):
    """A source with poses from files."""

    accept_misfit: bool = option(
        False, "store poses and depth that do not fit the photos: wrong axes, direction or unit, as matched features show them"
    )

    def require(self, fit: Fit) -> None:
        """Raises `CallError` where something is surely wrong, unless that is accepted."""
        if fit.wrong and not self.accept_misfit:
            raise CallError(*fit.wrong)


@dataclass(frozen=True)
class PosedDepth(DepthOptions, MayMisfit):
    """A source of depth maps, mostly with poses."""

    def fit_first(self, cameras: Cameras, folder: Path, place: str) -> tuple[list[str], bool]:
        """(what neighbouring frames tell of poses and depth, whether it is enough): before pairs are looked for, because with depth in
        another unit other frames make pairs, or none do. Raises `CallError` as `require`."""
        fit = self._fit_of_neighbours(cameras, folder, place)
        if fit is None:
            return [], False
        self.require(fit)
        enough = fit.poses.enough and fit.depth is not None and fit.depth.enough
        return (fit.notes, True) if enough else ([], False)

    def require_unit(self, cameras: Cameras, folder: Path, place: str) -> list[str]:
        """What neighbouring frames tell of the unit of the depth, where the poses themselves are not wanted. Raises `CallError` where it is
        surely another one than that of the poses, unless that is accepted."""
        fit = self._fit_of_neighbours(cameras, folder, place)
        if fit is None or fit.depth is None or fit.poses.fault or not len(fit.depth.factors):
            return []
        self.require(fit)
        return fit.notes[1:]

    def _fit_of_neighbours(self, cameras: Cameras, folder: Path, place: str) -> Fit | None:
        return fit_of_neighbours(cameras, folder, place, self.scale_of(cameras)) if cameras.has_depth else None


@dataclass(frozen=True)
class Fit:
    """How poses and depth of drawn pairs fit their photos."""

    where: str
    poses: PoseVerdict
    depth: DepthVerdict | None
    """None for pairs without depth."""
    units: float
    """Of the depth maps, in a metre."""

    @property
    def wrong(self) -> tuple[str, str] | None:
        """(what, what to do) of what is surely wrong."""
        if self.poses.fault:
            return (
                f"the poses of {self.where} {self.poses.fault}: {self.poses.told}",
                "correct the files (docs/captures.md says what is expected), or store them as they are with --accept-misfit",
            )
        if self.depth and self.depth.wrong:
            return (
                f"depth and poses of {self.where} have different units: {self.depth.told}",
                f"{self.depth.remedy(self.units)}. --accept-misfit stores them as they are",
            )
        return None

    @property
    def notes(self) -> list[str]:
        poses = f"{self.poses.told}{f'; the poses {self.poses.fault}' if self.poses.fault else ''}"
        said = [f"{self.where}: {poses}"]
        if self.depth:
            doubt = f". Look at the unit of the depth: {self.depth.remedy(self.units)}" if self.depth.doubtful or self.depth.wrong else ""
            ray = ". The depth looks like distance along the ray: multiply it by the cosine of the angle to the axis" * self.depth.along_ray
            said.append(f"{self.where}: {self.depth.told}{doubt}{ray}")
        return said


def fit_of(drawn: Sequence[Pair], poses: Mapping[str, np.ndarray], where: str) -> Fit:
    """Of pairs with poses. `poses`: of their photos, as their file has them.

    Pairs that match most easily are judged. Where too few of them tell the scale of the depth, so are some whose cameras stand far apart.
    """
    readings: list[Readings] = []
    scales: list[Ratios] = []
    units, judged = 0.0, set[str]()
    for item, sample, matches in _matched(sorted(drawn, key=_ease)):
        judged.add(item.id)
        readings.append(readings_of_poses(matches, poses[item.image1], poses[item.image2]))
        if _has_depth(sample):
            scales.append(_ratios(sample, matches))
            units = units or _units(item, sample)
    if scales and not DepthVerdict(scales).enough:
        others = sorted((item for item in drawn if item.id not in judged), key=_apart)
        scales += (_ratios(sample, matches) for _, sample, matches in _matched(others) if _has_depth(sample))
    return Fit(where, PoseVerdict(readings), DepthVerdict(scales) if scales else None, units)


def _matched(drawn: Sequence[Pair]) -> Iterator[tuple[Pair, dict[str, Any], Matches]]:
    """Up to `CHECKED` pairs with enough matches, as they would be stored at a size that is good for it; no photo is image 1 twice."""
    judged, used = 0, set[str]()
    for item in [one for one in drawn if not (one.image1 in used or used.add(one.image1))][:TRIED]:  # type: ignore[func-returns-value]
        if judged == CHECKED:
            return
        try:
            sample = decode_row({"id": item.id, **item.row(Resize(CHECK_SIZE))}, "pairs", depth=True)
        except BrokenSampleError:  # the job counts and names it
            continue
        two = sample["image1"], sample["image2"]
        if min(min(photo.shape[:2]) for photo in two) < LEAST_SIDE:
            return
        xy = same_points(*two)
        if len(xy[0]) >= LEAST_MATCHES:
            K1, K2 = (sample[name] for name in ("K1", "K2"))
            yield item, sample, Matches(*xy, K1, K2, sample["T_2from1"], float(np.hypot(*two[0].shape[:2])))
            judged += 1


def _ease(item: Pair) -> tuple[bool, float]:
    """Sorts by how easily a pair matches; what hardly turns comes last, because any convention fits it."""
    angle = _turn(item)
    return angle < LEAST_TURN, angle


def _apart(item: Pair) -> tuple[bool, float]:
    """Sorts by how far apart the cameras stand; what turns much comes last, because it hardly matches."""
    return _turn(item) > MOST_TURN, -float(np.linalg.norm(np.reshape(item.T_2from1, (4, 4))[:3, 3]))  # type: ignore[arg-type]


def _turn(item: Pair) -> float:
    """Degrees."""
    cosine = (np.trace(np.reshape(item.T_2from1, (4, 4))[:3, :3]) - 1) / 2  # type: ignore[arg-type]
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def _has_depth(sample: Mapping[str, Any]) -> bool:
    return "depth1" in sample or "depth2" in sample


def _ratios(sample: Mapping[str, Any], matches: Matches) -> Ratios:
    sizes = (sample[name].shape[:2] for name in ("image1", "image2"))
    return ratios(matches, sample.get("depth1"), sample.get("depth2"), *sizes)


def _units(item: Pair, sample: dict[str, Any]) -> float:
    path = item.depth1 or item.depth2
    assert path is not None
    return read_depth(read_file(path), item.depth_scale, sample["image1"].shape[:2]).units


def fit_of_neighbours(cameras: Cameras, folder: Path, place: str, scale: float | None) -> Fit | None:
    """Of frames with depth that follow each other; None where no two have poses."""
    every = cameras.ordered
    frames: list[Posed] = []
    numbers: dict[int, int] = {}
    for start in range(0, len(every), max(1, len(every) // STARTS)):
        for number in (start, *(start + gap for gap in NEIGHBOURS)):
            if number >= len(every) or number in numbers:
                continue
            frame = every[number]
            if not (frame.depth and is_told(frame.K) and is_told(frame.cam_to_world)):
                continue
            try:
                camera = camera_of(frame, folder)
            except BrokenSampleError:  # named when its row is made
                continue
            if camera.K is not None and camera.pose is not None:
                numbers[number] = len(frames)
                frames.append(Posed.of(frame, camera))
    twos = [(one, one + gap) for one in numbers for gap in NEIGHBOURS if one + gap in numbers]
    items = [posed_pair(folder, "", f"{a}-{b}", frames, (numbers[a], numbers[b]), 0.0, scale, None) for a, b in twos]
    return fit_of(items, dict(poses_of(folder, frames)), place) if items else None
