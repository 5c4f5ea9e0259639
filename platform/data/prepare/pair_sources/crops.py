"""The layout of CroCo's extracted crops: `listing.txt` with a stem a line, images `<stem>_1.jpg`, `<stem>_2.jpg`."""

from __future__ import annotations

from dataclasses import dataclass

from sightline.methods.errors import CallError

from ..files import below, existing_folder, is_inside
from ..found import Found
from ..lists import numbered_lines
from ..pairs import Pair
from ..source import PairSource

LISTING = "listing.txt"


@dataclass(frozen=True)
class Crops(PairSource):
    reader = "crops"
    help = "crops as the authors of cross-view completion publish them: listing.txt and *_1.jpg, *_2.jpg"
    examples = ("./arkit_crops --out ./arkit",)

    def find(self, place: str, name: str, seed: int = 0) -> Found[Pair]:
        folder = existing_folder(place)
        if not (folder / LISTING).is_file():
            raise CallError(f"{place} has no {LISTING}", "name the folder `<data>_crops` that the crop extractor wrote")
        note = "scenes are the folders of the extractor: neighbours in its list, not true scenes"
        found = Found[Pair](self.provenance(folder, note))
        for number, stem in numbered_lines(folder / LISTING):
            if is_inside(stem):
                found.items.append(Pair(f"{name}/{stem}", below(name, stem), f"{folder}/{stem}_1.jpg", f"{folder}/{stem}_2.jpg"))
            else:
                found.skips.append((f"{LISTING} line {number}", "a path leaves the folder"))
        return found
