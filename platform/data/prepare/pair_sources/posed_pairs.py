"""Pairs with poses from files: some are drawn and held against their poses and depth before anything is stored."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

from sightline.methods.random import keyed_rng

from ..found import Found
from ..pairs import Pair
from ..source import PairSource
from .fit import DRAWN, MayMisfit, fit_of


@dataclass(frozen=True)
class PosedPairs(MayMisfit, PairSource):
    """What sources of pairs with poses share."""

    def checked(self, found: Found[Pair], seed: int) -> None:
        if not found.poses:
            return
        posed = array("q", (place for place, item in enumerate(found.every()) if item.T_2from1 and item.K1 and item.K2))
        drawn = [found.nth(posed[number]) for number in keyed_rng("epipolar", seed).permutation(len(posed))[:DRAWN]]
        photos = {photo for item in drawn for photo in (item.image1, item.image2)}
        fit = fit_of(drawn, {photo: pose for photo, pose in found.poses if photo in photos}, found.source.where)
        self.require(fit)
        found.notes += fit.notes
