"""Train several recipes on one budget with several seeds, and measure them by the same probes, beside random weights.

  sightline compare conmim-tiny loca-tiny data.train=./photos/train --budget '20000 samples' --seeds 3 --data ./birds
  sightline compare croco-tiny conmim-tiny --budget '10 minutes' data.train=./pairs/train --data ./kitchen --data ./birds
  sightline compare methods.yaml --budget '1e15 flop' --data ./birds

Settings given here are shared by all. A YAML file with `entries:` names recipes and settings of their own:

  entries:
    croco: {recipe: croco-tiny, data.train: ./pairs/train}
    conmim: {recipe: conmim-tiny, data.train: ./photos/train, pretext.mask_ratio: 0.6}

A budget is samples, minutes (each is tried for some seconds to learn its speed) or flop (forward and backward, as `--dry-run` counts them).
The first is compared with the others on the same test samples. `sightline resume NAME` goes on where it stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sightline.platform.core.screen import Screen
    from sightline.platform.experiments.compare.record import Entry

SUMMARY = "train several recipes on one budget with several seeds, and measure them by the same probes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipes", nargs="+", metavar="RECIPE", help="recipes, a YAML file with `entries:`, and section.key=value for all")
    parser.add_argument("--budget", required=True, metavar="AMOUNT", help="'20000 samples', '10 minutes' or '1e15 flop', of each run")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="training seeds 0 to N - 1 (default: %(default)s)")
    parser.add_argument("--probe", action="append", metavar="NAME", help="a probe, may be repeated (default: all that the data allow)")
    parser.add_argument("--data", action="append", default=[], metavar="DIR", help="folder of data sets train/ and val/; may be repeated")
    parser.add_argument("--train", action="append", default=[], metavar="DATA", help="data that train probe heads; may be repeated")
    parser.add_argument("--test", action="append", default=[], metavar="DATA", help="data that test them, one for each --train")
    parser.add_argument("--controls", type=int, default=3, metavar="N", help="random-weights networks a recipe (default: %(default)s)")
    parser.add_argument("--name", help="of the comparison; its runs are NAME-LABEL-sSEED (default: compare and the time)")


def run(args: argparse.Namespace) -> dict[str, object]:
    from sightline.methods.errors import CallError
    from sightline.platform.core.redaction import command_line
    from sightline.platform.evaluation.probes.catalog import check_probe
    from sightline.platform.evaluation.probes.dataset_pairs import find_dataset_pairs
    from sightline.platform.experiments.compare.budget import parse_budget
    from sightline.platform.runs.names import fresh_name
    from sightline.platform.tracking.client import check_tracking, tracking_uri

    parse_budget(args.budget)
    for name in args.probe or []:
        check_probe(name)
    if args.seeds < 1 or args.controls < 0:
        raise CallError(f"--seeds {args.seeds} --controls {args.controls}: at least 1 seed, and no negative number of controls")
    dataset_pairs = find_dataset_pairs(args.data, args.train, args.test)
    from sightline.platform.core.screen import Screen
    from sightline.platform.experiments.compare.execute import execute
    from sightline.platform.experiments.compare.record import Comparison, refuse_name

    console = Screen(stderr=args.json)
    name = args.name or fresh_name("compare")
    refuse_name(name)
    entries = make_entries(args.recipes, args.budget, console, name, args.seeds)
    from sightline.platform import config

    first = config.load(entries[0].recipe, settings=entries[0].settings)
    check_tracking(first, console.warn)
    comparison = Comparison.create(
        name,
        budget=args.budget,
        seeds=tuple(range(args.seeds)),
        entries=entries,
        probes=tuple(args.probe) if args.probe else None,
        data={
            "folders": [],
            "train": [dataset_pair.train.uri if dataset_pair.train else "" for dataset_pair in dataset_pairs],
            "test": [dataset_pair.test.uri for dataset_pair in dataset_pairs],
        },
        controls=args.controls,
        command=command_line(sys.argv[1:]),
        tracking_uri=tracking_uri(first),
    )
    return execute(comparison, console)


def make_entries(words: Sequence[str], budget: str, console: Screen, name: str = "compare", seeds: int = 1) -> list[Entry]:
    """The checked entries, each with the budget as its length, for a comparison of this name. Raises `CallError`."""
    from sightline.methods.catalog import find_method
    from sightline.methods.errors import CallError
    from sightline.platform import config
    from sightline.platform.data.training_data import open_training_data
    from sightline.platform.experiments.compare.budget import gflops, samples_of
    from sightline.platform.experiments.compare.record import Entry, refuse_name, sections
    from sightline.platform.experiments.own_folders import prepare_folders
    from sightline.platform.experiments.preflight import check, keep_sources

    shared = config.parse_overrides(word for word in words if "=" in word)
    asked: dict[str, tuple[str, dict[str, Any]]] = {}
    for word in (word for word in words if "=" not in word):
        for label, recipe, settings in _asked(word):
            if label in asked:
                raise CallError(f"{label!r} is named twice", "give each entry a label of its own in a YAML file with `entries:`")
            asked[label] = (recipe, {**shared, **settings})
    if not asked:
        raise CallError("no recipe is named", "for example: sightline compare conmim-tiny loca-tiny ...")
    refuse_name(name, asked, seeds)
    entries = []
    for label, (recipe, settings) in asked.items():
        try:
            experiment = prepare_folders(config.load(recipe, settings), console.print)
            experiment = keep_sources(check(experiment, look=False)[0], console.print, train=True)
            dataset = open_training_data(experiment.data, find_method(experiment.method).kind)
        except CallError as error:
            raise CallError(f"{label}: {error}", error.hint) from None
        cost = gflops(experiment)
        if "minute" in budget or "second" in budget or "hour" in budget:
            console.print(f"{label}: trying its speed")
        count = samples_of(budget, experiment, cost)
        whole = {"train.length": f"{count} samples", "probe.names": []}
        fixed = config.load(experiment.recipe, whole, settings=experiment.sections())
        entries.append(Entry(label, recipe, sections(fixed), dataset.fingerprint, count, cost))
    return entries


def _asked(word: str) -> list[tuple[str, str, dict[str, Any]]]:
    """(label, recipe, settings) of a recipe, or of each entry of a file."""
    from pathlib import Path

    import yaml

    from sightline.methods.errors import CallError
    from sightline.platform.core.budget import parse_yaml

    if not word.endswith((".yaml", ".yml")):
        return [(word, word, {})]
    try:
        content = parse_yaml(Path(word).read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CallError(f"{word}: {error}") from None
    if not isinstance(content, dict) or "entries" not in content:
        return [(Path(word).stem, word, {})]
    found = []
    for label, settings in content["entries"].items():
        if not isinstance(settings, dict) or "recipe" not in settings:
            raise CallError(
                f"{word}: entry {label!r} names no recipe", "write for example `mine: {recipe: croco-tiny, data.train: ./pairs}`"
            )
        found.append((str(label), str(settings["recipe"]), {k: v for k, v in settings.items() if k != "recipe"}))
    return found
