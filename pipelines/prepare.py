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
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypedDict

from .parser import Parser

if TYPE_CHECKING:
    from sightline.platform.data.manifest import Manifest
    from sightline.platform.data.prepare.job import Output
    from sightline.platform.data.prepare.options import Option
    from sightline.platform.data.prepare.source import PrepareSource, Request

SUMMARY = "turn what you have (pairs, RGB-D, frames, images, masks, rendered rooms) into a data set"
INTERMIXED = False
EXAMPLES = """examples:
  sightline prepare pairs rendered --scenes 60 --pairs-per-scene 8 --out ./rooms --split train=0.85,val=0.15
  sightline prepare pairs rgbd ./kitchen-rgbd --overlap 0.4..0.9 --size 128 --square --out ./kitchen --split train=0.85,val=0.15
  sightline prepare pairs frames ./fox --gap 1..3 --size 128 --square --out ./fox-pairs
  sightline prepare pairs habitat ./habitat_release --out ./habitat
  sightline prepare images classes ./cifar10 --out ./cifar
  sightline prepare images masks ./camvid --ignore 11 --out ./camvid-set
  sightline prepare merge ./kitchen/train ./fox-pairs --out ./both"""


class Skip(TypedDict):
    """What did not enter a data set, by reason."""

    reason: str
    count: int
    examples: tuple[str, ...]


class Prepared(TypedDict):
    """One data set in the answer."""

    place: str
    rows: int
    bytes: int
    shards: int
    fingerprint: str
    overlap: float | None
    skipped: list[Skip]
    classes: int
    notes: tuple[str, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from sightline.platform.data.prepare.catalog import source_kinds

    parser.epilog = EXAMPLES
    kinds = source_kinds()
    actions = parser.add_subparsers(dest="action", required=True, metavar=f"{{{','.join((*kinds, 'merge'))}}}", parser_class=Parser)
    for kind, text in kinds.items():
        of_kind = actions.add_parser(kind, help=text)
        of_kind.fill = partial(_add_sources, of_kind, kind)
    merge = actions.add_parser("merge", help="several data sets of one kind as one", epilog=EXAMPLES)
    merge.add_argument("places", nargs="+", metavar="DATASET", help="folders or URIs of finished data sets")
    _add_output_options(merge)


def _add_sources(parser: Parser, kind: str) -> None:
    from sightline.platform.data.prepare.catalog import sources_of

    sources = sources_of(kind)
    lines = [f"  sightline prepare {kind} {name} {words}" for name, source in sources.items() for words in source.examples]
    parser.epilog = "\n".join(["examples:", *lines])
    readers = parser.add_subparsers(dest="reader", required=True, metavar="SOURCE")
    for name, source in sources.items():
        own = readers.add_parser(name, help=source.help, description=source.help, epilog=parser.epilog)
        _add_source_options(own, source)


def _add_source_options(parser: argparse.ArgumentParser, source: type[PrepareSource]) -> None:
    from sightline.platform.data.prepare.options import options_of, positive

    parser.set_defaults(source=source, split=None, split_by=(*source.split_ways, "")[0], split_gap=8)
    if source.places:
        words = source.places
        parser.add_argument("places", nargs="+" if words.many else 1, metavar=words.metavar, help=words.help)
    for option in options_of(source):
        _add_option(parser, option)
    if source.split_ways:
        example = "write OUT/train and OUT/val and so on, for example train=0.85,val=0.15 (default: one data set)"
        parser.add_argument("--split", help=example)
    if len(source.split_ways) > 1:
        ways, default = sorted(source.split_ways), source.split_ways[0]
        parser.add_argument("--split-by", choices=ways, default=default, help="what a split keeps whole (default: %(default)s)")
        dropped = "frames dropped between blocks of time of two splits (default: %(default)s)"
        parser.add_argument("--split-gap", type=_read_by(positive), default=8, help=dropped)
    _add_output_options(parser)


def _add_option(parser: argparse.ArgumentParser, option: Option) -> None:
    flag = f"--{option.name.replace('_', '-')}"
    if option.parse is None:
        parser.add_argument(flag, action="store_true", help=option.help)
    else:
        parser.add_argument(
            flag, default=option.default, type=_read_by(option.parse), choices=option.choices, metavar=option.metavar, help=option.help
        )


def _read_by(parse: Callable[[str], object]) -> Callable[[str], object]:
    """`parse` for argparse, which shows the sentence of an `ArgumentTypeError` and hides that of a `ValueError`."""

    def read(text: str) -> object:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse if isinstance(parse, type) else read  # argparse says by itself that a text is no int


def _add_output_options(parser: argparse.ArgumentParser) -> None:
    from sightline.platform.data.prepare.options import positive

    parser.add_argument("--out", required=True, help="folder or URI of the data set")
    parser.add_argument("--seed", type=int, default=0, help="of the order of rows and of every draw (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace a data set, or another unfinished one, that lies in OUT")
    parser.add_argument("--workers", type=_read_by(positive), help="shards made at one time (default: one a CPU)")
    parser.add_argument("--local", action="store_true", help="on this machine, also where RAY_ADDRESS names a cluster")
    parser.add_argument("--max-skipped", type=float, default=0.05, help="share of rows that may be broken (default: %(default)s)")
    parser.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    parser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> dict[str, object]:
    from sightline.methods.errors import CallError
    from sightline.platform.core.screen import Screen
    from sightline.platform.data.prepare.merge import merge_output
    from sightline.platform.data.prepare.options import options_of
    from sightline.platform.data.prepare.source import Request
    from sightline.platform.data.prepare.workers import Where
    from sightline.platform.data.writer import refuse_other_splits

    if not 0 <= args.max_skipped <= 1:
        raise CallError(f"--max-skipped {args.max_skipped:g} is no share", "give a number between 0 and 1")
    places = tuple(getattr(args, "places", ()))
    if args.action == "merge":
        kind, output = merge_output(Request(args.out, places, args.seed))
        outputs, left_out = [output], 0
    else:
        source = args.source(**{option.name: getattr(args, option.name) for option in options_of(args.source)})
        where = Where(args.workers, args.local, Screen(stderr=True).print)
        request = Request(args.out, places, args.seed, args.split, args.split_by, args.split_gap, where)
        kind, (outputs, left_out) = args.action, _find(source, request)
    refuse_other_splits(args.out, [output.folder for output in outputs])
    manifests = _write(outputs, kind, args)
    datasets = [_prepared(output.folder, manifest) for output, manifest in zip(outputs, manifests, strict=True)]
    if not args.json:
        _tell(datasets, left_out)
    return {"datasets": datasets, "left_out_between_splits": left_out}


def _find(source: PrepareSource, request: Request) -> tuple[list[Output], int]:
    from sightline.platform.core.screen import Screen
    from sightline.platform.data.prepare.bars import bars
    from sightline.platform.data.prepare.progress import shown_by

    console = Screen(stderr=True)
    try:
        with bars(console, "looking for what there is") as show, shown_by(show):
            return source.outputs(request)
    except KeyboardInterrupt:
        console.print("stopped before anything was stored; the same command looks again, from what it keeps of videos and matched photos")
        raise


def _write(outputs: Sequence[Output], kind: str, args: argparse.Namespace) -> list[Manifest]:
    from sightline.platform.core.screen import Screen
    from sightline.platform.data.prepare.bars import bars
    from sightline.platform.data.prepare.job import run_job

    console = Screen(stderr=True)
    try:
        with bars(console, "checking what is there already") as show:
            return run_job(
                outputs,
                kind,
                command=shlex.join(["sightline", *sys.argv[1:]]),
                workers=args.workers,
                local=args.local,
                overwrite=args.overwrite,
                max_skipped=args.max_skipped,
                progress=lambda done, total: show("storing rows", done, total),
            )
    except KeyboardInterrupt:
        console.print("stopped; finished shards are kept, and the same command goes on from there")
        raise


def _prepared(place: str, manifest: Manifest) -> Prepared:
    return {
        "place": place,
        "rows": manifest.rows,
        "bytes": sum(shard.bytes for shard in manifest.shards),
        "shards": len(manifest.shards),
        "fingerprint": manifest.fingerprint,
        "overlap": manifest.overlap.mean if manifest.overlap else None,
        "skipped": [{"reason": one.reason, "count": one.count, "examples": one.examples} for one in manifest.provenance.skipped],
        "classes": len(manifest.classes),
        "notes": manifest.provenance.notes,
    }


def _tell(datasets: Sequence[Prepared], left_out: int) -> None:
    from sightline.platform.core.screen import Screen

    console = Screen()
    for one in datasets:
        more = f", mean overlap {one['overlap']:.2f}" if one["overlap"] is not None else ""
        more += f", {one['classes']} classes" if one["classes"] else ""
        console.field(f"{one['place']}:", f"{one['rows']:,} rows in {one['shards']} shards, {one['bytes'] / 1e6:.1f} MB{more}")
        for item in one["skipped"]:
            console.print(f"  skipped {item['count']}: {item['reason']} (first: {item['examples'][0]})")
    if left_out:
        console.print(f"left out, because they touch the gap between the splits: {left_out:,} rows")
    for note in dict.fromkeys(note for one in datasets for note in one["notes"]):
        console.warn(f"note: {note}")
    console.print(f"look at it with: sightline inspect {datasets[0]['place']}")
