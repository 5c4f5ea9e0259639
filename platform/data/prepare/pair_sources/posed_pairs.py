"""Pairs with poses from files: some are drawn, matched and held against their poses before anything is stored."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sightline.methods.errors import BrokenSampleError, CallError
from sightline.methods.random import keyed_rng
from sightline.platform.data.epipolar import Matches, Verdict
from sightline.platform.data.images import Resize, decode_image

from ..captures.features import features_of, geometry_of, has_sift, matched, patches_of
from ..found import Found
from ..options import option
from ..pairs import Pair
from ..source import PairSource

CHECKED, TRIED, DRAWN = 8, 20, 200
"""Pairs that are judged, pairs that are matched for it at most, and pairs of which these are the ones that match most easily."""
CHECK_SIZE = 384
"""Short side of the photos that are matched."""
LEAST_TURN = 3.0
"""Degrees."""
LEAST_SIDE = 128
LEAST_MATCHES = 20


@dataclass(frozen=True)
class PosedPairs(PairSource):
    """What sources of pairs with poses share."""

    accept_misfit: bool = option(False, "store poses that the photos do not fit: wrong axes or direction, as epipolar distances show them")

    def checked(self, found: Found[Pair], seed: int) -> None:
        if not found.poses:
            return
        verdict = Verdict(list(_matches(found, seed)))
        if verdict.fault and not self.accept_misfit:
            raise CallError(
                f"the poses of {found.source.where} {verdict.fault}: {verdict.told}",
                "correct the files (docs/captures.md says what is expected), or store them as they are with --accept-misfit",
            )
        found.notes.append(f"{found.source.where}: {verdict.told}{f'; the poses {verdict.fault}' if verdict.fault else ''}")


def _matches(found: Found[Pair], seed: int) -> Iterator[Matches]:
    """Of drawn pairs, those first that match most easily."""
    posed = array("q", (place for place, item in enumerate(found.every()) if item.T_2from1 and item.K1 and item.K2))
    drawn = [found.nth(posed[number]) for number in keyed_rng("epipolar", seed).permutation(len(posed))[:DRAWN]]
    drawn.sort(key=_ease)
    photos = {photo for item in drawn for photo in (item.image1, item.image2)}
    poses = {photo: pose for photo, pose in found.poses if photo in photos}
    judged, used = 0, set[str]()
    for item in [one for one in drawn if not (one.image1 in used or used.add(one.image1))][:TRIED]:  # type: ignore[func-returns-value]
        if judged == CHECKED:
            return
        try:
            row = item.row(Resize(CHECK_SIZE))
            two = [decode_image(row[name]) for name in ("image1", "image2")]
        except BrokenSampleError:  # the job counts and names it
            continue
        if min(min(photo.shape[:2]) for photo in two) < LEAST_SIDE:
            return
        xy = _matched(*two)
        if len(xy[0]) >= LEAST_MATCHES:
            K1, K2 = (np.reshape(row[name], (3, 3)).astype(np.float64) for name in ("K1", "K2"))
            yield Matches(*xy, K1, K2, poses[item.image1], poses[item.image2], float(np.hypot(*two[0].shape[:2])))
            judged += 1


def _ease(item: Pair) -> tuple[bool, float]:
    """Sorts by how easily a pair matches; what hardly turns comes last, because any convention fits it."""
    cosine = (np.trace(np.reshape(item.T_2from1, (4, 4))[:3, :3]) - 1) / 2  # type: ignore[arg-type]
    angle = float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
    return angle < LEAST_TURN, angle


def _matched(one: np.ndarray, two: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points that show the same, n x 2 in each photo."""
    if has_sift():
        features = features_of(one), features_of(two)
        geometry = geometry_of(*features)
        pairs = geometry.matches if geometry else np.zeros((0, 2), int)
    else:
        features = patches_of(one), patches_of(two)
        pairs = matched(*features)
    first, second = (found.xy[pairs[:, side]].astype(np.float64) for side, found in enumerate(features))
    return first, second
