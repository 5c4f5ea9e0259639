"""Splits that keep train and val apart: by scene, or by blocks of time with a gap that belongs to neither."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from sightline.methods.errors import CallError
from sightline.methods.random import keyed_rng

from .pairs import Pair

FRAMES_PER_ROUND = 100
MAX_ROUNDS = 4


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
    order = [sorted(scenes)[i] for i in keyed_rng("split", seed).permutation(len(scenes))]
    assigned: dict[str, str] = {}
    names = sorted(shares, key=lambda name: shares[name])  # the smallest first, so that rounding takes from the largest
    for place, name in enumerate(names):
        left = len(names) - place - 1
        count = len(order) - len(assigned) if not left else max(1, round(shares[name] * len(order)))
        count = min(count, len(order) - len(assigned) - left)
        assigned.update(dict.fromkeys(order[len(assigned) : len(assigned) + count], name))
    return assigned


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


def split_time(pairs: Sequence[Pair], shares: Mapping[str, float], gap: int) -> tuple[dict[str, list[Pair]], int, list[str]]:
    """(pairs of each split, pairs that belong to none, notes that say which frames are where).

    A pair belongs to a split when both of its frames do. Raises `CallError` where pairs have no place in time or a split stays empty.
    """
    if any(pair.frame1 < 0 for pair in pairs):
        raise CallError("these pairs have no place in time", "use --split-by scene")
    if gap < 1:
        raise CallError("--split-gap must be at least 1: frames next to each other show the same", "leave it at its default")
    counts: dict[str, int] = {}
    for pair in pairs:
        counts[pair.scene] = max(counts.get(pair.scene, 0), pair.frame1 + 1, pair.frame2 + 1)
    labels = {scene: time_blocks(count, shares, gap) for scene, count in counts.items()}
    split: dict[str, list[Pair]] = {name: [] for name in shares}
    dropped = 0
    for pair in pairs:
        one, two = labels[pair.scene][pair.frame1], labels[pair.scene][pair.frame2]
        if one is None or one != two:
            dropped += 1
        else:
            split[one].append(pair)
    empty = [name for name, kept in split.items() if not kept]
    if empty:
        raise CallError(
            f"split {empty[0]!r} has no pairs: its blocks of time are too short for pairs this far apart (gap of {gap} frames)",
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
