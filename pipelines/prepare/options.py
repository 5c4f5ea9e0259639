"""Options that the sources of pairs and of images share, and what their texts must look like."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def plain(epilog: str) -> dict[str, Any]:
    return {"epilog": epilog, "formatter_class": argparse.RawDescriptionHelpFormatter}


def fit_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", type=positive, help="short side of the stored images in px, never enlarged (default: keep the files)")
    parser.add_argument(
        "--square", action="store_true", help="cut the middle square first, as the papers' crops are (default: keep the shape)"
    )
    parser.add_argument("--quality", type=positive, default=90, help="JPEG quality of resized images (default: %(default)s)")


def source_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--name", help="name of the source in ids and scenes, for one folder (default: the folder's name)")
    parser.add_argument("--licence", default="unstated", help="licence of the images, kept in the manifest (default: %(default)s)")
    fit_options(parser)


def split_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--split", help="write OUT/train and OUT/val and so on, for example train=0.85,val=0.15 (default: one data set)")


def time_options(parser: argparse.ArgumentParser, ways: Sequence[str], default: str) -> None:
    parser.add_argument("--split-by", choices=ways, default=default, help="what a split keeps whole (default: %(default)s)")
    parser.add_argument(
        "--split-gap", type=positive, default=8, help="frames dropped between blocks of time of two splits (default: %(default)s)"
    )


def output_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", required=True, help="folder or URI of the data set")
    parser.add_argument("--seed", type=int, default=0, help="of the order of rows and of every draw (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace a data set, or another unfinished one, that lies in OUT")
    parser.add_argument("--workers", type=positive, help="shards made at one time (default: one a CPU)")
    parser.add_argument("--local", action="store_true", help="never start Ray, also for large inputs")
    parser.add_argument("--max-skipped", type=float, default=0.05, help="share of rows that may be broken (default: %(default)s)")
    parser.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    parser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def place(out: str) -> str:
    return out if "://" in out else str(Path(out).expanduser().resolve())


def part_of(out: str, name: str) -> str:
    """The folder of one split; of the whole for the empty name."""
    return place(f"{out.rstrip('/')}/{name}" if name else out)


def source_names(given: str | None, places: Sequence[str]) -> list[str]:
    """The name of each source. Raises `CallError` where two would have the same."""
    from sightline.methods.errors import CallError

    resolved = [Path(one).expanduser().resolve() for one in places]
    names = [given or (path.stem if path.is_file() else path.name) for path in resolved]
    if len(set(names)) != len(names):
        raise CallError(f"two sources would have one name: {', '.join(names)}", "prepare them one by one with --name, then merge")
    return names


def positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def bounds(text: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split(".."))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no range; write for example 0.4..0.9") from None
    if not 0 <= low < high <= 1:
        raise argparse.ArgumentTypeError(f"{text!r}: co-visibility lies between 0 and 1")
    return low, high


def gaps(text: str) -> Sequence[int]:
    try:
        found = sorted({gap for part in text.split(",") for gap in _gap_range(part)})
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} names no gaps; write for example 1, 1,5 or 1..3") from None
    if not found or found[0] < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: gaps are whole numbers above 0")
    return tuple(found)


def _gap_range(part: str) -> Sequence[int]:
    low, _, high = part.partition("..")
    return range(int(low), int(high or low) + 1)


def pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no regular expression: {error}") from None
