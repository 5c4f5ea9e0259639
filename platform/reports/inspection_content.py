"""Sections of the first look that belong to a kind of data: pairs and their cameras, clouds, classes and masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from sightline.methods.errors import BrokenSampleError
from sightline.methods.random import keyed_rng
from sightline.platform.data.clouds import NO_PART
from sightline.platform.data.contact_sheet import class_colours
from sightline.platform.data.inspection.findings import LookedAt
from sightline.platform.data.inspection.pair_check import Shown
from sightline.platform.data.inspection.thumbs import VIEWS, cloud_views

from .album import Album
from .charts import Chart
from .distributions import Bar, bar_chart, histogram_chart, map_chart
from .sections import Gallery, Section, Tile

CLOUDS = 6


def pair_section(sets: Sequence[LookedAt], album: Album) -> Section:
    """Overlap, angles, epipolar lines, warps, and where the cameras stand."""
    of = {one.name: one.scan.pairs for one in sets if len(one.scan.pairs)}
    charts: list[Chart | None] = [
        histogram_chart("Overlap", {name: pairs["overlap"] for name, pairs in of.items()}, "co-visibility", ends=(0, 1), bins=20),
        histogram_chart(
            "Viewing angle", {name: pairs["angle"] for name, pairs in of.items()}, "degrees between the views", bins=24, from_zero=True
        ),
    ]
    galleries, notes = [], []
    for one in sets:
        check = one.check
        if check.distances is not None:
            off, count = check.distances, len(check.distances)
            said = f"median distance {np.median(off):.2f} px, {(off < 2).mean():.0%} below 2 px, of {count} matched points" if count else ""
            text = "Corners of the left image; in their colours, their lines in the right one, with a ring where depth puts them."
            said = said or "No points could be matched by their looks."
            galleries.append(Gallery(f"{one.name}: epipolar lines", _tiles(check.epipolar, album), f"{text} {said[:1].upper()}{said[1:]}"))
        warp = f"{check.warp[:1].upper()}{check.warp[1:]}"
        text = f"Image 1, image 2, image 2 moved into image 1 (black: unknown or hidden), twice the difference. {warp}"
        text += f". {check.depth[:1].upper()}{check.depth[1:]}" if check.depth else ""
        galleries.append(Gallery(f"{one.name}: image 2 warped into image 1", _tiles(check.warps, album), text))
        for each in one.maps:
            scene = f" · {each.scene}" if each.scene else ""
            charts.append(
                map_chart(f"Cameras from above: {one.name}{scene}", each.places, each.directions, each.links, "(unit of the poses)")
            )
            off_chain = (
                f"; where pairs close a chain they differ by {each.off[0]:.2g} degrees and {each.off[1]:.2%} of the map" if each.off else ""
            )
            on_map = f"{len(each.places):,} of {each.frames:,} frames are on the map"
            notes.append(f"{one.name}{scene}: {on_map}, chained through {each.rows:,} pairs{off_chain}.")
        if "T_2from1" in one.manifest.columns and not one.maps:
            notes.append(f"{one.name}: no map of the cameras, because no three frames are joined by pairs with poses.")
    if not any(charts) and not any(gallery.tiles for gallery in galleries):
        return Section("")
    return Section("Pairs and cameras", charts=charts, galleries=galleries, notes=notes)


def _tiles(shown: Sequence[Shown], album: Album) -> list[Tile]:
    return [tile for one in shown for tile in album.tile(one.picture, [one.id], one.text)]


def cloud_section(sets: Sequence[LookedAt], album: Album) -> Section:
    """Clouds from several sides, their extent and their points."""
    of = {one.name: one.scan.clouds for one in sets if len(one.scan.clouds)}
    if not of:
        return Section("")
    charts = [
        histogram_chart(
            "Extent", {name: clouds["extent"] for name, clouds in of.items()}, "longest side of a cloud's box, unit of the source"
        ),
        histogram_chart(
            "Distinct points",
            {name: 100 * clouds["distinct"] / clouds["points"] for name, clouds in of.items()},
            "% of the points of a cloud",
            ends=(0, 100),
        ),
        histogram_chart("Points", _varied({name: clouds["points"] for name, clouds in of.items()}), "of a cloud", from_zero=True),
    ]
    galleries, notes = [], []
    for one in sets:
        if one.name not in of:
            continue
        clouds = of[one.name]
        drawn = sorted(keyed_rng("inspect clouds").permutation(clouds["row"])[:CLOUDS].tolist())
        tiles: list[Tile] = []
        for row in one.rows.read(drawn, ("id", "points", "part", "normals", "label")):
            try:
                label = row.get("label")
                named = one.manifest.classes[label] if label is not None and one.manifest.classes else ""
                tiles += album.tile(cloud_views(row, 120), [str(row["id"])], named)
            except BrokenSampleError:
                continue
        views = ", ".join(name for name, _ in VIEWS)
        text = f"Each {views}{', and its normals as colours' if 'normals' in one.manifest.columns else ''}; y is up, near points are dark."
        galleries.append(Gallery(one.name, tiles, text))
        unit = clouds["unit_normals"][np.isfinite(clouds["unit_normals"])]
        normals = f"{len(unit):,} with normals, {unit.mean():.1%} of which have length 1" if len(unit) else "none with normals"
        notes.append(f"{one.name}: {len(clouds):,} clouds, {normals}.")
    return Section("Clouds", charts=charts, galleries=galleries, notes=notes)


def _varied(values: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """Nothing where all values are the same."""
    return values if len(np.unique(np.concatenate(list(values.values())))) > 1 else {}


def class_section(sets: Sequence[LookedAt]) -> Section:
    """Rows of each class, and what masks and parts cover."""
    charts: list[Chart | None] = []
    for one in sets:
        manifest = one.manifest
        if manifest.labels:
            counts = dict.fromkeys(range(len(manifest.classes)), 0) | manifest.labels
            bars = [Bar(_name(manifest.classes, index), rows, f"{rows:,}") for index, rows in _largest(counts)]
            charts.append(bar_chart(f"Rows of each class: {one.name}", bars))
        if manifest.pixels:
            total = sum(manifest.pixels.values())
            counts = dict.fromkeys(range(len(manifest.classes)), 0) | manifest.pixels
            colours = class_colours(max(counts) + 1, manifest.palette).tolist()
            bars = [
                Bar(
                    "(ignored)" if index == manifest.ignore_index else _name(manifest.classes, index),
                    pixels / total,
                    f"{pixels / total:.1%}, in {one.scan.holding.get(index, 0) / max(one.scan.masks, 1):.0%}",
                    (150, 150, 150) if index == manifest.ignore_index else tuple(colours[index]),
                )
                for index, pixels in _largest(counts)
            ]
            charts.append(bar_chart(f"Mask coverage: {one.name}", bars, "share of the pixels, and of the masks that hold the class"))
        if manifest.part_points:
            total = sum(manifest.part_points.values())
            counts = dict.fromkeys(range(len(manifest.parts)), 0) | manifest.part_points
            colours = class_colours(max(max(counts), 0) + 1).tolist()
            bars = [
                Bar(
                    "(no part)" if index == NO_PART else _name(manifest.parts, index),
                    points / total,
                    f"{points / total:.1%}",
                    (150, 150, 150) if index == NO_PART else tuple(colours[index]),
                )
                for index, points in _largest(counts)
            ]
            charts.append(bar_chart(f"Parts: {one.name}", bars, "share of the points"))
    return Section("Classes", charts=charts)


def _largest(counts: dict[int, int]) -> list[tuple[int, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _name(names: Sequence[str], index: int) -> str:
    return names[index] if 0 <= index < len(names) else f"class {index}"
