"""Tokeniser: from points to the tokens of the finest scale, part by part, beside plain PyTorch; and how the search grows.

  python benchmarks/tokeniser.py [--recipe i2p-mae-base] [--batch 8] [--threads 1] [--blocks 5] [--out tokeniser.json]

Parts: farthest points, nearest neighbours, groups (the neighbours' coordinates about their centre) and token embedding, forward and with
backward, where alone there is a gradient. The plain ones are those of `textbook_points.py`. Nothing is timed before the picks are the
same, the neighbours are the same (but for points at the same distance), and tokens agree. Ours and the plain one take turns within a
block; ratios are taken inside a block, their median and range are printed.

Then what the search (all but the embedding) costs as clouds and batches grow, and its largest tensor, which must stay below 256 MiB. The
embedding does not depend on the number of points; BatchNorm over all members of a batch keeps them whole in memory:
batch x tokens x neighbours x 512 numbers with the published settings, 1 GiB at a batch of 64.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import textbook_points as plain
import torch
from rich.console import Console
from rich.table import Table
from step import device_name, seconds_of, spread
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from yardsticks import YARDSTICKS, synthetic_views

from sightline.methods.catalog import find_method
from sightline.methods.contract import BuildContext
from sightline.methods.errors import SightlineError
from sightline.methods.layers.points import farthest_point_sampling, nearest, take
from sightline.platform import config

METHOD = "i2p_mae"
POINTS, BATCHES = (512, 1024, 2048, 4096, 8192), (1, 8, 32, 64)
LARGEST = 256 * 2**20
"""Bytes that no tensor of the search may have."""
TOLERANCE = 1e-4
"""Largest difference of two tokens, which are below 1 on fresh weights."""
Calls = dict[str, Callable[[], Any]]


@dataclass(frozen=True)
class Part:
    """Seconds by side (ours, plain), one value a block; bytes of the largest tensor by side."""

    name: str
    seconds: dict[str, list[float]]
    largest: dict[str, int]

    @property
    def ratios(self) -> list[float]:
        return [a / b for a, b in zip(self.seconds["plain"], self.seconds["ours"], strict=True)]


@dataclass(frozen=True)
class Growth:
    """Of the search: seconds for a batch, bytes of the largest tensor, and of all at once (on a GPU; else None)."""

    points: int
    batch: int
    seconds: dict[str, float]
    largest: int
    peak: int | None


class LargestTensor(TorchDispatchMode):
    """Bytes of the largest storage among the results of all operations."""

    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.bytes = max([self.bytes, *(leaf.untyped_storage().nbytes() for leaf in tree_leaves(out) if isinstance(leaf, Tensor))])
        return out


def largest_of(call: Callable[[], Any]) -> int:
    with LargestTensor() as mode:
        call()
    return mode.bytes


def clouds(recipe: str, overrides: dict[str, Any], batch: int, device: torch.device) -> Tensor:
    settings = config.load(recipe, overrides).settings
    return torch.from_numpy(synthetic_views(find_method(METHOD), settings, batch)["points"]).to(device)


def search(points: Tensor, groups: int, neighbours: int) -> tuple[Calls, Tensor]:
    """The calls of ours up to the groups, and these."""
    picks = farthest_point_sampling(points, groups, skip_origin=True)
    centres = take(points, picks)
    members = nearest(centres, points, neighbours)

    def grouped() -> Tensor:
        return take(points, members) - take(points, picks)[:, :, None]

    calls: Calls = {
        "farthest points": lambda: farthest_point_sampling(points, groups, skip_origin=True),
        "neighbours": lambda: nearest(centres, points, neighbours),
        "groups": grouped,
    }
    return calls, grouped()


def plain_search(points: Tensor, groups: int, neighbours: int) -> tuple[Calls, Tensor]:
    picks = plain.farthest_point_sample(points, groups)
    centres = plain.index_points(points, picks)
    members = plain.knn(centres, points, neighbours)

    def grouped() -> Tensor:
        return plain.index_points(points, members) - plain.index_points(points, picks)[:, :, None]

    calls: Calls = {
        "farthest points": lambda: plain.farthest_point_sample(points, groups),
        "neighbours": lambda: plain.knn(centres, points, neighbours),
        "groups": grouped,
    }
    return calls, grouped()


def embedding(module: torch.nn.Module, members: Tensor) -> Calls:
    def backward() -> None:
        module(members).sum().backward()
        module.zero_grad(set_to_none=True)

    return {"embedding": lambda: module(members), "embedding + backward": backward}


def must_be_equal(points: Tensor, ours: Calls, theirs: Calls) -> None:
    """Raises `SightlineError` where they do not pick the same points."""
    picks, expected = ours["farthest points"](), theirs["farthest points"]()
    if differ := int((picks != expected).sum()):
        raise SightlineError(f"{differ} of {picks.numel()} farthest points differ, so nothing was timed")
    centres = take(points, picks)
    distances = plain.square_distance(centres, points)
    found, wanted = (distances.gather(2, calls["neighbours"]()) for calls in (ours, theirs))
    if differ := int((found != wanted).sum()):
        raise SightlineError(f"{differ} of {found.numel()} neighbours differ by more than a tie, so nothing was timed")
    with torch.no_grad():
        error = float((ours["embedding"]() - theirs["embedding"]()).abs().max())
    if not error <= TOLERANCE:
        raise SightlineError(f"tokens differ by {error:.1e}, so nothing was timed")


def measure_parts(
    recipe: str, overrides: dict[str, Any], batch: int, blocks: int, least: float, device: torch.device
) -> tuple[int, list[Part]]:
    """(points of a cloud, the parts)."""
    settings: Any = config.load(recipe, overrides).settings
    pretext = find_method(METHOD).build(settings, BuildContext(seed=0)).train()
    textbook: Any = YARDSTICKS[METHOD].textbook(pretext).train()
    points = clouds(recipe, overrides, batch, device)
    sizes = settings.model.groups[0], settings.model.neighbours[0]
    sides: dict[str, Calls] = {}
    for side, find, network in (("ours", search, pretext), ("plain", plain_search, textbook)):
        calls, members = find(points, *sizes)
        sides[side] = calls | embedding(network.h_encoder.token_embed[0].to(device), members)
    must_be_equal(points, sides["ours"], sides["plain"])
    parts = []
    for name in sides["ours"]:
        largest = {side: largest_of(calls[name]) for side, calls in sides.items()}  # and the first call, which lays out memory
        parts.append(Part(name, {side: [] for side in sides}, largest))
    for _ in range(blocks):
        for part in parts:
            for side, calls in sides.items():
                part.seconds[side].append(seconds_of(calls[part.name], least, device))
    return points.shape[1], parts


def measure_growth(recipe: str, overrides: dict[str, Any], points: int, batch: int, blocks: int, device: torch.device) -> Growth:
    """Raises `SightlineError` where a tensor is too large."""
    model: Any = config.load(recipe, overrides).settings.model
    given = clouds(recipe, overrides | {"model.points": points}, batch, device)
    calls, _ = search(given, model.groups[0], model.neighbours[0])
    largest = max(largest_of(call) for call in calls.values())
    if largest > LARGEST:
        raise SightlineError(f"a tensor of {largest / 2**20:.0f} MiB for {batch} clouds of {points} points; {LARGEST >> 20} may be at most")
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = {name: statistics.median(seconds_of(call, 0.0, device) for _ in range(blocks)) for name, call in calls.items()}
    return Growth(points, batch, seconds, largest, torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None)


def parts_table(recipe: str, points: int, batch: int, parts: list[Part]) -> Table:
    title = f"{recipe}: {batch} clouds of {points} points"
    table = Table(title=title, title_justify="left", caption="median (least - most) over the blocks", caption_justify="left")
    table.add_column("", no_wrap=True)
    for heading in ("ours, ms", "plain, ms", "times as fast", "largest tensor, MiB: ours", "plain"):
        table.add_column(heading, justify="right")
    for part in parts:
        ms = [spread([1000 * s for s in part.seconds[side]], ".1f") for side in ("ours", "plain")]
        sizes = [f"{part.largest[side] / 2**20:.1f}" for side in ("ours", "plain")]
        table.add_row(part.name, *ms, spread(part.ratios, ".2f"), *sizes)
    return table


def growth_table(recipe: str, growth: list[Growth]) -> Table:
    table = Table(title=f"{recipe}: milliseconds a cloud as clouds and batches grow", title_justify="left")
    names = list(growth[0].seconds)
    for heading in ("points", "batch", *names, "largest tensor, MiB", "all at once, MiB"):
        table.add_column(heading, justify="right")
    for row in growth:
        ms = [f"{1000 * row.seconds[name] / row.batch:.2f}" for name in names]
        peak = "" if row.peak is None else f"{row.peak / 2**20:.0f}"
        table.add_row(str(row.points), str(row.batch), *ms, f"{row.largest / 2**20:.1f}", peak)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="i2p-mae-base", metavar="NAME", help="of I2P-MAE (default i2p-mae-base)")
    parser.add_argument("--batch", type=int, help="clouds by which parts are compared (default: 8 on a CPU, the recipe's group on a GPU)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads, on a CPU (default 1)")
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a smoke run: 2 blocks on a cut-down network; its figures mean nothing")
    parser.add_argument("--out", help="JSON file")
    args = parser.parse_args()
    if min(args.threads, args.blocks, 1 if args.batch is None else args.batch) < 1:
        parser.error("--threads, --blocks and --batch must be at least 1")
    experiment = config.load(args.recipe)
    if experiment.method != METHOD:
        parser.error(f"{args.recipe} is a recipe of {experiment.method}, which makes no tokens of points")
    torch.set_num_threads(args.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batch = args.batch or (2 if args.quick else 8 if device.type == "cpu" else experiment.batch.microbatch)
    overrides = YARDSTICKS[METHOD].quick if args.quick else {}
    blocks, least = (2, 0.0) if args.quick else (args.blocks, 0.5)
    points, parts = measure_parts(args.recipe, overrides, batch, blocks, least, device)
    fewest = config.load(args.recipe, overrides).settings.model.groups[0]  # type: ignore[attr-defined]
    sizes = [(n, b) for n in ((128, 256) if args.quick else POINTS) if n >= fewest for b in ((1, 2) if args.quick else BATCHES)]
    growth = [measure_growth(args.recipe, overrides, n, b, min(3, blocks), device) for n, b in sizes]
    console, name = Console(width=None if sys.stdout.isatty() else 120), device_name(device, args.threads)
    console.print(f"{name}, torch {torch.__version__}{'; smoke run: the figures mean nothing' * args.quick}", highlight=False)
    console.print(parts_table(args.recipe, points, batch, parts))
    console.print(growth_table(args.recipe, growth))
    if args.out:
        report = {"device": name, "torch": torch.__version__, "threads": args.threads, "recipe": args.recipe, "quick": args.quick}
        report |= {"points": points, "batch": batch, "parts": [asdict(part) | {"ratios": part.ratios} for part in parts]}
        Path(args.out).write_text(json.dumps(report | {"growth": [asdict(row) for row in growth]}, indent=1))


if __name__ == "__main__":
    try:
        main()
    except SightlineError as error:
        sys.exit(f"error: {error}")
