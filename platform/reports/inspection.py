"""The page of `sightline inspect`: the verdict, then what was seen, in one file that needs no network."""

from __future__ import annotations

from collections.abc import Sequence

from sightline.platform.data.contact_sheet import caption, drawn_rows, picture
from sightline.platform.data.inspection.findings import LookedAt
from sightline.platform.data.inspection.inspect import Inspection

from .album import Album
from .inspection_content import class_section, cloud_section, pair_section
from .inspection_images import image_section, repeated_section, shared_section
from .page import ReportPage
from .sections import Cell, Gallery, Section, Tile, text_table

SHEET = 24
"""Rows on the contact sheets of all sets together, at least `LEAST` of each."""
LEAST = 8
NOTES = 40


def inspection_page(inspection: Inspection, command: str) -> ReportPage:
    """About 2 MB at most: pictures stop where the room of the album ends."""
    sets, album = inspection.sets, Album()
    told = {severity: [item.text for item in inspection.findings if item.severity == severity] for severity in ("error", "warning", "note")}
    sections = [
        _overview(sets),
        shared_section(inspection, album),
        Section("What it looks like", galleries=[_sheet(one, album, max(LEAST, SHEET // len(sets))) for one in sets]),
        pair_section(sets, album),
        cloud_section(sets, album),
        class_section(sets),
        image_section(sets, album),
        repeated_section(inspection, album),
        _broken(sets),
        Section("Good to know", items=told["note"]),
        Section("Where it came from", items=_origins(sets)),
    ]
    if album.left_out:
        sections.append(Section("Left out", text=f"{album.left_out:,} more pictures, so that this page stays small."))
    names = ", ".join(one.name for one in sets)
    return ReportPage(
        title=names,
        kind="first look at data",
        headline=inspection.headline,
        tone="bad" if told["error"] else "" if told["warning"] else "good",
        detail=_detail(sets),
        warnings=[*(f"Error: {text}" for text in told["error"][1:]), *told["warning"]],
        sections=sections,
        next_steps=_next_steps(inspection),
        commands=[command],
        identities=[(one.name, one.manifest.fingerprint) for one in sets],
    )


def _detail(sets: Sequence[LookedAt]) -> str:
    seen, held = (sum(rows) for rows in ([one.scan.rows for one in sets], [one.manifest.rows for one in sets]))
    looked = f"Every one of {held:,} rows was read" if seen == held else f"{seen:,} of {held:,} rows were read, drawn with a fixed seed"
    return f"{looked}; figures are of these. Pictures are of a few rows, drawn with a fixed seed, or the worst ones where that is said."


def _overview(sets: Sequence[LookedAt]) -> Section:
    """A row for each set; what none of them has is no column."""
    rows: list[list[str | Cell]] = []
    for one in sets:
        manifest = one.manifest
        licences = sorted({source.licence or "unstated" for source in manifest.provenance.sources}) or ["unstated"]
        counts = (len(manifest.scenes), len(manifest.classes))
        scenes, classes = (f"{count:,}" if count else "" for count in counts)
        held = f"{sum(shard.bytes for shard in manifest.shards) / 1e6:,.1f} MB"
        cells = [manifest.kind, f"{manifest.rows:,}", scenes, _sizes(one), held, classes, f"{one.scan.broken_rows:,}"]
        rows.append([one.name, *cells, Cell("; ".join(licences), prose=True)])
    labels = ("", "Kind", "Rows", "Scenes", "Sizes", "Bytes", "Classes", "Broken", "Licence")
    kept = [index for index in range(len(labels)) if any(row[index] for row in rows)]
    table = text_table("What they hold", [labels[index] for index in kept[1:]], [[row[index] for index in kept] for row in rows])
    return Section("Data sets", tables=[table])


def _sizes(one: LookedAt) -> str:
    manifest = one.manifest
    if manifest.image_min and manifest.image_max:
        (h0, w0), (h1, w1) = manifest.image_min, manifest.image_max
        return f"{w0} x {h0} px" if (h0, w0) == (h1, w1) else f"{w0} x {h0} to {w1} x {h1} px"
    if manifest.points:
        low, high = manifest.points
        return f"{low:,} points" if low == high else f"{low:,} to {high:,} points"
    return ""


def _sheet(one: LookedAt, album: Album, rows: int) -> Gallery:
    dataset = one.rows.dataset
    tiles: list[Tile] = []
    if not one.scan.unreadable:
        for row in drawn_rows(dataset, rows):
            tiles += album.tile(picture(row, dataset, 112), [str(row["id"])], caption(row, one.manifest.classes))
    return Gallery(one.name, tiles, f"{len(tiles)} of {one.manifest.rows:,} rows, at random")


def _broken(sets: Sequence[LookedAt]) -> Section:
    rows: list[list[str | Cell]] = [[bad.id, one.name, Cell(bad.reason, prose=True)] for one in sets for bad in one.scan.broken[:12]]
    return Section(
        "Rows that cannot be used", tables=[text_table("The first ones; training replaces and counts them", ["Set", "Why"], rows)]
    )


def _origins(sets: Sequence[LookedAt]) -> list[str]:
    lines: dict[str, None] = {}
    for one in sets:
        origin = one.manifest.provenance
        for source in origin.sources:
            lines[f"{source.where} (read as {source.reader or 'unknown'}), licence: {source.licence or 'unstated'}"] = None
            lines.update(dict.fromkeys(source.notes))
        lines.update(dict.fromkeys(origin.notes))
        for item in origin.skipped:
            lines[f"{one.name}: skipped {item.count:,}: {item.reason} (first: {', '.join(item.examples[:3])})"] = None
        if origin.command:
            lines[f"made by: {origin.command}"] = None
    more = len(lines) - NOTES
    return [*list(lines)[:NOTES], *([f"and {more:,} more lines, which sightline inspect prints"] if more > 0 else [])]


def _next_steps(inspection: Inspection) -> list[str]:
    steps = []
    if inspection.leaks:
        steps.append(
            "Prepare the splits again so that they share nothing: --split-by scene, a larger --split-gap for frames, or one copy of each "
            "image. Where sharing is meant, --allow-leaks accepts it."
        )
    if any(one.scan.unreadable for one in inspection.sets):
        steps.append("Copy the damaged shards again from where they came from; sightline inspect --verify names each by its SHA-256.")
    if any(one.scan.broken_rows for one in inspection.sets):
        steps.append("Broken rows are replaced by neighbours while training, up to data.max_broken; prepare again to be rid of them.")
    return steps
