"""Turn what you have into a data set: Parquet shards and a manifest, in a folder.

  sightline prepare pairs SOURCE ... --out DIR    pairs of images of one scene from two viewpoints
  sightline prepare images SOURCE ... --out DIR   single images, with classes, masks or depth
  sightline prepare points SOURCE ... --out DIR   point clouds, with classes or parts
  sightline prepare merge DATASET ... --out DIR   several data sets of one kind as one

Work that was stopped (Ctrl-C, a kill) goes on where it was when the same command is run again.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from typing import TYPE_CHECKING, Any

from . import images, points
from .options import bounds, gaps, output_options, part_of, place, plain, positive, source_names, source_options, split_option, time_options

if TYPE_CHECKING:
    from sightline.methods.contract import Kind
    from sightline.platform.data.prepare.job import Output
    from sightline.platform.data.prepare.pairs import Found

SUMMARY = "turn what you have (pairs, RGB-D, frames, images, masks, rendered rooms) into a data set"
SOURCES = {
    "habitat": "CroCo's Habitat layout: pairs.txt, or a tree of *_1.jpeg and *_2.jpeg",
    "crops": "CroCo's crop layout: listing.txt and *_1.jpg, *_2.jpg",
    "rgbd": "RGB-D frames with poses (cameras.json): pairs mined by co-visibility from depth",
    "frames": "consecutive frames of a folder, at chosen gaps",
    "rendered": "procedural rooms, rendered with exact depth and pose",
}
EXAMPLES = """examples:
  sightline prepare pairs rendered --scenes 60 --pairs-per-scene 8 --out ./rooms --split train=0.85,val=0.15
  sightline prepare pairs rgbd ./kitchen-rgbd --overlap 0.4..0.9 --size 128 --square --out ./kitchen --split train=0.85,val=0.15
  sightline prepare pairs frames ./fox --gap 1..3 --size 128 --square --out ./fox-pairs
  sightline prepare pairs habitat ./habitat_release --out ./habitat
  sightline prepare images classes ./cifar10 --out ./cifar
  sightline prepare images masks ./camvid --ignore 11 --out ./camvid-set
  sightline prepare merge ./kitchen/train ./fox-pairs --out ./both"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLES
    actions = parser.add_subparsers(dest="action", required=True, metavar="{pairs,images,points,merge}")
    pairs = actions.add_parser("pairs", help="pairs of images of one scene", **plain(EXAMPLES))
    readers = pairs.add_subparsers(dest="reader", required=True, metavar="SOURCE")
    for name, text in SOURCES.items():
        reader = readers.add_parser(name, help=text, description=text, **plain(EXAMPLES))
        _source_arguments(reader, name)
        split_option(reader)
        if name in ("rgbd", "frames"):
            time_options(reader, ("scene", "time-blocks"), "time-blocks")
        else:
            reader.set_defaults(split_by="scene", split_gap=0)
        output_options(reader)
    images.add_arguments(actions)
    points.add_arguments(actions)
    merge = actions.add_parser("merge", help="several data sets of one kind as one", **plain(EXAMPLES))
    merge.add_argument("datasets", nargs="+", metavar="DATASET", help="folders or URIs of finished data sets")
    output_options(merge)


def _source_arguments(parser: argparse.ArgumentParser, name: str) -> None:
    if name == "rendered":
        parser.add_argument("--scenes", type=positive, default=60, help="number of rooms (default: %(default)s)")
        parser.add_argument("--pairs-per-scene", type=positive, default=8, help="pairs of each room (default: %(default)s)")
        parser.add_argument("--size", type=positive, default=128, help="side of the images in px (default: %(default)s)")
        parser.add_argument("--fov", type=float, default=60.0, help="field of view in degrees (default: %(default)s)")
        return
    parser.add_argument("folders", nargs="+", metavar="DIR", help="folder(s) of this layout")
    source_options(parser)
    if name == "rgbd":
        parser.add_argument("--overlap", type=bounds, default=(0.4, 0.9), help="co-visibility of a pair (default: 0.4..0.9)")
        parser.add_argument("--pairs-per-frame", type=positive, default=4, help="at most this many for a frame (default: %(default)s)")
    if name == "frames":
        parser.add_argument("--gap", type=gaps, default=(1,), help="frames between the two: 1, 1,5 or 1..3 (default: 1)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from sightline.methods.errors import CallError
    from sightline.platform.data.prepare.job import run_job

    if not 0 <= args.max_skipped <= 1:
        raise CallError(f"--max-skipped {args.max_skipped:g} is no share", "give a number between 0 and 1")
    kind, outputs, left_out = {"merge": _merge, "images": _images, "points": _points, "pairs": _pairs}[args.action](args)
    columns = (TextColumn("preparing"), BarColumn(), MofNCompleteColumn(), TextColumn("rows"), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("rows")
        try:
            manifests = run_job(
                outputs,
                kind,
                command=shlex.join(["sightline", *sys.argv[1:]]),
                workers=args.workers,
                local=args.local,
                overwrite=args.overwrite,
                max_skipped=args.max_skipped,
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
        except KeyboardInterrupt:
            console.print("stopped; finished shards are kept, and the same command goes on from there")
            raise
    result = {
        "datasets": [
            {
                "place": output.folder,
                "rows": manifest.rows,
                "bytes": sum(shard.bytes for shard in manifest.shards),
                "shards": len(manifest.shards),
                "fingerprint": manifest.fingerprint,
                "overlap": manifest.overlap.mean if manifest.overlap else None,
                "skipped": [item.model_dump() for item in manifest.provenance.skipped],
                "classes": len(manifest.classes),
                "notes": manifest.provenance.notes,
            }
            for output, manifest in zip(outputs, manifests, strict=True)
        ],
        "left_out_between_splits": left_out,
    }
    if not args.json:
        _tell(result)
    return result


def _tell(result: dict[str, Any]) -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    for one in result["datasets"]:
        more = f", mean overlap {one['overlap']:.2f}" if one["overlap"] is not None else ""
        more += f", {one['classes']} classes" if one["classes"] else ""
        console.print(f"[bold]{one['place']}[/]: {one['rows']:,} rows in {one['shards']} shards, {one['bytes'] / 1e6:.1f} MB{more}")
        for item in one["skipped"]:
            console.print(f"  skipped {item['count']}: {item['reason']} (first: {item['examples'][0]})")
    if result["left_out_between_splits"]:
        console.print(f"left out, because they touch the gap between the splits: {result['left_out_between_splits']:,} rows")
    for note in dict.fromkeys(note for one in result["datasets"] for note in one["notes"]):
        console.print(f"[yellow]note[/]: {note}")
    console.print(f"look at it with: sightline inspect {result['datasets'][0]['place']}")


def _merge(args: argparse.Namespace) -> tuple[Kind, list[Output], int]:
    from sightline.platform.data.dataset import Dataset
    from sightline.platform.data.prepare.job import Output
    from sightline.platform.data.prepare.merge import merged, merged_classes

    datasets = [Dataset.open(uri) for uri in args.datasets]
    sources = tuple(dict.fromkeys(source for dataset in datasets for source in dataset.manifest.provenance.sources))
    shards = merged(datasets, args.seed)
    classes = merged_classes(datasets)
    output = Output(place(args.out), shards, sources, classes=classes.names, ignore_index=classes.ignore_index)
    return datasets[0].manifest.kind, [output], 0


def _images(args: argparse.Namespace) -> tuple[Kind, list[Output], int]:
    outputs, left_out = images.outputs(args)
    return "images", outputs, left_out


def _points(args: argparse.Namespace) -> tuple[Kind, list[Output], int]:
    made, left_out = points.outputs(args)
    return "points", made, left_out


def _pairs(args: argparse.Namespace) -> tuple[Kind, list[Output], int]:
    from sightline.platform.data.images import Resize
    from sightline.platform.data.prepare.job import Output, item_shards
    from sightline.platform.data.prepare.pairs import require_pairs
    from sightline.platform.data.prepare.split import parse_split, split_scenes, split_time
    from sightline.platform.data.shard_stats import skipped_table

    shares = parse_split(args.split) if args.split else None
    folders = {name: part_of(args.out, name) for name in shares or ("",)}
    if args.reader == "rendered":
        return "pairs", _rendered(args, folders, shares), 0
    found = _find(args)
    require_pairs(found)
    pairs = [pair for one in found for pair in one.pairs]
    sources = tuple(one.source for one in found)
    resize = Resize(args.size, args.square, args.quality)
    left_out, notes = 0, []
    if shares is None:
        parts = {"": pairs}
    elif args.split_by == "scene":
        assigned = split_scenes(sorted({pair.scene for pair in pairs}), shares, args.seed)
        parts = {name: [pair for pair in pairs if assigned[pair.scene] == name] for name in shares}
        notes = ["split by scene"]
    else:
        parts, left_out, notes = split_time(pairs, shares, args.split_gap)
    sources = tuple(source.model_copy(update={"notes": (*source.notes, *notes)}) for source in sources)
    skips = skipped_table(skip for one in found for skip in one.skips)
    outputs = [
        Output(folders[name], item_shards(part, resize, args.seed), sources, skips if i == 0 else ())
        for i, (name, part) in enumerate(parts.items())
    ]
    return "pairs", outputs, left_out


def _find(args: argparse.Namespace) -> list[Found]:
    from sightline.platform.data.prepare import crops, frames, habitat, rgbd

    found = []
    for folder, name in zip(args.folders, source_names(args.name, args.folders), strict=True):
        if args.reader == "rgbd":
            found.append(rgbd.find(folder, name, args.overlap, args.pairs_per_frame, args.seed, args.licence))
        elif args.reader == "frames":
            found.append(frames.find(folder, name, args.gap, args.seed, args.licence))
        else:
            found.append({"habitat": habitat, "crops": crops}[args.reader].find(folder, name, args.licence))
    return found


def _rendered(args: argparse.Namespace, folders: dict[str, str], shares: dict[str, float] | None) -> list[Output]:
    from sightline.platform.data.prepare.job import Output
    from sightline.platform.data.prepare.rendered import SOURCE, rooms
    from sightline.platform.data.prepare.split import split_scenes

    names = [f"{index:08d}" for index in range(args.scenes)]
    assigned = split_scenes(names, shares, args.seed) if shares else dict.fromkeys(names, "")
    return [
        Output(
            folder,
            rooms(args.seed, tuple(int(n) for n in names if assigned[n] == part), args.pairs_per_scene, args.size, args.fov),
            (SOURCE,),
        )
        for part, folder in folders.items()
    ]
