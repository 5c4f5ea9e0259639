"""Look at data sets before training on them: what is wrong or suspicious, what they hold, what two of them share.

One data set alone is told from its manifest, at once. With --html, or with several data sets, every row is read: broken rows, duplicates,
blur, exposure, and whether poses, depth and truth fit the images. Images that a training set shares with another one are an error.

examples:
  sightline inspect ./rooms/train
  sightline inspect ./rooms/train ./rooms/val --html rooms.html
  sightline inspect ./rooms/train --verify --contact-sheet rooms.png
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sightline.platform.core.screen import Screen
    from sightline.platform.data.dataset import Dataset
    from sightline.platform.data.inspection.inspect import Inspection
    from sightline.platform.data.manifest import Manifest

SUMMARY = "look at data sets: what is wrong, what they hold and share; a page, a contact sheet"
_SHOWN = 5
"""At most this many classes and scenes are named; the others are counted."""
_SHARES = 24


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("datasets", metavar="DATASET", nargs="+", help="folders or URIs of data sets")
    parser.add_argument("--html", metavar="FILE.html", help="read every row and write one page: verdict, statistics, pictures")
    parser.add_argument("--allow-leaks", action="store_true", help="images that two data sets share are told, but no error")
    parser.add_argument("--at-most", type=int, metavar="N", help="read about N rows of each data set, random row groups (default: all)")
    parser.add_argument("--verify", action="store_true", help="read every byte and compare it with the SHA-256 of the manifest")
    parser.add_argument("--rows", type=int, default=24, help="samples on the contact sheet (default: %(default)s)")
    parser.add_argument("--contact-sheet", metavar="FILE.png", help="write a picture of drawn samples of one data set")


def run(args: argparse.Namespace) -> dict[str, object]:
    from sightline.methods.errors import CallError
    from sightline.platform.core.screen import Screen
    from sightline.platform.data.dataset import Dataset

    if args.rows < 1:
        raise CallError("--rows must be at least 1", "for example --rows 24")
    if args.at_most is not None and args.at_most < 1:
        raise CallError("--at-most must be at least 1", "for example --at-most 10000")
    if args.contact_sheet and len(args.datasets) > 1:
        raise CallError("a contact sheet is of one data set", "name one, or use --html, whose page shows all of them")
    page = _page_of(args.html)
    datasets = [Dataset.open(place) for place in args.datasets]
    if args.verify:
        for dataset in datasets:
            _verify(dataset)
    sheet = _contact_sheet(datasets[0], args.contact_sheet, args.rows) if args.contact_sheet else None
    answers = [_answer(dataset, args.verify) for dataset in datasets]
    result: dict[str, object] = {"sets": answers}
    if len(answers) == 1:
        result = {**answers[0], "contact_sheet": str(sheet) if sheet else None}
    if page is None and len(datasets) == 1:
        if not args.json:
            _tell(Screen(), datasets[0].uri, datasets[0].manifest, args.verify, sheet)
        return result
    return _look(datasets, page, sheet, result, args)


def _page_of(words: str | None) -> Path | None:
    """Where the page will be; its folder is there before rows are read."""
    from sightline.methods.errors import CallError
    from sightline.platform.core.files import make_folder

    if words is None:
        return None
    page = Path(words).expanduser().resolve()
    if page.is_dir():
        raise CallError(f"--html {words} is a folder", f"name a file, for example {words.rstrip('/')}/page.html")
    try:
        make_folder(page.parent)
    except OSError as error:
        raise CallError(f"cannot write {page}: {error.strerror}", "name a file in a folder that can be written") from None
    return page


def _look(
    datasets: Sequence[Dataset], page: Path | None, sheet: Path | None, result: dict[str, object], args: argparse.Namespace
) -> dict[str, object]:
    """Read all rows, write the page, tell the verdict. Raises `SightlineError` for what must not be trained on."""
    from sightline.methods.errors import SightlineError
    from sightline.platform.core.screen import Screen
    from sightline.platform.data.inspection.inspect import inspect
    from sightline.platform.reports.inspection import inspection_page
    from sightline.platform.reports.page import write_report

    with _progress() as progress:
        seen = inspect(datasets, args.at_most, progress, leaks_are_errors=not args.allow_leaks)
    if page:
        write_report(page, inspection_page(seen, shlex.join(["sightline", *sys.argv[1:]])))
    findings = [{"severity": item.severity, "text": item.text} for item in seen.findings]
    result |= {"verdict": seen.verdict, "findings": findings, "page": str(page) if page else None}
    if not args.json:
        _tell_findings(Screen(), seen, page, sheet)
    errors = [item for item in seen.findings if item.severity == "error"]
    if errors:
        hint = (
            "split by scene or with a larger gap, or accept it with --allow-leaks"
            if errors[0].leak
            else "copy the shard again, or prepare again"
        )
        failure = SightlineError(errors[0].text, hint)
        failure.result = result
        raise failure
    return result


def _tell_findings(console: Screen, seen: Inspection, page: Path | None, sheet: Path | None) -> None:
    console.field("verdict", seen.verdict)
    for item in seen.findings:
        if item.severity != "note":
            console.field(item.severity, item.text)
    for one in seen.sets:
        console.field("looked", f"at {one.scan.rows:,} of {one.manifest.rows:,} rows of {one.rows.dataset.uri}")
    notes = sum(item.severity == "note" for item in seen.findings)
    console.fields(
        [
            ("page", f"{page} ({page.stat().st_size / 1e6:.1f} MB)" if page else ""),
            ("sheet", str(sheet) if sheet else ""),
            ("more", "" if page or not notes else f"{notes} note{'s' * (notes > 1)} and pictures: --html page.html"),
        ]
    )


def _contact_sheet(dataset: Dataset, words: str, rows: int) -> Path:
    from sightline.methods.errors import CallError
    from sightline.platform.data.contact_sheet import contact_sheet

    sheet = Path(words).expanduser().resolve()
    try:
        sheet.write_bytes(contact_sheet(dataset, rows))
    except OSError as error:
        raise CallError(f"cannot write {sheet}: {error.strerror}", "name a file in a folder that exists") from None
    return sheet


def _answer(dataset: Dataset, verified: bool) -> dict[str, object]:
    """For scripts."""
    manifest = dataset.manifest.model_dump(mode="json")
    return {"place": dataset.uri, "verified": verified, **manifest, "shards": len(dataset.manifest.shards)}


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on standard error, where that is a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from sightline.platform.core.screen import Screen

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("rows"), TimeRemainingColumn())
    console = Screen(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("opening")
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)


def _verify(dataset: Dataset) -> None:
    with _progress() as progress:
        dataset.verify(lambda done, total: progress("verifying", done // 1000, total // 1000))


def _tell(console: Screen, place: str, manifest: Manifest, verified: bool, sheet: Path | None) -> None:
    size = sum(shard.bytes for shard in manifest.shards)
    console.field(place, f" {manifest.kind}")
    groups = sum(len(shard.row_groups) for shard in manifest.shards)
    console.print(f"  rows         {manifest.rows:,} in {len(manifest.shards)} shards, {groups} row groups")
    console.print(f"  bytes        {size:,} ({size / manifest.rows / 1000:.1f} kB a row){', every one verified' if verified else ''}")
    if manifest.image_min and manifest.image_max:
        (h0, w0), (h1, w1) = manifest.image_min, manifest.image_max
        console.print(f"  images       height {_range(h0, h1)}, width {_range(w0, w1)} px")
    if manifest.points:
        apart = f", in different places {_range(*manifest.distinct)}" if manifest.distinct not in (None, manifest.points) else ""
        console.print(f"  points       {_range(*manifest.points)} a cloud{apart}")
    if manifest.extent:
        low, high = (f"{side:.4g}" for side in manifest.extent)
        console.print(f"  extent       {low if low == high else f'{low} to {high}'} (longest side of a cloud's box, unit of the source)")
    if manifest.offsets:
        console.print(f"  offsets      {len(manifest.offsets):,} far from the origin, stored less an offset each (in manifest.json)")
    console.print(f"  columns      {', '.join(manifest.columns)}")
    if manifest.scenes:
        biggest = sorted(manifest.scenes.items(), key=lambda item: -item[1])
        more = f" and {len(biggest) - _SHOWN:,} more" if len(biggest) > _SHOWN else ""
        console.print(f"  scenes       {len(biggest):,}: {', '.join(f'{name} ({rows:,})' for name, rows in biggest[:_SHOWN])}{more}")
    for line in _class_lines(manifest):
        console.print(line)
    if manifest.overlap:
        o = manifest.overlap
        console.print(f"  overlap      mean {o.mean:.2f}, {o.min:.2f} to {o.max:.2f}, of {o.count:,} pairs")
        for tenth, count in enumerate(o.histogram):
            if count:
                bar = "█" * max(1, round(40 * count / max(o.histogram)))
                console.print(f"    {tenth / 10:.1f}..{(tenth + 1) / 10:.1f}   {count:>8,}  {bar}")
    for line in _map_lines(manifest):
        console.print(line)
    for source in manifest.provenance.sources:
        console.print(f"  source       {source.where} ({source.reader}), licence: {source.licence}")
        for note in source.notes:
            console.print(f"               {note}")
    if manifest.provenance.command:
        console.print(f"  made by      {manifest.provenance.command}")
    console.print(f"  made         {manifest.provenance.created}, Sightline {manifest.provenance.sightline_version}")
    for note in manifest.provenance.notes:
        console.print(f"  note         {note}")
    for item in manifest.provenance.skipped:
        console.print(f"  skipped      {item.count:,}: {item.reason} (first: {', '.join(item.examples[:3])})")
    console.print(f"  fingerprint  {manifest.fingerprint}")
    if sheet:
        console.print(f"  contact sheet written to {sheet}")
    console.print(f"  every row    sightline inspect {place} --html page.html")


def _map_lines(manifest: Manifest) -> list[str]:
    """The lines about disparity, flow and occlusion."""
    lines = []
    for name, one in manifest.maps.items():
        rows = "" if one.rows == manifest.rows else f", in {one.rows:,} of {manifest.rows:,} rows"
        share = one.known / one.pixels
        if name == "occluded":
            lines.append(f"  {name:<12} {share:.1%} of the pixels of image 1 are not seen in image 2{rows}")
        else:
            mean = f", mean {one.total / one.known:.4g} px, at most {one.largest:.4g}" if one.known else ""
            lines.append(f"  {name:<12} known in {share:.1%} of the pixels{mean}{rows}")
    return lines


def _class_lines(manifest: Manifest) -> list[str]:
    """The lines about classes: rows of the largest and the smallest, rows without label, shares of pixels and of parts."""
    from sightline.platform.data.clouds import NO_PART

    lines = []
    if manifest.labels:
        labels = {index: manifest.labels.get(index, 0) for index in range(len(manifest.classes))} if manifest.classes else manifest.labels
        ordered = sorted(labels.items(), key=lambda item: (-item[1], item[0]))
        said = ", ".join(f"{_named(manifest, index)} ({rows:,})" for index, rows in ordered[:_SHOWN])
        if len(ordered) > _SHOWN:
            smallest, rows = ordered[-1]
            said += f", ... smallest: {_named(manifest, smallest)} ({rows:,})"
        lines.append(f"  classes      {len(ordered):,}: {said}")
        without = manifest.rows - sum(manifest.labels.values())
        if without:
            lines.append(f"  no label     {without:,} of {manifest.rows:,} rows ({without / manifest.rows:.1%})")
    if manifest.part_points:
        total = sum(manifest.part_points.values())
        of_parts = {i: manifest.part_points.get(i, 0) for i in range(len(manifest.parts))} | manifest.part_points
        lines.append(f"  parts        {len(manifest.parts) or len(manifest.part_points):,}; share of the points:")
        lines += _shares(of_parts, total, lambda index: "(no part)" if index == NO_PART else _part(manifest, index))
    if manifest.pixels:
        total = sum(manifest.pixels.values())
        absent = dict.fromkeys(range(len(manifest.classes)), 0)
        lines.append(f"  segmentation {len(manifest.classes) or len(manifest.pixels):,} classes; share of the pixels:")
        lines += _shares(
            absent | manifest.pixels, total, lambda index: "(ignored)" if index == manifest.ignore_index else _named(manifest, index)
        )
    return lines


def _shares(counts: Mapping[int, int], total: int, name: Callable[[int], str]) -> list[str]:
    """One line for each of the most frequent."""
    largest = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    lines = [f"    {index:>3}  {name(index):<24} {count / total:>7.2%}" for index, count in sorted(largest[:_SHARES])]
    return lines + ([f"    and {len(largest) - _SHARES:,} rarer ones"] if len(largest) > _SHARES else [])


def _part(manifest: Manifest, index: int) -> str:
    return manifest.parts[index] if index < len(manifest.parts) else f"part {index}"


def _named(manifest: Manifest, index: int) -> str:
    return manifest.classes[index] if index < len(manifest.classes) else f"class {index}"


def _range(low: int, high: int) -> str:
    return str(low) if low == high else f"{low} to {high}"
