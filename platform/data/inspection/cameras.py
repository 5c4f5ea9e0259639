"""A map of the cameras of a scene, as far as the poses of its pairs relate its frames.

A pair says how its two cameras lie to each other and nothing of the others. Frames are known by the bytes of their images, and the poses of
pairs that share a frame are chained, beginning at the frame that is in most pairs. How well other chains agree is told.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sightline.methods.errors import SightlineError

from .rows import Rows
from .scan import Scan

SCENES = 2
"""Scenes that are drawn, those of the most rows."""
ROWS = 4000
"""Of a scene at most so many pairs are chained."""


@dataclass(frozen=True)
class CameraMap:
    """Of one scene, seen from above. Up is the middle of the cameras' own up directions."""

    scene: str
    places: np.ndarray
    """n x 2, in the unit of the poses; x to the right, y forward, as the first camera looks."""
    directions: np.ndarray
    """n x 2: where each camera looks; shorter than 1 for one that looks up or down."""
    links: np.ndarray
    """m x 2: the cameras of each pair."""
    frames: int
    """Different images of the scene's pairs with poses; those that are not on the map are in no chain to the first."""
    rows: int
    """Pairs of the scene that were read."""
    off: tuple[float, float] | None
    """Where a pair closes a chain: by how many degrees, and by which share of the map's size, it differs from it (median)."""


def camera_maps(rows: Rows, scan: Scan) -> list[CameraMap]:
    """Of the largest scenes of the pairs that were looked at; none where no two pairs of a scene share a frame."""
    manifest = rows.dataset.manifest
    if "T_2from1" not in manifest.columns or not len(scan.images):
        return []
    scenes = [name for name, _ in Counter(manifest.scenes).most_common(SCENES)] or [""]
    known, digests = _frames(scan)
    held: dict[str, list[tuple[int, int, np.ndarray]]] = defaultdict(list)
    for group in np.unique(np.searchsorted(rows.starts, known, side="right") - 1).tolist():
        shard, inside, _ = rows.dataset.row_groups[group]
        try:
            table = rows.dataset.read(shard, inside, columns=[name for name in ("scene", "T_2from1") if name in manifest.columns])
        except SightlineError:
            continue
        for number, row in enumerate(table.to_pylist(), int(rows.starts[group])):
            scene = row.get("scene") or ""
            at = int(np.searchsorted(known, number))
            usable = at < len(known) and known[at] == number and row["T_2from1"] is not None
            if usable and scene in scenes and len(held[scene]) < ROWS:
                first, second = digests[at].tolist()
                held[scene].append((first, second, np.asarray(row["T_2from1"], np.float64).reshape(4, 4)))
        if all(len(held[scene]) >= ROWS for scene in scenes):
            break
    maps = [_map_of(scene, held[scene]) for scene in scenes if held[scene]]
    return [one for one in maps if one is not None]


def _frames(scan: Scan) -> tuple[np.ndarray, np.ndarray]:
    """The rows of two images, in order, and n x 2 digests of these."""
    view, digest = scan.images["view"], scan.images["digest"]
    first = np.flatnonzero((view[:-1] == 0) & (view[1:] == 1))
    return scan.images["row"][first], np.stack([digest[first], digest[first + 1]], axis=1)


def _map_of(scene: str, pairs: Sequence[tuple[int, int, np.ndarray]]) -> CameraMap | None:
    poses = chained(pairs)
    frames = {frame for first, second, _ in pairs for frame in (first, second)}
    if len(poses) < 3:
        return None
    order = {frame: number for number, frame in enumerate(poses)}
    stack = np.stack(list(poses.values()))
    across, forward = _ground(stack)
    places, looks = ((values @ np.stack([across, forward], axis=1)) for values in (stack[:, :3, 3], stack[:, :3, 2]))
    links = np.array([(order[first], order[second]) for first, second, _ in pairs if first in order and second in order])
    return CameraMap(scene, places, looks, links, len(frames), len(pairs), _off(pairs, poses, places))


def chained(pairs: Sequence[tuple[int, int, np.ndarray]]) -> dict[int, np.ndarray]:
    """Frame -> 4 x 4 camera to world, where the world is the camera of the frame in most pairs, as far as chains of pairs reach.

    `pairs`: two frames and `T_2from1`. The nearest chain counts, so that errors add up least.
    """
    after: Mapping[int, list[tuple[int, np.ndarray]]] = defaultdict(list)
    for first, second, transform in pairs:
        after[first].append((second, np.linalg.inv(transform)))  # camera 2 to camera 1
        after[second].append((first, transform))
    largest: dict[int, np.ndarray] = {}
    left = set(after)
    for start in sorted(after, key=lambda frame: (-len(after[frame]), frame)):
        if start not in left or len(left) <= len(largest):
            continue
        poses = {start: np.eye(4)}
        waiting = deque([start])
        while waiting:
            frame = waiting.popleft()
            for other, to_frame in after[frame]:
                if other not in poses:
                    poses[other] = poses[frame] @ to_frame
                    waiting.append(other)
        left -= set(poses)
        largest = max(largest, poses, key=len)
    return largest


def _ground(poses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two directions in the plane that is seen from above: to the right of the first camera, and forward."""
    up = -poses[:, :3, 1].mean(axis=0)
    if np.linalg.norm(up) < 0.2:  # cameras that are turned every way have no up in common
        up = -poses[0, :3, 1]
    up = up / np.linalg.norm(up)
    forward = poses[0, :3, 2] - up * (poses[0, :3, 2] @ up)
    if np.linalg.norm(forward) < 0.1:  # the first looks straight up or down
        forward = -poses[0, :3, 1] - up * (-poses[0, :3, 1] @ up)
    forward = forward / np.linalg.norm(forward)
    return np.cross(forward, up), forward


def _off(pairs: Sequence[tuple[int, int, np.ndarray]], poses: Mapping[int, np.ndarray], places: np.ndarray) -> tuple[float, float] | None:
    """How far pairs are from what chains of other pairs say: degrees, and a share of the map's size."""
    size = float(np.ptp(places, axis=0).max()) or 1.0
    turns, shifts = [], []
    for first, second, transform in pairs:
        if first in poses and second in poses:
            rest = np.linalg.inv(poses[first]) @ poses[second] @ transform  # nothing, where the chain agrees
            turn = float(np.degrees(np.arccos(np.clip((np.trace(rest[:3, :3]) - 1) / 2, -1, 1))))
            shift = float(np.linalg.norm(rest[:3, 3]) / size)
            turns.append(turn)
            shifts.append(shift)
    closing = len(turns) - (len(poses) - 1)
    if closing < 1:
        return None
    # pairs that are in the chains agree by themselves: leave out as many of the best
    worst = sorted(range(len(turns)), key=lambda index: turns[index] + 100 * shifts[index])[-closing:]
    return float(np.median([turns[index] for index in worst])), float(np.median([shifts[index] for index in worst]))
