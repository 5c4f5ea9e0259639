"""Sections of the first look that are about single images: what is there twice, sharpness, exposure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from sightline.platform.data.inspection.alike import DISTANCE
from sightline.platform.data.inspection.duplicates import Place
from sightline.platform.data.inspection.findings import LookedAt
from sightline.platform.data.inspection.inspect import Inspection
from sightline.platform.data.inspection.looks import BLURRED, CLIPPED, PLAIN
from sightline.platform.data.inspection.thumbs import thumbnails

from .album import Album
from .distributions import histogram_chart
from .sections import Gallery, Section, Tile

SIDE = 96
WORST = 12
_GAP = 6
_RULE = (
    f"Alike: pHash and dHash each differ in at most {DISTANCE} of 64 bits. That finds copies that were stored again, resized, made grey or "
    "blurred, but not mirrored ones, cuts of more than 3 %, or another view of the same thing."
)
Tone = Literal["", "good", "bad"]


def shared_section(inspection: Inspection, album: Album) -> Section:
    """What two sets share, and what has two labels."""
    sets, duplicates = inspection.sets, inspection.duplicates
    galleries = []
    for across in duplicates.across:
        heading = f"{sets[across.one].name} (left) and {sets[across.two].name} (right) share {across.same + across.alike:,}"
        text = f"{across.same:,} byte for byte, {across.alike:,} that look the same"
        tone: Tone = "bad" if across in inspection.leaks else ""
        galleries.append(Gallery(heading, _couples(sets, across.examples, album, tone), text))
    conflicts = _couples(sets, duplicates.conflicting, album, "bad")
    galleries.append(Gallery("The same content with two labels", conflicts, f"{duplicates.conflicts:,} in all"))
    return _section("Shared", galleries, [_RULE])


def repeated_section(inspection: Inspection, album: Album) -> Section:
    """What a set holds twice, and what looks alike."""
    sets, galleries = inspection.sets, []
    for one, within in zip(sets, inspection.duplicates.within, strict=True):
        repeated = _couples(sets, within.same, album)
        galleries.append(Gallery(f"{one.name}: rows that repeat another", repeated, f"{within.same_rows:,} in all"))
        twins = _couples(sets, [(place, (place[0], place[1], 1)) for place in within.twins], album)
        galleries.append(Gallery(f"{one.name}: pairs of one image", twins, f"{within.twin_rows:,} in all"))
        tiles = [tile for group in within.alike[:4] for tile in _joined(sets, group[:6], album)]
        text = f"{within.alike_images:,} images in {within.alike_groups:,} group{'s' * (within.alike_groups != 1)}, some of the largest"
        galleries.append(Gallery(f"{one.name}: images that look alike", tiles, text))
    plain = sum(within.plain for within in inspection.duplicates.within)
    return _section(
        "Twice in a set",
        galleries,
        [_RULE, *([f"{plain:,} images of one colour were not compared: their hashes say nothing."] if plain else [])],
    )


def _section(heading: str, galleries: Sequence[Gallery], notes: Sequence[str]) -> Section:
    return Section(heading, galleries=galleries, notes=notes) if any(gallery.tiles for gallery in galleries) else Section("")


def image_section(sets: Sequence[LookedAt], album: Album) -> Section:
    """How sharp and how bright images are, and the worst ones."""
    once = {one.name: _once(one.scan.images) for one in sets if len(one.scan.images)}
    if not once:
        return Section("")
    charts = [
        histogram_chart(
            "Sharpness", {name: images["sharpness"] for name, images in once.items()}, "variance of the Laplacian", log=True, mark=BLURRED
        ),
        histogram_chart("Brightness", {name: images["mean"] for name, images in once.items()}, "mean grey value", ends=(0, 255)),
        histogram_chart(
            "Clipped pixels",
            {name: 100 * (images["dark"] + images["bright"]) for name, images in once.items()},
            "% of an image that is black or white",
            ends=(0, 100),
        ),
        histogram_chart("Contrast", {name: images["contrast"] for name, images in once.items()}, "standard deviation of grey", mark=PLAIN),
    ]
    galleries = []
    for one in sets:
        images = once.get(one.name)
        if images is None:
            continue
        for words, order, said, bad in (
            ("least sharp", images["sharpness"], "sharpness {:.0f}", images["sharpness"] < BLURRED),
            ("darkest", -images["dark"], "{:.0%} black", images["dark"] >= CLIPPED),
            ("brightest", -images["bright"], "{:.0%} white", images["bright"] >= CLIPPED),
        ):
            worst = np.argsort(order, kind="stable")[: WORST // len(sets) + 2]
            if words != "least sharp":
                worst = worst[bad[worst]]
            pictures = thumbnails(one.rows, [(int(images["row"][index]), int(images["view"][index])) for index in worst], SIDE)
            tiles = [
                tile
                for index, (name, shown) in zip(worst, pictures, strict=True)
                for tile in album.tile(shown, [name], said.format(abs(order[index])), "bad" if bad[index] else "")
            ]
            galleries.append(Gallery(f"{one.name}: {words}", tiles))
    note = (
        f"Sharpness is that of the sharpest of 3 x 3 tiles, at about 256 px; below {BLURRED:g} (dashed) an image counts as blurred. "
        f"Clipped is grey of 4 and less or 251 and more; from {CLIPPED:.0%} an image is named."
    )
    return Section("Sharpness and exposure", charts=charts, galleries=galleries, notes=[note])


def _once(images: np.ndarray) -> np.ndarray:
    once: np.ndarray = images[np.sort(np.unique(images["digest"], return_index=True)[1])]
    return once


def _couples(sets: Sequence[LookedAt], couples: Sequence[tuple[Place, Place]], album: Album, tone: Tone = "") -> list[Tile]:
    return [tile for couple in couples for tile in _joined(sets, couple, album, tone)]


def _joined(sets: Sequence[LookedAt], places: Sequence[Place], album: Album, tone: Tone = "") -> list[Tile]:
    """One tile of several images side by side."""
    shown = [thumbnails(sets[owner].rows, [(row, view)], SIDE)[0] for owner, row, view in places]
    gap = np.full((SIDE, _GAP, 3), 255, np.uint8)
    parts = [part for _, picture in shown for part in (picture, gap)][:-1]
    names = list(dict.fromkeys(name for name, _ in shown))
    return album.tile(np.concatenate(parts, axis=1), names, tone=tone)
