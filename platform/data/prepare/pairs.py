"""What every source of pairs finds: a list of pairs by file, and how one of them becomes a row."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sightline.methods.errors import BrokenSampleError, CallError

from ..geometry import resize_nearest, scale_intrinsics, shift_intrinsics
from ..images import MAX_BYTES, Fit, decode_depth, encode_depth, fit_image
from ..manifest import Source

Skip = Callable[[str, str], None]
"""(what, why)"""
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True, slots=True)
class Pair:
    """Two images by file, and what is known of them. Matrices are flat, row-major, for the images as they lie on disk."""

    id: str
    scene: str
    image1: str
    image2: str
    frame1: int = -1
    """Place in the sequence of its scene; -1 where there is none."""
    frame2: int = -1
    time: float | None = None
    K1: tuple[float, ...] | None = None
    K2: tuple[float, ...] | None = None
    T_2from1: tuple[float, ...] | None = None
    depth1: str | None = None
    depth2: str | None = None
    overlap: float | None = None


@dataclass
class Found:
    """What a source holds."""

    source: Source
    pairs: list[Pair] = field(default_factory=list)
    skips: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class PairRows:
    """The rows of one shard: these pairs, read, cut, resized and encoded."""

    pairs: tuple[Pair, ...]
    fit: Fit

    @property
    def count(self) -> int:
        return len(self.pairs)

    def rows(self, skip: Skip) -> Iterator[dict[str, Any]]:
        for pair in self.pairs:
            try:
                yield make_row(pair, self.fit)
            except BrokenSampleError as error:
                reason, _, detail = str(error).partition(": ")
                skip(f"{pair.id} ({detail})" if detail else pair.id, reason)


def make_row(pair: Pair, fit: Fit) -> dict[str, Any]:
    """One row of kind `pairs`; intrinsics and depth follow the image. Raises `BrokenSampleError` with `reason: detail`."""
    row: dict[str, Any] = {"id": pair.id, "scene": pair.scene, "overlap": pair.overlap, "time": pair.time, "T_2from1": pair.T_2from1}
    for view, image, K, depth in (("1", pair.image1, pair.K1, pair.depth1), ("2", pair.image2, pair.K2, pair.depth2)):
        row[f"image{view}"], at = fit_image(read_file(image), fit)
        if K is not None:
            moved = shift_intrinsics(np.reshape(K, (3, 3)), at.left, at.top)
            row[f"K{view}"] = scale_intrinsics(moved, at.stored[1] / at.cut[1], at.stored[0] / at.cut[0]).ravel()
        if depth is not None:
            data = read_file(depth)
            metres = decode_depth(data)
            whole = at.cut == at.original
            if metres.shape != at.original and not whole:
                metres = resize_nearest(metres, *at.original)
            metres = metres[at.top : at.top + at.cut[0], at.left : at.left + at.cut[1]] if not whole else metres
            row[f"depth{view}"] = data if whole and metres.shape == at.stored else encode_depth(resize_nearest(metres, *at.stored))
    return row


def read_file(path: str) -> bytes:
    try:
        if Path(path).stat().st_size > MAX_BYTES:
            raise BrokenSampleError(f"file larger than {MAX_BYTES:,} bytes: {Path(path).name}")
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise BrokenSampleError(f"file is missing: {Path(path).name}") from None
    except OSError as error:
        raise BrokenSampleError(f"file cannot be read: {Path(path).name}, {error.strerror}") from None


def natural(path: Path) -> tuple[object, ...]:
    """A sort key that puts `frame2` before `frame10`."""
    return tuple((1, int(part), "") if part.isdigit() else (0, 0, part) for part in re.split(r"(\d+)", path.name))


def images_in(folder: Path) -> list[Path]:
    return sorted((p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()), key=natural)


def existing_folder(place: str | Path) -> Path:
    """Raises `CallError` where there is no such folder."""
    folder = Path(place).expanduser().resolve()
    if not folder.is_dir():
        raise CallError(f"there is no folder {place}", "name the folder that holds the images")
    return folder


def is_inside(name: str) -> bool:
    """A relative path that stays in its folder; lists of files come from strangers."""
    return not Path(name).is_absolute() and ".." not in Path(name).parts


def require_pairs(found: Sequence[Found]) -> None:
    """Raises `CallError` naming a source in which no pair was found."""
    for one in found:
        if not one.pairs:
            reasons = f"; {len(one.skips)} skipped, the first: {': '.join(one.skips[0][::-1])}" if one.skips else ""
            raise CallError(f"no pairs were found in {one.source.where}{reasons}", "see `sightline prepare pairs --help` for the layouts")
