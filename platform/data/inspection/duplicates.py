"""The same image or cloud twice: byte for byte, or alike, within a set and in two sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from .alike import alike, groups
from .looks import PLAIN
from .scan import NO_LABEL, Scan

Place = tuple[int, int, int]
"""(set, row, view): one image of one row of one of the sets that are looked at. Of a cloud the view is 0."""
EXAMPLES = 12


@dataclass(frozen=True)
class Within:
    """Of one set."""

    same_rows: int = 0
    """Rows that repeat another one byte for byte; of pairs both images."""
    same: Sequence[tuple[Place, Place]] = ()
    alike_images: int = 0
    """Different images that look like another one of the set."""
    alike: Sequence[Sequence[Place]] = ()
    """The largest groups."""
    alike_groups: int = 0
    plain: int = 0
    """Images of one colour, which are not compared."""
    twins: Sequence[Place] = ()
    """Pairs whose two images are the same."""
    twin_rows: int = 0


@dataclass(frozen=True)
class Across:
    """Of two sets: what both hold. Counts are images of the second."""

    one: int
    two: int
    same: int
    alike: int
    rows: int
    """Rows of the second set that hold one."""
    examples: Sequence[tuple[Place, Place]] = ()
    """Of the first set and of the second; what is only alike comes after what is the same."""

    @property
    def any(self) -> bool:
        return self.same + self.alike > 0


@dataclass(frozen=True)
class Duplicates:
    within: Sequence[Within]
    across: Sequence[Across] = ()
    conflicts: int = 0
    """Images or clouds that occur with two labels."""
    conflicting: Sequence[tuple[Place, Place]] = ()


@dataclass(frozen=True)
class _Items:
    """The images or clouds of all sets, one after another."""

    owner: np.ndarray
    row: np.ndarray
    view: np.ndarray
    label: np.ndarray
    digest: np.ndarray
    comparable: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    phash: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))
    dhash: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))

    def place(self, index: int) -> Place:
        return int(self.owner[index]), int(self.row[index]), int(self.view[index])


def find_duplicates(scans: Sequence[Scan], same_classes: bool = True) -> Duplicates:
    """Of sets in the order of `scans`. Labels are compared where all have the `same_classes`."""
    images, clouds = _images(scans), _clouds(scans)
    pairs = _alike(images)
    within = [_within(images, clouds, pairs, number) for number in range(len(scans))]
    across = [_across(images, clouds, pairs, one, two) for one, two in combinations(range(len(scans)), 2)]
    conflicts = [*_conflicts(images), *_conflicts(clouds)] if same_classes else []
    return Duplicates(within, across, len(conflicts), conflicts[:EXAMPLES])


def _images(scans: Sequence[Scan]) -> _Items:
    owner = np.repeat(np.arange(len(scans)), [len(one.images) for one in scans])
    rows = np.concatenate([one.images for one in scans])
    comparable = rows["contrast"] >= PLAIN
    return _Items(owner, rows["row"], rows["view"], rows["label"], rows["digest"], comparable, rows["phash"], rows["dhash"])


def _clouds(scans: Sequence[Scan]) -> _Items:
    """By their points in any order."""
    owner = np.repeat(np.arange(len(scans)), [len(one.clouds) for one in scans])
    rows = np.concatenate([one.clouds for one in scans])
    return _Items(owner, rows["row"], np.zeros(len(rows), np.uint8), rows["label"], rows["places"])


def _alike(images: _Items) -> np.ndarray:
    """Pairs of numbers of different images that look alike. Of an image that is in a set more often, the first stands for all."""
    keys = np.stack([images.owner.astype(np.uint64), images.digest], axis=1)
    first = np.sort(np.unique(keys, axis=0, return_index=True)[1]) if len(keys) else np.zeros(0, np.int64)
    first = first[images.comparable[first]]
    pairs: np.ndarray = first[alike(images.phash[first], images.dhash[first])].reshape(-1, 2)
    different: np.ndarray = pairs[images.digest[pairs[:, 0]] != images.digest[pairs[:, 1]]]
    return different


def _within(images: _Items, clouds: _Items, pairs: np.ndarray, number: int) -> Within:
    own = np.flatnonzero(images.owner == number)
    both = pairs[(images.owner[pairs] == number).all(axis=1)]
    both = both[images.row[both[:, 0]] != images.row[both[:, 1]]]  # the two images of a pair may look alike
    found = groups(len(images.owner), both)
    repeated = [*_repeated_rows(images, own), *_repeated_rows(clouds, np.flatnonzero(clouds.owner == number))]
    twins = _twins(images, own)
    return Within(
        same_rows=len(repeated),
        same=repeated[:EXAMPLES],
        alike_images=sum(len(group) for group in found),
        alike=[[images.place(index) for index in group[:8]] for group in found[:EXAMPLES]],
        alike_groups=len(found),
        plain=int((~images.comparable[own]).sum()) if len(own) else 0,
        twins=[images.place(index) for index in twins[:EXAMPLES]],
        twin_rows=len(twins),
    )


def _by_row(items: _Items, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(number of the first item of each row, smaller and larger digest of the row's items)."""
    starts = np.flatnonzero(np.diff(items.row[own], prepend=-1))
    digests = items.digest[own]
    return own[starts], np.stack([np.minimum.reduceat(digests, starts), np.maximum.reduceat(digests, starts)], axis=1)


def _repeated_rows(items: _Items, own: np.ndarray) -> list[tuple[Place, Place]]:
    """(the first row with this content, the one that repeats it), whichever image of a pair comes first."""
    if not len(own):
        return []
    firsts, contents = _by_row(items, own)
    _, original, inverse = np.unique(contents, axis=0, return_index=True, return_inverse=True)
    again = np.flatnonzero(original[inverse.ravel()] != np.arange(len(firsts)))
    return [(items.place(firsts[original[inverse.ravel()[index]]]), items.place(firsts[index])) for index in again]


def _twins(images: _Items, own: np.ndarray) -> np.ndarray:
    """Rows of two images that are one and the same."""
    if not len(own) or not images.view[own].any():
        return np.zeros(0, np.int64)
    firsts, contents = _by_row(images, own)
    twins: np.ndarray = firsts[contents[:, 0] == contents[:, 1]]
    return twins


def _across(images: _Items, clouds: _Items, pairs: np.ndarray, one: int, two: int) -> Across:
    same, of_clouds = _shared(images, one, two), _shared(clouds, one, two)
    owners = images.owner[pairs]
    like = np.concatenate([pairs[(owners == (one, two)).all(axis=1)], pairs[(owners == (two, one)).all(axis=1)][:, ::-1]])
    in_both = images.digest[[index for _, index in same]]
    like = like[~np.isin(images.digest[like[:, 1]], in_both)]
    like = like[np.unique(images.digest[like[:, 1]], return_index=True)[1]]
    shown = np.isin(images.digest, np.concatenate([in_both, images.digest[like[:, 1]]]))
    rows = np.unique(images.row[(images.owner == two) & shown])
    examples = [(items.place(a), items.place(b)) for items, found in ((images, same), (clouds, of_clouds)) for a, b in found[:EXAMPLES]]
    examples += [(images.place(a), images.place(b)) for a, b in like[:EXAMPLES]]
    return Across(one, two, len(same) + len(of_clouds), len(like), len(rows) + len(of_clouds), examples)


def _shared(items: _Items, one: int, two: int) -> list[tuple[int, int]]:
    """Numbers of items whose content is in both sets."""
    first, second = np.flatnonzero(items.owner == one), np.flatnonzero(items.owner == two)
    _, a, b = np.intersect1d(items.digest[first], items.digest[second], return_indices=True)
    return list(zip(first[a].tolist(), second[b].tolist(), strict=True))


def _conflicts(items: _Items) -> list[tuple[Place, Place]]:
    """Two of the same content with different labels."""
    labelled = np.flatnonzero(items.label != NO_LABEL)
    order = labelled[np.lexsort((items.label[labelled], items.digest[labelled]))]
    a, b = order[:-1], order[1:]
    differ = (items.digest[a] == items.digest[b]) & (items.label[a] != items.label[b])
    return [(items.place(one), items.place(two)) for one, two in zip(a[differ], b[differ], strict=True)]
