"""Turn what you have into a data set: Parquet shards and a manifest, in a folder.

  sightline prepare pairs SOURCE ... --out DIR    pairs of images of one scene from two viewpoints
  sightline prepare merge DATASET ... --out DIR   several data sets of one kind as one

Work that was stopped (Ctrl-C, a kill) goes on where it was when the same command is run again.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sightline.methods.contract import Kind
    from sightline.platform.data.prepare.job import Output
    from sightline.platform.data.prepare.pairs import Found

SUMMARY = "turn what you have (pairs, RGB-D, frames, rendered rooms) into a data set"
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
  sightline prepare merge ./kitchen/train ./fox-pairs --out ./both"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLES
    actions = parser.add_subparsers(dest="action", required=True, metavar="{pairs,merge}")
    pairs = actions.add_parser("pairs", help="pairs of images of one scene", **_plain(EXAMPLES))
    readers = pairs.add_subparsers(dest="reader", required=True, metavar="SOURCE")
    for name, text in SOURCES.items():
        reader = readers.add_parser(name, help=text, description=text, **_plain(EXAMPLES))
        _source_arguments(reader, name)
        _split_arguments(reader, by_time=name in ("rgbd", "frames"))
        _output_arguments(reader)
    merge = actions.add_parser("merge", help="several data sets of one kind as one", **_plain(EXAMPLES))
    merge.add_argument("datasets", nargs="+", metavar="DATASET", help="folders or URIs of finished data sets")
    _output_arguments(merge)


def _plain(epilog: str) -> dict[str, Any]:
    return {"epilog": epilog, "formatter_class": argparse.RawDescriptionHelpFormatter}


def _source_arguments(parser: argparse.ArgumentParser, name: str) -> None:
    if name == "rendered":
        parser.add_argument("--scenes", type=_positive, default=60, help="number of rooms (default: %(default)s)")
        parser.add_argument("--pairs-per-scene", type=_positive, default=8, help="pairs of each room (default: %(default)s)")
        parser.add_argument("--size", type=_positive, default=128, help="side of the images in px (default: %(default)s)")
        parser.add_argument("--fov", type=float, default=60.0, help="field of view in degrees (default: %(default)s)")
        return
    parser.add_argument("folders", nargs="+", metavar="DIR", help="folder(s) of this layout")
    parser.add_argument("--name", help="name of the source in ids and scenes, for one folder (default: the folder's name)")
    parser.add_argument("--licence", default="unstated", help="licence of the images, kept in the manifest (default: %(default)s)")
    parser.add_argument("--size", type=_positive, help="short side of the stored images in px, never enlarged (default: keep the files)")
    parser.add_argument(
        "--square", action="store_true", help="cut the middle square first, as the papers' crops are (default: keep the shape)"
    )
    parser.add_argument("--quality", type=_positive, default=90, help="JPEG quality of resized images (default: %(default)s)")
    if name == "rgbd":
        parser.add_argument("--overlap", type=_bounds, default=(0.4, 0.9), help="co-visibility of a pair (default: 0.4..0.9)")
        parser.add_argument("--pairs-per-frame", type=_positive, default=4, help="at most this many for a frame (default: %(default)s)")
    if name == "frames":
        parser.add_argument("--gap", type=_gaps, default=(1,), help="frames between the two: 1, 1,5 or 1..3 (default: 1)")


def _split_arguments(parser: argparse.ArgumentParser, by_time: bool) -> None:
    parser.add_argument("--split", help="write OUT/train and OUT/val and so on, for example train=0.85,val=0.15 (default: one data set)")
    if by_time:
        parser.add_argument(
            "--split-by", choices=("scene", "time-blocks"), default="time-blocks", help="what a split keeps whole (default: %(default)s)"
        )
        parser.add_argument(
            "--split-gap", type=_positive, default=8, help="frames dropped between blocks of time of two splits (default: %(default)s)"
        )
    else:
        parser.set_defaults(split_by="scene", split_gap=0)


def _output_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", required=True, help="folder or URI of the data set")
    parser.add_argument("--seed", type=int, default=0, help="of the order of rows and of every draw (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace a data set, or another unfinished one, that lies in OUT")
    parser.add_argument("--workers", type=_positive, help="shards made at one time (default: one a CPU)")
    parser.add_argument("--local", action="store_true", help="never start Ray, also for large inputs")
    parser.add_argument("--max-skipped", type=float, default=0.05, help="share of rows that may be broken (default: %(default)s)")
    parser.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    parser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> dict[str, Any]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from sightline.methods.errors import CallError
    from sightline.platform.data.prepare.job import run_job

    if not 0 <= args.max_skipped <= 1:
        raise CallError(f"--max-skipped {args.max_skipped:g} is no share", "give a number between 0 and 1")
    kind, outputs, left_out = _merge(args) if args.action == "merge" else _pairs(args)
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
        overlap = f", mean overlap {one['overlap']:.2f}" if one["overlap"] is not None else ""
        console.print(f"[bold]{one['place']}[/]: {one['rows']:,} rows in {one['shards']} shards, {one['bytes'] / 1e6:.1f} MB{overlap}")
        for item in one["skipped"]:
            console.print(f"  skipped {item['count']}: {item['reason']} (first: {item['examples'][0]})")
    if result["left_out_between_splits"]:
        console.print(f"left out, because they touch the gap between the splits: {result['left_out_between_splits']:,} pairs")
    console.print(f"look at it with: sightline inspect {result['datasets'][0]['place']}")


def _merge(args: argparse.Namespace) -> tuple[Kind, list[Output], int]:
    from sightline.platform.data.dataset import Dataset
    from sightline.platform.data.prepare.job import Output
    from sightline.platform.data.prepare.merge import merged

    datasets = [Dataset.open(uri) for uri in args.datasets]
    sources = tuple(dict.fromkeys(source for dataset in datasets for source in dataset.manifest.provenance.sources))
    return datasets[0].manifest.kind, [Output(_place(args.out), merged(datasets, args.seed), sources)], 0


def _pairs(args: argparse.Namespace) -> tuple[Kind, list[Output], int]:
    from sightline.platform.data.images import Fit
    from sightline.platform.data.prepare.job import Output, item_shards
    from sightline.platform.data.prepare.pairs import require_pairs
    from sightline.platform.data.prepare.split import parse_split, split_scenes, split_time
    from sightline.platform.data.writer import skipped_table

    shares = parse_split(args.split) if args.split else None
    folders = {name: _place(f"{args.out.rstrip('/')}/{name}") for name in shares} if shares else {"": _place(args.out)}
    if args.reader == "rendered":
        return "pairs", _rendered(args, folders, shares), 0
    found = _find(args)
    require_pairs(found)
    pairs = [pair for one in found for pair in one.pairs]
    sources = tuple(one.source for one in found)
    fit = Fit(args.size, args.square, args.quality)
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
        Output(folders[name], item_shards(part, fit, args.seed), sources, skips if i == 0 else ())
        for i, (name, part) in enumerate(parts.items())
    ]
    return "pairs", outputs, left_out


def _find(args: argparse.Namespace) -> list[Found]:
    from sightline.methods.errors import CallError
    from sightline.platform.data.prepare import crops, frames, habitat, rgbd

    names = [args.name or Path(folder).expanduser().resolve().name for folder in args.folders]
    if len(set(names)) != len(names):
        raise CallError(f"two sources would have one name: {', '.join(names)}", "prepare them one by one with --name, then merge")
    found = []
    for folder, name in zip(args.folders, names, strict=True):
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


def _place(out: str) -> str:
    return out if "://" in out else str(Path(out).expanduser().resolve())


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _bounds(text: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split(".."))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no range; write for example 0.4..0.9") from None
    if not 0 <= low < high <= 1:
        raise argparse.ArgumentTypeError(f"{text!r}: co-visibility lies between 0 and 1")
    return low, high


def _gaps(text: str) -> Sequence[int]:
    try:
        gaps = sorted({gap for part in text.split(",") for gap in _gap_range(part)})
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} names no gaps; write for example 1, 1,5 or 1..3") from None
    if not gaps or gaps[0] < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: gaps are whole numbers above 0")
    return tuple(gaps)


def _gap_range(part: str) -> Sequence[int]:
    low, _, high = part.partition("..")
    return range(int(low), int(high or low) + 1)
