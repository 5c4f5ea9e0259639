"""Give a version of a registered model an alias, if it is better than the version that has it.

  sightline promote croco-encoder --to champion
  sightline promote croco-encoder/7 --to champion --over knn --data ./birds
  sightline promote croco-encoder/3 --to champion --force

NAME is the version that the alias `candidate` names; NAME/7 or NAME@alias names another. It is compared with the version that holds the
alias, on the same data: by what both have recorded (runs, `sightline evaluate`) where data and protocol are the same, else both are
measured now. The interval of the difference must leave out zero. `--over` names the probe, or `test` for fine-tuned models; default: the
first that both have. Exit code 0: it has the alias; 1: it is not better, or no difference is shown; 2: the call was wrong.
The tags `sightline.promoted` and `sightline.replaced` of the versions say who was what, since when, and why.
"""

from __future__ import annotations

import argparse
from typing import Any

SUMMARY = "give a registered version an alias such as champion, if it is better"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="registered model: NAME (its candidate), NAME/3 or NAME@alias")
    parser.add_argument("--to", required=True, metavar="ALIAS", help="the alias that it shall get, for example champion")
    parser.add_argument("--over", metavar="PROBE", help="the probe that decides, or test (default: the first that both have)")
    parser.add_argument("--data", action="append", default=[], metavar="DIR", help="measure both on this: folder of train/ and val/")
    parser.add_argument("--train", action="append", default=[], metavar="DATA", help="data that train probe heads")
    parser.add_argument("--test", action="append", default=[], metavar="DATA", help="data that test them, one for each --train")
    parser.add_argument("--force", action="store_true", help="give it the alias whatever the comparison says; nothing is measured for it")
    parser.add_argument("--dry-run", action="store_true", help="compare and tell, but change nothing")


def run(args: argparse.Namespace) -> dict[str, Any]:
    from sightline.platform.tracking.names import check_alias

    check_alias(args.to, "--to")
    from sightline.platform.core.screen import Screen
    from sightline.platform.evaluation.probes.dataset_pairs import find_dataset_pairs
    from sightline.platform.experiments.progress import doing
    from sightline.platform.experiments.promote import NotPromotedError, carry_out, check_over, decide
    from sightline.platform.tracking.client import open_registry
    from sightline.platform.tracking.promotion import CANDIDATE, find_version

    check_over(args.over)
    pairs = find_dataset_pairs(args.data, args.train, args.test) if args.data or args.train or args.test else []
    client = open_registry(to_write=not args.dry_run)
    candidate = find_version(client, args.name, CANDIDATE)
    with doing(Screen(stderr=True), "comparing") as progress:
        decision = decide(client, candidate, args.to, args.over, pairs, measure=not args.force, progress=progress)
    console = Screen(stderr=args.json)
    if not decision.better and not args.force:
        raise NotPromotedError(decision, f"{candidate.uri} does not become {args.to}; --force gives it the alias all the same")
    if not args.dry_run:
        carry_out(client, decision, args.force and not decision.better)
    console.print(decision.sentence)
    console.print(f"{candidate.uri} {'would be' if args.dry_run else 'is'} {candidate.name}@{args.to}")
    return decision.as_dict(promoted=not args.dry_run)
