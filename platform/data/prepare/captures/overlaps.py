"""What photos without cameras have in common: which ones are compared, and the geometry of each two, kept in a folder as they are found."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sightline.methods.errors import BrokenSampleError
from sightline.methods.random import keyed_rng
from sightline.platform.core.files import make_folder, replacing
from sightline.platform.data.images import decode_image
from sightline.platform.data.matching import Features, Geometry, features_of, geometry_of

from ..files import read_file
from ..progress import follow
from ..workers import Where, run_each

EXHAUSTIVE = 60
"""Up to so many photos every two are compared."""
NEXT = 10
"""Frames of a sequence are compared with so many that follow, and with those 16, 32, 64 ... further on."""
ALIKE = 20
"""Of more photos, each is compared with so many that hold the same visual words."""
_WORDS = 2048
Two = tuple[int, int]
"""Numbers of two photos, the smaller first."""


@dataclass(frozen=True)
class Compared:
    xy: Sequence[np.ndarray]
    """Of the features of each photo, n x 2; empty where it cannot be read."""
    geometries: Mapping[Two, Geometry]
    tried: int
    how: str
    broken: Sequence[tuple[str, str]]
    """(photo, why it cannot be read)"""


class _Find(NamedTuple):
    photo: str
    to: Path


class _Match(NamedTuple):
    folder: Path
    one: int
    others: tuple[int, ...]


def compare(photos: Sequence[Path], folder: Path, ordered: bool, where: Where) -> Compared:
    """Compares photos. `folder` keeps what is found, so that a stopped command goes on. `ordered`: they are frames of one sequence."""
    for part in ("features", "matches"):
        make_folder(folder / part)
    where.tell(f"finding features in {len(photos):,} photos")
    finding = [_Find(str(photo), _features_at(folder, number)) for number, photo in enumerate(photos)]
    reasons = dict(
        zip((task.photo for task in finding), follow(run_each(_find, finding, where), "finding features", len(finding)), strict=True)
    )
    twos, how = _candidates(len(photos), folder, ordered)
    of_one: dict[int, list[int]] = {}
    for one, two in twos:
        of_one.setdefault(one, []).append(two)
    where.tell(f"comparing {len(twos):,} pairs of photos")
    tasks = [_Match(folder, one, tuple(others)) for one, others in of_one.items()]
    geometries: dict[Two, Geometry] = {}
    for task, found in zip(tasks, follow(run_each(_match, tasks, where), "comparing photos", len(tasks)), strict=True):
        geometries.update({(task.one, other): geometry for other, geometry in found})
    xy = [_load(folder, number).xy for number in range(len(photos))]
    return Compared(xy, geometries, len(twos), how, [(Path(photo).name, why) for photo, why in reasons.items() if why])


def _features_at(folder: Path, number: int) -> Path:
    return folder / "features" / f"{number:06d}.npz"


def _load(folder: Path, number: int) -> Features:
    with np.load(_features_at(folder, number)) as kept:
        return Features(kept["xy"], kept["descriptors"], tuple(kept["size"].tolist()))


def _find(task: _Find) -> str:
    """Why a photo cannot be read; empty where it can."""
    why = ""
    if task.to.is_file():
        with np.load(task.to) as kept:
            return str(kept["why"])
    try:
        found = features_of(decode_image(read_file(task.photo)))
    except BrokenSampleError as error:
        why, found = str(error), Features(np.zeros((0, 2), np.float32), np.zeros((0, 128), np.uint8), (1, 1))
    with replacing(task.to) as part:
        part.write_bytes(_packed(xy=found.xy, descriptors=found.descriptors, size=found.size, why=why))
    return why


def _match(task: _Match) -> list[tuple[int, Geometry]]:
    path = task.folder / "matches" / f"{task.one:06d}.npz"
    if path.is_file():
        with np.load(path) as kept:
            if kept["tried"].tolist() == list(task.others):
                matches = np.split(kept["matches"], kept["ends"][:-1]) if len(kept["ends"]) else []
                rows = zip(kept["others"].tolist(), matches, kept["config"].tolist(), kept["overlap"].tolist(), strict=True)
                return [(other, Geometry(found, config, overlap)) for other, found, config, overlap in rows]
    one = _load(task.folder, task.one)
    geometries = [(other, found) for other in task.others if (found := geometry_of(one, _load(task.folder, other)))]
    packed = _packed(
        tried=np.array(task.others, int),
        others=np.array([other for other, _ in geometries], int),
        matches=np.concatenate([found.matches for _, found in geometries]) if geometries else np.zeros((0, 2), int),
        ends=np.cumsum([len(found.matches) for _, found in geometries]).astype(int),
        config=np.array([found.config for _, found in geometries], "U32"),
        overlap=np.array([found.overlap for _, found in geometries], float),
    )
    with replacing(path) as part:
        part.write_bytes(packed)
    return geometries


def _packed(**arrays: Any) -> bytes:
    """As `np.load` reads it."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _candidates(count: int, folder: Path, ordered: bool) -> tuple[list[Two], str]:
    """(which two photos are compared, in words)"""
    if count <= EXHAUSTIVE:
        return list(combinations(range(count), 2)), "every two"
    twos = {
        (min(one, two), max(one, two))
        for one, others in enumerate(_alike(count, folder, ALIKE // 2 if ordered else ALIKE))
        for two in others
    }
    how = "those with the same visual words"
    if ordered:
        far = [16 * 2**power for power in range(int(np.log2(count)))]
        twos |= {(one, one + gap) for one in range(count) for gap in (*range(1, NEXT + 1), *far) if one + gap < count}
        how = f"neighbours up to {NEXT} apart, some farther on, and {how}"
    return sorted(twos), how


def _alike(count: int, folder: Path, most: int) -> list[list[int]]:
    """The photos that share the most visual words with each one. Words are features drawn from the photos themselves."""
    from scipy.sparse import csr_matrix

    rng = keyed_rng("visual-words", 0)
    drawn = [_load(folder, int(number)).descriptors for number in rng.permutation(count)[:_WORDS]]
    each = -(-_WORDS // max(len(drawn), 1))
    words = np.concatenate([part[rng.permutation(len(part))[:each]] for part in drawn]).astype(np.float32)
    if not len(words):
        return [[] for _ in range(count)]
    rows, columns = [], []
    for number in follow(range(count), "looking for visual words", count):
        held = _load(folder, number).descriptors.astype(np.float32)
        columns.append((held @ words.T).argmax(axis=1))  # all are of one length
        rows.append(np.full(len(held), number))
    counts = csr_matrix((np.ones(sum(map(len, rows))), (np.concatenate(rows), np.concatenate(columns))), (count, len(words)))
    rare = np.log((1 + count) / (1 + np.bincount(counts.indices, minlength=len(words))))
    weighted = counts.multiply(rare[None]).tocsr()
    length = np.sqrt(np.asarray(weighted.multiply(weighted).sum(axis=1))).ravel()
    weighted = weighted.multiply(1 / np.maximum(length, 1e-9)[:, None]).tocsr()
    found = []
    for start in range(0, count, 256):
        likeness = (weighted[start : start + 256] @ weighted.T).toarray()
        likeness[np.arange(len(likeness)), np.arange(start, start + len(likeness))] = -1
        found += np.argsort(-likeness, axis=1, kind="stable")[:, :most].tolist()
    return found
