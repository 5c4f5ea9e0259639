"""Video files, decoded by PyAV (FFmpeg): frames with their own times, upright, with square pixels, as RGB of a usual screen."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from sightline.methods.errors import BrokenSampleError
from sightline.platform.data.geometry import upright
from sightline.platform.data.images import MAX_PIXELS

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".mts", ".m2ts", ".ts", ".3gp", ".wmv", ".flv", ".ogv")
INSTALL = "pip install 'sightline-pretext[video]'"
ANALYSED = 160
"""Pixels of the long side, at least, of the small grey frames."""
_PQ, _HLG = 16, 18
"""Transfer functions of HDR, as ITU-T H.273 numbers them."""
_WHITE = 203.0
"""Nits of white in HDR (ITU-R BT.2408)."""
_TO_709 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32)
"""From linear BT.2020 to BT.709."""
_BT2020 = 9
_TURNS = {
    (1, 0, 0, 1): 1,
    (-1, 0, 0, 1): 2,
    (-1, 0, 0, -1): 3,
    (1, 0, 0, -1): 4,
    (0, 1, 1, 0): 5,
    (0, 1, -1, 0): 6,
    (0, -1, -1, 0): 7,
    (0, -1, 1, 0): 8,
}
"""Signs of the display matrix -> EXIF's number for the same turn."""
_NO_BASE = frozenset(("dvh1", "dvhe", "dva1", "dvav", "dav1"))
"""Tags of Dolby Vision whose colours are in no usual space."""
_NO_INDEX = "it holds no index, as of a file that was cut short"


class Frame(NamedTuple):
    number: int
    """Counted from 0 over all frames that could be decoded."""
    time_s: float
    """From the first frame, as the file states it."""
    decoded: VideoFrame
    aspect: float = 1.0
    """Width of a pixel in heights."""


def has_reader() -> bool:
    return importlib.util.find_spec("av") is not None


def decoded(path: Path, told: Counter[str]) -> Iterator[Frame]:
    """The frames of the first video stream. What could not be decoded is counted in `told`.

    Raises `BrokenSampleError` for what is no video, has no video stream, or whose colours have no known meaning.
    """
    import av

    with _opened(path) as (container, stream):
        stream.thread_type = "AUTO"
        number, first, last = 0, None, 0.0
        for packet in _packets(container, stream, told):
            try:
                frames = packet.decode()
            except av.FFmpegError:
                told["damaged packet(s) without a frame"] += 1
                continue
            for frame in frames:
                if frame.is_corrupt:
                    told["damaged frame(s)"] += 1
                    continue
                stated = frame.time if frame.pts is not None else None
                if stated is None:
                    told["frame(s) without a time, taken at the mean rate"] += 1
                    stated = (first or 0.0) + number / float(stream.average_rate or 25)
                first = stated if first is None else first
                if number and stated - first <= last:
                    told["frame(s) with a time that is not after the one before"] += 1
                last = max(last, stated - first)
                yield Frame(number, stated - first, frame, float(stream.sample_aspect_ratio or 1))
                number += 1
        length = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else (container.duration or 0) / 1e6
        end = last + (first or 0.0) * ("matroska" in container.format.name)  # its length counts from 0, not from its first frame
        if number and end < 0.9 * length - 1:
            told[f"end(s) missing: frames end at {end:.1f} s of {length:.1f} s"] += 1


def frame_count(path: Path) -> int | None:
    """About how many frames there are, as the file says; None where it says nothing. Raises `BrokenSampleError` as `decoded` does."""
    with _opened(path) as (container, stream):
        if stream.frames:
            return int(stream.frames)
        seconds = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else (container.duration or 0) / 1e6
        return round(seconds * float(stream.average_rate)) or None if stream.average_rate else None


@contextmanager
def _opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    import av

    try:
        container = av.open(str(path), metadata_errors="replace")
    except (av.FFmpegError, OSError) as error:
        why = _NO_INDEX if "Invalid data" in str(error) else str(error.strerror or error)
        raise BrokenSampleError(f"no readable video ({why}): {path.name}") from None
    with container:
        if not container.streams:
            raise BrokenSampleError(f"no readable video ({_NO_INDEX}): {path.name}")
        streams = [one for one in container.streams.video if not one.disposition & av.stream.Disposition.attached_pic]
        if not streams:
            there = ", ".join(sorted({one.type for one in container.streams})) or "nothing"
            raise BrokenSampleError(f"no video in a file of {there}: {path.name}")
        stream = streams[0]
        if stream.codec_context is None:
            raise BrokenSampleError(f"a video codec that this FFmpeg cannot decode: {path.name}")
        if stream.width * stream.height > MAX_PIXELS:
            raise BrokenSampleError(f"more than {MAX_PIXELS:,} pixels a frame: {path.name}, {stream.width} x {stream.height}")
        if str(stream.codec_context.codec_tag).lower() in _NO_BASE:
            raise BrokenSampleError(f"Dolby Vision without a base layer (convert it: ffmpeg -vf libplacebo): {path.name}")
        yield container, stream


def _packets(container: InputContainer, stream: VideoStream, told: Counter[str]) -> Iterator[Any]:
    import av

    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except (av.FFmpegError, OSError):
            told["end(s) missing: the file is damaged there"] += 1
            return
        if packet is None:
            return
        yield packet


class Look(NamedTuple):
    """What is needed to choose frames."""

    small: np.ndarray
    """H x W float32: brightness as it is stored, not turned; the long side has `ANALYSED` to 2 `ANALYSED` pixels."""
    sharpness: float
    """Mean square of the differences of neighbouring pixels, as a share of the variance of brightness."""


def look(frame: VideoFrame) -> Look:
    grey = _luma(frame)
    by = max(1, max(grey.shape) // ANALYSED)
    small = np.asarray(Image.fromarray(grey).reduce(by)).astype(np.float32)
    across, down = (np.diff(part.astype(np.float32), axis=axis) for part, axis in ((grey[::4], 1), (grey[:, ::4], 0)))
    return Look(small, float((np.mean(across**2) + np.mean(down**2)) / max(float(small.var()), 1.0)))


def _luma(frame: VideoFrame) -> np.ndarray:
    """H x W uint8, the brightness that the file holds where it holds one."""
    parts = frame.format.components
    planar = frame.format.name.startswith(("yuv", "nv12", "gray")) and not frame.format.is_big_endian
    deep = planar and parts[0].bits > 8
    plane: Any = frame.planes[0] if planar else frame.reformat(format="gray").planes[0]
    rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width * (2 if deep else 1)]
    return np.ascontiguousarray((rows.view("<u2") >> (parts[0].bits - 8)).astype(np.uint8) if deep else rows)


def is_hdr(frame: VideoFrame) -> bool:
    return frame.color_trc in (_PQ, _HLG)


def rgb(one: Frame) -> np.ndarray:
    """H x W x 3 uint8, upright, with square pixels; HDR is brought to the range of a usual screen."""
    frame = one.decoded
    if is_hdr(frame):
        wide = frame.reformat(format="rgb48le", src_colorspace=frame.colorspace if frame.colorspace != 2 else _BT2020)
        pixels = _tone_mapped(wide.to_ndarray(), frame.color_trc)
    else:
        pixels = frame.to_ndarray(format="rgb24")
    if one.aspect != 1:
        width = max(1, round(pixels.shape[1] * one.aspect))
        pixels = np.asarray(Image.fromarray(pixels).resize((width, pixels.shape[0]), Image.Resampling.BICUBIC))
    return np.ascontiguousarray(upright(pixels, orientation(frame)))


def orientation(frame: VideoFrame) -> int:
    """How the frame is turned to be shown, as EXIF numbers it; 1 for angles that are no quarter turns."""
    sides: Any = frame.side_data  # a mapping whose keys are what others call values
    side = next((one for one in sides.keys() if one.type.name == "DISPLAYMATRIX"), None)  # noqa: SIM118
    if side is None:
        return 1
    a, b, _, c, d, *_ = (int(np.sign(value)) * (abs(value) > 2**15) for value in np.frombuffer(bytes(side), np.int32).tolist())
    return _TURNS.get((a, b, c, d), 1)


@cache
def _linear(transfer: int) -> np.ndarray:
    """Nits, in units of white, of each 16-bit value: ITU-R BT.2100."""
    x = np.linspace(0, 1, 65536)
    if transfer == _PQ:
        power = x ** (1 / 78.84375)
        nits = 10_000 * (np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)) ** (1 / 0.1593017578125)
    else:
        scene = np.where(x <= 0.5, x * x / 3, (np.exp((x - 0.55991073) / 0.17883277) + 0.28466892) / 12)
        nits = 1000 * scene**1.2
    return (nits / _WHITE).astype(np.float32)


def _tone_mapped(pixels: np.ndarray, transfer: int) -> np.ndarray:
    """Linear light in BT.709, the brightest rolled off from 0.6 of white on, then the screen's gamma of 2.2."""
    light = _linear(transfer)[pixels] @ _TO_709.T
    knee = np.float32(0.6)
    over = np.maximum(light - knee, 0)
    light = np.where(light > knee, knee + (1 - knee) * over / (over + 1 - knee), np.maximum(light, 0))
    return np.asarray((light ** (1 / 2.2) * 255).round().astype(np.uint8))
