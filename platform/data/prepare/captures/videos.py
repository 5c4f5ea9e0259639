"""Frames of videos: which to take, by motion and sharpness within a shot, and the folder of the home in which they are kept as photos."""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import Image

from sightline.methods.errors import BrokenSampleError, CallError
from sightline.platform.core.files import new_folder, read_record, write_record
from sightline.platform.core.locks import exclusive_lock
from sightline.platform.core.paths import home
from sightline.platform.data.images import IMAGE_SUFFIXES

from ..archives import ArchivePath, is_archive
from ..files import Tree, existing_folder, is_text, printable, suffix_of
from ..formats.video import INSTALL, VIDEO_SUFFIXES, Frame, Look, decoded, frame_count, has_reader, is_hdr, look, rgb
from ..found import Found
from ..items import Item
from ..known import Frame as CameraFrame
from ..options import above_zero, option, share, whole
from ..packed import Packed
from ..progress import follow
from ..source import PrepareSource
from .cameras import Cameras, skip_of

T = TypeVar("T", bound=Item)
FOLDER = "captures"
"""In the home: frames of videos, features and models of photos, each in a folder that is named by what it was made of."""
INDEX = "frames.json"
QUALITY = 95
_TILE = 32
_MOVED = 3
"""Pixels of the small frame after which the next one becomes the one that is compared with."""
_MATCHED = 0.25
"""Share of the tiles that must be found again where two frames show one scene."""
_PEAK = 0.16
"""Least height of a peak of phase correlation: noise alone reaches 0.12 in a tile."""
_TEXTURE = 3.0
"""Least standard deviation of a tile, and of a frame that is not blank."""
_CUT, _CUT_LEAST, _AROUND = 3.0, 8.0, 4
"""A cut differs by so many times the mean of the frames around, and by so many of 255."""
_FADE, _FADE_LEAST, _FADE_SHARE = 12, 20.0, 0.8
"""Over so many frames a fade changes by so many of 255, nearly all in one direction."""
_NEAR = 15
"""Frames to either side among which sharpness is compared."""
_FORM = 1


@dataclass(frozen=True)
class VideoOptions(PrepareSource):
    """Which frames of a video are taken."""

    motion: float = option(
        0.06, "video: a frame is taken when the image moved by this share of its long side (default: %(default)s)", above_zero
    )
    every: int = option(0, "video: take every Nth frame instead, whatever moved (default: by --motion)", whole)
    sharpness: float = option(
        0.4, "video: frames less sharp than this share of the sharpest of the second around are not taken (default: %(default)s)", share
    )

    def frames_of_video(self, path: Path) -> Video:
        """The frames to take, kept as photos. Raises `BrokenSampleError`."""
        if not has_reader():
            raise CallError(f"{path.name} is a video, and PyAV is not installed", INSTALL)
        told = repr((_FORM, self.motion, self.every, self.sharpness))
        folder = home() / FOLDER / _digest(path, told)
        with exclusive_lock(folder.with_suffix(".lock"), f"{path.name} is being read"):
            if not (folder / INDEX).is_file():
                with new_folder(folder) as part:
                    write_record(part / INDEX, _extract(path, part, self))
        return _known(folder, path)

    def shots_of(self, videos: Sequence[Path], root: Path, name: str, found: Found[T]) -> dict[str, Shot]:
        """Scene -> shot, of videos at or below `root`. Raises `CallError` where none can be read; a part of them is named in `found`."""
        if isinstance(root, ArchivePath):
            raise CallError(f"{root} holds videos, which are not read in an archive", "unpack it first")
        shots: dict[str, Shot] = {}
        for path in videos:
            below = "" if path == root else path.relative_to(root).as_posix()
            try:
                video = self.frames_of_video(path)
            except BrokenSampleError as error:
                if len(videos) == 1:
                    raise CallError(f"{path.name}: {error}", "name a video that plays, or convert this one") from None
                found.skips.append(skip_of(below, str(error)))
                continue
            found.notes += video.notes
            for shot in video.shots:
                shots["/".join(part for part in (name, below, shot.name) if part)] = shot
        return shots


@dataclass(frozen=True)
class Shot:
    """The frames between two cuts."""

    name: str
    """Empty where a video has one shot."""
    folder: Path
    cameras: Cameras
    """Files and times; `folder` holds the files."""

    @property
    def files(self) -> list[Path]:
        return [self.folder / frame.file for frame in self.cameras.ordered]


@dataclass(frozen=True)
class Video:
    shots: Sequence[Shot]
    notes: Sequence[str]


def folder_or_video(place: str) -> Path:
    """Raises `CallError` where it is neither."""
    path = Path(place).expanduser().resolve()
    if not path.is_file() or is_archive(path):
        return existing_folder(place)
    if suffix_of(path.name) not in VIDEO_SUFFIXES or not is_text(str(path)):
        known = ", ".join(VIDEO_SUFFIXES)
        raise CallError(f"{printable(str(place))} is a file, and no video by its name", f"name a folder of photos, or a video ({known})")
    return path


def videos_at(path: Path, tree: Tree | None) -> list[Path]:
    """The video that a path is, or those of a folder where it holds no images."""
    if tree is None:
        return [path]
    if any(suffix_of(file) in IMAGE_SUFFIXES for files in tree.folders.values() for file in files):
        return []
    return [path / name for name in tree.take(VIDEO_SUFFIXES)]


def _digest(path: Path, told: str) -> str:
    digest = hashlib.blake2b(told.encode(), digest_size=10)
    with path.open("rb") as file:
        while block := file.read(2**22):
            digest.update(block)
    return f"{path.stem[:40]}-{digest.hexdigest()}"


def _known(folder: Path, path: Path) -> Video:
    record = read_record(folder / INDEX)
    shots = []
    for shot in record["shots"]:
        frames = Packed(CameraFrame(f"images/{file}", time_s=time) for file, time in shot["frames"])
        shots.append(Shot(shot["name"], folder / shot["name"], Cameras(frames=frames, layout="video")))
    return Video(shots, [f"{path.name}: {note}" for note in record["notes"]])


class Track(NamedTuple):
    """What is known of every frame of a video, each array with one value a frame."""

    motion: np.ndarray
    """Path of the image from the first frame on, in shares of the long side."""
    sharpness: np.ndarray
    blank: np.ndarray
    shot: np.ndarray
    """Number of the shot; -1 within a fade."""


def _extract(path: Path, folder: Path, options: VideoOptions) -> dict[str, object]:
    told: Counter[str] = Counter()
    track = followed(follow(decoded(path, told), f"looking at the frames of {path.name}", frame_count(path)))
    if not len(track.motion):
        why = "; ".join(f"{count:,} {what}" for what, count in told.items())
        raise BrokenSampleError(f"no frame can be decoded{f' ({why})' if why else ''}: {path.name}")
    picked = chosen(track, options)
    hdr, turned, interlaced, size = 0, 0, 0, ""
    numbers = np.unique(track.shot[picked])
    named = {int(number): f"shot{at:03d}" if len(numbers) > 1 else "" for at, number in enumerate(numbers, 1)}
    shots: dict[int, list[tuple[str, float]]] = {number: [] for number in named}
    wanted = set(picked.tolist())
    for one in follow(decoded(path, Counter()), f"taking frames of {path.name}", len(track.motion)):
        if one.number not in wanted:
            continue
        shot = int(track.shot[one.number])
        place = folder / named[shot] / "images"
        place.mkdir(parents=True, exist_ok=True)
        pixels = rgb(one)
        file = f"{one.number:06d}.jpg"
        Image.fromarray(pixels).save(place / file, quality=QUALITY, subsampling=0)
        shots[shot].append((file, round(one.time_s, 6)))
        hdr += is_hdr(one.decoded)
        interlaced += one.decoded.interlaced_frame
        turned += pixels.shape[:2] != (one.decoded.height, one.decoded.width)
        size = f"{pixels.shape[1]} x {pixels.shape[0]}"
    how = f"every {options.every}th" if options.every else f"by motion of {options.motion:g} and sharpness from {options.sharpness:g}"
    notes = [f"{len(picked):,} of {len(track.motion):,} frames taken, {how}; {size} px"]
    notes += [f"{len(numbers):,} shots, no pair across a cut"] if len(numbers) > 1 else []
    notes += [f"{int(track.blank.sum()):,} blank frame(s) left out"] if track.blank.any() else []
    notes += [f"{hdr:,} frame(s) are HDR: brought to the range of a usual screen"] if hdr else []
    notes += [f"{interlaced:,} frame(s) are interlaced: every second line is of another moment"] if interlaced else []
    notes += ["frames are turned or stretched as the file says"] if turned else []
    notes += [f"{count:,} {what}" for what, count in told.items()]
    return {"shots": [{"name": named[number], "frames": frames} for number, frames in shots.items()], "notes": notes}


class _Tiles:
    """Where the tiles of a frame went, by phase correlation."""

    def __init__(self, small: np.ndarray) -> None:
        rows, columns = (max(1, side // _TILE) for side in small.shape)
        height, width = (min(side, _TILE) for side in small.shape)
        cut = small[: rows * height, : columns * width].reshape(rows, height, columns, width).swapaxes(1, 2).reshape(-1, height, width)
        self.textured = cut.std(axis=(1, 2)) > _TEXTURE
        window = np.hanning(height + 2)[1:-1, None] * np.hanning(width + 2)[None, 1:-1]
        self.waves = np.fft.rfft2((cut - cut.mean(axis=(1, 2), keepdims=True)) * window)
        self.size = height, width

    def moved(self, other: _Tiles) -> tuple[float, float]:
        """(median length of the shift in pixels, share of the textured tiles that were found again)."""
        both = self.textured & other.textured
        if not both.any():
            return 0.0, 0.0
        cross = self.waves[both] * np.conj(other.waves[both])
        peaks = np.fft.irfft2(cross / np.maximum(np.abs(cross), 1e-6), self.size).reshape(len(cross), -1)
        at, height = peaks.argmax(axis=1), peaks.max(axis=1)
        y, x = np.unravel_index(at, self.size)
        away = np.hypot(*(np.where(one > side // 2, one - side, one) for one, side in ((y, self.size[0]), (x, self.size[1]))))
        found = height > _PEAK
        return float(np.median(away[found])) if found.any() else float(min(self.size) / 2), float(found.mean())


def followed(frames: Iterator[Frame]) -> Track:
    """One pass over a video; memory is a few numbers for each frame."""
    motion: list[float] = []
    sharpness: list[float] = []
    change: list[float] = []
    found: list[float] = []
    blank: list[bool] = []
    fades: list[bool] = []
    before: deque[tuple[np.ndarray, _Tiles]] = deque(maxlen=_FADE)
    held: _Tiles | None = None
    so_far = 0.0
    for one in frames:
        seen: Look = look(one.decoded)
        tiles = _Tiles(seen.small)
        same_size = bool(before) and before[-1][0].shape == seen.small.shape
        if not same_size:  # the first, or a stream that changes its size
            before.clear()
            held = tiles
            change.append(255.0 if motion else 0.0)
            found.append(0.0)
        else:
            change.append(float(np.abs(seen.small - before[-1][0]).mean()))
            found.append(tiles.moved(before[-1][1])[1])
        fades.append(_is_fade(before, seen.small, tiles, change))
        assert held is not None
        away, kept = tiles.moved(held)
        motion.append(so_far + away / max(seen.small.shape))
        if away >= _MOVED or kept < _MATCHED:
            held, so_far = tiles, motion[-1]
        sharpness.append(seen.sharpness)
        blank.append(float(seen.small.std()) < _TEXTURE)
        before.append((seen.small, tiles))
    return Track(np.array(motion), np.array(sharpness), np.array(blank, bool), _shots(np.array(change), np.array(found), fades))


def _is_fade(before: Sequence[tuple[np.ndarray, _Tiles]], small: np.ndarray, tiles: _Tiles, change: Sequence[float]) -> bool:
    """Whether the last frames lead from one scene to another little by little."""
    if len(before) < _FADE:
        return False
    whole_way = float(np.abs(small - before[0][0]).mean())
    if whole_way < _FADE_LEAST or whole_way < _FADE_SHARE * sum(change[-_FADE:]):
        return False
    return tiles.moved(before[0][1])[1] < _MATCHED


def _shots(change: np.ndarray, found: np.ndarray, fades: Sequence[bool]) -> np.ndarray:
    """The number of the shot of each frame, -1 within a fade."""
    count = len(change)
    total = np.concatenate([[0.0], np.cumsum(change)])
    shot = np.zeros(count, int)
    for at in range(1, count):
        low, high = max(1, at - _AROUND), min(count, at + _AROUND + 1)
        around = (total[high] - total[low] - change[at]) / max(high - low - 1, 1)
        cut = change[at] >= _CUT_LEAST and change[at] > _CUT * around and found[at] < _MATCHED
        shot[at] = shot[at - 1] + cut
    starts = [at for at in range(1, count) if fades[at] and not (at + 1 < count and fades[at + 1])]  # where a fade is over
    for at in starts:
        shot[at:] += 1
    for at in np.flatnonzero(fades).tolist():
        shot[max(0, at - _FADE + 1) : at + 1] = -1
    return shot


def chosen(track: Track, options: VideoOptions) -> np.ndarray:
    """The numbers of the frames that are taken."""
    usable = ~track.blank & (track.shot >= 0)
    if options.every:
        return np.flatnonzero(usable & (np.arange(len(usable)) % options.every == 0))
    best = np.array([track.sharpness[max(0, at - _NEAR) : at + _NEAR + 1].max() for at in range(len(usable))])
    usable &= track.sharpness >= options.sharpness * best
    picked: list[int] = []
    for number in np.unique(track.shot[usable]):
        frames = np.flatnonzero(usable & (track.shot == number))
        way = (track.motion[frames] - track.motion[frames[0]]) / options.motion
        steps = np.rint(way).astype(int)
        near = np.abs(way - steps) <= 0.25
        for step in np.unique(steps):
            here = frames[(steps == step) & near]
            if not len(here):  # it moved faster than a step a frame
                here = frames[steps == step][:1]
            picked.append(int(here[track.sharpness[here].argmax()]))
    return np.array(sorted(picked), int)
