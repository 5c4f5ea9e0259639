"""The layout of CroCo's extracted crops: `listing.txt` with a stem a line, images `<stem>_1.jpg`, `<stem>_2.jpg`."""

from __future__ import annotations

from pathlib import Path

from sightline.methods.errors import CallError
from sightline.platform.data.manifest import Source

from .items import existing_folder, is_inside
from .pairs import Found, Pair

LISTING = "listing.txt"


def find(place: str, name: str, licence: str = "unstated") -> Found:
    folder = existing_folder(place)
    if not (folder / LISTING).is_file():
        raise CallError(f"{place} has no {LISTING}", "name the folder `<data>_crops` that the crop extractor wrote")
    notes = ("scenes are the folders of the extractor: neighbours in its list, not true scenes",)
    found = Found(Source(where=str(folder), licence=licence, reader="crops", notes=notes))
    with (folder / LISTING).open() as lines:
        for number, line in enumerate(lines, 1):
            stem = line.strip()
            if not stem or stem.startswith("#"):
                continue
            if not is_inside(stem):
                found.skips.append((f"{LISTING} line {number}", "a path leaves the folder"))
                continue
            parent = Path(stem).parent.as_posix()
            scene = name if parent == "." else f"{name}/{parent}"
            image1, image2 = f"{folder}/{stem}_1.jpg", f"{folder}/{stem}_2.jpg"
            found.pairs.append(Pair(id=f"{name}/{stem}", scene=scene, image1=image1, image2=image2))
    return found
