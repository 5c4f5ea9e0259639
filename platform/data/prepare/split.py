"""Splits items by scene, by blocks of time with a gap between them, or at random."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

import numpy as np

from sightline.methods.errors import CallError
from sightline.methods.random import keyed_rng

from .packed import Packed

FRAMES_PER_ROUND = 100
MAX_ROUNDS = 4


class Timed(Protocol):
    """What a split by time needs: the place of each image in the sequence of its scene, -1 where there is none."""

    @property
    def scene(self) -> str | None: ...

    @property
    def frames(self) -> tuple[int, ...]: ...


T = TypeVar("T", bound=Timed)


def parse_split(text: str) -> dict[str, float]:
    """`train=0.85,val=0.15` as shares that add up to 1. Raises `CallError`."""
    try:
        shares = {name.strip(): float(share) for name, share in (part.split("=") for part in text.split(","))}
    except ValueError:
        raise CallError(f"--split {text!r} is not understood", "write for example --split train=0.85,val=0.15") from None
    sound = all(name.isidentifier() and 0 < share < 1 for name, share in shares.items()) and abs(sum(shares.values()) - 1) < 1e-6
    if len(shares) < 2 or not sound:
        raise CallError(f"--split {text!r}: give two names or more with shares that add up to 1", "for example train=0.85,val=0.15")
    return shares


def split_scenes(scenes: Sequence[str], shares: Mapping[str, float], seed: int) -> dict[str, str]:
    """Scene -> split; every split gets at least one scene. Raises `CallError` for fewer scenes than splits."""
    if len(scenes) < len(shares):
        raise CallError(
            f"{len(scenes)} scene(s) cannot be split {len(shares)} ways by scene",
            "add --split-by time-blocks (for sequences), or more scenes",
        )
    names = sorted(scenes)
    return dict(zip(names, _deal(np.arange(len(names)), shares, keyed_rng("split", seed)), strict=True))


def split_images(ids: Sequence[str], classes: Sequence[str | None], shares: Mapping[str, float], seed: int) -> list[str]:
    """The split of each, drawn image by image, of each class by itself (images without a class are one more).

    Raises `CallError` for a class with fewer images than splits.
    """
    members: dict[str | None, array[int]] = {}
    for place, its_class in enumerate(classes):
        members.setdefault(its_class, array("q")).append(place)
    assigned = [""] * len(ids)
    for its_class, places in members.items():
        if len(places) < len(shares):
            which = "" if its_class is None else f" of class {its_class!r}"
            raise CallError(f"{len(places)} sample(s){which} cannot be split {len(shares)} ways", "add samples, or leave --split out")
        order = sorted(places, key=ids.__getitem__)
        again = [one == two for one, two in zip((ids[place] for place in order), (ids[place] for place in order[1:]), strict=False)]
        rank = np.cumsum([0, *(not same for same in again)])
        dealt = _deal(rank, shares, keyed_rng("split", seed, str(its_class)))
        for place, which_one in zip(order, rank.tolist(), strict=True):
            assigned[place] = dealt[which_one]
    return assigned


def _deal(ranks: np.ndarray, shares: Mapping[str, float], rng: np.random.Generator) -> list[str]:
    """The split of each rank. `ranks` are those of sorted names, 0, 1, 2 and so on; a name that is there twice has the same one twice."""
    order = ranks[rng.permutation(len(ranks))]
    split = np.full(int(ranks[-1]) + 1, -1)
    names = sorted(shares, key=lambda name: shares[name])  # the smallest first, so that rounding takes from the largest
    done = 0
    for place, name in enumerate(names):
        left = len(names) - place - 1
        count = len(order) - done if not left else max(1, round(shares[name] * len(order)))
        split[order[done : done + min(count, len(order) - done - left)]] = place
        done = int((split >= 0).sum())
    return [names[place] for place in split.tolist()]


def time_blocks(frames: int, shares: Mapping[str, float], gap: int) -> list[str | None]:
    """The split of each of `frames` frames of a sequence, None for a frame in a gap.

    The sequence is cut in 1 to 4 rounds (one a hundred frames), each with one contiguous block a split; of the larger split
    `gap` frames next to each boundary are dropped.
    """
    rounds = int(np.clip(frames // FRAMES_PER_ROUND, 1, MAX_ROUNDS))
    edges = np.cumsum([0, *([share / rounds for share in shares.values()] * rounds)]) * frames
    bounds = np.round(edges).astype(int)
    labels: list[str | None] = []
    for place, name in enumerate(list(shares) * rounds):
        labels += [name] * (bounds[place + 1] - bounds[place])
    kept = list(labels)
    for i in range(1, frames):
        before, after = labels[i - 1], labels[i]
        if before is None or after is None or before == after:
            continue
        dropped = range(max(0, i - gap), i) if shares[before] >= shares[after] else range(i, min(frames, i + gap))
        for frame in dropped:
            kept[frame] = None
    return kept


def split_time(items: Sequence[T], shares: Mapping[str, float], gap: int) -> tuple[dict[str, Packed[T]], int, list[str]]:
    """(items of each split, items that belong to none, notes that say which frames are where).

    An item belongs to a split when all of its frames do. Raises `CallError` where items have no place in time or a split stays empty.
    """
    if any(frame < 0 for item in items for frame in item.frames):
        raise CallError("these images have no place in time", "use another --split-by")
    if gap < 1:
        raise CallError("--split-gap must be at least 1: frames next to each other show the same", "leave it at its default")
    counts: dict[str | None, int] = {}
    for item in items:
        counts[item.scene] = max(counts.get(item.scene, 0), *(frame + 1 for frame in item.frames))
    labels = {scene: time_blocks(count, shares, gap) for scene, count in counts.items()}
    split: dict[str, Packed[T]] = {name: Packed() for name in shares}
    dropped = 0
    for item in items:
        places = {labels[item.scene][frame] for frame in item.frames}
        name = places.pop()
        if name is None or places:
            dropped += 1
        else:
            split[name].append(item)
    empty = [name for name, kept in split.items() if not kept]
    if empty:
        raise CallError(
            f"split {empty[0]!r} has no rows: its blocks of time are too short for a gap of {gap} frames (or for pairs that far apart)",
            "use more frames, a larger share, a smaller --split-gap or smaller gaps between the images of a pair",
        )
    notes = [f"{scene}: split by time blocks, {gap} frames between: {_runs(label)}" for scene, label in labels.items()]
    return split, dropped, notes


def _runs(labels: Sequence[str | None]) -> str:
    runs: list[tuple[str | None, int, int]] = []
    for i, label in enumerate(labels):
        if runs and runs[-1][0] == label:
            runs[-1] = (label, runs[-1][1], i)
        else:
            runs.append((label, i, i))
    return ", ".join(f"{name} {first}-{last}" for name, first, last in runs if name is not None)
